package journal

import (
	"context"
	"fmt"
	"slices"

	"rebound/internal/block"
	"rebound/internal/dr"
	"rebound/internal/extent"
	"rebound/internal/problem"
	"rebound/internal/segment"
)

// Device is a view of one disk.
type Device interface {
	block.Device
	block.Mapper
}

// viewDevice is a disk at a position: layers over a base.
type viewDevice struct {
	j      *Journal
	base   *base
	layers []layer // newest first
	pos    dr.Position
	head   bool // pos is the moving head: pins nothing
	alone  bool // pos is of the disk's machine alone
	built  bool // guarded by the journal's mu
}

var _ Device = (*viewDevice)(nil)

// OpenView opens one disk, by its index in the disk table, at a confirmed
// position. The view pins its position until it is closed.
func (j *Journal) OpenView(ctx context.Context, pos dr.Position, disk uint16) (Device, error) {
	return j.openView(ctx, pos, disk, false)
}

// OpenMemberView is OpenView of a position that the disk's machine can be taken
// to by itself (ResolveMembers).
func (j *Journal) OpenMemberView(ctx context.Context, pos dr.Position, disk uint16) (Device, error) {
	return j.openView(ctx, pos, disk, true)
}

func (j *Journal) openView(ctx context.Context, pos dr.Position, disk uint16, alone bool) (Device, error) {
	if int(disk) >= len(j.disks) {
		return nil, problem.New(problem.UnknownDisk, "the group has %d disks, asked for index %d", len(j.disks), disk)
	}
	v := &viewDevice{j: j, base: j.bases[disk], pos: pos, alone: alone}
	plan, err := j.pin(v, disk) // holds what it names
	if err != nil {
		return nil, err
	}
	m := plan.head
	if m == nil {
		m, err = plan.build(ctx, disk)
	}
	if err != nil {
		j.unpin(v)
		plan.release()
		return nil, fmt.Errorf("open view at %v: %w", pos, err)
	}
	v.layers = []layer{m}
	j.ready(v)
	plan.release()
	return v, nil
}

// pin registers the view and says what it is made of, in one step, so that no
// fold comes between.
func (j *Journal) pin(v *viewDevice, disk uint16) (*redoPlan, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil, ErrClosed
	}
	if err := j.checkView(j.disks[disk].Machine, v); err != nil {
		return nil, err
	}
	j.views[v] = struct{}{}
	if !v.pos.Before(j.lastData[disk]) {
		return &redoPlan{head: j.heads[disk].clone()}, nil
	}
	return j.redoBetween(j.man.get().Anchor.Position, v.pos), nil
}

// ready makes folds prune the view from now on.
func (j *Journal) ready(v *viewDevice) {
	j.mu.Lock()
	defer j.mu.Unlock()
	v.built = true
	for _, l := range v.layers {
		l.prune(j.man.get().Anchor.Position)
	}
}

func (j *Journal) unpin(v *viewDevice) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.views, v)
}

// HeadView opens one disk with everything appended, confirmed or not. Its
// content moves with the stream.
func (j *Journal) HeadView(disk uint16) (Device, error) {
	if int(disk) >= len(j.disks) {
		return nil, problem.New(problem.UnknownDisk, "the group has %d disks, asked for index %d", len(j.disks), disk)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil, ErrClosed
	}
	if j.damage != nil {
		return nil, j.damage
	}
	if j.ends != nil {
		return nil, problem.New(problem.PointInUse, "the disks are being made final, each of its own moment")
	}
	return &viewDevice{j: j, base: j.bases[disk], layers: []layer{j.heads[disk]}, head: true}, nil
}

// redoPlan is the redo from which a map is built: a copy of what the segments
// held when it was made.
type redoPlan struct {
	head     *runMap // set when the head's own map is right
	from, to dr.Position
	segs     []*segmentFile
	records  map[*segmentFile][]segment.Record // of those unsealed
}

// redoBetween plans (from, to]. mu is held; the segments are held until release.
func (j *Journal) redoBetween(from, to dr.Position) *redoPlan {
	p := &redoPlan{from: from, to: to, records: map[*segmentFile][]segment.Record{}}
	for _, s := range j.segs {
		if s.end().Compare(from) <= 0 || to.Before(s.at(s.First)) {
			continue
		}
		s.hold()
		p.segs = append(p.segs, s)
		if !s.sealed {
			p.records[s] = s.records[:len(s.records):len(s.records)]
		}
	}
	return p
}

func (p *redoPlan) release() {
	for _, s := range p.segs {
		s.release()
	}
	p.segs = nil
}

// each calls visit with every record in the plan's range, in order.
func (p *redoPlan) each(ctx context.Context, visit func(*segmentFile, *segment.Record) bool) error {
	for _, s := range p.segs {
		if err := ctx.Err(); err != nil {
			return err
		}
		records, ok := p.records[s]
		if !ok {
			var err error
			if records, err = s.readIndex(); err != nil {
				return problem.Wrap(err, problem.JournalDamaged, "the index of redo after %v cannot be read", s.at(s.First-1))
			}
		}
		for i := range records {
			pos := s.at(records[i].Seq)
			if pos.Compare(p.from) <= 0 {
				continue
			}
			if p.to.Before(pos) || !visit(s, &records[i]) {
				return nil
			}
		}
	}
	return nil
}

// build flattens one disk's redo.
func (p *redoPlan) build(ctx context.Context, disk uint16) (*runMap, error) {
	return p.buildTo(ctx, disk, p.to)
}

// buildTo flattens one disk's redo as far as a position of the plan's range.
func (p *redoPlan) buildTo(ctx context.Context, disk uint16, to dr.Position) (*runMap, error) {
	m := newRunMap()
	err := p.each(ctx, func(s *segmentFile, r *segment.Record) bool {
		if to.Before(s.at(r.Seq)) {
			return false
		}
		if r.Disk == disk {
			m.put(s.pieceOf(r))
		}
		return true
	})
	return m, err
}

// Size returns the disk's size in bytes.
func (v *viewDevice) Size() int64 { return v.base.size }

// ReadAt reads through the layers to the base.
func (v *viewDevice) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := block.CheckRange(off, int64(len(p)), v.base.size); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return v.read(p, off, v.layers)
}

// read fills p from the newest layer on; what it does not know comes from the
// layers behind it, and in the end from the base.
func (v *viewDevice) read(p []byte, off int64, layers []layer) error {
	if len(p) == 0 {
		return nil
	}
	if len(layers) == 0 {
		return v.base.readAt(p, off)
	}
	var few [16]piece
	list := layers[0].lookup(few[:0], extent.Range{Off: off, Len: int64(len(p))})
	defer releasePieces(list)
	at := off
	for i := range list {
		q := &list[i]
		if err := v.read(p[at-off:q.off-off], at, layers[1:]); err != nil {
			return err
		}
		if err := v.j.cache.read(q, p[q.off-off:q.end()-off]); err != nil {
			return err
		}
		at = q.end()
	}
	return v.read(p[at-off:], at, layers[1:])
}

// Extents says which parts of a range are data.
func (v *viewDevice) Extents(_ context.Context, off, length int64) ([]block.Extent, error) {
	if err := block.CheckRange(off, length, v.base.size); err != nil {
		return nil, err
	}
	var out []block.Extent
	if err := v.extents(&out, extent.Range{Off: off, Len: length}, v.layers); err != nil {
		return nil, err
	}
	return out, nil
}

// maxExtents bounds one answer of Extents; the caller asks again from there.
const maxExtents = 4096

func (v *viewDevice) extents(out *[]block.Extent, r extent.Range, layers []layer) error {
	if r.Empty() || len(*out) >= maxExtents {
		return nil
	}
	if len(layers) == 0 {
		return v.baseExtents(out, r)
	}
	list := layers[0].lookup(nil, r)
	releasePieces(list)
	at := r.Off
	for _, q := range list {
		if err := v.extents(out, extent.Range{Off: at, Len: q.off - at}, layers[1:]); err != nil || len(*out) >= maxExtents {
			return err
		}
		addExtent(out, q.len, q.payload == zeroes)
		at = q.end()
	}
	return v.extents(out, extent.Range{Off: at, Len: r.End() - at}, layers[1:])
}

func (v *viewDevice) baseExtents(out *[]block.Extent, r extent.Range) error {
	for at := r.Off; at < r.End() && len(*out) < maxExtents; {
		start, end, err := v.base.file.NextData(at)
		if err != nil {
			return fmt.Errorf("map base: %w", err)
		}
		start, end = min(max(start, at), r.End()), min(end, r.End())
		addExtent(out, start-at, true)
		if end > start {
			addExtent(out, end-start, false)
		}
		at = max(end, start)
	}
	return nil
}

func addExtent(out *[]block.Extent, length int64, zero bool) {
	if length == 0 {
		return
	}
	if n := len(*out); n > 0 && (*out)[n-1].Zero == zero {
		(*out)[n-1].Length += length
		return
	}
	*out = append(*out, block.Extent{Length: length, Hole: zero, Zero: zero})
}

// WriteAt is refused: a view is read-only.
func (v *viewDevice) WriteAt(context.Context, []byte, int64) error { return block.ErrReadOnly }

// WriteZeroes is refused.
func (v *viewDevice) WriteZeroes(context.Context, int64, int64) error { return block.ErrReadOnly }

// Trim is refused.
func (v *viewDevice) Trim(context.Context, int64, int64) error { return block.ErrReadOnly }

// Flush has nothing to do.
func (v *viewDevice) Flush(context.Context) error { return nil }

// Close ends the pin.
func (v *viewDevice) Close() error {
	if !v.head {
		v.j.unpin(v)
	}
	return nil
}

// RegisterView makes a view durable: its position stays readable, across
// restarts, until DropView. Registering the same view again changes nothing.
func (j *Journal) RegisterView(v View) error {
	if err := j.usable(); err != nil {
		return err
	}
	hold := &viewDevice{j: j, pos: v.Position, alone: v.Alone} // pins until the manifest does
	if err := j.pinOnly(hold, v.Machine); err != nil {
		return err
	}
	defer j.unpin(hold)
	if v.Created.IsZero() {
		v.Created = j.opts.Now().UTC()
	}
	return j.man.change(func(m *manifest) error {
		i := slices.IndexFunc(m.Views, func(w View) bool { return w.ID == v.ID })
		if i < 0 {
			m.Views = append(m.Views, v)
			return nil
		}
		if m.Views[i].Position != v.Position {
			return problem.New(problem.PointInUse, "view %s is registered at %v", v.ID, m.Views[i].Position)
		}
		v.Created = m.Views[i].Created
		m.Views[i] = v
		return nil
	})
}

func (j *Journal) pinOnly(v *viewDevice, m dr.MachineName) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.checkView(m, v); err != nil {
		return err
	}
	j.views[v] = struct{}{}
	return nil
}

// Views returns the registered views.
func (j *Journal) Views() []View { return slices.Clone(j.man.get().Views) }

// DropView removes a registered view; an unknown id is no error.
func (j *Journal) DropView(id string) error {
	if err := j.usable(); err != nil {
		return err
	}
	return j.man.change(func(m *manifest) error {
		m.Views = slices.DeleteFunc(m.Views, func(w View) bool { return w.ID == id })
		return nil
	})
}
