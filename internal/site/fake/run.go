package fake

import (
	"context"
	"errors"
	"sync"
	"time"

	"rebound/internal/block"
	"rebound/internal/dr"
	"rebound/internal/extent"
	"rebound/internal/nbd"
	"rebound/internal/problem"
	"rebound/internal/site"
)

// grain is what a bit of a bitmap stands for, in bytes.
const grain = 4096

// run is a machine that is on: its open disks, captures and bitmaps, which end
// with it as they end with a hypervisor's process. Fields belong to Driver.mu.
type run struct {
	disks   map[dr.DiskID]block.Device
	targets map[dr.DiskID]*nbd.Client // attached captures; nil ones have failed
	bitmaps map[string]map[dr.DiskID]*extent.Set
	source  *sourceServer // of ExportSource
	extra   []site.ExtraDisk
}

// start switches a machine on; d.mu is held.
func (d *Driver) start(m *machine, paused bool) error {
	want := site.Running
	if paused {
		want = site.Paused
	}
	if m.run != nil && m.state == site.Off { // the guest is off, its hypervisor is not
		if err := m.stop(); err != nil {
			return err
		}
	}
	if m.run != nil {
		if !paused {
			m.state = site.Running
		}
		return nil
	}
	r := &run{disks: map[dr.DiskID]block.Device{}, bitmaps: map[string]map[dr.DiskID]*extent.Set{}}
	for _, s := range m.present().Disks {
		if o := m.overlay(s.ID); o != nil {
			r.disks[s.ID] = o
			continue
		}
		if m.open[s.ID] > 0 {
			return errors.Join(problem.New(problem.MachineInUse, "disk %s of machine %s is open", s.ID, m.name), r.close())
		}
		dev, err := d.openDisk(m, s.ID)
		if err != nil {
			return errors.Join(err, r.close())
		}
		r.disks[s.ID] = dev
	}
	m.run, m.state, m.booted = r, want, time.Now().UTC()
	return nil
}

// close lets everything go that the machine held. Overlays stay.
func (r *run) close() error {
	errs := []error{r.source.close()}
	for _, t := range r.targets {
		if t != nil {
			errs = append(errs, t.Close())
		}
	}
	for _, dev := range r.disks {
		if _, ok := dev.(*overlay); !ok {
			errs = append(errs, dev.Close())
		}
	}
	return errors.Join(errs...)
}

// stop switches a machine off; d.mu is held.
func (m *machine) stop() error {
	r := m.run
	m.run, m.state = nil, site.Off
	m.thaw()
	if r == nil {
		return nil
	}
	return r.close()
}

// Start starts a machine.
func (d *Driver) Start(ctx context.Context, name dr.MachineName, opts site.StartOptions) error {
	return d.with(ctx, "Start", name, func(m *machine) error {
		if m.recovered == nil && m.standby {
			return problem.New(problem.MachineInUse, "machine %s is the standby of a replication group", name)
		}
		for _, nic := range m.present().NICs {
			if m.recovered != nil && m.recovered.spec.Test {
				break
			}
			if nic.Network != "" && !d.hasNetwork(nic.Network) {
				return problem.New(problem.UnknownNetwork, "%s", nic.Network)
			}
		}
		return d.start(m, opts.Paused)
	})
}

func (d *Driver) hasNetwork(name string) bool {
	for _, n := range d.opts.Networks {
		if n.Name == name {
			return true
		}
	}
	return false
}

// Stop stops a machine. A deaf guest (see Deafen) makes a graceful stop wait in
// vain for its timeout.
func (d *Driver) Stop(ctx context.Context, name dr.MachineName, mode site.StopMode, timeout time.Duration) error {
	deaf := false
	err := d.with(ctx, "Stop", name, func(m *machine) error {
		deaf = mode != site.Hard && m.state != site.Off && (m.deaf || m.state == site.Paused)
		if deaf {
			return nil
		}
		return m.stop()
	})
	if err != nil || !deaf {
		return err
	}
	t := time.NewTimer(timeout)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if mode == site.Graceful {
		return problem.New(problem.MachineRunning, "machine %s did not stop", name)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	m, err := d.find(name)
	if err != nil {
		return err
	}
	return m.stop()
}

// Deafen makes a machine's guest ignore the power button, or hear it again.
func (d *Driver) Deafen(name dr.MachineName, deaf bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	m, err := d.find(name)
	if err == nil {
		m.deaf = deaf
	}
	return err
}

// Crash ends a machine as if its hypervisor had died: captures end, bitmaps are
// lost, the content stays.
func (d *Driver) Crash(name dr.MachineName) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	m, err := d.find(name)
	if err != nil {
		return err
	}
	return m.stop()
}

// gate returns the lock that a commit holds writes with; it is taken before
// Driver.mu.
func (d *Driver) gate(name dr.MachineName) (*sync.RWMutex, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m, err := d.find(name)
	if err != nil {
		return nil, err
	}
	return &m.io, nil
}

// guest returns what a running guest's request needs.
func (d *Driver) guest(name dr.MachineName, disk dr.DiskID) (*run, block.Device, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m, err := d.find(name)
	if err != nil {
		return nil, nil, err
	}
	if err := m.has(disk); err != nil {
		return nil, nil, err
	}
	if m.state != site.Running {
		return nil, nil, problem.New(problem.MachineNotRunning, "machine %s is %s", name, m.state)
	}
	return m.run, m.run.disks[disk], nil
}

// GuestWrite is a write of the machine's guest. As under QEMU's mirror it goes
// to the disk first and then to the capture, and returns once both have it; a
// capture that fails is detached and the guest sees nothing of it.
func (d *Driver) GuestWrite(ctx context.Context, name dr.MachineName, disk dr.DiskID, p []byte, off int64) error {
	if err := d.awaitThaw(ctx, name); err != nil {
		return err
	}
	io, err := d.gate(name)
	if err != nil {
		return err
	}
	io.RLock()
	defer io.RUnlock()
	r, dev, err := d.guest(name, disk)
	if err != nil {
		return err
	}
	if err := dev.WriteAt(ctx, p, off); err != nil {
		return err
	}
	d.mu.Lock()
	for _, sets := range r.bitmaps {
		if sets[disk] == nil {
			continue
		}
		sets[disk].Add(extent.Range{Off: off, Len: int64(len(p))}.Align(grain).Intersect(extent.Range{Len: dev.Size()}))
	}
	target := r.targets[disk]
	d.mu.Unlock()
	if target == nil {
		return nil
	}
	if err := target.WriteAt(ctx, p, off); err != nil {
		d.mu.Lock()
		if r.targets[disk] == target {
			r.targets[disk] = nil
		}
		d.mu.Unlock()
		_ = target.Close()
	}
	return nil
}

// GuestRead is a read of the machine's guest.
func (d *Driver) GuestRead(ctx context.Context, name dr.MachineName, disk dr.DiskID, p []byte, off int64) error {
	_, dev, err := d.guest(name, disk)
	if err != nil {
		return err
	}
	return dev.ReadAt(ctx, p, off)
}
