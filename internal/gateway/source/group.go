package source

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"rebound/internal/capture"
	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/gateway/statefile"
	"rebound/internal/identity"
	"rebound/internal/problem"
	"rebound/internal/site"
)

// startPatience is how long Start waits for the first attempt to attach all
// members before it answers with what stood in the way.
const startPatience = 60 * time.Second

// Capturer is what the site's driver must be able to do.
type Capturer interface {
	site.Capturer
	site.SourceExporter
	site.Quiescer
}

// Config of a group.
type Config struct {
	Group dr.GroupID
	// Dir keeps the group's state; RunDir is where its sockets' folder is made.
	Dir, RunDir string
	Gateway     dr.GatewayID
	Driver      site.Driver
	Identity    identity.Bundle
	CaptureArgv []string
	Log         *slog.Logger
	Event       func(control.Event)
	Changed     func()
}

// Group is one group at its source.
type Group struct {
	cfg Config
	cap Capturer
	ctx context.Context // the gateway's life

	// work serialises commands; mu guards what follows.
	work sync.Mutex
	mu   sync.Mutex
	st   state
	run  *runner // nil while nothing runs
	last progress
}

// progress is what the report tells of the present attempt.
type progress struct {
	phase    control.Phase
	problem  string
	sync     control.Progress
	durable  dr.Position
	counters capture.Counters
}

// Open reads a group's state and goes on with what it was doing.
func Open(ctx context.Context, cfg Config) (*Group, error) {
	cap, ok := cfg.Driver.(Capturer)
	if !ok {
		return nil, problem.New(problem.InvalidRequest, "this site cannot capture the writes of its machines")
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make source directory: %w", err)
	}
	g := &Group{cfg: cfg, cap: cap, ctx: ctx, last: progress{phase: control.PhaseIdle}}
	if _, err := statefile.Load(g.statePath(), &g.st); err != nil {
		return nil, err
	}
	switch g.st.Want {
	case wantRun:
		g.begin()
	case wantPaused:
		g.last.phase = control.PhasePaused
	case wantFenced:
		g.last.phase = control.PhaseFenced
	}
	return g, nil
}

// Close stops driving the group and leaves its capture to the next process.
func (g *Group) Close() {
	g.work.Lock()
	defer g.work.Unlock()
	g.end(leaveCapture)
}

// Forget deletes the group's state; it must have been stopped.
func (g *Group) Forget() error {
	if err := os.RemoveAll(g.cfg.Dir); err != nil {
		return fmt.Errorf("forget source: %w", err)
	}
	return os.RemoveAll(g.runDir())
}

func (g *Group) runDir() string { return filepath.Join(g.cfg.RunDir, "c-"+string(g.cfg.Group)) }

// Has reports whether a machine is a member that is being captured.
func (g *Group) Has(m dr.MachineName) bool {
	st := g.state()
	return st.Want == wantRun && slices.Contains(members(st.Spec), m)
}

// Generation returns the newest generation that the group knows of.
func (g *Group) Generation() dr.Generation { return g.state().Generation }

// Start makes the group replicate by a spec. It returns once every member is
// attached and the synchronisation has begun; the group keeps trying after an
// error too, unless the spec itself was refused.
func (g *Group) Start(ctx context.Context, spec control.ReplicationSpec) error {
	g.work.Lock()
	defer g.work.Unlock()
	st := g.state()
	if spec.Generation < st.Generation || (spec.Generation == st.Generation && st.Want == wantFenced) {
		return problem.New(problem.StaleGeneration, "group %s is at generation %d, the request is of %d", g.cfg.Group, st.Generation, spec.Generation)
	}
	if err := g.checkSpec(ctx, spec); err != nil {
		return err
	}
	if st.Want == wantRun {
		g.end(endCapture)
	}
	compare := spec.Mode == control.SyncCompare || (st.Compare && st.Generation == spec.Generation)
	err := g.save(func(s *state) {
		s.Spec, s.Want, s.Generation, s.Compare = spec, wantRun, spec.Generation, compare
	})
	if err != nil {
		return err
	}
	r := g.begin()
	select {
	case err := <-r.first:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(startPatience):
		return problem.New(problem.HypervisorError, "group %s is not attached after %s: %s", g.cfg.Group, startPatience, g.Report().Problem)
	}
}

// checkSpec refuses members that this site does not have, or whose disks are
// not those of the table.
func (g *Group) checkSpec(ctx context.Context, spec control.ReplicationSpec) error {
	for _, name := range members(spec) {
		m, err := g.cfg.Driver.Machine(ctx, name)
		if err != nil {
			return err
		}
		if m.State == site.Off && !spec.StartStopped {
			return problem.New(problem.MachineNotRunning, "%s is off; its writes can be captured while it runs", name)
		}
		for _, d := range spec.Disks {
			if d.Machine != name {
				continue
			}
			i := slices.IndexFunc(m.Definition.Disks, func(x dr.DiskSpec) bool { return x.ID == d.Disk })
			if i < 0 {
				return problem.New(problem.UnknownDisk, "%s has no disk %s", name, d.Disk)
			}
			if have := m.Definition.Disks[i].SizeBytes; have != d.SizeBytes {
				return problem.New(problem.DiskNotSupported, "disk %s of %s has %d bytes, the group's table says %d", d.Disk, name, have, d.SizeBytes)
			}
		}
	}
	return nil
}

// begin starts the loop; nothing may be running.
func (g *Group) begin() *runner {
	r := newRunner(g)
	g.mu.Lock()
	g.run = r
	g.last = progress{phase: control.PhaseAttaching}
	g.mu.Unlock()
	r.start(g.ctx)
	return r
}

// end stops the loop; how says what becomes of the capture process.
func (g *Group) end(how ending) {
	g.mu.Lock()
	r := g.run
	g.run = nil
	g.mu.Unlock()
	if r != nil {
		r.stop(how)
	}
}

func (g *Group) runner() (*runner, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.run == nil {
		return nil, problem.New(problem.OperationNotAllowed, "group %s is not being replicated (%s)", g.cfg.Group, g.last.phase)
	}
	return g.run, nil
}

// Report is the group as the source sees it.
func (g *Group) Report() control.GroupReport {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.last.counters
	return control.GroupReport{
		Group: g.cfg.Group, Generation: g.st.Generation, Source: true, Phase: g.last.phase, Sync: g.last.sync,
		Durable: g.last.durable, Problem: g.last.problem,
		Counters: control.Counters{
			RawBytes: c.RawBytes, SyncBytes: c.SyncBytes, CompressedBytes: c.CompressedBytes,
			SentBytes: c.SentBytes, RingBytes: c.RingBytes, DroppedDiscards: c.Discards,
		},
	}
}

// show changes what the report tells.
func (g *Group) show(change func(*progress)) {
	g.mu.Lock()
	before := g.last.phase
	change(&g.last)
	after := g.last.phase
	g.mu.Unlock()
	if before != after {
		g.cfg.Event(control.Event{
			Code: "ReplicationPhase", Severity: "info", Group: g.cfg.Group,
			Text: fmt.Sprintf("group %s: %s, before %s", g.cfg.Group, after, before),
		})
	}
	g.cfg.Changed()
}
