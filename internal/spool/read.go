package spool

import (
	"context"
	"fmt"
	"io"

	"rebound/internal/dr"
	"rebound/internal/link"
	"rebound/internal/problem"
	"rebound/internal/segment"
)

// header reads and checks a file's header.
func (fl *file) header(group uint32, number uint64) error {
	var b [segment.FileHeaderSize]byte
	if err := segment.ReadFullAt(fl.f, b[:], 0); err != nil {
		return err
	}
	if err := fl.UnmarshalBinary(b[:]); err != nil {
		return err
	}
	if fl.Number != number || fl.Group != group {
		return fmt.Errorf("%w: it is file %d of another spool", segment.ErrDamaged, fl.Number)
	}
	return nil
}

// frame reads and checks the frame at an offset into buf; end is where frames
// end.
func (fl *file) frame(buf []byte, at, end int64) (segment.Frame, error) {
	return segment.ReadFrame(fl.f, &fl.FileHeader, buf, at, end)
}

// reader hands out the frames of a store in order: the outlet's source.
type reader struct {
	s       *store
	buf     []byte
	plain   []byte // room for a decrypted frame
	builder *segment.Builder
	data    []byte

	// Where the frame after `at` lies; number 0: not known.
	number uint64
	off    int64
	at     dr.Seq
}

var _ link.FrameSource = (*reader)(nil)

func newReader(s *store) *reader {
	return &reader{s: s, buf: make([]byte, segment.MaxStored), builder: segment.NewBuilder(segment.CodecS2)}
}

// Trim implements link.FrameSource.
func (r *reader) Trim(seq dr.Seq) { _ = r.s.trim(seq) } // a file that stays costs room only

// Next implements link.FrameSource: it returns io.EOF when all that the store
// holds was handed out, and hands out only what is durable.
func (r *reader) Next(ctx context.Context, after dr.Seq) ([]byte, dr.Seq, error) {
	for {
		if ctx.Err() != nil {
			return nil, 0, context.Cause(ctx)
		}
		r.s.mu.Lock()
		base, durable, appended, failed, moved := r.s.base, r.s.durable, r.s.appended, r.s.failed, r.s.moved
		r.s.mu.Unlock()
		switch {
		case failed != nil:
			return nil, 0, failed
		case after < base:
			return nil, 0, problem.New(problem.JournalDamaged, "the standby has entries up to %d, the spool begins after %d", after, base)
		case after < durable:
			return r.read(after)
		case after >= appended:
			r.s.handedOut(r.number, r.off)
			return nil, 0, io.EOF
		}
		select {
		case <-moved:
		case <-ctx.Done():
		}
	}
}

// handedOut notes how far the reader is.
func (s *store) handedOut(number uint64, off int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readNumber, s.readOff = number, off
}

// read returns the frame with entry after + 1, cut anew when it begins earlier.
func (r *reader) read(after dr.Seq) ([]byte, dr.Seq, error) {
	if r.number == 0 || r.at != after {
		r.seek(after)
	}
	for {
		fl, end, err := r.file()
		if err != nil {
			return nil, 0, err
		}
		if r.off >= end {
			r.number, r.off = r.number+1, segment.FileHeaderSize
			continue
		}
		f, err := fl.frame(r.buf, r.off, end)
		if err != nil {
			return nil, 0, problem.Wrap(err, problem.JournalDamaged, "spool file %s at %d: %v", fl.path, r.off, err)
		}
		r.off += int64(f.Size)
		if f, err = r.open(fl, f); err != nil {
			return nil, 0, problem.Wrap(err, problem.JournalDamaged, "spool file %s at %d: %v", fl.path, r.off, err)
		}
		switch {
		case f.Last() <= after:
			continue
		case f.First > after+1:
			return nil, 0, problem.New(problem.JournalDamaged, "spool file %s: entry %d after %d", fl.path, f.First, after)
		}
		r.at = f.Last()
		if f.First == after+1 {
			return f.Bytes(), f.Last(), nil
		}
		return r.rest(&f, after)
	}
}

// open returns a frame as it travels.
func (r *reader) open(fl *file, f segment.Frame) (segment.Frame, error) {
	if !f.Sealed {
		return f, nil
	}
	f, err := f.WithKey(fl.key)
	if err != nil {
		return f, err
	}
	if r.plain, err = f.Unseal(r.plain[:0]); err != nil {
		return f, err
	}
	return segment.ParseFrame(r.plain)
}

// seek moves to the beginning of the file that holds entry after + 1.
func (r *reader) seek(after dr.Seq) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	for _, fl := range r.s.files {
		if fl.First <= after+1 {
			r.number, r.off = fl.Number, segment.FileHeaderSize
		}
	}
}

// file returns the file at which the reader stands, and where it ends.
func (r *reader) file() (*file, int64, error) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.s.readNumber, r.s.readOff = r.number, r.off
	for _, fl := range r.s.files {
		if fl.Number == r.number {
			return fl, fl.size, nil
		}
	}
	return nil, 0, problem.New(problem.JournalDamaged, "spool file %d is not there", r.number)
}

// rest builds a frame of the entries behind after: the standby had taken a part
// of the frame from the ring before the spool was used.
func (r *reader) rest(f *segment.Frame, after dr.Seq) ([]byte, dr.Seq, error) {
	r.builder.Reset(f.Generation, f.Epoch)
	r.data = r.data[:0]
	for m := range f.Entries() {
		if m.Seq <= after {
			continue
		}
		e := segment.Entry{Seq: m.Seq, Kind: m.Kind, Flags: m.Flags, Disk: m.Disk, Offset: m.Offset, Length: m.Length}
		if m.PayloadLength > 0 {
			r.data = append(r.data[:0], make([]byte, m.PayloadLength)...)
			if err := f.ReadPayload(r.data, m.PayloadOffset); err != nil {
				return nil, 0, problem.Wrap(err, problem.JournalDamaged, "cut a spooled frame: %v", err)
			}
			e.Data = r.data
		}
		if !r.builder.Add(e) {
			return nil, 0, fmt.Errorf("cut a spooled frame: entry %d does not fit", m.Seq)
		}
	}
	out, err := r.builder.Finish()
	if err != nil {
		return nil, 0, fmt.Errorf("cut a spooled frame: %w", err)
	}
	return out, f.Last(), nil
}
