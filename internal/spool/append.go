package spool

import (
	"fmt"

	"rebound/internal/problem"
	"rebound/internal/segment"
)

// append puts one frame at the end. The frame was checked and is the successor
// of the one before. NoRoom means that the limits are reached: nothing was
// taken.
func (s *store) append(frame []byte) error {
	f, err := segment.ParseFrame(frame)
	if err != nil {
		return fmt.Errorf("append to spool: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return s.failed
	}
	if f.First != s.appended+1 || f.Epoch != s.epoch || f.Generation != s.gen {
		return fmt.Errorf("append to spool: frame %d of epoch %d after entry %d of %d", f.First, f.Epoch, s.appended, s.epoch)
	}
	if err := s.checkRoom(int64(len(frame)) + segment.FileHeaderSize + segment.MaxStored - segment.MaxFrame); err != nil {
		return err
	}
	fl, err := s.active(&f)
	if err == nil && fl.key != nil {
		s.sealBuf, err = fl.key.Seal(s.sealBuf[:0], &f)
		frame = s.sealBuf
	}
	if err == nil {
		_, err = fl.f.WriteAt(frame, fl.size)
	}
	if err != nil {
		return s.fail(fmt.Errorf("append to spool: %w", err))
	}
	fl.size += int64(len(frame))
	s.bytes += int64(len(frame))
	s.room -= int64(len(frame)) + segment.FileHeaderSize
	s.appended, s.sealed = f.Last(), endsWithBreak(&f)
	return nil
}

// checkRoom refuses what would pass the limits.
func (s *store) checkRoom(n int64) error {
	if s.bytes+n > s.limits.Bytes {
		return problem.New(problem.NoRoom, "the spool holds %d bytes, its limit is %d", s.bytes, s.limits.Bytes)
	}
	if s.room >= n || s.limits.FreeBytes < 0 {
		return nil
	}
	free, err := s.fs.Free(s.dir)
	if err != nil {
		return s.fail(fmt.Errorf("ask for room of spool: %w", err))
	}
	if free-n < s.limits.FreeBytes {
		return problem.New(problem.NoRoom, "%d bytes are free on the spool's volume, %d must stay free", free, s.limits.FreeBytes)
	}
	s.room = min(askRoomEvery, free-s.limits.FreeBytes)
	return nil
}

// fail ends the store: what is on disk is found by the next process.
func (s *store) fail(err error) error {
	if s.failed == nil {
		s.failed = problem.Wrap(err, problem.SpoolFailed, "%v", err)
		s.changed()
	}
	return s.failed
}

// active returns the file that takes the next frame. A full one is synced before
// the next is begun, so that only the last one can have a torn tail.
func (s *store) active(f *segment.Frame) (*file, error) {
	if n := len(s.files); n > 0 && s.files[n-1].size+int64(f.Size) <= s.limits.FileBytes && s.files[n-1].key == s.keys.Current() {
		return s.files[n-1], nil
	}
	if n := len(s.files); n > 0 {
		if err := s.files[n-1].f.Sync(); err != nil {
			return nil, err
		}
	}
	h := segment.FileHeader{Number: s.next, Generation: s.gen, Epoch: s.epoch, First: f.First, Group: s.group}
	fl := &file{path: s.name(s.next), key: s.keys.Current(), size: segment.FileHeaderSize}
	if fl.key != nil {
		h.Key = fl.key.ID()
	}
	fl.FileHeader = h
	head, err := h.MarshalBinary()
	if err != nil {
		return nil, err
	}
	if fl.f, err = s.fs.Create(fl.path); err != nil {
		return nil, err
	}
	s.next++
	if _, err = fl.f.WriteAt(head, 0); err == nil {
		err = s.fs.SyncDir(s.dir)
	}
	if err != nil {
		_ = fl.f.Close()
		return nil, err
	}
	s.files = append(s.files, fl)
	s.bytes += fl.size
	return fl, nil
}

// sync makes durable what was appended before it was called.
func (s *store) sync() error {
	s.mu.Lock()
	goal, n, failed, gen, epoch := s.appended, len(s.files), s.failed, s.gen, s.epoch
	if failed != nil || n == 0 || goal == s.durable {
		s.mu.Unlock()
		return failed
	}
	f := s.files[n-1].f
	s.mu.Unlock()
	err := f.Datasync()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		return s.fail(fmt.Errorf("sync spool: %w", err))
	}
	if gen == s.gen && epoch == s.epoch && goal > s.durable {
		s.durable = goal
		s.changed()
	}
	return nil
}
