package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"rebound/internal/capture"
	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/extent"
	"rebound/internal/gateway/statefile"
	"rebound/internal/identity"
	"rebound/internal/journal/keyring"
	"rebound/internal/link"
	"rebound/internal/problem"
	"rebound/internal/site"
	"rebound/internal/spool"
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
	Identity    *identity.Holder
	CaptureArgv []string
	// SpoolDir is where the group's spool is kept, in a folder of its name.
	// Negative SpoolLimits.Bytes: there is none.
	SpoolDir    string
	SpoolLimits spool.Limits
	// Keys wrap those that spools are encrypted with; nil: none are.
	Keys *keyring.Wrapping
	// RotateEvery is the time between bitmaps; 0 means 45 s.
	RotateEvery time.Duration
	Log         *slog.Logger
	Event       func(control.Event)
	Changed     func()
	// Committed says at which position of the stream that came here before
	// the members took their disks over, and, by disk, what was written in
	// that stream after it; ok is false when that is not known. May be nil.
	Committed func() (pos dr.Position, after map[dr.GroupDisk]*extent.Set, ok bool)
}

// Group is one group at its source.
type Group struct {
	cfg Config
	cap Capturer
	ctx context.Context // the gateway's life

	// spool is set by Open; nil when there is none.
	spool *spool.Spool
	// limit is the spool's share of the bandwidth; the capture has its own.
	// They never send at the same time.
	limit link.Throttle

	// quiescing counts members that are being made to write no more.
	quiescing atomic.Int32
	// freezing is held by whoever makes an application-consistent point;
	// points ends with Close.
	freezing  sync.Mutex
	points    context.Context
	endPoints context.CancelFunc

	// work serialises commands; mu guards what follows.
	work sync.Mutex
	wg   sync.WaitGroup
	mu   sync.Mutex
	st   state
	run  *runner // nil while nothing runs
	last progress
	// pointing: the policy's application-consistent point is being made;
	// pointed is when the last one was begun.
	pointing bool
	pointed  time.Time
}

// progress is what the report tells of the present attempt.
type progress struct {
	phase    control.Phase
	problem  string
	sync     control.Progress
	durable  dr.Position
	counters capture.Counters
	// unprotected are disks of members that are not replicated; breaks and
	// restarts are when the stream broke and the capture process ended.
	unprotected      []control.UnprotectedDisk
	breaks, restarts recently
}

// Open reads a group's state and goes on with what it was doing.
func Open(ctx context.Context, cfg Config) (*Group, error) {
	cap, ok := cfg.Driver.(Capturer)
	if !ok {
		return nil, problem.New(problem.InvalidRequest, "this site cannot capture the writes of its machines")
	}
	if cfg.RotateEvery <= 0 {
		cfg.RotateEvery = rotateEvery
	}
	if err := statefile.MakeDir(cfg.Dir); err != nil {
		return nil, fmt.Errorf("make source directory: %w", err)
	}
	g := &Group{cfg: cfg, cap: cap, ctx: ctx, last: progress{phase: control.PhaseIdle}}
	g.points, g.endPoints = context.WithCancel(ctx)
	if _, err := statefile.Load(g.statePath(), &g.st); err != nil {
		return nil, err
	}
	g.openSpool()
	g.thawFound()
	if g.st.Want == wantRun {
		_, err := g.begin()
		return g, err
	}
	g.last.phase = restingPhase(g.st.Want)
	g.wg.Go(g.sweep)
	return g, nil
}

// restingPhase is what a group that does not run is reported as.
func restingPhase(w want) control.Phase {
	switch w {
	case wantPaused:
		return control.PhasePaused
	case wantFenced:
		return control.PhaseFenced
	}
	return control.PhaseIdle
}

// sweep ends a capture that the process before left, between noting that the
// group shall not run and ending it.
func (g *Group) sweep() {
	g.work.Lock()
	defer g.work.Unlock()
	if st := g.state(); st.Want == wantRun || len(st.Spec.Disks) == 0 {
		return
	}
	if _, err := os.Stat(capture.ControlSocket(g.runDir())); err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(g.ctx, hypervisorPatience)
	defer cancel()
	a := &attempt{g: g, spec: g.state().Spec}
	if err := a.startCapture(ctx); err != nil {
		g.cfg.Log.Warn("end the capture that was left", "error", err)
		return
	}
	a.finish(endCapture)
}

// Close stops driving the group and leaves its capture to the next process.
func (g *Group) Close() {
	g.endPoints()
	g.mu.Lock()
	r := g.run
	g.mu.Unlock()
	if r != nil {
		r.stop(leaveCapture) // commands that wait for it end
	}
	g.wg.Wait()
	g.work.Lock()
	defer g.work.Unlock()
	g.end(leaveCapture)
	g.closeSpool()
}

// Forget deletes the group's state, and its bitmaps where members still run;
// it must have been stopped.
func (g *Group) Forget(ctx context.Context) error {
	g.wg.Wait()
	g.work.Lock()
	defer g.work.Unlock()
	g.forgetBitmaps(ctx)
	g.closeSpool()
	if g.spool != nil {
		if err := os.RemoveAll(g.spoolDir()); err != nil {
			return fmt.Errorf("forget spool: %w", err)
		}
	}
	if err := os.RemoveAll(g.cfg.Dir); err != nil {
		return fmt.Errorf("forget source: %w", err)
	}
	return os.RemoveAll(g.runDir())
}

// forgetBitmaps takes our bitmaps off running members. One that stays costs a
// little, and is dropped by the next attempt that finds it.
func (g *Group) forgetBitmaps(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, hypervisorPatience)
	defer cancel()
	for _, m := range members(g.state().Spec) {
		found, err := g.cap.Bitmaps(ctx, m)
		for _, name := range (bitmaps{}).strangers(found) {
			err = errors.Join(err, g.cap.DropBitmap(ctx, m, name))
		}
		if err != nil && !problem.HasCode(err, problem.MachineNotRunning) && !problem.HasCode(err, problem.UnknownMachine) {
			g.cfg.Log.Warn("drop bitmaps", "machine", m, "error", err)
		}
	}
}

func (g *Group) runDir() string { return filepath.Join(g.cfg.RunDir, "c-"+string(g.cfg.Group)) }

// Has reports whether a machine is a member that is being captured.
func (g *Group) Has(m dr.MachineName) bool {
	st := g.state()
	return st.Want == wantRun && slices.Contains(members(st.Spec), m)
}

// Fenced reports whether a machine is a member whose active site is elsewhere.
func (g *Group) Fenced(m dr.MachineName) bool {
	st := g.state()
	return st.Want == wantFenced && slices.Contains(members(st.Spec), m)
}

// Empty reports whether the group was never told to replicate.
func (g *Group) Empty() bool {
	st := g.state()
	return st.Want == wantNothing && st.Generation == 0
}

// Generation returns the newest generation that the group knows of.
func (g *Group) Generation() dr.Generation { return g.state().Generation }

// Start makes the group replicate by a spec. It returns once every member is
// attached and the synchronisation has begun; the group keeps trying after an
// error too, unless the spec itself was refused. Repeating it changes nothing.
func (g *Group) Start(ctx context.Context, spec control.ReplicationSpec) error {
	g.work.Lock()
	defer g.work.Unlock()
	st := g.state()
	if err := st.admits(spec, g.cfg.Group); err != nil {
		return err
	}
	resume, err := g.checkSpec(ctx, spec)
	if err != nil {
		return err
	}
	if r, err := g.runner(); err == nil && st.Want == wantRun && sameSpec(st.Spec, spec) && len(resume) == 0 {
		if err := g.TakePolicy(policyOf(spec)); err != nil {
			return err
		}
		return g.await(ctx, r)
	}
	g.end(endCapture)
	err = g.trySave(func(s *state) error {
		if err := s.admits(spec, g.cfg.Group); err != nil {
			return err // fenced meanwhile
		}
		s.begin(spec, resume)
		return nil
	})
	if err != nil {
		return err
	}
	r, err := g.begin()
	if err != nil {
		return err
	}
	return g.await(ctx, r)
}

// await waits for the first attempt.
func (g *Group) await(ctx context.Context, r *runner) error {
	select {
	case <-r.settled:
		return r.first
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(startPatience):
		return problem.New(problem.HypervisorError, "group %s is not attached after %s: %s", g.cfg.Group, startPatience, g.Report().Problem)
	}
}

// checkSpec refuses members that this site does not have, or whose disks are
// not those of the table. It returns the members that are to be started.
func (g *Group) checkSpec(ctx context.Context, spec control.ReplicationSpec) (resume []dr.MachineName, err error) {
	for _, name := range members(spec) {
		m, err := g.cfg.Driver.Machine(ctx, name)
		if err != nil {
			return nil, err
		}
		if m.State == site.Off && !spec.StartStopped {
			return nil, problem.New(problem.MachineNotRunning, "%s is off; its writes can be captured while it runs", name)
		}
		if m.State != site.Running && spec.StartStopped {
			resume = append(resume, name)
		}
		for _, d := range spec.Disks {
			if d.Machine != name {
				continue
			}
			i := slices.IndexFunc(m.Definition.Disks, func(x dr.DiskSpec) bool { return x.ID == d.Disk })
			if i < 0 {
				return nil, problem.New(problem.UnknownDisk, "%s has no disk %s", name, d.Disk)
			}
			if have := m.Definition.Disks[i].SizeBytes; have != d.SizeBytes {
				return nil, problem.New(problem.DiskNotSupported, "disk %s of %s has %d bytes, the group's table says %d", d.Disk, name, have, d.SizeBytes)
			}
		}
	}
	return resume, nil
}

// begin starts the loop, unless the group shall not run (any more); nothing
// may be running.
func (g *Group) begin() (*runner, error) {
	r := newRunner(g)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.st.Want != wantRun {
		return nil, problem.New(problem.StaleGeneration, "group %s is at generation %d and was told to stop", g.cfg.Group, g.st.Generation)
	}
	g.run = r
	g.last = progress{phase: control.PhaseAttaching}
	r.start(g.ctx)
	return r, nil
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
	c, now := g.last.counters, time.Now()
	return control.GroupReport{
		Group: g.cfg.Group, Generation: g.st.Generation, Source: true, Phase: g.last.phase, Sync: g.last.sync,
		Durable: g.last.durable, Problem: g.last.problem, Unprotected: g.last.unprotected,
		BreaksLastHour: len(g.last.breaks.since(now)), CaptureRestarts: len(g.last.restarts.since(now)),
		Counters: control.Counters{
			RawBytes: c.RawBytes, SyncBytes: c.SyncBytes, CompressedBytes: c.CompressedBytes,
			SentBytes: c.SentBytes, RingBytes: c.RingBytes, RingLimit: c.RingLimit, SpoolBytes: g.spoolBacklog(), DroppedDiscards: c.Discards,
		},
	}
}

// show changes what the report tells.
func (g *Group) show(change func(*progress)) {
	g.mu.Lock()
	before := g.last
	change(&g.last)
	after := g.last
	g.mu.Unlock()
	if before.phase != after.phase {
		e := control.Event{
			Code: "ReplicationPhase", Severity: "info", Group: g.cfg.Group,
			Text: fmt.Sprintf("group %s: %s, before %s", g.cfg.Group, after.phase, before.phase),
		}
		if after.phase == control.PhaseTracking {
			e.Severity, e.Text = "warning", e.Text+": "+after.problem
		}
		g.cfg.Event(e)
	}
	// What only counts goes with the next report.
	if before.phase != after.phase || before.problem != after.problem {
		g.cfg.Changed()
	}
}
