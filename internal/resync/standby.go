package resync

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"

	"rebound/internal/block"
	"rebound/internal/link"
	"rebound/internal/problem"
)

// Standby is the half of the comparison that runs where the journal is: it
// hashes the head view. It implements link.Comparer.
type Standby struct {
	disk   func(index uint16) (block.Device, error)
	close  func() error
	hasher hasher
	buffer sync.Pool
}

var _ link.Comparer = (*Standby)(nil)

// NewStandby returns a Standby over the head views that disk returns: what the
// standby shows of a disk after everything that was appended. disk is called
// for each request, from several goroutines; its devices are not closed. An
// unknown index is UnknownDisk. closeHead is called once by Close and may be
// nil.
func NewStandby(disk func(index uint16) (block.Device, error), closeHead func() error) *Standby {
	return &Standby{disk: disk, close: closeHead, hasher: newHasher()}
}

// Hashes implements link.Comparer.
func (s *Standby) Hashes(ctx context.Context, req *link.CompareRequest, dst []byte) ([]byte, error) {
	dev, err := s.disk(req.Disk)
	if err != nil {
		return nil, err
	}
	buf, _ := s.buffer.Get().(*[]byte)
	if buf == nil {
		b := make([]byte, link.MaxCompareBytes)
		buf = &b
	}
	defer s.buffer.Put(buf)
	for _, run := range req.Runs {
		p := (*buf)[:run.Len]
		err := readRun(ctx, dev, p, run.Off)
		if problem.HasCode(err, problem.JournalDamaged) {
			if dst, err = s.damaged(ctx, dev, p, run, dst); err == nil {
				continue
			}
		}
		if err != nil {
			if errors.Is(err, block.ErrOutOfRange) {
				return nil, problem.Wrap(err, problem.InvalidRequest, "disk %d has %d bytes, asked for %d at %d", req.Disk, dev.Size(), run.Len, run.Off)
			}
			return nil, fmt.Errorf("read head of disk %d: %w", req.Disk, err)
		}
		for len(p) > 0 {
			n := min(len(p), int(run.Unit))
			h := s.hasher.of(p[:n])
			dst = append(dst, h[:]...)
			p = p[n:]
		}
	}
	return dst, nil
}

// damaged hashes a run of which a part cannot be read: a unit that is damaged
// gets a hash that nothing has, so that the source sends it again. This is how
// damage is repaired.
func (s *Standby) damaged(ctx context.Context, dev block.Device, p []byte, run link.CompareRun, dst []byte) ([]byte, error) {
	for at := int64(0); at < run.Len; at += int64(run.Unit) {
		unit := p[at:min(at+int64(run.Unit), run.Len)]
		err := readRun(ctx, dev, unit, run.Off+at)
		switch {
		case problem.HasCode(err, problem.JournalDamaged):
			var none [link.HashSize]byte
			_, _ = rand.Read(none[:]) // never fails
			dst = append(dst, none[:]...)
		case err != nil:
			return dst, err
		default:
			h := s.hasher.of(unit)
			dst = append(dst, h[:]...)
		}
	}
	return dst, nil
}

// Close implements link.Comparer.
func (s *Standby) Close() error {
	if s.close == nil {
		return nil
	}
	return s.close()
}
