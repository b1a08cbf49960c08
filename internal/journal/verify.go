package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"rebound/internal/dr"
	"rebound/internal/extent"
	"rebound/internal/problem"
	"rebound/internal/segment"
)

// Damage is a stretch of redo that cannot be read.
type Damage struct {
	Segment uint64      `json:"segment"`
	Offset  int64       `json:"offset"`
	From    dr.Position `json:"from"` // the first and the last entry in it,
	To      dr.Position `json:"to"`   // as far as known
	Error   string      `json:"error"`
}

// BaseDamage is a run of blocks of a base that are not what was written there.
type BaseDamage struct {
	Disk   uint16 `json:"disk"` // index in the disk table
	Offset int64  `json:"offset"`
	Length int64  `json:"length"` // bytes
}

// VerifyReport is the result of Verify.
type VerifyReport struct {
	Segments int      `json:"segments"`
	Frames   int      `json:"frames"`
	Bytes    int64    `json:"bytes"`
	Damages  []Damage `json:"damages,omitempty"`
	// BaseBytes of the bases were read; of UnknownBytes among them no sum is
	// known.
	BaseBytes    int64        `json:"baseBytes"`
	UnknownBytes int64        `json:"unknownBytes"`
	Bases        []BaseDamage `json:"bases,omitempty"`
	// Hit lists the points that cannot be read whole; the others can.
	Points int           `json:"points"`
	Hit    []dr.Point    `json:"hit,omitempty"`
	Took   time.Duration `json:"took"`
}

// Verify reads all redo and the bases and checks every checksum and index; it
// says which points are hit by what it finds.
func (j *Journal) Verify(ctx context.Context) (VerifyReport, error) {
	start := j.opts.Now()
	j.mu.Lock()
	segs := append([]*segmentFile(nil), j.segs...)
	for _, s := range segs {
		s.hold()
	}
	points, damage := j.points(), j.damage
	var rep VerifyReport
	if damage != nil {
		rep.Damages = append(rep.Damages, Damage{From: j.damageAt, Error: damage.Error()})
		rep.Hit = append(rep.Hit, j.lostPoints...)
	}
	j.mu.Unlock()
	defer func() {
		for _, s := range segs {
			s.release()
		}
	}()
	rep.Points = len(points) + len(rep.Hit)
	for _, s := range segs {
		rep.Segments++
		if err := j.verifySegment(ctx, s, &rep); err != nil {
			return rep, fmt.Errorf("verify segment %d: %w", s.Number, err)
		}
	}
	for disk := range j.bases {
		if err := j.verifyBase(ctx, uint16(disk), &rep); err != nil {
			return rep, fmt.Errorf("verify base of disk %d: %w", disk, err)
		}
	}
	if len(rep.Damages) > 0 || len(rep.Bases) > 0 {
		if err := j.findHit(ctx, points, &rep); err != nil {
			return rep, fmt.Errorf("look for points that are hit: %w", err)
		}
	}
	rep.Took = j.opts.Now().Sub(start)
	return rep, nil
}

// verifySegment reads a segment frame by frame. Behind a damaged frame it goes
// on where the index says that the next one begins.
func (j *Journal) verifySegment(ctx context.Context, s *segmentFile, rep *VerifyReport) error {
	j.mu.Lock()
	sealed, end, last := s.sealed, s.size, s.last
	starts := s.records[:len(s.records):len(s.records)]
	j.mu.Unlock()
	if sealed {
		var err error
		if starts, err = s.readIndex(); err == nil {
			_, err = s.readControls()
		}
		if err != nil {
			rep.Damages = append(rep.Damages, Damage{s.Number, end, s.at(s.First), s.at(last), err.Error()})
		}
	}
	buf := make([]byte, segment.MaxStored)
	next := s.First // 0: behind damage, where the frame itself says
	for at := int64(segment.FileHeaderSize); at < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		f, err := s.frameAt(buf, at, end)
		if err == nil && next != 0 && f.First != next {
			err = fmt.Errorf("%w: frame begins with entry %d, want %d", segment.ErrDamaged, f.First, next)
		}
		if err == nil {
			rep.Frames++
			rep.Bytes += int64(f.Size)
			at, next = at+int64(f.Size), f.Last()+1
			continue
		}
		d := Damage{Segment: s.Number, Offset: at, From: s.at(max(next, s.First)), To: s.at(last), Error: err.Error()}
		var before dr.Seq
		if at, before = behind(starts, at, end); before != 0 {
			d.To = s.at(before - 1)
		}
		next = 0
		rep.Damages = append(rep.Damages, d)
	}
	return nil
}

// behind finds the next frame after a damaged one that the index knows, and
// the seq of its first write; or the end and 0.
func behind(starts []segment.Record, at, end int64) (int64, dr.Seq) {
	for i := range starts {
		if int64(starts[i].Frame) > at {
			return int64(starts[i].Frame), starts[i].Seq
		}
	}
	return end, 0
}

// findHit reads every point of which a damaged entry may be a part.
func (j *Journal) findHit(ctx context.Context, points []dr.Point, rep *VerifyReport) error {
	for _, p := range points {
		bad, err := j.pointHit(ctx, p.Position, rep.Bases)
		if err != nil {
			return err
		}
		if bad {
			rep.Hit = append(rep.Hit, p)
		}
	}
	return nil
}

// pointHit reports whether a point needs redo that is damaged, or blocks of the
// bases that are.
func (j *Journal) pointHit(ctx context.Context, pos dr.Position, bases []BaseDamage) (bool, error) {
	for disk := range j.disks {
		dev, err := j.OpenView(ctx, pos, uint16(disk))
		if problem.HasCode(err, problem.JournalDamaged) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		err = dev.(*viewDevice).readRedo(ctx, newFrameCache(frameCacheBytes))
		for _, d := range bases {
			if int(d.Disk) == disk && err == nil {
				err = readAll(ctx, dev, d.Offset, d.Length)
			}
		}
		cerr := dev.Close()
		if problem.HasCode(err, problem.JournalDamaged) {
			return true, nil
		}
		if err = errors.Join(err, cerr); err != nil {
			return false, err
		}
	}
	return false, nil
}

// readRedo reads what of the view lies in redo, past what is remembered of it.
func (v *viewDevice) readRedo(ctx context.Context, fresh *frameCache) error {
	var buf []byte
	for _, l := range v.layers {
		list := l.lookup(nil, extent.Range{Len: v.base.size})
		defer releasePieces(list)
		for i := range list {
			if err := ctx.Err(); err != nil {
				return err
			}
			if list[i].payload == zeroes {
				continue
			}
			if int64(len(buf)) < list[i].len {
				buf = make([]byte, list[i].len)
			}
			if err := fresh.read(&list[i], buf[:list[i].len]); err != nil {
				return err
			}
		}
	}
	return nil
}

// verifyBase reads what a base holds and checks it against its sums.
func (j *Journal) verifyBase(ctx context.Context, disk uint16, rep *VerifyReport) error {
	b := j.bases[disk]
	if b.sums == nil {
		rep.UnknownBytes += b.size
		return nil
	}
	buf := make([]byte, sumWindow*sumBlock)
	want := make([]uint32, sumWindow)
	for at := int64(0); at < b.size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		start, end, err := b.file.NextData(at)
		if err != nil {
			return fmt.Errorf("map base %s: %w", b.path, err)
		}
		if at = max(at, start-start%sumBlock); at >= b.size || start >= end {
			return nil
		}
		n := min(int64(len(buf)), b.size-at)
		if err := b.raw(buf[:n], at); err != nil {
			return err
		}
		if err := b.sums.read(want[:blocksOf(n)], at/sumBlock); err != nil {
			return err
		}
		if err := b.verifyWindow(disk, buf[:n], want[:blocksOf(n)], at, rep); err != nil {
			return err
		}
		at += n
	}
	return nil
}

func (b *base) verifyWindow(disk uint16, buf []byte, want []uint32, off int64, rep *VerifyReport) error {
	rep.BaseBytes += int64(len(buf))
	for i, sum := range want {
		at := int64(i) * sumBlock
		block := buf[at:min(at+sumBlock, int64(len(buf)))]
		switch {
		case sum == sumOf(block):
			continue
		case sum == 0:
			rep.UnknownBytes += int64(len(block))
			continue
		}
		err := b.lookAgain(block, off+at)
		if problem.HasCode(err, problem.JournalDamaged) {
			rep.addBase(BaseDamage{disk, off + at, int64(len(block))})
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// addBase adds a damaged block, joined to the one before it.
func (r *VerifyReport) addBase(d BaseDamage) {
	if n := len(r.Bases); n > 0 {
		last := &r.Bases[n-1]
		if last.Disk == d.Disk && last.Offset+last.Length == d.Offset {
			last.Length += d.Length
			return
		}
	}
	r.Bases = append(r.Bases, d)
}

// readAll reads a range of a view in pieces.
func readAll(ctx context.Context, dev Device, off, length int64) error {
	buf := make([]byte, min(length, 1<<20))
	for length > 0 {
		n := min(length, int64(len(buf)))
		if err := dev.ReadAt(ctx, buf[:n], off); err != nil {
			return err
		}
		off, length = off+n, length-n
	}
	return nil
}
