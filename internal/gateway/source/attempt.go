package source

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"rebound/internal/capture"
	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site"
)

const (
	// hypervisorPatience bounds one request to a member's hypervisor.
	hypervisorPatience = 10 * time.Second
	// openPatience bounds the handshake with the standby.
	openPatience = 15 * time.Second
)

// attempt is one life of the stream: from attaching to the first break.
type attempt struct {
	g    *Group
	r    *runner
	spec control.ReplicationSpec
	proc *capture.Process
	cl   *capture.Client
	// first is the number of the bitmap that was begun for this attempt;
	// older ones go when the synchronisation is durable.
	first  int
	opened capture.OpenResult
	// clean: the members were off since a clean stop, and nobody touched
	// their disks, until this attempt started them paused.
	clean bool
	// streamed is set once the synchronisation has ended.
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
// gateway, if it is whole: same generation and disks, open, everything attached.
func (a *attempt) adopt(ctx context.Context) (bool, error) {
	st, err := a.cl.Status(ctx)
	if err != nil {
		return false, fmt.Errorf("ask capture: %w", err)
	}
	whole := st.Configured && st.Generation == a.spec.Generation && st.State == capture.StateOpen && a.allAttached(ctx) == nil
	if whole {
		a.g.cfg.Log.Info("adopted a running capture", "pid", st.PID, "epoch", st.Head.Epoch)
		a.opened = st.Opened
		if n := len(a.g.state().Bitmaps.On); n > 0 {
			a.first = a.g.state().Bitmaps.On[n-1].N
		}
		return true, nil
	}
	if st.State == capture.StateOpen {
		if _, err := a.cl.Seal(ctx, "the gateway restarted and the members are not all attached"); err != nil {
			return false, err
		}
	}
	if err := a.cl.Configure(ctx, a.groupConfig()); err != nil {
		return false, fmt.Errorf("configure capture: %w", err)
	}
	return false, nil
}

func (a *attempt) groupConfig() capture.GroupConfig {
	return capture.GroupConfig{
		Group: a.spec.Group, Generation: a.spec.Generation, Disks: a.spec.Disks, Gateway: a.g.cfg.Gateway,
		Standby: a.spec.Standby, StandbyAddr: a.spec.StandbyAddr, Identity: a.g.cfg.Identity, Compression: a.spec.Compression,
	}
}

// attach puts bitmaps on and attaches every member. The standby must answer
// first: captured members cost their guests something.
func (a *attempt) attach(ctx context.Context) error {
	a.g.show(func(p *progress) { p.phase, p.sync = control.PhaseAttaching, control.Progress{} })
	if err := a.reachStandby(ctx); err != nil {
		return err
	}
	if err := a.detachAll(ctx); err != nil {
		return err
	}
	st := a.g.state()
	a.clean = st.Clean != nil && a.allOff(ctx) && st.Clean.untouched(ctx, a.g.cfg.Driver, a.spec)
	if err := a.powerOn(ctx); err != nil {
		return err
	}
	if err := a.beginBitmap(ctx); err != nil {
		return err
	}
	for _, m := range members(a.spec) {
		if err := a.g.cap.Attach(ctx, m, a.targets(m)); err != nil {
			return fmt.Errorf("attach %s: %w", m, err)
		}
	}
	return nil
}

// reachStandby opens the standby's data port once.
func (a *attempt) reachStandby(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, openPatience)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", a.spec.StandbyAddr)
	if err != nil {
		return problem.Wrap(err, problem.GatewayUnreachable, "gateway %s cannot open the data port of gateway %s at %s", a.g.cfg.Gateway, a.spec.Standby, a.spec.StandbyAddr)
	}
	return conn.Close()
}

// powerOn starts members that are off, paused, where the spec says so.
func (a *attempt) powerOn(ctx context.Context) error {
	for _, name := range members(a.spec) {
		m, err := a.g.cfg.Driver.Machine(ctx, name)
		if err != nil {
			return err
		}
		if m.State != site.Off {
			continue
		}
		if !a.spec.StartStopped {
			return problem.New(problem.MachineNotRunning, "%s is off; start it to go on with its replication", name)
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

// openStream begins an epoch at the standby, records the definitions, starts
// the synchronisation and lets members run that were started paused.
func (a *attempt) openStream(ctx context.Context) error {
	open, cancel := context.WithTimeout(ctx, openPatience)
	defer cancel()
	res, err := a.cl.Open(open)
	if err != nil {
		return fmt.Errorf("open stream: %w", err)
	}
	a.opened = res
	if err := a.define(ctx); err != nil {
		return err
	}
	req, err := a.plan(ctx)
	if err != nil {
		return fmt.Errorf("plan synchronisation: %w", err)
	}
	if err := a.cl.Sync(ctx, req); err != nil {
		return fmt.Errorf("start synchronisation: %w", err)
	}
	// The clean stop has been used; from here on the guests write again.
	if err := a.g.save(func(s *state) { s.Clean = nil }); err != nil {
		return err
	}
	a.g.show(func(p *progress) { p.phase, p.problem = control.PhaseSyncing, "" })
	for _, m := range members(a.spec) {
		if err := a.g.cap.Resume(ctx, m); err != nil {
			return fmt.Errorf("resume %s: %w", m, err)
		}
	}
	return nil
}

// define records every member's present definition where it is new.
func (a *attempt) define(ctx context.Context) error {
	for _, m := range members(a.spec) {
		def, err := a.g.cap.Definition(ctx, m)
		if err != nil {
			return fmt.Errorf("read definition of %s: %w", m, err)
		}
		if !a.watch.newDefinition(def) {
			continue
		}
		if _, err := a.cl.Define(ctx, def); err != nil {
			return fmt.Errorf("record definition of %s: %w", m, err)
		}
	}
	return nil
}

// detachAll ends the capture of every member that runs.
func (a *attempt) detachAll(ctx context.Context) error {
	var errs []error
	for _, name := range members(a.spec) {
		m, err := a.g.cfg.Driver.Machine(ctx, name)
		if err != nil || m.State == site.Off {
			continue
		}
		one, cancel := context.WithTimeout(ctx, hypervisorPatience)
		if err := a.g.cap.Detach(one, name); err != nil {
			errs = append(errs, fmt.Errorf("detach %s: %w", name, err))
		}
		cancel()
	}
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
		a.proc.Kill()
	}
}
