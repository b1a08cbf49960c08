package qemu

import (
	"context"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/qga"
	"rebound/internal/qmp"
	"rebound/internal/site"
)

var _ site.Freezer = (*Driver)(nil)

const (
	// agentSocket is the host's end of a machine's virtio-serial port, and
	// agentPort the name by which the guest finds its own end.
	agentSocket = "agent.sock"
	agentPort   = "org.qemu.guest_agent.0"
	// thawTime is how long one attempt to thaw may take.
	thawTime = 5 * time.Second
	// thawAgain is the time between attempts.
	thawAgain = time.Second
	// guardMargin is how much later than the driver the guard process acts:
	// the agent's socket has one user at a time.
	guardMargin = 2 * time.Second
)

// freeze is a guest that is, or may be, frozen: it is thawed when its time is
// over, whatever becomes of the caller (the watch) and of the process (the guard).
type freeze struct {
	agent *qga.Agent
	over  chan struct{} // closed once the guest is known to be thawed
	now   chan struct{} // closed when its time is over early
	guard *exec.Cmd     // nil: none
	alive io.WriteCloser
}

// agentOf returns the guest agent of a machine, one for all of the driver.
func (d *Driver) agentOf(ctx context.Context, m *machine, rec *record) (*qga.Agent, error) {
	path, err := m.socketPath(agentSocket)
	if rec.Socket != "" {
		path, err = m.importedAgent(ctx, rec)
	}
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.agents[path]
	if a == nil {
		a = qga.New(path)
		d.agents[path] = a
	}
	return a, nil
}

// importedAgent finds the socket of the port that somebody else gave a machine.
func (m *machine) importedAgent(ctx context.Context, rec *record) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	mon, err := m.monitor(rec)
	if err != nil {
		return "", err
	}
	type child struct {
		Name string `json:"name"`
		Type string `json:"type"`
	}
	back := map[string]bool{}
	for _, folder := range []string{"/machine/peripheral", "/machine/peripheral-anon"} {
		list, err := qmp.Call[[]child](ctx, mon, "qom-list", object{"path": folder})
		if err != nil {
			return "", err
		}
		for _, c := range list {
			if c.Type != "child<virtserialport>" {
				continue
			}
			device := folder + "/" + c.Name
			if name, err := get[string](ctx, mon, device, "name"); err != nil || name != agentPort {
				continue
			}
			if id, err := get[string](ctx, mon, device, "chardev"); err == nil {
				back[id] = true
			}
		}
	}
	chardevs, err := qmp.Call[[]struct {
		Label    string `json:"label"`
		Filename string `json:"filename"`
	}](ctx, mon, "query-chardev", nil)
	if err != nil {
		return "", err
	}
	for _, c := range chardevs {
		_, path, isUnix := strings.Cut(c.Filename, "unix:")
		if back[c.Label] && isUnix {
			path, _, _ = strings.Cut(path, ",")
			if filepath.IsAbs(path) {
				return path, nil
			}
		}
	}
	return "", problem.New(problem.GuestNotFrozen, "machine %s was imported without a port %s on a Unix socket", m.name, agentPort)
}

// Freeze implements site.Freezer.
func (d *Driver) Freeze(ctx context.Context, name dr.MachineName, within time.Duration) error {
	m, rec, err := d.known(name)
	if err != nil {
		return err
	}
	a, err := d.agentOf(ctx, m, rec)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if err := a.Ping(ctx); err != nil {
		return notFrozen(err, name)
	}
	f, err := d.beginFreeze(m, rec, a, within)
	if err != nil {
		return err
	}
	n, err := a.Freeze(ctx)
	if err == nil && n > 0 {
		d.log.Debug("guest frozen", "machine", name, "fileSystems", n)
		return nil
	}
	if err == nil {
		err = errors.New("the guest has no file system that can be frozen")
	}
	// One that is late freezes still: the watch thaws it then.
	close(f.now)
	return notFrozen(err, name)
}

// notFrozen says for people why a guest is not frozen.
func notFrozen(err error, name dr.MachineName) error {
	if qga.Gone(err) {
		return problem.Wrap(err, problem.MachineNotRunning, "machine %s", name)
	}
	return problem.Wrap(err, problem.GuestNotFrozen, "machine %s", name)
}

// Frozen implements site.Freezer.
func (d *Driver) Frozen(ctx context.Context, name dr.MachineName) (bool, error) {
	a, _, err := d.frozenAgent(ctx, name)
	if err != nil {
		return false, err
	}
	is, err := a.Frozen(ctx)
	if err != nil {
		return false, notFrozen(err, name)
	}
	return is, nil
}

// Thaw implements site.Freezer.
func (d *Driver) Thaw(ctx context.Context, name dr.MachineName) (int, error) {
	a, f, err := d.frozenAgent(ctx, name)
	if err != nil {
		return 0, err
	}
	n, err := a.Thaw(ctx)
	if err != nil {
		return n, notFrozen(err, name)
	}
	if f != nil {
		d.endFreeze(name, f)
	}
	return n, nil
}

// frozenAgent returns the agent of a guest that may be frozen, and the freeze
// if this driver began it.
func (d *Driver) frozenAgent(ctx context.Context, name dr.MachineName) (*qga.Agent, *freeze, error) {
	d.mu.Lock()
	f := d.freezes[name]
	d.mu.Unlock()
	if f != nil {
		return f.agent, f, nil
	}
	m, rec, err := d.known(name)
	if err != nil {
		return nil, nil, err
	}
	a, err := d.agentOf(ctx, m, rec)
	return a, nil, err
}

// beginFreeze starts what thaws the guest whatever happens.
func (d *Driver) beginFreeze(m *machine, rec *record, a *qga.Agent, within time.Duration) (*freeze, error) {
	f := &freeze{agent: a, over: make(chan struct{}), now: make(chan struct{})}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, qmp.ErrClosed
	}
	if d.freezes[m.name] != nil {
		return nil, problem.New(problem.GuestNotFrozen, "machine %s is being frozen, or thawed, already", m.name)
	}
	if len(d.cfg.ThawGuard) > 0 {
		socket := agentSocket
		if rec.Socket != "" {
			socket = a.Path()
		}
		if err := f.startGuard(m, socket, d.cfg.ThawGuard, within+guardMargin); err != nil {
			return nil, problem.Wrap(err, problem.HypervisorError, "start the guard of a freeze of machine %s", m.name)
		}
	}
	d.freezes[m.name] = f
	d.wg.Go(func() { d.watchFreeze(m.name, f, within) })
	return f, nil
}

// endFreeze is called once the guest is known to be thawed.
func (d *Driver) endFreeze(name dr.MachineName, f *freeze) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.freezes[name] != f {
		return
	}
	delete(d.freezes, name)
	close(f.over)
}

// watchFreeze thaws the guest when its time is over, and tries until it has. If
// the driver is closed first, that is the guard's to do, and tried once here.
func (d *Driver) watchFreeze(name dr.MachineName, f *freeze, within time.Duration) {
	defer f.dismiss()
	select {
	case <-f.over:
		return
	case <-f.now:
	case <-time.After(within):
	case <-d.ctx.Done():
	}
	for try := 0; ; try++ {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(d.ctx), thawTime)
		n, err := f.agent.Thaw(ctx)
		cancel()
		if err == nil || qga.Gone(err) {
			if n > 0 {
				d.log.Warn("thawed a guest whose time was over", "machine", name, "fileSystems", n)
			}
			d.endFreeze(name, f)
			return
		}
		if try%60 == 0 {
			d.log.Error("a guest may be frozen and does not answer", "machine", name, "error", err)
		}
		select {
		case <-f.over:
			return
		case <-time.After(thawAgain):
		case <-d.ctx.Done():
			return
		}
	}
}
