package journal

import (
	"context"
	"fmt"
	"time"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/segment"
)

// Fold moves the bases towards the head: to the newest confirmed position that is
// not after upTo (the zero position: as far as allowed), nor after what the redo
// window, pins and the diverged point keep. It returns the new anchor. A fold that
// ctx ends goes on with the next one.
func (j *Journal) Fold(ctx context.Context, upTo dr.Position) (dr.Position, error) {
	j.foldMu.Lock()
	defer j.foldMu.Unlock()
	if err := j.usable(); err != nil {
		return dr.Position{}, err
	}
	target, err := j.aim(func() (dr.Position, error) { return j.foldLimit(upTo), nil })
	if err != nil {
		return dr.Position{}, err
	}
	err = j.foldTo(ctx, target, nil)
	return j.man.get().Anchor.Position, err
}

// FoldExactly makes the bases equal to the views at pos. It refuses with
// PointInUse while a view at an older position is open or registered.
// progress gets done and total bytes and may be nil.
func (j *Journal) FoldExactly(ctx context.Context, pos dr.Position, progress func(done, total int64)) error {
	j.foldMu.Lock()
	defer j.foldMu.Unlock()
	if err := j.usable(); err != nil {
		return err
	}
	target, err := j.aim(func() (dr.Position, error) {
		if err := j.checkPosition(pos); err != nil {
			return pos, err
		}
		if pin, ok := j.oldestPin(); ok && pin.Before(pos) {
			return pos, problem.New(problem.PointInUse, "a view at %v is open", pin)
		}
		return pos, nil
	})
	if err != nil {
		return fmt.Errorf("fold to %v: %w", pos, err)
	}
	return j.foldTo(ctx, target, progress)
}

// aim chooses a target and, in the same step, makes it the lowest position
// that can be opened. foldMu is held.
func (j *Journal) aim(choose func() (dr.Position, error)) (dr.Position, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	target, err := choose()
	if err == nil && j.floor.Before(target) {
		j.floor = target
	}
	return target, err
}

// foldLimit returns how far a fold may go; a result that is not after the
// anchor means that there is nothing to fold. mu is held.
func (j *Journal) foldLimit(upTo dr.Position) dr.Position {
	m := j.man.get()
	if _, ok := j.diverged(); ok {
		return m.Anchor.Position
	}
	limit := j.newest()
	if !upTo.IsZero() && upTo.Before(limit) {
		limit = upTo
	}
	if edge, ok := j.windowEdge(m.RedoWindow); ok && edge.Before(limit) {
		limit = edge
	}
	if pin, ok := j.oldestPin(); ok && pin.Before(limit) {
		limit = pin
	}
	if !limit.IsZero() {
		limit = j.hist.newest(limit)
	}
	if limit.Before(j.floor) {
		return j.floor // a fold that was interrupted
	}
	return limit
}

// windowEdge returns the newest confirmed position that is older than the redo
// window, counted back from the newest confirmed moment: history is kept while
// nothing new comes. mu is held.
func (j *Journal) windowEdge(window time.Duration) (dr.Position, bool) {
	last := j.newest()
	if last.IsZero() {
		return last, true
	}
	newest, _ := j.hist.timeOf(last)
	for i := len(j.hist.beacons) - 1; i >= 0; i-- {
		b := &j.hist.beacons[i]
		if newest.Sub(b.wall) >= window && j.hist.offered(b.position()) {
			return b.position(), true
		}
	}
	return dr.Position{}, true
}

// oldestPin returns the lowest position that an open or registered view needs.
// mu is held.
func (j *Journal) oldestPin() (pin dr.Position, ok bool) {
	take := func(p dr.Position) {
		if !ok || p.Before(pin) {
			pin, ok = p, true
		}
	}
	for v := range j.views {
		take(v.pos)
	}
	for _, v := range j.man.get().Views {
		take(v.Position)
	}
	return pin, ok
}

// foldTo runs batches until the anchor is at target. foldMu is held.
func (j *Journal) foldTo(ctx context.Context, target dr.Position, progress func(done, total int64)) error {
	var total, done int64
	if progress != nil {
		var err error
		if total, err = j.foldBytes(ctx, target); err != nil {
			return err
		}
		progress(0, total)
	}
	for {
		m := j.man.get()
		if m.Folding == nil && target.Compare(m.Anchor.Position) <= 0 {
			if progress != nil {
				progress(total, total) // what was overwritten needed no writing
			}
			return nil
		}
		f := m.Folding
		if f == nil {
			next, err := j.planBatch(ctx, m.Anchor.Position, target)
			if err != nil {
				return err
			}
			f = &next
		}
		n, err := j.foldBatch(ctx, f)
		if err != nil {
			return fmt.Errorf("fold to %v: %w", f.To, err)
		}
		if done += n; progress != nil {
			progress(min(done, total), total)
		}
	}
}

func (j *Journal) planRedo(from, to dr.Position) *redoPlan {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.redoBetween(from, to)
}

// foldBytes returns how much a fold to target writes at most.
func (j *Journal) foldBytes(ctx context.Context, target dr.Position) (int64, error) {
	p := j.planRedo(j.man.get().Anchor.Position, target)
	defer p.release()
	var n int64
	err := p.each(ctx, func(_ *segmentFile, r *segment.Record) bool {
		n += r.Length
		return true
	})
	return n, err
}

// planBatch chooses where the next batch ends: at target, or at the entry
// that fills it.
func (j *Journal) planBatch(ctx context.Context, from, target dr.Position) (folding, error) {
	p := j.planRedo(from, target)
	defer p.release()
	to, room := target, j.opts.FoldBatchBytes
	err := p.each(ctx, func(s *segmentFile, r *segment.Record) bool {
		if r.Kind == segment.KindWrite {
			room -= r.Length
		}
		if room <= 0 {
			to = s.at(r.Seq)
		}
		return room > 0
	})
	if err != nil {
		return folding{}, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return folding{From: from, To: to, Next: j.hist.anchorAt(to)}, nil
}

// foldBatch writes one batch to the bases. The order is the promise: the
// manifest says what is going on before a base is touched, the bases and then
// their sums are durable before the manifest says that they are at the new
// anchor. It returns
// how many bytes of redo it went through.
func (j *Journal) foldBatch(ctx context.Context, f *folding) (int64, error) {
	resumed := j.man.get().Folding != nil
	if !sabotageBaseFirst {
		if err := j.announce(f); err != nil {
			return 0, err
		}
	}
	plan := j.planRedo(f.From, f.To)
	defer plan.release()
	var n int64
	for disk, b := range j.bases {
		m, err := plan.buildTo(ctx, uint16(disk), j.endOf(disk, f.To))
		if err != nil {
			return n, err
		}
		done, err := j.foldDisk(ctx, b, m.pieces(), resumed)
		if n += done; err != nil {
			return n, err
		}
	}
	if sabotageBaseFirst {
		if err := j.announce(f); err != nil {
			return n, err
		}
	}
	if err := j.arrive(f); err != nil {
		return n, err
	}
	for _, b := range j.bases {
		if b.sums != nil {
			b.sums.settle()
		}
	}
	return n, nil
}

// foldDisk writes one disk's pieces and their sums, durably. resumed: an earlier
// attempt has written some of them, so that a block of which only a part is
// overwritten cannot be checked any more.
func (j *Journal) foldDisk(ctx context.Context, b *base, pieces []piece, resumed bool) (int64, error) {
	var bad, unknown map[int64]bool
	if resumed {
		unknown = map[int64]bool{}
		for _, off := range partial(pieces, b.size) {
			unknown[off] = true
		}
	} else {
		var err error
		if bad, err = b.checkPartial(pieces); err != nil {
			return 0, err
		}
	}
	b.unsettleAll(pieces)
	var n int64
	var buf []byte
	for i := range pieces {
		p := &pieces[i]
		if err := ctx.Err(); err != nil {
			return n, err
		}
		if p.payload != zeroes && int64(len(buf)) < p.len {
			buf = make([]byte, p.len)
		}
		if err := j.foldPiece(b, p, buf); err != nil {
			return n, err
		}
		n += p.len
	}
	if err := b.file.Datasync(); err != nil {
		return n, j.fail(fmt.Errorf("sync base %s: %w", b.path, err))
	}
	if err := b.sumTouched(bad, unknown); err != nil {
		return n, j.fail(err)
	}
	return n, nil
}

// endOf returns where a fold of a disk up to a position ends: before it, where
// each machine is folded to a position of its own.
func (j *Journal) endOf(disk int, to dr.Position) dr.Position {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.ends != nil && j.ends[disk].Before(to) {
		return j.ends[disk]
	}
	return to
}

// announce makes the manifest say that the bases are between two positions.
func (j *Journal) announce(f *folding) error {
	return j.man.change(func(m *manifest) error {
		m.Folding = f
		return nil
	})
}

// foldPiece copies one piece into the base, by way of buf.
func (j *Journal) foldPiece(b *base, p *piece, buf []byte) error {
	if p.payload == zeroes {
		if err := b.file.Zero(p.off, p.len); err != nil {
			return fmt.Errorf("write base %s: %w", b.path, err)
		}
		return nil
	}
	buf = buf[:p.len]
	if err := j.cache.read(p, buf); err != nil {
		return err
	}
	if _, err := b.file.WriteAt(buf, p.off); err != nil {
		return fmt.Errorf("write base %s: %w", b.path, err)
	}
	return nil
}

// arrive moves the anchor, and makes heads and views forget the redo that the
// bases hold now. A view that read the old list meanwhile is right too: the redo is
// still there.
func (j *Journal) arrive(f *folding) error {
	err := j.man.change(func(m *manifest) error {
		m.Anchor, m.Folding = f.Next, nil
		return nil
	})
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.hist.prune(&f.Next)
	for _, h := range j.heads {
		h.prune(f.To)
	}
	for v := range j.views {
		if v.built {
			for _, l := range v.layers {
				l.prune(f.To)
			}
		}
	}
	return nil
}

// Prune drops redo that lies before the anchor: no base, view or point needs
// it any more. It returns how many bytes it freed.
func (j *Journal) Prune(ctx context.Context) (int64, error) {
	j.foldMu.Lock()
	defer j.foldMu.Unlock()
	if err := j.usable(); err != nil {
		return 0, err
	}
	m := j.man.get()
	if m.Folding != nil {
		return 0, nil
	}
	first := j.firstNeeded(m.Anchor.Position)
	if first == m.FirstSegment {
		return 0, nil
	}
	err := j.man.change(func(m *manifest) error {
		m.FirstSegment = first
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("prune redo: %w", err)
	}
	var freed int64
	for _, s := range j.takeBefore(first) {
		if err := ctx.Err(); err != nil {
			return freed, err // the next Open removes the rest
		}
		freed += s.size
		s.release()
		if err := j.fs.Remove(s.path); err != nil {
			return freed, fmt.Errorf("prune redo: %w", err)
		}
	}
	return freed, nil
}

// firstNeeded returns the number of the first segment with an entry after the
// anchor, or of the last one.
func (j *Journal) firstNeeded(anchor dr.Position) uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	first := j.man.get().FirstSegment
	for i, s := range j.segs {
		first = s.Number
		if anchor.Before(s.end()) || i == len(j.segs)-1 || !s.sealed {
			break
		}
	}
	return first
}

// takeBefore removes the segments before a number from the list.
func (j *Journal) takeBefore(first uint64) []*segmentFile {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := 0
	for n < len(j.segs) && j.segs[n].Number < first {
		n++
	}
	gone := j.segs[:n:n]
	j.segs = append([]*segmentFile(nil), j.segs[n:]...)
	return gone
}

// SetRedoWindow changes how long every confirmed write boundary can be chosen;
// the next Fold goes by it.
func (j *Journal) SetRedoWindow(window time.Duration) error {
	if window <= 0 {
		return problem.New(problem.InvalidRequest, "a redo window of %v", window)
	}
	if err := j.usable(); err != nil {
		return err
	}
	return j.man.change(func(m *manifest) error {
		m.RedoWindow = window
		return nil
	})
}

// DropDiverged gives up the diverged point, so that Fold can pass it. It fails
// with PointInUse while a view of it is open.
func (j *Journal) DropDiverged() error {
	j.foldMu.Lock()
	defer j.foldMu.Unlock()
	if err := j.usable(); err != nil {
		return err
	}
	return j.man.change(func(m *manifest) error {
		m.Seeded = false
		return nil
	})
}

// Release gives the bases to the machine: the manifest says owner = vm, the
// base files and their locks are closed, and nothing writes them any more.
// The journal is closed.
func (j *Journal) Release() error {
	j.foldMu.Lock()
	defer j.foldMu.Unlock()
	j.appendMu.Lock()
	defer j.appendMu.Unlock()
	if _, err := j.Sync(); err != nil {
		return err
	}
	if f := j.man.get().Folding; f != nil {
		return problem.New(problem.OperationNotAllowed, "the bases are being folded to %v", f.To)
	}
	err := j.man.change(func(m *manifest) error {
		m.Owner = ownerVM
		m.Views = nil
		return nil
	})
	if err != nil {
		return fmt.Errorf("release bases: %w", err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.closed = true
	j.letGo()
	return nil
}
