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

// VerifyReport is the result of Verify.
type VerifyReport struct {
	Segments int      `json:"segments"`
	Frames   int      `json:"frames"`
	Bytes    int64    `json:"bytes"`
	Damages  []Damage `json:"damages,omitempty"`
	// Hit lists the points that cannot be read whole; the others can.
	Points int           `json:"points"`
	Hit    []dr.Point    `json:"hit,omitempty"`
	Took   time.Duration `json:"took"`
}

// Verify reads all redo and checks every checksum and index; it says which
// points are hit by what it finds. Bases carry no checksums yet: their blocks
// are covered by the comparison with the source only.
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
	if len(rep.Damages) > 0 {
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
	buf := make([]byte, segment.MaxFrame)
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
		bad, err := j.pointHit(ctx, p.Position)
		if err != nil {
			return err
		}
		if bad {
			rep.Hit = append(rep.Hit, p)
		}
	}
	return nil
}

func (j *Journal) pointHit(ctx context.Context, pos dr.Position) (bool, error) {
	for disk := range j.disks {
		dev, err := j.OpenView(ctx, pos, uint16(disk))
		if problem.HasCode(err, problem.JournalDamaged) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		err = dev.(*viewDevice).readRedo(ctx, newFrameCache(frameCacheBytes))
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
