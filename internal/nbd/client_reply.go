package nbd

import (
	"fmt"

	"rebound/internal/extent"
)

// Bounds of what a reply may make the client read into memory.
const (
	maxErrorChunk  = 64<<10 + 64
	maxStatusChunk = 4 + 8<<20
)

// readReplies is the reader: it ends with the connection.
func (c *Client) readReplies() {
	defer close(c.exited)
	err := c.replies()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reading = false
	c.setErrLocked(fmt.Errorf("read reply: %w", err))
	c.t.cut()
	c.failAllLocked()
}

func (c *Client) replies() error {
	for {
		m, err := c.in.peek(4)
		if err != nil {
			return err
		}
		switch magic := be.Uint32(m); {
		case magic == magicSimple:
			err = c.simple()
		case magic == magicStructured && c.info.Structured:
			err = c.chunk()
		default:
			err = fmt.Errorf("%w: reply magic %#x", ErrProtocol, magic)
		}
		if err != nil {
			return err
		}
	}
}

// find returns the slot of a reply.
func (c *Client) find(cookie uint64) (*slot, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := int(cookie & slotMask); i < len(c.slots) {
		s := c.slots[i]
		if s.active && !s.queued && !s.replied && s.cookie == cookie {
			return s, nil
		}
	}
	return nil, fmt.Errorf("%w: reply to unknown request %#x", ErrProtocol, cookie)
}

// finish ends a request on its last reply message.
func (c *Client) finish(s *slot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.completeLocked(s)
}

// setError notes an error reply; the first one stays.
func (c *Client) setError(s *slot, errno Errno, msg string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.err == nil {
		s.err = &RemoteError{errno, msg}
	}
	if errno == ESHUTDOWN {
		c.leaving = true // Close follows when nothing is in flight
	}
}

func (c *Client) simple() error {
	b, err := c.in.next(simpleSize)
	if err != nil {
		return err
	}
	errno, cookie := Errno(be.Uint32(b[4:])), be.Uint64(b[8:])
	s, err := c.find(cookie)
	if err != nil {
		return err
	}
	switch {
	case c.info.Structured && (s.op == OpRead || (s.op == OpBlockStatus && errno == 0)):
		return fmt.Errorf("%w: simple reply to %v", ErrProtocol, s.op)
	case errno != 0:
		c.setError(s, errno, "")
	case s.op == OpRead:
		if err := c.fill(s, s.off, s.length); err != nil {
			return err
		}
	}
	c.finish(s)
	return nil
}

// fill reads n bytes of content at off into the caller's buffer, or skips them
// if the caller has left. The range has been checked.
func (c *Client) fill(s *slot, off, n int64) error {
	c.mu.Lock()
	dst := s.data
	s.filling = dst != nil
	c.mu.Unlock()
	if dst == nil {
		return c.in.discard(n)
	}
	at := off - s.off
	err := c.in.full(dst[at : at+n])
	if err != nil {
		return err // s is completed once the reader has returned
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.filling = false
	if s.leave {
		c.letGoLocked(s)
	}
	return nil
}

// zero is fill for a hole.
func (c *Client) zero(s *slot, off, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.data != nil {
		at := off - s.off
		clear(s.data[at : at+n])
	}
}

func (c *Client) chunk() error {
	b, err := c.in.next(chunkSize)
	if err != nil {
		return err
	}
	h := parseChunk(b)
	s, err := c.find(h.cookie)
	if err != nil {
		return err
	}
	switch {
	case h.typ&chunkErrorBit != 0:
		err = c.errorChunk(s, h)
	case h.typ == chunkNone:
		if h.length != 0 || !h.done {
			err = fmt.Errorf("%w: NONE chunk with payload or not last", ErrProtocol)
		}
	case h.typ == chunkOffsetData && s.op == OpRead:
		err = c.dataChunk(s, h)
	case h.typ == chunkOffsetHole && s.op == OpRead:
		err = c.holeChunk(s, h)
	case h.typ == chunkBlockStatus && s.op == OpBlockStatus:
		err = c.statusChunk(s, h)
	default:
		err = fmt.Errorf("%w: chunk type %d in reply to %v", ErrProtocol, h.typ, s.op)
	}
	if err != nil || !h.done {
		return err
	}
	if err := c.complete(s); err != nil {
		return err
	}
	c.finish(s)
	return nil
}

// complete checks that a reply without an error brought all that it must.
func (c *Client) complete(s *slot) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case s.err != nil:
	case s.op == OpRead && s.cover.Bytes() != s.length:
		return fmt.Errorf("%w: read of %d bytes ended with %d", ErrProtocol, s.length, s.cover.Bytes())
	case s.op == OpBlockStatus && len(s.statuses) == 0:
		return fmt.Errorf("%w: block status without a context", ErrProtocol)
	}
	return nil
}

func (c *Client) errorChunk(s *slot, h chunkHeader) error {
	if h.length > maxErrorChunk {
		return fmt.Errorf("%w: error chunk of %d bytes", ErrProtocol, h.length)
	}
	b, err := c.in.next(int(h.length))
	if err != nil {
		return noEOF(err)
	}
	errno, msg, off, err := parseError(h.typ, b)
	if err != nil {
		return err
	}
	if h.typ == chunkErrorOffset && (off < s.off || off > s.off+s.length) {
		return fmt.Errorf("%w: error at %d, outside the request", ErrProtocol, off)
	}
	c.setError(s, errno, msg)
	return nil
}

// takes checks that content lies in the request and comes once, and notes it.
func (s *slot) takes(off uint64, n int64) error {
	if off < uint64(s.off) || n <= 0 || off-uint64(s.off) > uint64(s.length) || n > s.length-int64(off-uint64(s.off)) {
		return fmt.Errorf("%w: content outside the request", ErrProtocol)
	}
	r := extent.Range{Off: int64(off), Len: n}
	if s.cover.Overlaps(r) {
		return fmt.Errorf("%w: content sent twice", ErrProtocol)
	}
	s.cover.Add(r)
	return nil
}

func (c *Client) dataChunk(s *slot, h chunkHeader) error {
	if h.length < 9 {
		return fmt.Errorf("%w: data chunk of %d bytes", ErrProtocol, h.length)
	}
	b, err := c.in.next(8)
	if err != nil {
		return noEOF(err)
	}
	off, n := be.Uint64(b), int64(h.length)-8
	if err := s.takes(off, n); err != nil {
		return err
	}
	return c.fill(s, int64(off), n)
}

func (c *Client) holeChunk(s *slot, h chunkHeader) error {
	if h.length != 12 {
		return fmt.Errorf("%w: hole chunk of %d bytes", ErrProtocol, h.length)
	}
	b, err := c.in.next(12)
	if err != nil {
		return noEOF(err)
	}
	off, n := be.Uint64(b), int64(be.Uint32(b[8:]))
	if err := s.takes(off, n); err != nil {
		return err
	}
	c.zero(s, int64(off), n)
	return nil
}

func (c *Client) statusChunk(s *slot, h chunkHeader) error {
	if h.length > maxStatusChunk {
		return fmt.Errorf("%w: block status of %d bytes", ErrProtocol, h.length)
	}
	b := make([]byte, h.length)
	if err := c.in.full(b); err != nil {
		return err
	}
	id, runs, err := parseBlockStatus(b)
	if err != nil {
		return err
	}
	if _, known := c.contexts[id]; !known {
		return fmt.Errorf("%w: block status of unknown context %d", ErrProtocol, id)
	}
	for _, have := range s.statuses {
		if have.id == id {
			return fmt.Errorf("%w: block status of context %d twice", ErrProtocol, id)
		}
	}
	s.statuses = append(s.statuses, contextStatus{id, runs})
	return nil
}
