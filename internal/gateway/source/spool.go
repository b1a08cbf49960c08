package source

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"rebound/internal/capture"
	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/link"
	"rebound/internal/problem"
	"rebound/internal/spool"
)

const (
	// spoolNearlyEmpty is the backlog, in bytes, from which the stream goes
	// direct again: the ring holds what comes while the rest is delivered.
	spoolNearlyEmpty = 2 << 20
	// leavePatience bounds the way out of the spool; beacons wait for it.
	leavePatience = 2 * time.Second
)

func (g *Group) spoolDir() string    { return filepath.Join(g.cfg.SpoolDir, string(g.cfg.Group)) }
func (g *Group) spoolSocket() string { return filepath.Join(g.runDir(), "spool.sock") }

// openSpool takes up the group's spool. One that cannot be used is begun anew:
// bitmaps remember what the standby lacks. A group without one replicates too.
func (g *Group) openSpool() {
	if g.cfg.SpoolLimits.Bytes < 0 {
		return
	}
	s, err := g.spoolAt()
	if problem.HasCode(err, problem.KeyMissing) || problem.HasCode(err, problem.KeyWrong) {
		// It is whole, and stays until the key is there.
		g.spoolEvent("SpoolUnusable", "critical", "group %s has no spool: %v", g.cfg.Group, err)
		return
	}
	if err != nil {
		g.spoolEvent("SpoolDiscarded", "warning", "the spool of group %s cannot be used and is begun anew: %v", g.cfg.Group, err)
		if err = os.RemoveAll(g.spoolDir()); err == nil {
			s, err = g.spoolAt()
		}
	}
	if err != nil {
		g.spoolEvent("SpoolUnusable", "warning", "group %s has no spool: %v", g.cfg.Group, err)
		return
	}
	g.spool = s
}

func (g *Group) spoolAt() (*spool.Spool, error) {
	if err := os.MkdirAll(g.runDir(), 0o700); err != nil {
		return nil, fmt.Errorf("make runtime directory: %w", err)
	}
	return spool.Open(g.ctx, spool.Config{
		Group: g.cfg.Group, Gateway: g.cfg.Gateway, Dir: g.spoolDir(), Socket: g.spoolSocket(),
		TLS: g.cfg.Identity.ServerTLS(identity.RoleGateway), Dial: g.spoolDial, Limits: g.cfg.SpoolLimits, Keys: g.cfg.Keys,
		Log: g.cfg.Log, Changed: g.cfg.Changed,
	})
}

func (g *Group) spoolDial(to spool.Target) (link.DialConfig, error) {
	return link.DialConfig{
		Address: to.StandbyAddr, TLS: g.cfg.Identity.ClientTLS(identity.RoleGateway, string(to.Standby)), Log: g.cfg.Log, Limiter: &g.limit, Identity: g.cfg.Identity,
		Hello: link.Hello{Group: g.cfg.Group, Generation: to.Generation, Disks: to.Disks, Gateway: g.cfg.Gateway},
	}, nil
}

func (g *Group) spoolEvent(code, severity, format string, args ...any) {
	g.cfg.Event(control.Event{Code: code, Severity: severity, Group: g.cfg.Group, Text: fmt.Sprintf(format, args...)})
}

// closeSpool lets go of the spool; what is in it stays.
func (g *Group) closeSpool() {
	if g.spool != nil {
		g.spool.Close()
	}
}

// spoolBacklog is how many bytes the spool has to deliver.
func (g *Group) spoolBacklog() int64 {
	if g.spool == nil {
		return 0
	}
	return g.spool.State().Backlog
}

// discardSpool deletes what the spool holds: it is of a stream that is over.
func (g *Group) discardSpool(why string) {
	if g.spool == nil || g.spool.State().Empty() {
		return
	}
	st := g.spool.State()
	if err := g.spool.Discard(); err != nil {
		g.cfg.Log.Warn("discard spool", "error", err)
		return
	}
	g.spoolEvent("SpoolDiscarded", "warning", "%d entries of group %s that had not reached the standby were discarded: %s", st.Appended-st.Delivered, g.cfg.Group, why)
}

// finishSpool waits until the standby has everything that went into the spool.
func (g *Group) finishSpool(ctx context.Context) error {
	if g.spool == nil {
		return nil
	}
	return g.spool.Finish(ctx)
}

// prepareSpool readies the spool for a new stream: what it holds of the one
// before is delivered first, so that its points are not lost.
func (a *attempt) prepareSpool(ctx context.Context) error {
	s := a.g.spool
	if s == nil {
		return nil
	}
	st := s.State()
	if !st.Empty() && st.Generation != a.spec.Generation {
		a.g.discardSpool(fmt.Sprintf("they are of generation %d", st.Generation))
	}
	a.aimSpool()
	if st = s.State(); st.Empty() {
		return nil
	}
	a.g.show(func(p *progress) {
		p.phase = control.PhaseTracking
		p.problem = fmt.Sprintf("the spool delivers %d bytes of the stream before", st.Backlog)
	})
	err := s.Finish(ctx)
	if err == nil {
		a.g.spoolEvent("SpoolEnded", "info", "the standby of group %s has everything that was in the spool", a.g.cfg.Group)
	}
	if err == nil || ctx.Err() != nil || !(s.State().Permanent || problem.HasCode(err, problem.SpoolFailed)) {
		return err
	}
	a.g.discardSpool(err.Error())
	return nil
}

// aimSpool says where the spool delivers, and how fast.
func (a *attempt) aimSpool() {
	if s, err := a.spec.Bandwidth.Parse(); err == nil { // the vault and the capture refuse others
		a.g.limit.Set(s)
	}
	if a.g.spool != nil {
		a.g.spool.SetTarget(spool.Target{Generation: a.spec.Generation, Disks: a.spec.Disks, Standby: a.spec.Standby, StandbyAddr: a.spec.StandbyAddr})
	}
}

// spoolSocketFor is what the capture is told; empty: there is no spool.
func (a *attempt) spoolSocketFor() string {
	if a.g.spool == nil {
		return ""
	}
	return a.g.spoolSocket()
}

// standbyHas returns up to where the standby is durable in the present epoch:
// what has left the ring may still be in the spool. st was read before.
func (a *attempt) standbyHas(st capture.Status) dr.Position {
	durable := st.Head
	durable.Seq = st.Durable
	if a.g.spool == nil || st.Route == capture.RouteDirect {
		return durable
	}
	sp := a.g.spool.State()
	if sp.Generation == durable.Generation && sp.Epoch == durable.Epoch {
		durable.Seq = min(durable.Seq, sp.Delivered)
	}
	return durable
}

// followSpool tells of ways into and out of the spool, and leads the stream out
// of it when it has nearly delivered everything.
func (a *attempt) followSpool(ctx context.Context, st capture.Status) error {
	if a.g.spool == nil {
		return nil
	}
	spooled := st.Route == capture.RouteSpool || st.Route == capture.RouteBetween
	if spooled != a.watch.spooled {
		a.watch.spooled = spooled
		if spooled {
			a.g.spoolEvent("SpoolBegan", "warning", "the standby of group %s is away or too slow: its stream goes into the spool", a.g.cfg.Group)
		} else {
			a.g.spoolEvent("SpoolEnded", "info", "the standby of group %s has everything that was in the spool", a.g.cfg.Group)
		}
	}
	sp := a.g.spool.State()
	if spooled && sp.Permanent {
		return fmt.Errorf("the spool cannot be delivered: %w", sp.Err)
	}
	if st.Route != capture.RouteSpool || !sp.Reachable || sp.Backlog > spoolNearlyEmpty || sp.Epoch != st.Head.Epoch {
		return nil
	}
	a.leaveSpool(ctx)
	return nil
}

// leaveSpool leads the stream past the spool again. When it takes too long the
// capture feeds the spool again by itself.
func (a *attempt) leaveSpool(ctx context.Context) {
	ask, cancel := context.WithTimeout(ctx, leavePatience)
	defer cancel()
	_, err := a.cl.LeaveSpool(ask)
	if err == nil {
		err = a.g.spool.Finish(ask)
	}
	if err == nil {
		err = a.cl.GoDirect(ask)
	}
	if err != nil && ctx.Err() == nil {
		a.g.cfg.Log.Debug("the stream stays in the spool", "error", err)
	}
}
