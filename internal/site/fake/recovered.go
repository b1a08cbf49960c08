package fake

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"rebound/internal/block"
	"rebound/internal/dr"
	"rebound/internal/extent"
	"rebound/internal/problem"
	"rebound/internal/site"
)

// recovered says that a machine runs on views.
type recovered struct {
	spec     site.RecoveredSpec
	alone    bool
	overlays map[dr.DiskID]*overlay
}

// overlay keeps what a guest writes apart from the view below.
type overlay struct {
	view block.Device
	own  *block.Memory

	mu      sync.RWMutex
	written *extent.Set
}

func newOverlay(view block.Device) *overlay {
	return &overlay{view: view, own: block.NewMemory(view.Size()), written: extent.NewSet()}
}

func (o *overlay) Size() int64 { return o.view.Size() }

func (o *overlay) ReadAt(ctx context.Context, p []byte, off int64) error {
	whole := extent.Range{Off: off, Len: int64(len(p))}
	if err := block.CheckRange(off, whole.Len, o.Size()); err != nil {
		return err
	}
	o.mu.RLock()
	defer o.mu.RUnlock()
	for _, r := range o.written.Outside(whole) {
		if err := o.view.ReadAt(ctx, p[r.Off-off:r.End()-off], r.Off); err != nil {
			return err
		}
	}
	for _, r := range o.written.Within(whole) {
		if err := o.own.ReadAt(ctx, p[r.Off-off:r.End()-off], r.Off); err != nil {
			return err
		}
	}
	return nil
}

func (o *overlay) WriteAt(ctx context.Context, p []byte, off int64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.own.WriteAt(ctx, p, off); err != nil {
		return err
	}
	o.written.Add(extent.Range{Off: off, Len: int64(len(p))})
	return nil
}

func (o *overlay) WriteZeroes(ctx context.Context, off, length int64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.own.WriteZeroes(ctx, off, length); err != nil {
		return err
	}
	o.written.Add(extent.Range{Off: off, Len: length})
	return nil
}

func (o *overlay) Trim(_ context.Context, off, length int64) error {
	return block.CheckRange(off, length, o.Size())
}

func (o *overlay) Flush(context.Context) error { return nil }

func (o *overlay) Close() error { return o.view.Close() }

// overlay returns what a disk stands on while its machine runs on views.
func (m *machine) overlay(id dr.DiskID) *overlay {
	if m.recovered == nil {
		return nil
	}
	return m.recovered.overlays[id]
}

func (r *recovered) same(spec site.RecoveredSpec) bool {
	return r.spec.Test == spec.Test && r.spec.Network == spec.Network &&
		sameDefinition(r.spec.Definition, spec.Definition) && slices.Equal(r.spec.Disks, spec.Disks)
}

func (r *recovered) close() error {
	var errs []error
	for _, o := range r.overlays {
		errs = append(errs, o.Close())
	}
	return errors.Join(errs...)
}

// StartRecovered starts a machine on views.
func (d *Driver) StartRecovered(ctx context.Context, spec site.RecoveredSpec) (dr.MachineName, error) {
	spec.Definition, spec.Disks = clone(spec.Definition), slices.Clone(spec.Disks)
	name := spec.Definition.Name
	if spec.Test {
		name += "-test"
	}
	if err := d.enter(ctx, "StartRecovered", name); err != nil {
		return "", err
	}
	if err := validate(spec.Definition); err != nil {
		return "", err
	}
	fresh, err := d.openViews(ctx, spec)
	if err != nil {
		return "", err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	m := d.machines[name]
	switch {
	case m != nil && m.recovered != nil && m.recovered.same(spec):
		return name, errors.Join(fresh.close(), d.start(m, false))
	case m != nil && m.recovered != nil || m != nil && m.state != site.Off:
		return "", errors.Join(problem.New(problem.MachineRunning, "machine %s", name), fresh.close())
	case m != nil && spec.Test:
		return "", errors.Join(problem.New(problem.NameTaken, "machine %s exists and is no test", name), fresh.close())
	case m == nil:
		m = &machine{name: name, def: spec.Definition, state: site.Off, paths: map[dr.DiskID]string{}, open: map[dr.DiskID]int{}}
		d.machines[name] = m
		fresh.alone = true
	}
	m.recovered = fresh
	return name, d.start(m, false)
}

func (d *Driver) openViews(ctx context.Context, spec site.RecoveredSpec) (*recovered, error) {
	r := &recovered{spec: spec, overlays: map[dr.DiskID]*overlay{}}
	for _, s := range spec.Definition.Disks {
		if s.ReadOnly {
			continue
		}
		i := slices.IndexFunc(spec.Disks, func(v site.ViewDisk) bool { return v.Disk == s.ID })
		if i < 0 {
			return nil, errors.Join(problem.New(problem.UnknownDisk, "no view for disk %s", s.ID), r.close())
		}
		view, err := d.opts.View(ctx, spec.Disks[i])
		if err != nil {
			return nil, errors.Join(problem.Wrap(err, problem.HypervisorError, "open view of disk %s", s.ID), r.close())
		}
		r.overlays[s.ID] = newOverlay(view)
	}
	return r, nil
}

// DiscardRecovered ends a machine on views and forgets its writes.
func (d *Driver) DiscardRecovered(ctx context.Context, name dr.MachineName) error {
	err := d.with(ctx, "DiscardRecovered", name, func(m *machine) error {
		r := m.recovered
		if r == nil {
			return nil
		}
		_ = m.stop()
		m.recovered = nil
		if r.alone {
			delete(d.machines, name)
		}
		_ = r.close() // the view's server may be gone; nothing is lost
		return nil
	})
	if problem.HasCode(err, problem.UnknownMachine) {
		return nil
	}
	return err
}

// CommitRecovered copies what the guest wrote into the bases and lets the
// machine run on them.
func (d *Driver) CommitRecovered(ctx context.Context, name dr.MachineName, bases map[dr.DiskID]string, progress func(done, total int64)) error {
	io, err := d.gate(name)
	if err != nil {
		return err
	}
	io.Lock()
	defer io.Unlock()
	return d.with(ctx, "CommitRecovered", name, func(m *machine) error {
		if m.recovered == nil {
			if m.standby {
				return problem.New(problem.OperationNotAllowed, "machine %s does not run on a view", name)
			}
			return nil
		}
		if m.recovered.spec.Test {
			return problem.New(problem.OperationNotAllowed, "machine %s is a test", name)
		}
		if m.run == nil {
			return problem.New(problem.MachineNotRunning, "machine %s", name)
		}
		return d.commit(ctx, m, bases, progress)
	})
}

// commit runs while no guest writes.
func (d *Driver) commit(ctx context.Context, m *machine, bases map[dr.DiskID]string, progress func(done, total int64)) error {
	opened := map[dr.DiskID]block.Device{}
	fail := func(err error) error {
		for _, dev := range opened {
			err = errors.Join(err, dev.Close())
		}
		return err
	}
	marks := map[dr.DiskID]*extent.Set{}
	var done int64
	for id, o := range m.recovered.overlays {
		dev, err := block.OpenFile(bases[id], block.FileOptions{Lock: true})
		if errors.Is(err, block.ErrLocked) {
			return fail(problem.Wrap(err, problem.MachineInUse, "base of disk %s", id))
		}
		if err != nil {
			return fail(problem.Wrap(err, problem.UnknownDisk, "base of disk %s", id))
		}
		opened[id], marks[id] = dev, extent.NewSet()
		for _, r := range o.written.Runs() {
			buf := make([]byte, r.Len)
			if err := errors.Join(o.own.ReadAt(ctx, buf, r.Off), dev.WriteAt(ctx, buf, r.Off)); err != nil {
				return fail(fmt.Errorf("commit disk %s of machine %s: %w", id, m.name, err))
			}
			marks[id].Add(r.Align(grain).Intersect(extent.Range{Len: dev.Size()}))
			done += r.Len
		}
	}
	if progress != nil {
		progress(done, done)
	}
	for id, dev := range opened {
		m.run.disks[id], m.paths[id] = dev, bases[id]
	}
	m.run.bitmaps[site.CommitBitmap] = marks
	_ = m.recovered.close()
	m.def, m.standby, m.recovered = m.recovered.spec.Definition, false, nil
	return nil
}

// ReopenViews connects every machine that runs on views to their servers again,
// as a hypervisor does by itself when they are back.
func (d *Driver) ReopenViews(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, m := range d.machines {
		if m.recovered == nil {
			continue
		}
		for _, v := range m.recovered.spec.Disks {
			o := m.recovered.overlays[v.Disk]
			if o == nil {
				continue
			}
			view, err := d.opts.View(ctx, v)
			if err != nil {
				return fmt.Errorf("reopen view of disk %s of machine %s: %w", v.Disk, m.name, err)
			}
			o.mu.Lock()
			old := o.view
			o.view = view
			o.mu.Unlock()
			_ = old.Close() // its server is gone
		}
	}
	return nil
}
