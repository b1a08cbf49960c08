// Package fake is a site in memory: a driver with power states, disks, captures,
// views, latency and faults, but without a hypervisor. It keeps the contracts of
// package site, is held to them by sitetest, and is what unit tests of the
// gateway run against. Its guests are the test itself: see GuestWrite.
package fake

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"rebound/internal/block"
	"rebound/internal/dr"
	"rebound/internal/nbd"
	"rebound/internal/problem"
	"rebound/internal/site"
)

// Call names a call of a method, for latency and faults.
type Call struct {
	Method  string
	Machine dr.MachineName
}

// Options say how a site behaves. The zero value is a quick one without faults.
type Options struct {
	// Dir is where disks are files; empty: disks are in memory and have no
	// path, so that no journal can use them as bases.
	Dir string
	// Networks of the site; nil means one user network "default".
	Networks []site.Network
	// Free and Total are the site's room in bytes; 0 means 1 TiB.
	Free, Total int64
	// Latency is what each call takes at least.
	Latency time.Duration
	// Fault is asked at the begin of each call; its error is the call's.
	Fault func(Call) error
	// View opens a view; nil dials its NBD server.
	View func(context.Context, site.ViewDisk) (block.Device, error)
}

// Driver is a site. All methods may be called at the same time.
type Driver struct {
	opts Options

	mu       sync.Mutex
	machines map[dr.MachineName]*machine
	memory   map[string]*block.Memory // disks, by "machine/disk"; they outlive machines
}

// machine is one machine; its fields but io belong to Driver.mu.
type machine struct {
	io        sync.RWMutex // held for reading by each guest write
	name      dr.MachineName
	def       dr.Definition
	standby   bool
	deaf      bool          // the guest ignores the power button
	agentless bool          // no guest agent answers
	frozen    chan struct{} // closed by the thaw; nil: the guest is not frozen
	froze     int           // times
	state     site.PowerState
	paths     map[dr.DiskID]string
	open      map[dr.DiskID]int // by OpenDisk
	recovered *recovered
	run       *run // nil while off
	booted    time.Time
}

var (
	_ site.Driver       = (*Driver)(nil)
	_ site.BootFromView = (*Driver)(nil)
	_ site.Capturer     = (*Driver)(nil)
)

// New returns an empty site.
func New(opts Options) *Driver {
	opts.Free, opts.Total = cmp.Or(opts.Free, 1<<40), cmp.Or(opts.Total, 1<<40)
	if opts.Networks == nil {
		opts.Networks = []site.Network{{Name: "default", Kind: "user"}}
	}
	if opts.View == nil {
		opts.View = func(ctx context.Context, v site.ViewDisk) (block.Device, error) {
			return nbd.Dial(ctx, "unix", v.Socket, nbd.Options{Export: v.Export})
		}
	}
	return &Driver{opts: opts, machines: map[dr.MachineName]*machine{}, memory: map[string]*block.Memory{}}
}

// enter is the begin of each call.
func (d *Driver) enter(ctx context.Context, method string, name dr.MachineName) error {
	if d.opts.Latency > 0 {
		t := time.NewTimer(d.opts.Latency)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s %s: %w", method, name, context.Cause(ctx))
	}
	if d.opts.Fault != nil {
		return d.opts.Fault(Call{Method: method, Machine: name})
	}
	return nil
}

// find returns a machine; d.mu is held.
func (d *Driver) find(name dr.MachineName) (*machine, error) {
	m := d.machines[name]
	if m == nil {
		return nil, problem.New(problem.UnknownMachine, "%s", name)
	}
	return m, nil
}

// with runs fn on a machine under the lock, after latency and faults.
func (d *Driver) with(ctx context.Context, method string, name dr.MachineName, fn func(*machine) error) error {
	if err := d.enter(ctx, method, name); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	m, err := d.find(name)
	if err != nil {
		return err
	}
	return fn(m)
}

// Capabilities says that all but importing is there.
func (d *Driver) Capabilities() site.Capabilities {
	return site.Capabilities{Capturer: true, BootFromView: true, Freezer: true, Console: true}
}

func (m *machine) present() dr.Definition {
	def := m.def
	if m.recovered != nil {
		def = m.recovered.spec.Definition
	}
	def = clone(def)
	def.Name = m.name // that of a test differs from its definition's
	return def
}

func (m *machine) describe() site.Machine {
	def := m.present()
	def.NVRAM = nil
	out := site.Machine{Definition: def, State: m.state, Standby: m.standby}
	if m.run != nil {
		out.BootedAt = m.booted
	}
	return out
}

// Machines returns all machines, by name.
func (d *Driver) Machines(ctx context.Context) ([]site.Machine, error) {
	if err := d.enter(ctx, "Machines", ""); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	list := []site.Machine{}
	for _, name := range slices.Sorted(maps.Keys(d.machines)) {
		list = append(list, d.machines[name].describe())
	}
	return list, nil
}

// Machine returns one machine.
func (d *Driver) Machine(ctx context.Context, name dr.MachineName) (got site.Machine, err error) {
	err = d.with(ctx, "Machine", name, func(m *machine) error {
		got = m.describe()
		return nil
	})
	return got, err
}

// Networks returns the configured networks and those of tests that run.
func (d *Driver) Networks(ctx context.Context) ([]site.Network, error) {
	if err := d.enter(ctx, "Networks", ""); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var tests []string
	for _, m := range d.machines {
		if m.recovered != nil && m.recovered.spec.Test {
			tests = append(tests, m.recovered.spec.Network)
		}
	}
	slices.Sort(tests)
	list := slices.Clone(d.opts.Networks)
	for _, name := range slices.Compact(tests) {
		list = append(list, site.Network{Name: name, Kind: "bridge", Test: true})
	}
	return list, nil
}

// Room returns the configured room.
func (d *Driver) Room(ctx context.Context) (free, total int64, err error) {
	return d.opts.Free, d.opts.Total, d.enter(ctx, "Room", "")
}

// clone shares nothing with def, so that its owner may change it.
func clone(def dr.Definition) dr.Definition {
	def.NVRAM, def.NICs, def.Disks = slices.Clone(def.NVRAM), slices.Clone(def.NICs), slices.Clone(def.Disks)
	return def
}

func sameDefinition(a, b dr.Definition) bool {
	a.NVRAM, b.NVRAM = nil, nil
	x, errA := json.Marshal(a)
	y, errB := json.Marshal(b)
	return errA == nil && errB == nil && string(x) == string(y)
}

func validate(def dr.Definition) error {
	if err := dr.ValidName(string(def.Name)); err != nil {
		return problem.Wrap(err, problem.InvalidName, "%s", def.Name)
	}
	if def.CPUs < 1 || def.MemoryMiB < 1 {
		return problem.New(problem.InvalidRequest, "machine %s: want at least one CPU and 1 MiB", def.Name)
	}
	for _, s := range def.Disks {
		if s.SizeBytes <= 0 || s.SizeBytes%512 != 0 {
			return problem.New(problem.DiskNotSupported, "machine %s, disk %s: size %d", def.Name, s.ID, s.SizeBytes)
		}
	}
	return nil
}

// Create makes a machine and its disks.
func (d *Driver) Create(ctx context.Context, def dr.Definition) error {
	if err := d.enter(ctx, "Create", def.Name); err != nil {
		return err
	}
	if err := validate(def); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if m := d.machines[def.Name]; m != nil {
		if sameDefinition(m.def, def) {
			return nil
		}
		return problem.New(problem.NameTaken, "machine %s exists with another definition", def.Name)
	}
	m := &machine{name: def.Name, def: clone(def), state: site.Off, paths: map[dr.DiskID]string{}, open: map[dr.DiskID]int{}}
	if err := d.makeDisks(m, def.Disks); err != nil {
		return err
	}
	d.machines[def.Name] = m
	return nil
}

func key(name dr.MachineName, id dr.DiskID) string { return string(name) + "/" + string(id) }

// path is where a disk's file lies.
func (d *Driver) path(m *machine, id dr.DiskID) string {
	return cmp.Or(m.paths[id], filepath.Join(d.opts.Dir, string(m.name), string(id)+".raw"))
}

// makeDisks makes what is missing and lets disks grow.
func (d *Driver) makeDisks(m *machine, disks []dr.DiskSpec) error {
	for _, s := range disks {
		var err error
		if d.opts.Dir != "" {
			err = growFile(d.path(m, s.ID), s.SizeBytes)
		} else {
			err = d.growMemory(key(m.name, s.ID), s.SizeBytes)
		}
		if err != nil {
			return fmt.Errorf("create disk %s of machine %s: %w", s.ID, m.name, err)
		}
	}
	return nil
}

func growFile(path string, size int64) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.Size() > size {
		return problem.New(problem.DiskNotSupported, "a disk cannot shrink from %d to %d", st.Size(), size)
	}
	return f.Truncate(size)
}

func (d *Driver) growMemory(key string, size int64) error {
	old := d.memory[key]
	switch {
	case old == nil:
		d.memory[key] = block.NewMemory(size)
	case old.Size() > size:
		return problem.New(problem.DiskNotSupported, "a disk cannot shrink from %d to %d", old.Size(), size)
	case old.Size() < size:
		grown := block.NewMemory(size)
		content := make([]byte, old.Size())
		ctx := context.Background() // memory does not wait
		if err := errors.Join(old.ReadAt(ctx, content, 0), grown.WriteAt(ctx, content, 0)); err != nil {
			return err
		}
		d.memory[key] = grown
	}
	return nil
}

// openDisk opens a disk as a hypervisor does, with its locks.
func (d *Driver) openDisk(m *machine, id dr.DiskID) (block.Device, error) {
	if d.opts.Dir == "" && m.paths[id] == "" {
		return unclosed{d.memory[key(m.name, id)]}, nil
	}
	f, err := block.OpenFile(d.path(m, id), block.FileOptions{Lock: true})
	if errors.Is(err, block.ErrLocked) {
		return nil, problem.Wrap(err, problem.MachineInUse, "disk %s of machine %s", id, m.name)
	}
	if err != nil {
		return nil, fmt.Errorf("open disk %s of machine %s: %w", id, m.name, err)
	}
	return f, nil
}

// unclosed is a device that outlives its users.
type unclosed struct{ block.Device }

func (unclosed) Close() error { return nil }

// Update replaces the definition of a machine that is off.
func (d *Driver) Update(ctx context.Context, def dr.Definition) error {
	if err := validate(def); err != nil {
		return err
	}
	return d.with(ctx, "Update", def.Name, func(m *machine) error {
		switch {
		case sameDefinition(m.def, def) && def.NVRAM == nil:
			return nil
		case m.recovered != nil:
			return problem.New(problem.MachineInUse, "machine %s runs on a view", m.name)
		case m.state != site.Off:
			return problem.New(problem.MachineRunning, "machine %s is %s", m.name, m.state)
		}
		if err := d.makeDisks(m, def.Disks); err != nil {
			return err
		}
		if def.NVRAM == nil {
			def.NVRAM = m.def.NVRAM
		}
		m.def = clone(def)
		return nil
	})
}

// Delete removes a machine that is off; one that is not there is no error.
func (d *Driver) Delete(ctx context.Context, name dr.MachineName, keepDisks bool) error {
	err := d.with(ctx, "Delete", name, func(m *machine) error {
		switch {
		case m.standby || m.recovered != nil:
			return problem.New(problem.MachineInUse, "machine %s", name)
		case m.state != site.Off:
			return problem.New(problem.MachineRunning, "machine %s is %s", name, m.state)
		}
		for _, s := range m.def.Disks {
			if keepDisks {
				break
			}
			delete(d.memory, key(name, s.ID))
			if d.opts.Dir != "" && m.paths[s.ID] == "" {
				if err := os.Remove(d.path(m, s.ID)); err != nil {
					return fmt.Errorf("delete disk %s of machine %s: %w", s.ID, name, err)
				}
			}
		}
		delete(d.machines, name)
		return nil
	})
	if problem.HasCode(err, problem.UnknownMachine) {
		return nil
	}
	return err
}

// DiskPath returns a disk's file; a site in memory has none.
func (d *Driver) DiskPath(ctx context.Context, name dr.MachineName, disk dr.DiskID) (path string, err error) {
	err = d.with(ctx, "DiskPath", name, func(m *machine) error {
		if err := m.has(disk); err != nil {
			return err
		}
		if d.opts.Dir == "" && m.paths[disk] == "" {
			return problem.New(problem.UnknownDisk, "disk %s of machine %s is in memory", disk, name)
		}
		path = d.path(m, disk)
		return nil
	})
	return path, err
}

func (m *machine) has(disk dr.DiskID) error {
	for _, s := range m.present().Disks {
		if s.ID == disk {
			return nil
		}
	}
	return problem.New(problem.UnknownDisk, "machine %s has no disk %s", m.name, disk)
}

// OpenDisk opens a disk of a machine that is off, for writing.
func (d *Driver) OpenDisk(ctx context.Context, name dr.MachineName, disk dr.DiskID) (dev block.Device, err error) {
	err = d.with(ctx, "OpenDisk", name, func(m *machine) error {
		if err := m.has(disk); err != nil {
			return err
		}
		switch {
		case m.recovered != nil || m.open[disk] > 0:
			return problem.New(problem.MachineInUse, "machine %s", name)
		case m.state != site.Off:
			return problem.New(problem.MachineRunning, "machine %s is %s", name, m.state)
		}
		under, err := d.openDisk(m, disk)
		if err != nil {
			return err
		}
		m.open[disk]++
		dev = &opened{Device: under, d: d, m: m, id: disk}
		return nil
	})
	return dev, err
}

// opened is a disk that OpenDisk gave out.
type opened struct {
	block.Device
	d    *Driver
	m    *machine
	id   dr.DiskID
	once sync.Once
}

func (o *opened) Close() error {
	err := o.Device.Close()
	o.once.Do(func() {
		o.d.mu.Lock()
		defer o.d.mu.Unlock()
		o.m.open[o.id]--
	})
	return err
}

// SetStandby marks a machine as a target of replication, or not.
func (d *Driver) SetStandby(ctx context.Context, name dr.MachineName, standby bool) error {
	return d.with(ctx, "SetStandby", name, func(m *machine) error {
		m.standby = standby
		return nil
	})
}
