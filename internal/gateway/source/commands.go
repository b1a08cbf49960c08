package source

import (
	"context"
	"fmt"
	"slices"
	"time"

	"rebound/internal/capture"
	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site"
)

// drainPatience bounds the drain of a planned failover; the ring that has to be
// delivered is bounded too.
const drainPatience = 10 * time.Minute

// Quiesce makes a member write no more; what it wrote is still being captured.
// It stays so, across breaks and restarts, until somebody starts it.
func (g *Group) Quiesce(ctx context.Context, m dr.MachineName, mode site.StopMode, timeout time.Duration) error {
	err := g.save(func(s *state) {
		s.Resume = slices.DeleteFunc(s.Resume, func(x dr.MachineName) bool { return x == m })
	})
	if err != nil {
		return err
	}
	if mode != site.GracefulThenHard {
		return g.quiesce(ctx, m, mode, timeout)
	}
	err = g.quiesce(ctx, m, site.Graceful, timeout)
	if problem.HasCode(err, problem.MachineRunning) {
		return g.quiesce(ctx, m, site.Hard, timeout)
	}
	return err
}

// quiesce takes a member whose hypervisor is gone for what it is: stopped.
func (g *Group) quiesce(ctx context.Context, m dr.MachineName, mode site.StopMode, timeout time.Duration) error {
	// A guest may take a minute to power off, and the driver does nothing
	// else to it meanwhile: a rotation would wait, give up, and break the stream.
	g.quiescing.Add(1)
	defer g.quiescing.Add(-1)
	// A frozen guest cannot power off.
	g.freezing.Lock()
	defer g.freezing.Unlock()
	err := g.cap.Quiesce(ctx, m, mode, timeout)
	if problem.HasCode(err, problem.MachineNotRunning) {
		return nil
	}
	return err
}

// settle confirms all up to now and waits until that is durable. The stream
// must still be the one of since, unless that is zero. The watch goes on
// meanwhile.
func (g *Group) settle(ctx context.Context, run *runner, since dr.Position) (dr.Position, error) {
	var cl *capture.Client
	var pos dr.Position
	for pos.IsZero() {
		err := run.do(ctx, func(c context.Context, a *attempt) (err error) {
			if !a.streamed {
				return problem.New(problem.OperationNotAllowed, "group %s is being synchronised", g.cfg.Group)
			}
			cl = a.cl
			pos, err = a.beacon(c)
			return err
		})
		if err != nil {
			return dr.Position{}, err
		}
		if !pos.IsZero() {
			break
		}
		select { // a hypervisor is silent, or the ring full
		case <-time.After(beaconEvery):
		case <-ctx.Done():
			return dr.Position{}, fmt.Errorf("confirm stream: %w", ctx.Err())
		}
	}
	if !since.IsZero() && pos.Epoch != since.Epoch {
		return dr.Position{}, problem.New(problem.OperationNotAllowed, "the stream of group %s broke", g.cfg.Group)
	}
	pos, err := cl.Drain(ctx)
	if err != nil {
		return dr.Position{}, fmt.Errorf("wait for the standby: %w", err)
	}
	if err := g.finishSpool(ctx); err != nil {
		return dr.Position{}, err
	}
	return pos, nil
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
	_, err := g.begin()
	return err
}

// Stop ends or suspends the stream.
func (g *Group) Stop(ctx context.Context, r control.StopReplicationRequest) (control.StopReplicationResult, error) {
	g.work.Lock()
	defer g.work.Unlock()
	next := wantNothing
	if r.Pause {
		next = wantPaused
	}
	if g.state().Want != wantRun {
		return g.stopAgain(ctx, next)
	}
	res := control.StopReplicationResult{Durable: g.Report().Durable}
	var drained *cleanStop
	if r.Drain {
		d, err := g.drain(ctx)
		if err != nil {
			return res, err
		}
		res, drained = control.StopReplicationResult{Durable: d.Durable, Clean: true}, d
	}
	// What was drained is noted together with the end: a gateway that is
	// restarted here starts no member again.
	err := g.trySave(func(s *state) error {
		if s.Want != wantRun {
			return problem.New(problem.StaleGeneration, "group %s was fenced meanwhile, at generation %d", g.cfg.Group, s.Generation)
		}
		s.Want, s.Drained, s.Resume = next, drained, nil
		return nil
	})
	if err != nil {
		return res, err
	}
	g.end(endCapture)
	g.show(func(p *progress) { p.phase, p.problem = restingPhase(next), "" })
	if drained != nil {
		_, err = g.finishDrain(ctx)
	}
	return res, err
}

// stopAgain answers Stop where the stream has ended already.
func (g *Group) stopAgain(ctx context.Context, next want) (control.StopReplicationResult, error) {
	st := g.state()
	if st.Want == wantPaused && next == wantNothing {
		if err := g.save(func(s *state) { s.Want = next }); err != nil {
			return control.StopReplicationResult{}, err
		}
		g.show(func(p *progress) { p.phase, p.problem = restingPhase(next), "" })
	}
	if st.Drained != nil {
		whole, err := g.finishDrain(ctx)
		return control.StopReplicationResult{Durable: st.Drained.Durable, Clean: whole}, err
	}
	if st.Clean != nil {
		now, err := markFiles(ctx, g.cfg.Driver, st.Spec)
		return control.StopReplicationResult{Durable: st.Clean.Durable, Clean: err == nil && sameFiles(st.Clean.Files, now, fileMark.sameContent)}, err
	}
	return control.StopReplicationResult{Durable: g.Report().Durable}, nil
}

// drain confirms everything that the members wrote, and waits until the standby
// has it. The members must write no more. A stream that breaks meanwhile comes
// back by itself, and is drained then.
func (g *Group) drain(ctx context.Context) (*cleanStop, error) {
	run, err := g.runner()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, drainPatience)
	defer cancel()
	for {
		if err := g.allStill(ctx); err != nil {
			return nil, err
		}
		pos, err := g.settle(ctx, run, dr.Position{})
		if err == nil {
			if err := g.allStill(ctx); err != nil {
				return nil, err
			}
			files, err := markFiles(ctx, g.cfg.Driver, g.state().Spec)
			return &cleanStop{Durable: pos, Files: files}, err
		}
		if g.state().Want != wantRun || problem.HasCode(err, problem.StaleGeneration) {
			return nil, err
		}
		select {
		case <-time.After(beaconEvery):
		case <-run.done:
			return nil, err
		case <-ctx.Done():
			return nil, err
		}
	}
}

// allStill fails unless no member can write.
func (g *Group) allStill(ctx context.Context) error {
	for _, name := range members(g.state().Spec) {
		m, err := g.cfg.Driver.Machine(ctx, name)
		if err != nil {
			return err
		}
		if m.State != site.Off && m.State != site.Paused {
			return problem.New(problem.MachineRunning, "%s is %s; a stream is drained once all members are stopped", name, m.State)
		}
	}
	return nil
}

// finishDrain ends the members' hypervisors and notes that the standby lacks
// nothing of them, if that is still so: a gateway may have been away since the
// drain. It reports whether it is.
func (g *Group) finishDrain(ctx context.Context) (whole bool, err error) {
	st := g.state()
	if err := g.allStill(ctx); err != nil {
		return false, err
	}
	for _, name := range members(st.Spec) {
		if err := g.cfg.Driver.Stop(ctx, name, site.Hard, hypervisorPatience); err != nil {
			return false, fmt.Errorf("stop %s: %w", name, err)
		}
	}
	files, err := markFiles(ctx, g.cfg.Driver, st.Spec)
	if err != nil {
		return false, err
	}
	whole = sameFiles(st.Drained.Files, files, fileMark.sameContent)
	return whole, g.save(func(s *state) {
		s.Drained, s.Clean = nil, nil
		s.Bitmaps.reset()
		if whole {
			s.Clean = &cleanStop{Durable: st.Drained.Durable, Files: files}
		}
	})
}

// Fence ends the group's part as the source: the active site is elsewhere, by
// generation gen. The caller powers the members off. It does not wait for a
// command that is at work: that one ends with an error.
func (g *Group) Fence(_ context.Context, gen dr.Generation) error {
	err := g.save(func(s *state) {
		s.Want, s.Generation, s.Resume = wantFenced, max(s.Generation, gen), nil
	})
	if err != nil {
		return err
	}
	g.mu.Lock()
	r := g.run
	g.mu.Unlock()
	if r != nil {
		r.stop(endCapture)
	}
	g.work.Lock()
	defer g.work.Unlock()
	if g.state().Want == wantFenced {
		g.end(endCapture)
		g.discardSpool(fmt.Sprintf("generation %d is active elsewhere", gen))
		g.show(func(p *progress) { p.phase, p.problem = control.PhaseFenced, "" })
	}
	return nil
}
