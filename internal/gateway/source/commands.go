package source

import (
	"context"
	"fmt"
	"time"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site"
)

const (
	// pointPatience bounds how long a point waits for the standby.
	pointPatience = 30 * time.Second
	// drainPatience bounds the drain of a planned failover; the ring that
	// has to be delivered is bounded too.
	drainPatience = 10 * time.Minute
)

// Quiesce makes a member write no more; what it wrote is still being captured.
func (g *Group) Quiesce(ctx context.Context, m dr.MachineName, mode site.StopMode, timeout time.Duration) error {
	if mode != site.GracefulThenHard {
		return g.cap.Quiesce(ctx, m, mode, timeout)
	}
	err := g.cap.Quiesce(ctx, m, site.Graceful, timeout)
	if problem.HasCode(err, problem.MachineRunning) {
		return g.cap.Quiesce(ctx, m, site.Hard, timeout)
	}
	return err
}

// CreatePoint places a recovery point.
func (g *Group) CreatePoint(ctx context.Context, r control.CreatePointRequest) (dr.Point, error) {
	run, err := g.runner()
	if err != nil {
		return dr.Point{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, pointPatience)
	defer cancel()
	var p dr.Point
	err = run.do(ctx, func(c context.Context, a *attempt) error {
		c, cancel := context.WithTimeout(c, pointPatience)
		defer cancel()
		p, err = a.createPoint(c, r)
		return err
	})
	return p, err
}

// Resync begins a new epoch with a synchronisation.
func (g *Group) Resync(_ context.Context, mode control.SyncMode) error {
	g.work.Lock()
	defer g.work.Unlock()
	if _, err := g.runner(); err != nil {
		return err
	}
	if err := g.save(func(s *state) { s.Compare = s.Compare || mode == control.SyncCompare }); err != nil {
		return err
	}
	g.end(endCapture)
	g.begin()
	return nil
}

// Stop ends or suspends the stream.
func (g *Group) Stop(ctx context.Context, r control.StopReplicationRequest) (control.StopReplicationResult, error) {
	g.work.Lock()
	defer g.work.Unlock()
	res := control.StopReplicationResult{Durable: g.Report().Durable}
	st := g.state()
	if st.Want != wantRun {
		if st.Clean != nil {
			return control.StopReplicationResult{Durable: st.Clean.Durable, Clean: true}, nil
		}
		return res, nil
	}
	if r.Drain {
		pos, err := g.drain(ctx)
		if err != nil {
			return res, err
		}
		res = control.StopReplicationResult{Durable: pos, Clean: true}
	}
	g.end(endCapture)
	if r.Drain {
		if err := g.recordClean(ctx, res.Durable); err != nil {
			return res, err
		}
	}
	next, phase := wantNothing, control.PhaseIdle
	if r.Pause {
		next, phase = wantPaused, control.PhasePaused
	}
	if err := g.save(func(s *state) { s.Want = next }); err != nil {
		return res, err
	}
	g.show(func(p *progress) { p.phase, p.problem = phase, "" })
	return res, nil
}

// drain confirms everything that the members wrote, and waits until the standby
// has it. The members must write no more.
func (g *Group) drain(ctx context.Context) (dr.Position, error) {
	for _, name := range members(g.state().Spec) {
		m, err := g.cfg.Driver.Machine(ctx, name)
		if err != nil {
			return dr.Position{}, err
		}
		if m.State == site.Running {
			return dr.Position{}, problem.New(problem.MachineRunning, "%s still runs; a stream is drained once all members are stopped", name)
		}
	}
	run, err := g.runner()
	if err != nil {
		return dr.Position{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, drainPatience)
	defer cancel()
	var pos dr.Position
	err = run.do(ctx, func(c context.Context, a *attempt) error {
		c, cancel := context.WithTimeout(c, drainPatience)
		defer cancel()
		if !a.streamed {
			return problem.New(problem.OperationNotAllowed, "group %s is being synchronised", g.cfg.Group)
		}
		if err := a.settleBeacon(c); err != nil {
			return err
		}
		pos, err = a.cl.Drain(c)
		return err
	})
	return pos, err
}

// recordClean ends the members' hypervisors and notes that the standby lacks
// nothing of them.
func (g *Group) recordClean(ctx context.Context, durable dr.Position) error {
	spec := g.state().Spec
	for _, name := range members(spec) {
		if err := g.cfg.Driver.Stop(ctx, name, site.Hard, hypervisorPatience); err != nil {
			return fmt.Errorf("stop %s: %w", name, err)
		}
	}
	files, err := markFiles(ctx, g.cfg.Driver, spec)
	if err != nil {
		return err
	}
	return g.save(func(s *state) {
		s.Clean = &cleanStop{Durable: durable, Files: files}
		s.Bitmaps.reset()
	})
}

// Fence ends the group's part as the source: the active site is elsewhere, by
// generation gen. The caller powers the members off.
func (g *Group) Fence(_ context.Context, gen dr.Generation) error {
	g.work.Lock()
	defer g.work.Unlock()
	g.end(endCapture)
	if err := g.save(func(s *state) { s.Want, s.Generation = wantFenced, max(s.Generation, gen) }); err != nil {
		return err
	}
	g.show(func(p *progress) { p.phase, p.problem = control.PhaseFenced, "" })
	return nil
}
