package fake

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"rebound/internal/block"
	"rebound/internal/dr"
	"rebound/internal/extent"
	"rebound/internal/nbd"
	"rebound/internal/problem"
	"rebound/internal/site"
)

// withRun is with for a machine that is on.
func (d *Driver) withRun(ctx context.Context, method string, name dr.MachineName, fn func(*machine, *run) error) error {
	return d.with(ctx, method, name, func(m *machine) error {
		if m.run == nil {
			return problem.New(problem.MachineNotRunning, "machine %s is %s", name, m.state)
		}
		return fn(m, m.run)
	})
}

// Attach connects to every target and sends all later writes there.
func (d *Driver) Attach(ctx context.Context, name dr.MachineName, targets []site.CaptureTarget) error {
	err := d.withRun(ctx, "Attach", name, func(m *machine, r *run) error {
		for _, t := range targets {
			if err := m.has(t.Disk); err != nil {
				return err
			}
		}
		if len(r.targets) > 0 && !r.whole() {
			return problem.New(problem.DiskNotSupported, "machine %s: detach the broken capture first", name)
		}
		return nil
	})
	if err != nil {
		return err
	}
	clients := map[dr.DiskID]*nbd.Client{}
	for _, t := range targets {
		c, err := nbd.Dial(ctx, "unix", t.Socket, nbd.Options{Export: t.Export})
		if err != nil {
			return errors.Join(fmt.Errorf("attach disk %s of machine %s: %w", t.Disk, name, err), closeClients(clients))
		}
		clients[t.Disk] = c
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	m, err := d.find(name)
	if err != nil || m.run == nil || len(m.run.targets) > 0 {
		// Gone meanwhile, or attached already: then nothing changes.
		return errors.Join(err, closeClients(clients))
	}
	m.run.targets = clients
	return nil
}

func closeClients(clients map[dr.DiskID]*nbd.Client) error {
	var errs []error
	for _, c := range clients {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}

// whole reports whether every capture still receives.
func (r *run) whole() bool {
	for _, t := range r.targets {
		if t == nil || t.Err() != nil {
			return false
		}
	}
	return len(r.targets) > 0
}

// Attached reports whether all targets are still written to.
func (d *Driver) Attached(ctx context.Context, name dr.MachineName) (ok bool, err error) {
	err = d.with(ctx, "Attached", name, func(m *machine) error {
		ok = m.run != nil && m.run.whole()
		return nil
	})
	return ok, err
}

// Detach ends the sending.
func (d *Driver) Detach(ctx context.Context, name dr.MachineName) error {
	return d.with(ctx, "Detach", name, func(m *machine) error {
		if m.run == nil {
			return nil
		}
		clients, source := m.run.targets, m.run.source
		m.run.targets, m.run.source = nil, nil
		return errors.Join(closeClients(clients), source.close())
	})
}

// Resume lets a paused machine run.
func (d *Driver) Resume(ctx context.Context, name dr.MachineName) error {
	return d.withRun(ctx, "Resume", name, func(m *machine, _ *run) error {
		if m.state == site.Off {
			return problem.New(problem.HypervisorError, "machine %s: its guest is off", m.name)
		}
		m.state = site.Running
		return nil
	})
}

// BeginBitmap starts to remember what is written to any disk.
func (d *Driver) BeginBitmap(ctx context.Context, name dr.MachineName, bitmap string) error {
	return d.withRun(ctx, "BeginBitmap", name, func(m *machine, r *run) error {
		if r.bitmaps[bitmap] != nil {
			return nil
		}
		r.bitmaps[bitmap] = map[dr.DiskID]*extent.Set{}
		for id := range r.disks {
			r.bitmaps[bitmap][id] = extent.NewSet()
		}
		return nil
	})
}

// DropBitmap forgets a bitmap.
func (d *Driver) DropBitmap(ctx context.Context, name dr.MachineName, bitmap string) error {
	return d.withRun(ctx, "DropBitmap", name, func(_ *machine, r *run) error {
		delete(r.bitmaps, bitmap)
		return nil
	})
}

// Bitmaps names the live bitmaps.
func (d *Driver) Bitmaps(ctx context.Context, name dr.MachineName) (names []string, err error) {
	err = d.withRun(ctx, "Bitmaps", name, func(_ *machine, r *run) error {
		names = slices.Sorted(maps.Keys(r.bitmaps))
		return nil
	})
	return names, err
}

// Dirty unites bitmaps of a disk.
func (d *Driver) Dirty(ctx context.Context, name dr.MachineName, disk dr.DiskID, bitmaps []string) (set *extent.Set, err error) {
	err = d.withRun(ctx, "Dirty", name, func(m *machine, r *run) error {
		if err := m.has(disk); err != nil {
			return err
		}
		set = extent.NewSet()
		for _, b := range bitmaps {
			if r.bitmaps[b] == nil {
				return problem.New(problem.HypervisorError, "machine %s has no bitmap %s", name, b)
			}
			set.Union(r.bitmaps[b][disk])
		}
		return nil
	})
	return set, err
}

// OpenSource opens a running machine's disk for reading.
func (d *Driver) OpenSource(ctx context.Context, name dr.MachineName, disk dr.DiskID) (dev block.Device, err error) {
	err = d.withRun(ctx, "OpenSource", name, func(m *machine, r *run) error {
		if err := m.has(disk); err != nil {
			return err
		}
		dev = block.ReadOnly(unclosed{r.disks[disk]})
		return nil
	})
	return dev, err
}

// Definition returns the present definition, NVRAM included.
func (d *Driver) Definition(ctx context.Context, name dr.MachineName) (def dr.Definition, err error) {
	err = d.with(ctx, "Definition", name, func(m *machine) error {
		def = m.present()
		return nil
	})
	return def, err
}
