package journal

import (
	"container/list"
	"errors"
	"fmt"
	"sync"

	"rebound/internal/problem"
	"rebound/internal/segment"
)

// frameCacheBytes bounds the memory for frames' tables and blocks.
const frameCacheBytes = 16 << 20

// frameCache keeps tables of frames that were read lately: they say where in a
// segment a payload's blocks lie.
type frameCache struct {
	mu    sync.Mutex
	limit int
	used  int
	order *list.List // newest first
	items map[frameKey]*list.Element
	bufs  sync.Pool // of *readBuffer
}

type frameKey struct {
	segment uint64
	offset  uint32
}

type frameItem struct {
	key    frameKey
	tables segment.Tables
	cost   int
}

type readBuffer struct {
	stored  [segment.BlockSize]byte
	scratch segment.Scratch
}

func newFrameCache(limit int) *frameCache {
	c := &frameCache{limit: limit, order: list.New(), items: map[frameKey]*list.Element{}}
	c.bufs.New = func() any { return new(readBuffer) }
	return c
}

func (c *frameCache) get(k frameKey) (segment.Tables, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	el := c.items[k]
	if el == nil {
		return segment.Tables{}, false
	}
	c.order.MoveToFront(el)
	return el.Value.(*frameItem).tables, true
}

func (c *frameCache) put(k frameKey, t segment.Tables, cost int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.items[k] != nil {
		return
	}
	c.items[k] = c.order.PushFront(&frameItem{k, t, cost})
	c.used += cost
	for c.used > c.limit && c.order.Len() > 1 {
		el := c.order.Back()
		it := c.order.Remove(el).(*frameItem)
		delete(c.items, it.key)
		c.used -= it.cost
	}
}

// tables returns the tables of the frame that holds a piece.
func (c *frameCache) tables(s *segmentFile, frame uint32) (segment.Tables, error) {
	k := frameKey{s.Number, frame}
	if t, ok := c.get(k); ok {
		return t, nil
	}
	var head [segment.HeaderSize]byte
	if err := s.readAt(head[:], int64(frame)); err != nil {
		return segment.Tables{}, err
	}
	h, err := segment.ParseHeader(head[:])
	if err != nil {
		return segment.Tables{}, err
	}
	if h.Generation != s.Generation || h.Epoch != s.Epoch {
		return segment.Tables{}, fmt.Errorf("%w: frame of another epoch", segment.ErrDamaged)
	}
	buf := make([]byte, h.Size-h.TablesOffset())
	if err := s.readAt(buf, int64(frame)+int64(h.TablesOffset())); err != nil {
		return segment.Tables{}, err
	}
	t, err := segment.ParseTables(h, buf)
	if err != nil {
		return t, err
	}
	c.put(k, t, len(buf)+256)
	return t, nil
}

// read fills dst with the content of p, from the piece's beginning on. Every
// byte was checked.
func (c *frameCache) read(p *piece, dst []byte) error {
	if p.payload == zeroes {
		clear(dst)
		return nil
	}
	if err := c.readPayload(p, dst); err != nil {
		if !errors.Is(err, segment.ErrDamaged) && !errors.Is(err, segment.ErrEntry) && !errors.Is(err, segment.ErrVersion) {
			return fmt.Errorf("read redo at %v: %w", p.position(), err)
		}
		return problem.Wrap(err, problem.JournalDamaged, "the entry at %v cannot be read; points before it are not hit", p.position())
	}
	return nil
}

func (c *frameCache) readPayload(p *piece, dst []byte) error {
	t, err := c.tables(p.seg, p.frame)
	if err != nil {
		return err
	}
	off := int(p.payload)
	h := t.Header()
	if p.seq < h.First || p.seq > h.Last() || off+len(dst) > h.Payload {
		return fmt.Errorf("%w: frame does not hold entry %d", segment.ErrDamaged, p.seq)
	}
	buf := c.bufs.Get().(*readBuffer)
	defer c.bufs.Put(buf)
	for len(dst) > 0 {
		b := t.BlockAt(off)
		in := off - b.Start
		n := min(len(dst), b.Length-in)
		stored := buf.stored[:b.Stored]
		if err := p.seg.readAt(stored, int64(p.frame)+int64(b.Offset)); err != nil {
			return err
		}
		if err := b.Read(&buf.scratch, dst[:n], in, stored); err != nil {
			return err
		}
		dst, off = dst[n:], off+n
	}
	return nil
}
