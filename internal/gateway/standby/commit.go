package standby

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/extent"
	"rebound/internal/journal"
	"rebound/internal/problem"
	"rebound/internal/site"
)

// commit makes the recovered machines independent of the journal while they
// run. The order is what makes a crash harmless at every line: the decision is
// recorded; what the fenced source holds beyond the point is saved; the bases
// become equal to the views; the views are served from the bases, so that the
// journal can let go of them; the machines move; the journal ends.
func (g *group) commit(ctx context.Context, r control.CommitRequest, progress func(done, total int64)) (control.CommitResult, error) {
	g.work.Lock()
	defer g.work.Unlock()
	set := g.settings()
	same := set.Commit == r.Position && maps.Equal(set.CommitMembers, r.Members)
	if set.Phase == phaseCommitted && same {
		return g.commitResult()
	}
	if set.Phase != phaseJournal && (set.Phase != phaseCommitting || !same) {
		return control.CommitResult{}, problem.New(problem.OperationNotAllowed, "group %s is %s at %s, the commit is of %s", g.id, set.Phase, set.Commit, r.Position)
	}
	if err := checkCommit(set, r); err != nil {
		return control.CommitResult{}, err
	}
	if set.Phase == phaseJournal {
		if err := g.beginCommit(ctx, r); err != nil {
			return control.CommitResult{}, err
		}
	}
	if err := g.makeBases(ctx, r, progress); err != nil {
		return control.CommitResult{}, err
	}
	if err := g.moveMachines(ctx, progress); err != nil {
		return control.CommitResult{}, err
	}
	if err := g.save(func(s *settings) { s.Phase, s.Recovered = phaseCommitted, nil }); err != nil {
		return control.CommitResult{}, err
	}
	g.event("Committed", "info", "group %s: its machines run on their own disks, of %s", g.id, r.Position)
	if err := g.closeJournal(); err != nil {
		return control.CommitResult{}, err
	}
	return g.commitResult()
}

// beginCommit records the decision, from which there is no way back, while the
// machines run.
func (g *group) beginCommit(ctx context.Context, req control.CommitRequest) error {
	for _, r := range g.settings().Recovered {
		m, err := g.host.cfg.Driver.Machine(ctx, r.Name)
		if err != nil {
			return fmt.Errorf("look at machine %s: %w", r.Name, err)
		}
		if m.State == site.Off || m.State == site.Unknown {
			return problem.New(problem.MachineNotRunning, "%s is %s", r.Name, m.State)
		}
	}
	gen := g.generation()
	return g.save(func(s *settings) {
		s.Phase, s.Commit, s.CommitMembers, s.Generation = phaseCommitting, req.Position, req.Members, gen
	})
}

// ownerVM is a journal's owner once the machines have its bases.
const ownerVM = "vm"

// checkCommit demands that exactly the group's machines run, each where the
// commit says.
func checkCommit(set settings, req control.CommitRequest) error {
	running := map[dr.MachineName]bool{}
	for _, r := range set.Recovered {
		if r.Test {
			return problem.New(problem.PointInUse, "the test machine %s runs on the journal: clean the test up first", r.Name)
		}
		if want := req.At(r.Machine); r.Position != want {
			return problem.New(problem.OperationNotAllowed, "%s runs at %s, the commit is of %s", r.Name, r.Position, want)
		}
		if r.Position.Before(req.Position) {
			return problem.New(problem.InvalidRequest, "%s runs at %s, before %s, which is to be the lowest", r.Name, r.Position, req.Position)
		}
		running[r.Machine] = !r.Started.IsZero()
	}
	for _, def := range set.Request.Definitions {
		if !running[def.Name] {
			return problem.New(problem.MachineNotRunning, "%s does not run on the journal", def.Name)
		}
	}
	return nil
}

// makeBases folds the bases to the commit's positions and takes them out of the
// journal's hands. What was written beyond the lowest of the positions is all
// in which the old source can differ.
func (g *group) makeBases(ctx context.Context, req control.CommitRequest, progress func(done, total int64)) error {
	if g.jrn == nil {
		return nil // released by an earlier attempt
	}
	if _, err := g.jrn.RollbackSet(req.Position); err != nil {
		return fmt.Errorf("save what the old source holds beyond the point: %w", err)
	}
	var err error
	if len(req.Members) > 0 {
		err = g.jrn.FoldMembers(ctx, req.Members, progress)
	} else {
		err = g.jrn.FoldExactly(ctx, req.Position, progress)
	}
	if err != nil {
		return fmt.Errorf("fold bases to %s: %w", req.Position, err)
	}
	for _, r := range g.settings().Recovered {
		if err := g.serveBases(r); err != nil {
			return err
		}
	}
	g.stop() // nothing is taken any more
	g.wg.Wait()
	if err := g.jrn.Release(); err != nil {
		return fmt.Errorf("release bases: %w", err)
	}
	g.mu.Lock()
	g.jrn, g.recv = nil, nil
	g.mu.Unlock()
	return nil
}

// moveMachines lets every machine run on its bases.
func (g *group) moveMachines(ctx context.Context, progress func(done, total int64)) error {
	sum := newSum(progress)
	return each(ctx, g.settings().Recovered, func(ctx context.Context, r recovered) error {
		bases := map[dr.DiskID]string{}
		for i, d := range g.disksOf(r.Machine) {
			bases[d.Disk] = g.settings().BasePaths[i]
		}
		if err := g.host.cfg.Driver.SetStandby(ctx, r.Name, false); err != nil {
			return fmt.Errorf("release machine %s: %w", r.Name, err)
		}
		part := sum.part()
		err := whileInUse(ctx, func() error { return g.host.boot.CommitRecovered(ctx, r.Name, bases, part) })
		if err != nil {
			return fmt.Errorf("commit %s: %w", r.Name, err)
		}
		return nil
	})
}

// inUsePatience is for how long a disk may seem to be in use that was closed.
const inUsePatience = 2 * time.Second

// whileInUse repeats f while a disk or journal is in use. A process that this
// one forks at the moment at which it closes one holds its lock until its exec.
func whileInUse(ctx context.Context, f func() error) error {
	deadline := time.Now().Add(inUsePatience)
	for {
		err := f()
		if !problem.HasCode(err, problem.MachineInUse) && !problem.HasCode(err, problem.JournalInUse) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

func (g *group) commitResult() (control.CommitResult, error) {
	_, set, err := journal.LoadRollbackSet(g.journalDir(), nil)
	if err != nil {
		return control.CommitResult{}, err
	}
	var n int64
	for _, s := range set {
		n += s.Bytes()
	}
	return control.CommitResult{RollbackBytes: n}, nil
}

// sum adds the progress of parts that run at the same time.
type sum struct {
	mu          sync.Mutex
	done, total map[int]int64
	report      func(done, total int64)
}

func newSum(report func(done, total int64)) *sum {
	return &sum{done: map[int]int64{}, total: map[int]int64{}, report: report}
}

// part returns the progress function of a new part.
func (s *sum) part() func(done, total int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := len(s.total)
	s.total[id] = 0
	return func(done, total int64) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.done[id], s.total[id] = done, total
		var d, t int64
		for i := range s.total {
			d, t = d+s.done[i], t+s.total[i]
		}
		s.report(d, t)
	}
}

// Committed says at which position the group's machines took their disks over
// from its journal, and by disk what the stream held after it.
func (h *Host) Committed(id dr.GroupID) (dr.Position, map[dr.GroupDisk]*extent.Set, bool) {
	g, err := h.find(id)
	if err != nil {
		return dr.Position{}, nil, false
	}
	set := g.settings()
	pos, after, err := journal.LoadRollbackSet(g.journalDir(), nil)
	if err != nil || set.Phase != phaseCommitted || pos != set.Commit {
		return dr.Position{}, nil, false
	}
	out := map[dr.GroupDisk]*extent.Set{}
	for i, d := range set.Request.Disks {
		if after[uint16(i)] == nil {
			return dr.Position{}, nil, false
		}
		out[d] = after[uint16(i)]
	}
	return pos, out, true
}
