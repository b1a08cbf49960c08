package fake

import (
	"context"
	"fmt"
	"time"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site"
)

var _ site.Freezer = (*Driver)(nil)

// Freeze stills a guest: GuestWrite waits until it is thawed.
func (d *Driver) Freeze(ctx context.Context, name dr.MachineName, within time.Duration) error {
	err := d.withRun(ctx, "Freeze", name, func(m *machine, _ *run) error {
		switch {
		case m.agentless || m.state != site.Running:
			return problem.New(problem.GuestNotFrozen, "machine %s: no guest agent answers", name)
		case m.frozen != nil:
			return problem.New(problem.GuestNotFrozen, "machine %s is frozen already", name)
		}
		m.frozen = make(chan struct{})
		m.froze++
		frozen := m.frozen
		time.AfterFunc(within, func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			if m.frozen == frozen {
				m.thaw()
			}
		})
		return nil
	})
	if err != nil {
		return err
	}
	io, err := d.gate(name)
	if err != nil {
		return err
	}
	io.Lock() // the writes under way are done
	defer io.Unlock()
	return nil
}

// thaw lets the guest go on; d.mu is held.
func (m *machine) thaw() int {
	if m.frozen == nil {
		return 0
	}
	close(m.frozen)
	m.frozen = nil
	return 1
}

// Frozen reports whether a guest is frozen.
func (d *Driver) Frozen(ctx context.Context, name dr.MachineName) (is bool, err error) {
	err = d.withRun(ctx, "Frozen", name, func(m *machine, _ *run) error {
		if m.agentless {
			return problem.New(problem.GuestNotFrozen, "machine %s: no guest agent answers", name)
		}
		is = m.frozen != nil
		return nil
	})
	return is, err
}

// Thaw lets a guest go on.
func (d *Driver) Thaw(ctx context.Context, name dr.MachineName) (n int, err error) {
	err = d.withRun(ctx, "Thaw", name, func(m *machine, _ *run) error {
		if m.agentless {
			return problem.New(problem.GuestNotFrozen, "machine %s: no guest agent answers", name)
		}
		n = m.thaw()
		return nil
	})
	return n, err
}

// StopAgent makes a machine's guest agent answer no more, or answer again.
func (d *Driver) StopAgent(name dr.MachineName, stopped bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	m, err := d.find(name)
	if err == nil {
		m.agentless = stopped
	}
	return err
}

// ThawByItself makes a guest thaw without being asked, as Windows does.
func (d *Driver) ThawByItself(name dr.MachineName) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	m, err := d.find(name)
	if err == nil {
		m.thaw()
	}
	return err
}

// Froze returns how often a guest was frozen, and whether it is now.
func (d *Driver) Froze(name dr.MachineName) (times int, now bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m, err := d.find(name)
	if err != nil {
		return 0, false
	}
	return m.froze, m.frozen != nil
}

// awaitThaw waits while a guest's file systems are frozen.
func (d *Driver) awaitThaw(ctx context.Context, name dr.MachineName) error {
	for {
		d.mu.Lock()
		m, err := d.find(name)
		if err != nil {
			d.mu.Unlock()
			return err
		}
		frozen := m.frozen
		d.mu.Unlock()
		if frozen == nil {
			return nil
		}
		select {
		case <-frozen:
		case <-ctx.Done():
			return fmt.Errorf("write to the frozen guest %s: %w", name, context.Cause(ctx))
		}
	}
}
