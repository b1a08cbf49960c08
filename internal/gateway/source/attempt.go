package source

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"rebound/internal/capture"
	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/link"
	"rebound/internal/problem"
	"rebound/internal/site"
)

const (
	// hypervisorPatience bounds one request to a member's hypervisor.
	hypervisorPatience = 10 * time.Second
	// attachPatience bounds what drains the members' disks on its way.
	attachPatience = 30 * time.Second
	// openPatience bounds the handshake with the standby.
	openPatience = 15 * time.Second
	// endPatience is how long a capture may take to end that was told to: it
	// delivers what it holds first.
	endPatience = 4 * time.Second
)

// attempt is one life of the stream: from attaching to the first break.
type attempt struct {
	g    *Group
	r    *runner
	spec control.ReplicationSpec
	proc *capture.Process
	cl   *capture.Client
	// first is the number of the bitmap that was begun for this stream;
	// older ones go when the synchronisation is durable.
	first  int
	opened capture.OpenResult
	// clean: the members were off since a clean stop, and nobody touched
	// their disks, until this attempt started them paused.
	clean bool
	// streamed is set once the synchronisation is durable.
	streamed bool
	watch    watchState
}

// run makes the attempt; it returns why the stream ended.
func (a *attempt) run(ctx context.Context) error {
	a.spec = a.g.state().Spec
	if err := a.startCapture(ctx); err != nil {
		return err
	}
	adopted, err := a.adopt(ctx)
	if err != nil {
		return err
	}
	if !adopted {
		if err := a.attach(ctx); err != nil {
			return err
		}
		if err := a.openStream(ctx); err != nil {
			return err
		}
	}
	if err := a.letRun(ctx); err != nil {
		return err
	}
	a.r.settle(nil)
	return a.watchStream(ctx)
}

// startCapture starts or adopts the capture process and configures it.
func (a *attempt) startCapture(ctx context.Context) error {
	proc, err := capture.Start(ctx, capture.SupervisorConfig{Dir: a.g.runDir(), Argv: a.captureArgv(), Logger: a.g.cfg.Log})
	if err != nil {
		return fmt.Errorf("start capture: %w", err)
	}
	a.proc, a.cl = proc, proc.Client()
	return nil
}

func (a *attempt) captureArgv() []string {
	if len(a.g.cfg.CaptureArgv) == 0 {
		return nil
	}
	return append(append([]string(nil), a.g.cfg.CaptureArgv...), "--dir", a.g.runDir())
}

// adopt goes on with the stream of a capture process that outlived its
// gateway, if it is whole.
func (a *attempt) adopt(ctx context.Context) (bool, error) {
	st, err := a.cl.Status(ctx)
	if err != nil {
		return false, fmt.Errorf("ask capture: %w", err)
	}
	if st.State != capture.StateOpen {
		return false, nil
	}
	if err := a.adoptable(ctx, st); err != nil {
		if ctx.Err() != nil { // it is us who were told to stop: the next gateway adopts it
			return false, ctx.Err()
		}
		a.g.cfg.Log.Info("a running capture is not adopted", "pid", st.PID, "reason", err)
		_, err := a.cl.Seal(ctx, "the gateway restarted: "+err.Error())
		return false, err
	}
	a.g.cfg.Log.Info("adopted a running capture", "pid", st.PID, "epoch", st.Head.Epoch)
	book := a.g.state()
	a.opened, a.first = st.Opened, book.Bitmaps.First
	a.watch.spooled = st.Route == capture.RouteSpool || st.Route == capture.RouteBetween
	if book.Synced == epochOf(st.Head) {
		a.streaming()
	} else {
		a.g.show(func(p *progress) { p.phase, p.problem = control.PhaseSyncing, "" })
	}
	return true, nil
}

// adoptable reports what stands against going on with an open stream: it must
// be of this generation and these disks, everything must be attached, and the
// synchronisation begun that its epoch needs.
func (a *attempt) adoptable(ctx context.Context, st capture.Status) error {
	if st.Group != a.spec.Group || st.Generation != a.spec.Generation {
		return fmt.Errorf("it is of group %s, generation %d", st.Group, st.Generation)
	}
	book := a.g.state()
	if book.Bitmaps.First == 0 {
		return errors.New("no bitmap is booked for it")
	}
	began := st.Sync.Epoch == st.Head.Epoch && !st.Sync.Verify
	if book.Synced != epochOf(st.Head) && !began {
		return errors.New("its synchronisation was not begun")
	}
	ask, cancel := context.WithTimeout(ctx, hypervisorPatience)
	defer cancel()
	if err := a.allAttached(ask); err != nil {
		return err
	}
	a.aimSpool()
	// Also takes the present address and identity for the next connection.
	return a.cl.Configure(ctx, a.groupConfig())
}

func (a *attempt) groupConfig() capture.GroupConfig {
	return capture.GroupConfig{
		Group: a.spec.Group, Generation: a.spec.Generation, Disks: a.spec.Disks, Gateway: a.g.cfg.Gateway,
		Standby: a.spec.Standby, StandbyAddr: a.spec.StandbyAddr, Identity: a.g.cfg.Identity.Bundle(), Revoked: a.g.cfg.Identity.Revocations(),
		Compression: a.spec.Compression, Spool: a.spoolSocketFor(), Bandwidth: a.spec.Bandwidth,
	}
}

// attach puts bitmaps on and attaches every member. The standby must admit
// the stream first: until then no member is touched.
func (a *attempt) attach(ctx context.Context) error {
	a.g.show(func(p *progress) {
		if p.phase != control.PhaseTracking { // else it is only tried again
			p.phase = control.PhaseAttaching
		}
		p.sync = control.Progress{}
	})
	if err := a.reachStandby(ctx); err != nil {
		return err
	}
	if err := a.detachAll(ctx); err != nil {
		return err
	}
	if err := a.prepareSpool(ctx); err != nil {
		return err
	}
	if err := a.cl.Configure(ctx, a.groupConfig()); err != nil {
		return fmt.Errorf("configure capture: %w", err)
	}
	st := a.g.state()
	a.clean = st.Clean != nil && a.allOff(ctx) && st.Clean.untouched(ctx, a.g.cfg.Driver, a.spec)
	if err := a.powerOn(ctx); err != nil {
		return err
	}
	if err := a.beginBitmap(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, attachPatience)
	defer cancel()
	for _, m := range members(a.spec) {
		if err := a.g.cap.Attach(ctx, m, a.targets(m)); err != nil {
			return fmt.Errorf("attach %s: %w", m, err)
		}
	}
	return nil
}

// reachStandby asks the standby whether it would take the stream.
func (a *attempt) reachStandby(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, openPatience)
	defer cancel()
	conf := a.g.cfg.Identity.ClientTLS(identity.RoleGateway, string(a.spec.Standby))
	conn, err := link.DialCompare(ctx, link.DialConfig{
		Address: a.spec.StandbyAddr, TLS: conf, Log: a.g.cfg.Log,
		Hello: link.Hello{Group: a.spec.Group, Generation: a.spec.Generation, Disks: a.spec.Disks, Gateway: a.g.cfg.Gateway},
	})
	if err != nil {
		return fmt.Errorf("gateway %s asks gateway %s: %w", a.g.cfg.Gateway, a.spec.Standby, err)
	}
	return conn.Close()
}

// powerOn starts, paused, the members that the group was told to start. Others
// that are off are no part of a stream, unless their hypervisor still lives:
// then what they wrote last can still be delivered.
func (a *attempt) powerOn(ctx context.Context) error {
	resume := a.g.state().Resume
	for _, name := range members(a.spec) {
		m, err := a.g.cfg.Driver.Machine(ctx, name)
		if err != nil {
			return err
		}
		if m.State != site.Off {
			continue
		}
		if !slices.Contains(resume, name) {
			if _, err := a.g.cap.Bitmaps(ctx, name); err != nil {
				return problem.Wrap(err, problem.MachineNotRunning, "%s is off; start it to go on with its replication", name)
			}
			continue
		}
		if err := a.g.cfg.Driver.Start(ctx, name, site.StartOptions{Paused: true}); err != nil {
			return fmt.Errorf("start %s: %w", name, err)
		}
	}
	return nil
}

// allOff reports whether no member runs.
func (a *attempt) allOff(ctx context.Context) bool {
	for _, name := range members(a.spec) {
		m, err := a.g.cfg.Driver.Machine(ctx, name)
		if err != nil || m.State != site.Off {
			return false
		}
	}
	return true
}

// targets lists where the disks of a member are sent.
func (a *attempt) targets(m dr.MachineName) []site.CaptureTarget {
	var out []site.CaptureTarget
	for i, d := range a.spec.Disks {
		if d.Machine == m {
			out = append(out, site.CaptureTarget{Disk: d.Disk, Socket: capture.NBDSocket(a.g.runDir()), Export: capture.ExportName(i)})
		}
	}
	return out
}

// allAttached fails unless every member is being captured.
func (a *attempt) allAttached(ctx context.Context) error {
	for _, m := range members(a.spec) {
		ok, err := a.g.cap.Attached(ctx, m)
		if err != nil {
			return fmt.Errorf("ask %s: %w", m, err)
		}
		if !ok {
			return fmt.Errorf("the capture of %s has ended", m)
		}
	}
	return nil
}

// openStream begins an epoch at the standby, records the definitions and
// starts the synchronisation.
func (a *attempt) openStream(ctx context.Context) error {
	open, cancel := context.WithTimeout(ctx, openPatience)
	defer cancel()
	res, err := a.cl.Open(open)
	if err != nil {
		return fmt.Errorf("open stream: %w", err)
	}
	a.opened, a.first = res, a.g.state().Bitmaps.First
	ask, done := context.WithTimeout(ctx, hypervisorPatience)
	defer done()
	if err := a.define(ask); err != nil {
		return err
	}
	req, err := a.plan(ctx)
	if err != nil {
		return fmt.Errorf("plan synchronisation: %w", err)
	}
	if err := a.cl.Sync(ctx, req); err != nil {
		return fmt.Errorf("start synchronisation: %w", err)
	}
	a.g.show(func(p *progress) { p.phase, p.problem = control.PhaseSyncing, "" })
	return nil
}

// letRun lets members run that the group was told to start. The clean stop has
// been used: from here on the guests write again.
func (a *attempt) letRun(ctx context.Context) error {
	st := a.g.state()
	if st.Clean != nil {
		if err := a.g.save(func(s *state) { s.Clean = nil }); err != nil {
			return err
		}
	}
	for _, m := range st.Resume {
		if err := a.resume(ctx, m); err != nil {
			return fmt.Errorf("resume %s: %w", m, err)
		}
		err := a.g.save(func(s *state) {
			s.Resume = slices.DeleteFunc(s.Resume, func(x dr.MachineName) bool { return x == m })
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *attempt) resume(ctx context.Context, m dr.MachineName) error {
	ctx, cancel := context.WithTimeout(ctx, hypervisorPatience)
	defer cancel()
	return a.g.cap.Resume(ctx, m)
}

// define records every member's present definition where it is new.
func (a *attempt) define(ctx context.Context) error {
	var open []control.UnprotectedDisk
	for _, m := range members(a.spec) {
		def, err := a.g.cap.Definition(ctx, m)
		if err != nil {
			return fmt.Errorf("read definition of %s: %w", m, err)
		}
		more, err := a.unprotected(ctx, def)
		if err != nil {
			return fmt.Errorf("look at disks of %s: %w", m, err)
		}
		open = append(open, more...)
		if !a.watch.newDefinition(def) {
			continue
		}
		if _, err := a.cl.Define(ctx, def); err != nil {
			return fmt.Errorf("record definition of %s: %w", m, err)
		}
	}
	a.g.show(func(p *progress) { p.unprotected = open })
	return nil
}

// detachAll ends the capture of every member whose hypervisor lives, its guest
// be on or off, all at the same time.
func (a *attempt) detachAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, hypervisorPatience)
	defer cancel()
	var wg sync.WaitGroup
	names := members(a.spec)
	errs := make([]error, len(names))
	for i, name := range names {
		wg.Go(func() {
			err := a.g.cap.Detach(ctx, name)
			if err != nil && !problem.HasCode(err, problem.MachineNotRunning) && !problem.HasCode(err, problem.UnknownMachine) {
				errs[i] = fmt.Errorf("detach %s: %w", name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// finish ends the attempt. The stream is sealed before a member is detached:
// nothing that others send after the first detachment may be offered.
func (a *attempt) finish(how ending) {
	if a.proc == nil {
		return
	}
	if how == leaveCapture {
		a.proc.Release()
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.g.ctx), 2*hypervisorPatience)
	defer cancel()
	if _, err := a.cl.Seal(ctx, "detached"); err != nil && !errors.Is(err, capture.ErrGone) {
		a.g.cfg.Log.Warn("seal stream", "error", err)
	}
	if err := a.detachAll(ctx); err != nil {
		a.g.cfg.Log.Warn("detach", "error", err)
	}
	if err := a.cl.Shutdown(ctx); err != nil {
		a.g.cfg.Log.Warn("end capture", "error", err)
	}
	// The next attempt must not find a process that is about to end.
	select {
	case <-a.proc.Done():
		a.proc.Release()
	case <-time.After(endPatience):
		a.proc.Kill()
	}
}
