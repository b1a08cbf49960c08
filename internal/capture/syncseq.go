package capture

import (
	"context"
	"encoding"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"

	"rebound/internal/dr"
	"rebound/internal/extent"
	"rebound/internal/resync"
	"rebound/internal/segment"
)

// syncSequencer is the sequencer as a synchronisation of one epoch sees it.
type syncSequencer struct {
	q        *sequencer
	epoch    dr.Epoch
	inflight resync.Inflight // guarded by q.mu
	memory   *syncMemory
	parts    sync.Pool
}

var _ resync.Sequencer = (*syncSequencer)(nil)

// beginSync makes the sequencer tell of live writes in the open epoch, until
// endSync. There is one synchronisation at a time.
func (q *sequencer) beginSync() (*syncSequencer, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.state != StateOpen {
		return nil, errNotOpen
	}
	s := &syncSequencer{q: q, epoch: q.epoch, memory: &syncMemory{}}
	q.live = func(seq dr.Seq, disk uint16, off, length int64) {
		s.inflight.LiveAt(seq, disk, extent.Range{Off: off, Len: length})
	}
	return s, nil
}

// endSync stops telling of live writes.
func (s *syncSequencer) endSync() {
	s.q.mu.Lock()
	s.q.live = nil
	s.q.mu.Unlock()
}

// BeginSync implements resync.Sequencer.
func (s *syncSequencer) BeginSync(_ context.Context, mode resync.Mode, bytes int64) (dr.Seq, error) {
	return s.mark(segment.KindSyncBegin, segment.SyncBegin{Mode: string(mode), Bytes: bytes})
}

// EndSync implements resync.Sequencer.
func (s *syncSequencer) EndSync(_ context.Context, compared, copied int64) (dr.Seq, error) {
	return s.mark(segment.KindSyncEnd, segment.SyncEnd{Compared: compared, Copied: copied})
}

func (s *syncSequencer) mark(kind segment.Kind, payload encoding.BinaryMarshaler) (dr.Seq, error) {
	at, err := s.q.controlIn(s.epoch, kind, payload)
	return at.Seq, err
}

// BeginRange implements resync.Sequencer.
func (s *syncSequencer) BeginRange(disk uint16, r extent.Range) resync.Token {
	s.q.mu.Lock()
	defer s.q.mu.Unlock()
	return s.inflight.Begin(disk, r, s.q.head)
}

// AbandonRange implements resync.Sequencer.
func (s *syncSequencer) AbandonRange(t resync.Token) {
	s.q.mu.Lock()
	defer s.q.mu.Unlock()
	s.inflight.End(t)
}

// Untouched implements resync.Sequencer.
func (s *syncSequencer) Untouched(t resync.Token, r extent.Range) []extent.Range {
	s.q.mu.Lock()
	defer s.q.mu.Unlock()
	return s.inflight.Untouched(t, r, nil)
}

// CommitRange implements resync.Sequencer.
func (s *syncSequencer) CommitRange(ctx context.Context, t resync.Token, pieces []resync.Piece) (int64, error) {
	defer s.AbandonRange(t)
	var total int64
	for i := range pieces {
		if pieces[i].Range.Empty() {
			continue
		}
		if err := s.waitRoom(ctx); err != nil {
			return total, err
		}
		n, err := s.commitPiece(t, &pieces[i])
		total += n
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// waitRoom waits until the ring is below the mark of synchronisations, so that
// live writes find it empty enough never to be delayed by them.
func (s *syncSequencer) waitRoom(ctx context.Context) error {
	for {
		s.q.mu.Lock()
		err := s.open()
		room := !s.q.diverted && s.q.used < s.q.syncMark && int(s.q.head-s.q.durable) < len(s.q.slots)/4
		moved := s.q.moved
		s.q.mu.Unlock()
		if err != nil || room {
			return err
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("wait for room in the ring: %w", ctx.Err())
		}
	}
}

// open reports whether the synchronisation's epoch still is.
func (s *syncSequencer) open() error {
	if s.q.state != StateOpen || s.q.epoch != s.epoch {
		return errNotOpen
	}
	return nil
}

// commitPiece appends what live writes left of a piece. The copy is made before
// the lock is taken; the subtraction and the numbers are one step under it.
func (s *syncSequencer) commitPiece(t resync.Token, p *resync.Piece) (int64, error) {
	var buf *syncBuffer
	if p.Data != nil {
		buf = s.memory.get(len(p.Data))
		copy(buf.data, p.Data)
		defer buf.Release()
	}
	scratch, _ := s.parts.Get().(*[]extent.Range)
	if scratch == nil {
		scratch = new([]extent.Range)
	}
	defer s.parts.Put(scratch)

	s.q.mu.Lock()
	defer s.q.mu.Unlock()
	if err := s.open(); err != nil {
		return 0, err
	}
	parts := s.inflight.Untouched(t, p.Range, (*scratch)[:0])
	*scratch = parts
	if s.q.full(len(parts)) {
		return 0, fmt.Errorf("append %d parts of a synchronised range: the ring is full", len(parts))
	}
	var total int64
	for _, r := range parts {
		e := slot{kind: segment.KindZero, flags: segment.FlagSync, disk: t.Disk, off: r.Off, length: r.Len, cost: entryCost}
		if buf != nil {
			at := r.Off - p.Range.Off
			e.kind, e.data, e.owner = segment.KindWrite, buf.data[at:at+r.Len:at+r.Len], buf
			e.cost = entryCost + r.Len*int64(cap(buf.mem))/int64(len(buf.data))
			buf.refs.Add(1)
		}
		s.q.put(e)
		total += r.Len
	}
	s.q.counters.SyncBytes += total
	if len(parts) > 0 {
		s.q.signal()
	}
	return total, nil
}

// syncBuffer is memory that the entries of one piece share.
type syncBuffer struct {
	mem, data []byte
	refs      atomic.Int32
	class     int
	home      *syncMemory
}

// Release gives up one share.
func (b *syncBuffer) Release() {
	if b.refs.Add(-1) == 0 {
		b.home.classes[b.class].Put(b)
	}
}

// syncMemory pools buffers of 4 KiB to resync.Window, in powers of two.
type syncMemory struct{ classes [9]sync.Pool }

// get returns a buffer of n bytes, 1 <= n <= resync.Window, with one share.
func (m *syncMemory) get(n int) *syncBuffer {
	class := max(bits.Len(uint(n-1))-12, 0)
	b, ok := m.classes[class].Get().(*syncBuffer)
	if !ok {
		b = &syncBuffer{mem: make([]byte, 4096<<class), class: class, home: m}
	}
	b.data = b.mem[:n]
	b.refs.Store(1)
	return b
}
