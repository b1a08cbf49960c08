package health

import (
	"strings"
	"time"

	"rebound/internal/lifecycle"
	"rebound/internal/vault/rest"
)

// staleShown is for how long a stale primary that was fenced stays to be seen.
const staleShown = 10 * time.Minute

func siteRows() []Row {
	return []Row{{
		Code: "StalePrimary", Title: "An old primary came back", Object: rest.ObjectGroup, Severities: critical(),
		When:   "A gateway reported itself as the source of an older generation within the last 10 minutes.",
		Causes: []string{"The lost site is back after a failover", "Its gateway had been cut off"},
		Action: "Nothing of it is accepted, and its gateway powers its machines off. See that they are off, then reprotect the group so that the old site becomes the standby.",
		find: eachGroup(func(e *eval, g *Group) {
			if !g.StaleSeen.IsZero() && e.age(g.StaleSeen) < staleShown {
				e.raise(g.object(), rest.SeverityCritical, "gateway %s came back as the source of group %s with an older generation; the group is active at %s", g.StaleGateway, g.ID, g.Active)
			}
		}),
	}, {
		Code: "StaleMachineRunning", Title: "A machine runs at the site that is not active", Object: rest.ObjectItem, Severities: critical(),
		When:   "A member runs for 10 seconds at the site that its group was taken away from.",
		Causes: []string{"Somebody started it by hand", "Its site was lost and is back, and its gateway is not"},
		Action: "Power it off: what it writes is not replicated, and two machines with one address disturb each other. What it wrote stays readable as the point diverged-N after a reprotect.",
		After:  10 * time.Second,
		find: eachMember(func(e *eval, g *Group, m *Member) {
			if g.State.Moving() || g.Running != "" {
				e.keep(g.member(m))
				return
			}
			state, at := m.HomeState, g.Home
			if g.Active == g.Home {
				state, at = m.RecoveryState, g.Recovery
			}
			if state == "running" {
				e.raise(g.member(m), rest.SeverityCritical, "%s runs at %s, but its group is active at %s", m.Machine, at, g.Active)
			}
		}),
	}, {
		Code: "NetworkMappingMissing", Title: "A network has no counterpart at the standby", Object: rest.ObjectGroup, Severities: warning(),
		When:   "A card of a member is on a network that the standby's site has neither by name nor by a mapping.",
		Causes: []string{"No network mapping was made", "The network was renamed or removed at the standby's site"},
		Action: "Map the network ('rebound mapping create'), or give the failover a network with --network. Until then a failover puts the card where it is told, or refuses.",
		Azure:  "network mapping is missing",
		After:  20 * time.Second,
		find: eachGroup(func(e *eval, g *Group) {
			if len(g.Unmapped) > 0 {
				e.raise(g.object(), rest.SeverityWarning, "nothing says to which network of site %s these are to be connected: %s", g.StandbySite, strings.Join(g.Unmapped, ", "))
			}
		}),
	}}
}

func lifeRows() []Row {
	state := func(s lifecycle.State, sev rest.Severity, text string) func(*eval) {
		return eachGroup(func(e *eval, g *Group) {
			if g.State == s {
				e.raise(g.object(), sev, "group %s: %s", g.ID, text)
			}
		})
	}
	return []Row{{
		Code: "FailoverIncomplete", Title: "A failover did not start every machine", Object: rest.ObjectGroup, Severities: critical(),
		When:   "The group is in FailoverFailed: the old source is fenced and not every machine runs.",
		Causes: []string{"The standby's site has no room or no network for a machine", "Its gateway was lost during the failover"},
		Action: "See the failed job's errors, mend their cause, and fail over again; or undo.",
		Azure:  "failover failed",
		find:   state(lifecycle.FailoverFailed, rest.SeverityCritical, "a failover did not start every machine"),
	}, {
		Code: "CommitOverdue", Title: "A failover waits for its commit", Object: rest.ObjectGroup, Severities: warning(),
		When:   "The group has been in CommitPending for commitHours (24).",
		Causes: []string{"Nobody has decided whether the point is right"},
		Action: "Commit, change the point, or undo. Until then nothing is replicated and the journal only grows.",
		Azure:  "failover not committed",
		find: eachGroup(func(e *eval, g *Group) {
			if h := e.Settings.CommitHours; g.State == lifecycle.CommitPending && h > 0 && e.age(g.ChangedAt) > time.Duration(h)*time.Hour {
				e.raise(g.object(), rest.SeverityWarning, "group %s has waited for a commit for %s", g.ID, about(e.age(g.ChangedAt)))
			}
		}),
	}, {
		Code: "NotReplicated", Title: "Nothing is replicated after the commit", Object: rest.ObjectGroup, Severities: warning(),
		When:   "The group is Committed and not reprotected.",
		Causes: []string{"A reprotect is missing"},
		Action: "Reprotect the group: until then a loss of the active site loses everything since the commit.",
		Azure:  "failed-over machine without reprotect (health: not applicable)",
		find:   state(lifecycle.Committed, rest.SeverityWarning, "committed and not protected"),
	}, {
		Code: "ReplicationPaused", Title: "Replication is paused", Object: rest.ObjectGroup, Severities: warning(),
		When:   "The group is Paused.",
		Causes: []string{"Somebody paused it"},
		Action: "Resume it ('rebound group resume') when the work is done: what is written meanwhile would be lost in a disaster.",
		Azure:  "replication paused",
		find:   state(lifecycle.Paused, rest.SeverityWarning, "replication is paused"),
	}, {
		Code: "Resynchronising", Title: "The standby is being made equal again", Object: rest.ObjectGroup, Severities: warning(),
		When:   "The group is Resynchronising.",
		Causes: []string{"Replication broke or was paused and goes on", "A failover was undone"},
		Action: "Wait. Older points can be used meanwhile; the RPO is the age of the newest of them.",
		Azure:  "resynchronisation in progress",
		find:   state(lifecycle.Resynchronising, rest.SeverityWarning, "the standby is being made equal again"),
	}, {
		Code: "LastJobFailed", Title: "The last job of a group failed", Object: rest.ObjectJob, Severities: warning(),
		When:   "The newest job of the group failed and was not restarted.",
		Causes: []string{"See the job's errors"},
		Action: "'rebound job show' names the cause and what to do; then 'rebound job restart', or start the operation again.",
		Azure:  "alerts for job and failover failures",
		find: eachGroup(func(e *eval, g *Group) {
			j := g.LastJob
			if j == nil || j.State != rest.JobFailed {
				return
			}
			why := ""
			if len(j.Errors) > 0 {
				why = ": " + j.Errors[0].Title
			}
			e.raise(rest.Object{ID: string(j.ID), Group: g.ID, Job: j.ID}, rest.SeverityWarning, "the last job of group %s (%s) failed%s", g.ID, j.Operation, why)
		}),
	}, {
		Code: "TestFailoverOverdue", Title: "No test failover for too long", Object: rest.ObjectGroup, Severities: warning(),
		When:   "The last successful test failover, or the protection when there is none, is older than testFailoverDays (182).",
		Causes: []string{"Nobody tests", "The tests fail"},
		Action: "Run a test failover ('rebound group test'): it does not disturb replication.",
		Azure:  "test failover recommended (no test in six months)",
		find: eachGroup(func(e *eval, g *Group) {
			overdue(e, g, g.LastTest, e.Settings.TestFailoverDays, "a test failover")
		}),
	}, {
		Code: "VerificationOverdue", Title: "No verification for too long", Object: rest.ObjectGroup, Severities: warning(),
		When:   "The last successful verification, or the protection when there is none, is older than verifyDays (35).",
		Causes: []string{"Nobody verifies"},
		Action: "Run 'rebound group verify': it compares every block of the standby with the source while the machines run.",
		find: eachGroup(func(e *eval, g *Group) {
			overdue(e, g, g.LastVerify, e.Settings.VerifyDays, "a verification")
		}),
	}}
}

func overdue(e *eval, g *Group, last time.Time, days int64, what string) {
	if days <= 0 || !g.State.Replicating() {
		return
	}
	if last.IsZero() {
		if e.age(g.Created) > time.Duration(days)*day {
			e.raise(g.object(), rest.SeverityWarning, "group %s has never had %s; it was protected %s ago", g.ID, what, about(e.age(g.Created)))
		}
		return
	}
	if e.age(last) > time.Duration(days)*day {
		e.raise(g.object(), rest.SeverityWarning, "the last success of %s of group %s was %s ago", what, g.ID, about(e.age(last)))
	}
}
