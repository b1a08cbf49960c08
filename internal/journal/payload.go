package journal

import (
	"container/list"
	"fmt"
	"sync"

	"rebound/internal/problem"
	"rebound/internal/segment"
)

// frameCacheBytes bounds the memory for frames' tables and decoded blocks.
const frameCacheBytes = 16 << 20

// frameCache keeps tables of frames that were read lately, which say where in a
// segment a payload's blocks lie, and blocks that were decoded: what a guest
// reads next is often beside what it has just read.
type frameCache struct {
	mu    sync.Mutex
	limit int
	used  int
	order *list.List // newest first
	items map[frameKey]*list.Element
	bufs  sync.Pool // of *readBuffer
}

// frameKey names a frame's tables, or with a block > 0 one of its blocks.
type frameKey struct {
	segment uint64
	offset  uint32
	block   int // counted from 1
}

type frameItem struct {
	key    frameKey
	tables segment.Tables
	data   []byte // of a block
	cost   int
}

type readBuffer struct {
	stored  [segment.MaxBlock]byte
	scratch segment.Scratch
}

func newFrameCache(limit int) *frameCache {
	c := &frameCache{limit: limit, order: list.New(), items: map[frameKey]*list.Element{}}
	c.bufs.New = func() any { return new(readBuffer) }
	return c
}

// get returns what is kept under k, or nil. Items are never changed.
func (c *frameCache) get(k frameKey) *frameItem {
	c.mu.Lock()
	defer c.mu.Unlock()
	el := c.items[k]
	if el == nil {
		return nil
	}
	c.order.MoveToFront(el)
	return el.Value.(*frameItem)
}

func (c *frameCache) put(it *frameItem) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.items[it.key] != nil {
		return
	}
	c.items[it.key] = c.order.PushFront(it)
	c.used += it.cost
	for c.used > c.limit && c.order.Len() > 1 {
		el := c.order.Back()
		it := c.order.Remove(el).(*frameItem)
		delete(c.items, it.key)
		c.used -= it.cost
	}
}

// tables returns the tables of the frame that holds a piece.
func (c *frameCache) tables(s *segmentFile, frame uint32) (segment.Tables, error) {
	k := frameKey{s.Number, frame, 0}
	if it := c.get(k); it != nil {
		return it.tables, nil
	}
	var head [segment.HeaderSize]byte
	if err := s.readAt(head[:], int64(frame)); err != nil {
		return segment.Tables{}, err
	}
	h, err := segment.ParseStoredHeader(head[:])
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
	if err == nil {
		t, err = t.WithKey(s.key)
	}
	if err != nil {
		return t, err
	}
	c.put(&frameItem{key: k, tables: t, cost: len(buf) + 256})
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
		if !segment.NoFrame(err) {
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
	for len(dst) > 0 {
		b := t.BlockAt(off)
		in := off - b.Start
		n := min(len(dst), b.Length-in)
		if err := c.readBlock(p, &b, dst[:n], in); err != nil {
			return err
		}
		dst, off = dst[n:], off+n
	}
	return nil
}

// readBlock fills dst from one block. A compressed block of which a part is
// wanted is kept decoded.
func (c *frameCache) readBlock(p *piece, b *segment.Block, dst []byte, in int) error {
	k := frameKey{p.seg.Number, p.frame, 1 + b.Start/segment.BlockSize}
	keep := b.Costly() && len(dst) < b.Length
	if keep {
		if it := c.get(k); it != nil {
			copy(dst, it.data[in:])
			return nil
		}
	}
	buf := c.bufs.Get().(*readBuffer)
	defer c.bufs.Put(buf)
	stored := buf.stored[:b.Stored]
	if err := p.seg.readAt(stored, int64(p.frame)+int64(b.Offset)); err != nil {
		return err
	}
	if !keep {
		return b.Read(&buf.scratch, dst, in, stored)
	}
	data := make([]byte, b.Length)
	if err := b.Read(&buf.scratch, data, 0, stored); err != nil {
		return err
	}
	c.put(&frameItem{key: k, data: data, cost: len(data) + 256})
	copy(dst, data[in:])
	return nil
}
