package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"syscall"

	"rebound/internal/block"
	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/segment"
)

// NewEpoch begins an epoch: the one before is sealed, its tail made durable.
// gen must not be older than the journal's (StaleGeneration); a newer one
// seals the journal first.
func (j *Journal) NewEpoch(gen dr.Generation) (dr.Epoch, error) {
	j.appendMu.Lock()
	defer j.appendMu.Unlock()
	if err := j.usable(); err != nil {
		return 0, err
	}
	if have := j.generation(); gen < have {
		return 0, problem.Wrap(ErrStale, problem.StaleGeneration, "the journal is at generation %d, the stream at %d", have, gen)
	}
	if j.damage != nil {
		return 0, j.damage
	}
	if _, err := j.Sync(); err != nil {
		return 0, err
	}
	if err := j.sealActive(); err != nil {
		return 0, err
	}
	var epoch dr.Epoch
	err := j.man.change(func(m *manifest) error {
		m.Generation = gen
		m.Epoch++
		m.EpochGeneration = gen
		epoch = m.Epoch
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("begin epoch: %w", err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.gen = gen
	j.setEpoch(gen, epoch, 0)
	return epoch, nil
}

func (j *Journal) generation() dr.Generation {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.gen
}

// setEpoch makes an epoch the one that frames are taken for. mu is held.
func (j *Journal) setEpoch(gen dr.Generation, epoch dr.Epoch, last dr.Seq) {
	j.head = dr.Position{Generation: gen, Epoch: epoch, Seq: last}
	j.durable = j.head
	j.ended = false
}

// Durable returns the last position that survives a crash.
func (j *Journal) Durable() dr.Position {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.durable
}

// Appended returns the last position appended; it may not be durable yet.
func (j *Journal) Appended() dr.Position {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.head
}

// Append takes one frame, whole. It must be of the present generation and
// epoch, and its first entry the successor of Appended: else ErrStale (also
// counted, and a StaleGeneration problem when the generation is older) or
// ErrOutOfOrder. With a NoRoom problem nothing was taken: try again later.
// The frame's bytes are not kept.
func (j *Journal) Append(frame []byte) error {
	f, err := segment.ParseFrame(frame)
	if err != nil {
		return problem.Wrap(err, problem.ProtocolError, "a frame of the stream cannot be read")
	}
	j.appendMu.Lock()
	defer j.appendMu.Unlock()
	if err := j.usable(); err != nil {
		return err
	}
	if err := j.admit(&f); err != nil {
		return err
	}
	if err := j.checkEntries(&f); err != nil {
		return err
	}
	if err := j.checkRoom(int64(f.Size) + segment.MaxStored - segment.MaxFrame); err != nil {
		return err
	}
	seg, err := j.segmentFor(&f)
	if err != nil {
		return j.volumeError("begin a segment", err)
	}
	stored := f.Bytes()
	if seg.key != nil {
		if j.sealed, err = seg.key.Seal(j.sealed[:0], &f); err != nil {
			return fmt.Errorf("encrypt a frame: %w", err)
		}
		stored = j.sealed
	}
	if _, err := seg.file.WriteAt(stored, seg.size); err != nil {
		return j.volumeError("append a frame", err)
	}
	return j.publish(seg, &f, len(stored))
}

// volumeError turns a full volume into a NoRoom problem: what was there stays
// as it was, and the frame may be sent again.
func (j *Journal) volumeError(what string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		j.full.Store(true)
		return problem.Wrap(err, problem.NoRoom, "the volume of %s is full", j.dir)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// admit checks that the frame is the next one.
func (j *Journal) admit(f *segment.Frame) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if f.Generation < j.gen && !sabotageOldGeneration {
		j.stale++
		return problem.Wrap(ErrStale, problem.StaleGeneration, "the journal is at generation %d, the frame of %d", j.gen, f.Generation)
	}
	if f.Generation < j.head.Generation || f.Epoch < j.head.Epoch {
		j.stale++
		return fmt.Errorf("%w: of g%d.e%d at %v", ErrStale, f.Generation, f.Epoch, j.head)
	}
	if f.Generation != j.head.Generation || f.Epoch != j.head.Epoch || f.First != j.head.Seq+1 || j.ended {
		return fmt.Errorf("%w: entry %d of g%d.e%d at %v", ErrOutOfOrder, f.First, f.Generation, f.Epoch, j.head)
	}
	return nil
}

// checkEntries refuses what the journal could not make sense of later.
func (j *Journal) checkEntries(f *segment.Frame) error {
	for m := range f.Entries() {
		if m.Kind.HasRange() {
			if int(m.Disk) >= len(j.disks) {
				return problem.New(problem.ProtocolError, "entry %d names disk %d of %d", m.Seq, m.Disk, len(j.disks))
			}
			if err := block.CheckRange(m.Offset, m.Length, j.disks[m.Disk].SizeBytes); err != nil {
				return problem.Wrap(err, problem.ProtocolError, "entry %d: [%d, +%d) of disk %d", m.Seq, m.Offset, m.Length, m.Disk)
			}
			continue
		}
		data := make([]byte, m.PayloadLength)
		if err := f.ReadPayload(data, m.PayloadOffset); err != nil {
			return problem.Wrap(err, problem.ProtocolError, "entry %d", m.Seq)
		}
		if err := checkControl(m.Kind, data); err != nil {
			return problem.Wrap(err, problem.ProtocolError, "entry %d", m.Seq)
		}
	}
	return nil
}

func checkControl(kind segment.Kind, data []byte) error {
	switch kind {
	case segment.KindMarker:
		return new(segment.Marker).UnmarshalBinary(data)
	case segment.KindBeacon:
		return new(segment.Beacon).UnmarshalBinary(data)
	case segment.KindBreak:
		return new(segment.Break).UnmarshalBinary(data)
	case segment.KindThawed:
		return new(segment.Thawed).UnmarshalBinary(data)
	case segment.KindSyncBegin:
		return new(segment.SyncBegin).UnmarshalBinary(data)
	case segment.KindSyncEnd:
		return new(segment.SyncEnd).UnmarshalBinary(data)
	case segment.KindDefinition:
		var d segment.Definition
		if err := d.UnmarshalBinary(data); err != nil {
			return err
		}
		return json.Unmarshal(d.JSON, new(dr.Definition))
	}
	return fmt.Errorf("%w: %v", segment.ErrEntry, kind)
}

// checkRoom keeps the reserve free. The volume is asked once in a while only:
// after each 4 MiB, and always when it was short.
func (j *Journal) checkRoom(n int64) error {
	if j.reserve < 0 {
		return nil
	}
	j.roomLeft -= n
	if j.roomLeft >= 0 {
		return nil
	}
	free, err := j.fs.Free(j.dir)
	if err != nil {
		return fmt.Errorf("ask for room: %w", err)
	}
	if free-n < j.reserve {
		j.roomLeft = 0
		j.full.Store(true)
		return problem.New(problem.NoRoom, "%s has %d bytes free, of which %d are reserved", j.dir, free, j.reserve)
	}
	j.full.Store(false)
	j.roomLeft = min(4<<20, free-n-j.reserve)
	return nil
}

// roomAgain is how much above the reserve must be free before the journal is said
// to have room again: more than a frame.
const roomAgain = 2 << 20

// noRoom reports whether the journal refused the newest frame for want of room, and
// there is none still.
func (j *Journal) noRoom() bool {
	if !j.full.Load() {
		return false
	}
	free, err := j.fs.Free(j.dir)
	if err == nil && free >= max(j.reserve, 0)+roomAgain {
		j.full.Store(false)
		return false
	}
	return true
}

// segmentFor returns the segment that takes the frame. appendMu is held.
func (j *Journal) segmentFor(f *segment.Frame) (*segmentFile, error) {
	j.mu.Lock()
	seg := j.active
	j.mu.Unlock()
	full := seg != nil && seg.size+int64(f.Size) > j.opts.SegmentBytes && seg.frames > 0
	if full || (seg != nil && seg.key != j.keys.Current()) { // or begun before there was a key
		if _, err := j.Sync(); err != nil {
			return nil, err
		}
		if err := j.sealActive(); err != nil {
			return nil, err
		}
		seg = nil
	}
	if seg != nil {
		return seg, nil
	}
	j.nextSegment++ // also when it fails: a number is never used twice
	seg, err := createSegment(j.fs, j.dir, segment.FileHeader{
		Number: j.nextSegment - 1, Generation: f.Generation, Epoch: f.Epoch, First: f.First, Group: j.groupSum,
	}, j.keys.Current())
	if err != nil {
		return nil, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.active = seg
	j.segs = append(j.segs, seg)
	return seg, nil
}

// publish puts a frame that was written into the index. appendMu is held.
func (j *Journal) publish(seg *segmentFile, f *segment.Frame, size int) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	records, controls, err := seg.note(f, size)
	if err != nil {
		return fmt.Errorf("index a frame: %w", err)
	}
	j.index(seg, records, controls)
	for i := range controls {
		j.waiting = append(j.waiting, controls[i])
		j.ended = j.ended || controls[i].kind == segment.KindBreak
	}
	j.head.Seq = f.Last()
	select {
	case j.grew <- struct{}{}:
	default:
	}
	return nil
}

// index lays records over the heads and counts guest bytes. mu is held.
func (j *Journal) index(seg *segmentFile, records []segment.Record, controls []control) {
	c := 0
	for i := range records {
		r := &records[i]
		for ; c < len(controls) && controls[c].pos.Seq < r.Seq; c++ {
			controls[c].bytes = j.bytes
		}
		j.heads[r.Disk].put(seg.pieceOf(r))
		j.lastData[r.Disk] = seg.at(r.Seq)
		if r.Flags&segment.FlagSync != 0 {
			j.synced = true
		} else if r.Kind == segment.KindWrite {
			j.bytes += r.Length
		}
	}
	for ; c < len(controls); c++ {
		controls[c].bytes = j.bytes
	}
}

// sealActive ends the segment that grows. appendMu is held, and everything
// was synced.
func (j *Journal) sealActive() error {
	j.mu.Lock()
	seg := j.active
	j.mu.Unlock()
	if seg == nil {
		return nil
	}
	j.roomLeft = 0 // the index takes room that nobody asked for
	t, err := seg.seal()
	if err != nil {
		return j.volumeError("seal a segment", err)
	}
	if err := seg.file.Sync(); err != nil {
		return j.fail(fmt.Errorf("seal segment: %w", err))
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	seg.sealed, seg.trailer, seg.records, seg.controls = true, t, nil, nil
	j.active = nil
	return nil
}

// Sync makes all that was appended before the call durable.
func (j *Journal) Sync() (dr.Position, error) {
	j.syncMu.Lock()
	defer j.syncMu.Unlock()
	if err := j.usable(); err != nil {
		return dr.Position{}, err
	}
	j.mu.Lock()
	target, seg, done := j.head, j.active, j.durable
	j.mu.Unlock()
	if target == done || seg == nil {
		return done, nil
	}
	if !sabotageSkipFsync {
		if err := seg.file.Datasync(); err != nil {
			return dr.Position{}, j.fail(fmt.Errorf("sync redo: %w", err))
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.settle(target); err != nil {
		return dr.Position{}, err
	}
	return j.durable, nil
}

// settle applies what became durable to the history. mu is held.
func (j *Journal) settle(target dr.Position) error {
	n := 0
	for n < len(j.waiting) && !target.Before(j.waiting[n].pos) {
		if err := j.hist.apply(j.waiting[n]); err != nil {
			return err // cannot be: Append checked it
		}
		n++
	}
	j.waiting = append(j.waiting[:0], j.waiting[n:]...)
	j.hist.advance(target)
	j.hist.synced = j.synced
	if target.Epoch == j.durable.Epoch && j.durable.Before(target) {
		j.durable = target
	}
	return nil
}

// fail ends the life of a journal whose volume did not do what it was told:
// what the page cache shows may not be what is on disk.
func (j *Journal) fail(err error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed == nil {
		j.failed = fmt.Errorf("%w: %w", ErrFailed, err)
		j.log.Error("journal failed", "dir", j.dir, "err", err)
	}
	return j.failed
}

// usable returns why the journal cannot be changed any more.
func (j *Journal) usable() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case j.failed != nil:
		return j.failed
	case j.closed:
		return ErrClosed
	case j.readOnly:
		return problem.New(problem.JournalInUse, "%s is open for reading only", j.dir)
	}
	return nil
}

// Commit runs group commit until ctx ends: whenever something was appended it
// syncs and calls durable with the position reached. It returns ctx's error
// or the first failure of the volume.
func (j *Journal) Commit(ctx context.Context, durable func(dr.Position)) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-j.grew:
		}
		p, err := j.Sync()
		if err != nil {
			return err
		}
		durable(p)
	}
}

// Seal raises the generation, durably. From its return on no frame of an older
// one is accepted. It returns the last durable and the newest confirmed position.
func (j *Journal) Seal(gen dr.Generation) (durable, confirmed dr.Position, err error) {
	j.appendMu.Lock()
	defer j.appendMu.Unlock()
	if durable, err = j.Sync(); err != nil {
		return durable, confirmed, err
	}
	err = j.man.change(func(m *manifest) error {
		if gen < m.Generation {
			return problem.Wrap(ErrStale, problem.StaleGeneration, "the journal is at generation %d, asked for %d", m.Generation, gen)
		}
		m.Generation = gen
		return nil
	})
	if err != nil {
		return durable, confirmed, fmt.Errorf("seal generation: %w", err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.gen = gen
	return j.durable, j.newest(), nil
}
