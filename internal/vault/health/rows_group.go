package health

import (
	"time"

	"rebound/internal/control"
	"rebound/internal/lifecycle"
	"rebound/internal/vault/rest"
)

// The limits of the groups' rows.
const (
	// rpoClear: the part of the threshold below which the RPO is well again.
	rpoClear = 0.9
	// pointSlack is added to three intervals without a point.
	pointSlack = time.Minute
	// brokenCritical is for how long replication may be broken.
	brokenCritical = 5 * time.Minute
	// The fill of the ring, in parts, at which writes are held back for good, and
	// at which it is well again.
	ringFull, ringClear = 0.8, 0.5
	// The breaks and restarts within an hour that are more than bad luck.
	manyBreaks, fewBreaks     = 6, 3
	manyRestarts, fewRestarts = 3, 1
)

func pointRows() []Row {
	return []Row{{
		Code: "RPOExceeded", Title: "The RPO is over its threshold", Object: rest.ObjectGroup, Severities: critical(),
		When:   "More than the policy's rpoThresholdSeconds would be lost now; it goes below nine tenths of it.",
		Causes: []string{"The link is slower than the machines write", "A gateway or the link is down", "The standby's volume is full or slow"},
		Action: "See 'rebound group show': phase, counters and the other conditions of the group. Replication is not changed by this; it catches up by itself once the cause is gone.",
		Azure:  "RPO threshold exceeded",
		find: eachGroup(func(e *eval, g *Group) {
			o := g.object()
			switch {
			case !g.State.Replicating() || g.RPO.ThresholdSeconds <= 0:
			case g.RPO.Seconds == nil:
				e.keep(o)
			case e.over(o, *g.RPO.Seconds, float64(g.RPO.ThresholdSeconds), rpoClear*float64(g.RPO.ThresholdSeconds)):
				e.raise(o, rest.SeverityCritical, "the RPO of group %s is %s, the threshold %s", g.ID, about(seconds(*g.RPO.Seconds)), about(seconds(float64(g.RPO.ThresholdSeconds))))
			}
		}),
	}, {
		Code: "NoRecoveryPoint", Title: "No crash-consistent recovery point for too long", Object: rest.ObjectGroup, Severities: warning(),
		When:   "The newest point is older than three of the policy's crashIntervalSeconds and a minute.",
		Causes: []string{"The machines write more than the link or the standby takes", "Replication is broken", "The clock of the source was changed"},
		Action: "Look at the group's other conditions; compare the rate of writes ('rebound group show') with what the link carries.",
		Azure:  "78169, 78188, 78174, 806, 78022: no crash-consistent point in the last minutes",
		find: eachGroup(func(e *eval, g *Group) {
			o := g.object()
			limit := 3*g.CrashInterval + pointSlack
			switch {
			case !g.State.Replicating() || g.CrashInterval <= 0:
			case g.RPO.NewestPointSeconds == nil:
				e.keep(o)
			case seconds(*g.RPO.NewestPointSeconds) > limit:
				e.raise(o, rest.SeverityWarning, "the newest recovery point of group %s is %s old; one is due every %s", g.ID, about(seconds(*g.RPO.NewestPointSeconds)), about(g.CrashInterval))
			}
		}),
	}, {
		Code: "NoFirstPoint", Title: "The first recovery point does not come", Object: rest.ObjectGroup, Severities: warning(),
		When:   "The first copy ended five minutes ago and there is no point.",
		Causes: []string{"The source's hypervisor does not answer", "The link is down"},
		Action: "Look at the source's problem in 'rebound group show' and at its gateway's log.",
		Azure:  "waiting for the first recovery point",
		After:  5 * time.Minute,
		find: eachGroup(func(e *eval, g *Group) {
			if g.State == lifecycle.WaitingForFirstPoint {
				e.raise(g.object(), rest.SeverityWarning, "group %s is copied and has no recovery point", g.ID)
			}
		}),
	}, {
		Code: "NoAppConsistentPoint", Title: "No application-consistent recovery point for too long", Object: rest.ObjectGroup, Severities: warning(),
		When:   "The policy wants such points and the newest is older than three of its intervals and a minute.",
		Causes: []string{"The guest agent does not run", "A freeze takes longer than it may", "The machine is too busy to freeze"},
		Action: "Look whether the QEMU guest agent runs in every member, and at the events of the group.",
		Azure:  "78144: no application-consistent point in the last minutes",
		find: eachGroup(func(e *eval, g *Group) {
			if !g.State.Replicating() || g.AppInterval <= 0 || g.State == lifecycle.InitialSync {
				return
			}
			if g.Standby == nil {
				e.keep(g.object())
				return
			}
			since := g.Created
			if t := g.Standby.NewestAppTime; !t.IsZero() {
				since = t.Add(g.SourceOffset)
			}
			if e.age(since) > 3*g.AppInterval+pointSlack {
				e.raise(g.object(), rest.SeverityWarning, "group %s has had no application-consistent point for %s; one is due every %s", g.ID, about(e.age(since)), about(g.AppInterval))
			}
		}),
	}}
}

func streamRows() []Row {
	return []Row{{
		Code: "ReplicationBroken", Title: "Replication is broken", Object: rest.ObjectGroup, Severities: both(),
		When:   "The source does not stream; bitmaps remember what is written. Critical after 5 minutes.",
		Causes: []string{"The link between the gateways is down", "The standby's journal takes nothing", "A hypervisor does not answer"},
		Action: "The text names what the source met. It goes on by itself once that is gone; points made before stay valid.",
		Azure:  "replication paused, resynchronisation required",
		find: eachGroup(func(e *eval, g *Group) {
			if g.State != lifecycle.Tracking {
				return
			}
			why := "no reason is known"
			if g.Source != nil && g.Source.Problem != "" {
				why = g.Source.Problem
			}
			e.raise(g.object(), from(e.lasting(g.object()) >= brokenCritical), "replication of group %s is broken: %s", g.ID, why)
		}),
	}, {
		Code: "SyncStalled", Title: "A synchronisation makes no progress", Object: rest.ObjectGroup, Severities: both(),
		When:   "A first copy or resynchronisation has not moved for stallWarningSeconds (300), critical from stallCriticalSeconds (900).",
		Causes: []string{"The link is down or very slow", "The source's or the standby's disk hangs", "A gateway is down"},
		Action: "Look at the link between the gateways and at both gateways' logs. A copy that was cut short goes on where it was.",
		Azure:  "initial replication slow (warning), no progress in the last 15 minutes (critical)",
		find: eachGroup(func(e *eval, g *Group) {
			syncing := g.State == lifecycle.InitialSync || g.State == lifecycle.Resynchronising
			quiet := e.age(g.SyncMoved)
			if syncing && quiet >= time.Duration(e.Settings.StallWarning)*time.Second {
				var p control.Progress
				if g.Source != nil {
					p = g.Source.Sync
				}
				e.raise(g.object(), from(quiet >= time.Duration(e.Settings.StallCritical)*time.Second), "the synchronisation of group %s has not moved for %s: %s of %s", g.ID, about(quiet), size(p.Done), size(p.Total))
			}
		}),
	}, {
		Code: "RingFilling", Title: "The source holds back writes", Object: rest.ObjectGroup, Severities: warning(),
		When:   "The ring of what the standby has not confirmed is over 80 percent full for 5 seconds; it goes below 50 percent.",
		Causes: []string{"The machines write more than the link carries", "The standby's volume is slow"},
		Action: "Give the link more bandwidth or the standby a faster volume. A full ring breaks the stream, and the machines go on unprotected until it is synchronised again.",
		Azure:  "process server: upload backlog > 30 minutes",
		After:  5 * time.Second, Hold: 30 * time.Second,
		find: eachGroup(func(e *eval, g *Group) {
			if g.Source == nil || !g.SourceUp {
				e.keep(g.object())
				return
			}
			c := g.Source.Counters
			if c.RingLimit > 0 && e.over(g.object(), float64(c.RingBytes)/float64(c.RingLimit), ringFull, ringClear) {
				e.raise(g.object(), rest.SeverityWarning, "%s wait for the standby of group %s; the ring has %s", size(c.RingBytes), g.ID, size(c.RingLimit))
			}
		}),
	}, {
		Code: "JournalAtReserve", Title: "The journal is at its reserve", Object: rest.ObjectGroup, Severities: critical(),
		When:   "The standby's journal takes nothing more, to keep the room that folding and recovery need.",
		Causes: []string{"The volume of the journal is full", "The policy keeps more history than fits"},
		Action: "Make room on the standby's volume, or shorten the policy's redoWindowSeconds. Existing points stay valid; replication goes on by itself when there is room.",
		Azure:  "retention volume has no room",
		find: eachGroup(func(e *eval, g *Group) {
			switch {
			case g.Standby == nil || !g.StandbyUp:
				e.keep(g.object())
			case g.Standby.NoRoom:
				e.raise(g.object(), rest.SeverityCritical, "the journal of group %s at %s takes nothing more: its volume has only the reserve left", g.ID, g.StandbySite)
			}
		}),
	}, {
		Code: "CaptureUnstable", Title: "Capture breaks again and again", Object: rest.ObjectGroup, Severities: warning(),
		When:   "Within an hour the capture process ended by itself 3 times or replication broke 6 times; it goes at 1 and 3.",
		Causes: []string{"The host is overloaded", "The link comes and goes", "A defect: see the gateway's log"},
		Action: "Look at the source gateway's log for why capture ended. Each break costs a synchronisation.",
		Azure:  "the process server restarts often",
		find: eachGroup(func(e *eval, g *Group) {
			if g.Source == nil || !g.SourceUp {
				e.keep(g.object())
				return
			}
			r := g.Source
			breaks, restarts := manyBreaks, manyRestarts
			if e.was(g.object()) != nil {
				breaks, restarts = fewBreaks+1, fewRestarts+1
			}
			if r.BreaksLastHour >= breaks || r.CaptureRestarts >= restarts {
				e.raise(g.object(), rest.SeverityWarning, "within an hour replication of group %s broke %d times and its capture process ended %d times", g.ID, r.BreaksLastHour, r.CaptureRestarts)
			}
		}),
	}, {
		Code: "DiscardsDropped", Title: "Discards of the guests are dropped", Object: rest.ObjectGroup, Severities: []rest.Severity{rest.SeverityInfo},
		When:   "A guest of the group has sent discards (TRIM) since its capture began.",
		Causes: []string{"The guest's file system is mounted with discard, or fstrim runs"},
		Action: "Nothing is lost: a captured disk does not shrink while it is replicated. To reclaim room pause the group, run fstrim in the guest, and resume.",
		find: eachGroup(func(e *eval, g *Group) {
			if g.Source == nil || !g.SourceUp {
				e.keep(g.object())
				return
			}
			if n := g.Source.Counters.DroppedDiscards; n > 0 && g.State.Replicating() {
				e.raise(g.object(), rest.SeverityInfo, "%d discards of the guests of group %s were dropped", n, g.ID)
			}
		}),
	}}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
