package journal

import (
	"context"
	"errors"
	"fmt"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/segment"
)

// recover reads the segments, cuts a torn tail, and derives the state that
// the journal had when it was last durable.
func (j *Journal) recover(ctx context.Context, m *manifest) error {
	numbers, err := segmentNumbers(j.fs, j.dir)
	if err != nil {
		return err
	}
	j.nextSegment = m.FirstSegment
	for i, n := range numbers {
		if err := ctx.Err(); err != nil {
			return err
		}
		j.nextSegment = max(j.nextSegment, n+1)
		if n < m.FirstSegment {
			j.dropFile(n) // a prune that was interrupted
			continue
		}
		if err := j.recoverSegment(n, i == len(numbers)-1); err != nil {
			return err
		}
	}
	j.finishRecovery(m)
	return nil
}

// dropFile removes a segment that the manifest does not name any more.
func (j *Journal) dropFile(number uint64) {
	if j.readOnly {
		return
	}
	if err := j.fs.Remove(segmentName(j.dir, number)); err != nil {
		j.log.Warn("cannot remove old segment", "segment", number, "err", err)
	}
}

// recoverSegment opens one segment and indexes it.
func (j *Journal) recoverSegment(number uint64, last bool) error {
	s, err := openSegment(j.fs, j.dir, number, j.readOnly, j.keys)
	if problem.HasCode(err, problem.KeyMissing) {
		return err // it is not damaged
	}
	if err != nil {
		return j.lost(number, err)
	}
	if s.Group != j.groupSum || !j.follows(s) {
		j.noteLost(s)
		err := fmt.Errorf("%w: segment %d begins at %v after %v", segment.ErrDamaged, number, s.at(s.First), j.head)
		s.release()
		return j.lost(number, err)
	}
	if s.sealed {
		return j.indexSealed(s, last)
	}
	if s.frames == 0 { // it was made, and nothing came
		path := s.path
		s.release()
		if j.readOnly {
			return nil
		}
		return j.fs.Remove(path)
	}
	return j.reopenActive(s, last)
}

// follows reports whether s is the successor of what was read so far.
func (j *Journal) follows(s *segmentFile) bool {
	if len(j.segs) == 0 {
		a := j.man.get().Anchor.Position
		return s.at(s.First-1).Compare(a) <= 0 || (s.Epoch > a.Epoch && s.First == 1)
	}
	prev := j.segs[len(j.segs)-1]
	if s.Epoch == prev.Epoch {
		return s.Generation == prev.Generation && s.First == prev.last+1
	}
	return s.Epoch > prev.Epoch && s.Generation >= prev.Generation && s.First == 1
}

// lost notes a segment that cannot be used. What lies before it can be; if it
// was never written, there is nothing to lose.
func (j *Journal) lost(number uint64, err error) error {
	if j.neverWritten(number) {
		if j.readOnly {
			return nil
		}
		return j.fs.Remove(segmentName(j.dir, number))
	}
	if j.damage == nil {
		j.damageAt = j.man.get().Anchor.Position
		if n := len(j.segs); n > 0 {
			j.damageAt = j.segs[n-1].end()
		}
		j.damage = problem.Wrap(err, problem.JournalDamaged, "redo after %v cannot be read (segment %d)", j.damageAt, number)
		j.log.Error("journal damaged", "dir", j.dir, "err", j.damage)
	}
	return nil
}

// noteLost remembers the points of a segment that cannot be reached, for
// Verify to name them.
func (j *Journal) noteLost(s *segmentFile) {
	controls := s.controls
	if s.sealed {
		controls, _ = s.readControls() // what cannot be read is not named
	}
	var h history
	for _, c := range controls {
		_ = h.apply(c)
	}
	j.lostPoints = append(j.lostPoints, h.points...)
}

// neverWritten reports whether a crash took the segment's header: its first
// sync, which covers header and frames, was never done.
func (j *Journal) neverWritten(number uint64) bool {
	f, err := j.fs.Open(segmentName(j.dir, number), true)
	if err != nil {
		return false
	}
	defer f.Close()
	var b [segment.FileHeaderSize]byte
	n, _ := f.ReadAt(b[:], 0)
	for _, c := range b[:n] {
		if c != 0 {
			return false
		}
	}
	return true
}

// indexSealed takes the extents and controls of a sealed segment. When they
// cannot be read (a crash while sealing can keep the trailer and lose a page
// before it) the frames themselves are read.
func (j *Journal) indexSealed(s *segmentFile, last bool) error {
	records, err := s.readIndex()
	var controls []control
	if err == nil {
		controls, err = s.readControls()
	}
	if err == nil {
		j.adopt(s, records, controls)
		return nil
	}
	j.log.Warn("index of a segment cannot be read, its frames are", "segment", s.Number, "err", err)
	want := s.trailer.Last
	s.sealed, s.frames = false, 0
	if serr := s.scan(s.trailer.IndexOffset); serr != nil || s.last != want {
		s.release()
		return j.lost(s.Number, errors.Join(err, serr))
	}
	return j.reopenActive(s, last)
}

// reopenActive takes an unsealed segment: cut at its last whole frame, and
// everything in it made durable, since it counts as such from now on.
func (j *Journal) reopenActive(s *segmentFile, last bool) error {
	j.adopt(s, s.records, s.controls)
	if !last || j.readOnly {
		return nil
	}
	size, err := s.file.Size()
	if err == nil && size != s.size {
		j.log.Warn("cut torn tail", "segment", s.Number, "at", s.size, "bytes", size-s.size)
		err = s.file.Truncate(s.size)
	}
	if err == nil {
		err = s.file.Sync()
	}
	if err != nil {
		return fmt.Errorf("cut %s: %w", s.path, err)
	}
	j.active = s
	return nil
}

// adopt adds a segment to the state. What lies at or before the anchor is in
// the bases.
func (j *Journal) adopt(s *segmentFile, records []segment.Record, controls []control) {
	a := j.man.get().Anchor.Position
	j.segs = append(j.segs, s)
	for len(records) > 0 && s.at(records[0].Seq).Compare(a) <= 0 {
		records = records[1:]
	}
	for len(controls) > 0 && controls[0].pos.Compare(a) <= 0 {
		controls = controls[1:]
	}
	j.index(s, records, controls)
	for _, c := range controls {
		if err := j.hist.apply(c); err != nil {
			_ = j.lost(s.Number, err)
		}
	}
	if a.Before(s.end()) {
		j.hist.advance(s.end())
	}
	j.hist.synced = j.synced
}

// finishRecovery sets head and durable: the last position of the epoch handed
// out last.
func (j *Journal) finishRecovery(m *manifest) {
	j.setEpoch(m.EpochGeneration, m.Epoch, 0)
	j.ended = m.Epoch == 0
	if a := m.Anchor.Position; a.Epoch == m.Epoch && a.Epoch != 0 {
		j.setEpoch(m.EpochGeneration, m.Epoch, a.Seq)
	}
	if n := len(j.segs); n > 0 && j.segs[n-1].Epoch == m.Epoch {
		j.setEpoch(m.EpochGeneration, m.Epoch, max(j.segs[n-1].last, j.head.Seq))
	}
	if e := j.hist.epochOf(j.head); e != nil {
		j.ended = e.Broken
	}
	if j.active != nil && j.active.Epoch != m.Epoch {
		j.active = nil // a crash between sealing and the new epoch
	}
	if j.damage != nil {
		j.ended = true // nothing may follow what is missing
		j.head, j.durable = dr.Position{Generation: m.EpochGeneration, Epoch: m.Epoch}, dr.Position{Generation: m.EpochGeneration, Epoch: m.Epoch}
	}
}
