package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// Conn is one client's connection to one export, in the transmission phase.
//
// One goroutine reads requests. Replies are queued and written by whoever
// completes a request while nobody else is writing; while the reader still has
// requests in its buffer they wait (corked), so that one system call answers
// the whole batch.
type Conn struct {
	id         uint64
	exp        *export
	s          *Server
	t          transport
	in         *input
	remote     net.Addr
	structured bool
	allocation bool // base:allocation was negotiated
	// ctx ends with the connection; device calls run under it.
	ctx    context.Context
	cancel context.CancelFunc

	alive atomic.Bool

	mu         sync.Mutex
	changed    sync.Cond // requests, bytes, writing or broken changed
	head, tail *Request  // completed, not yet taken by the writer
	corked     bool
	writing    bool
	draining   bool
	waiters    int
	requests   int
	bytes      int64
	broken     error

	// Scratch of the one who writes.
	batch []*Request
	heads []byte
	vec   vector
}

// Bounds of one batch of replies.
const (
	maxBatch      = 256
	maxBatchBytes = 4 << 20
)

// contextAllocation is the id of base:allocation on our connections.
const contextAllocation = 1

// Export returns the name of the export.
func (c *Conn) Export() string { return c.exp.Name }

// ID is unique within the server, from 1.
func (c *Conn) ID() uint64 { return c.id }

// RemoteAddr returns the client's address.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// Alive reports whether the socket is open and no side has broken it.
func (c *Conn) Alive() bool { return c.alive.Load() }

// InFlight returns the number of requests not yet answered.
func (c *Conn) InFlight() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.requests
}

// Close cuts the connection at once, without waiting for anything. Requests in
// flight must still be completed. Safe from any goroutine.
func (c *Conn) Close() error {
	c.fail(ErrClosed)
	return nil
}

// fail breaks the connection; the first reason stays.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	c.failLocked(err)
	c.mu.Unlock()
}

func (c *Conn) failLocked(err error) {
	if c.broken == nil {
		c.broken = err
		c.alive.Store(false)
		c.t.cut()
		c.cancel()
		c.changed.Broadcast()
	}
	if !c.writing {
		c.dropLocked()
	}
}

// dropLocked forgets the replies that nobody will read.
func (c *Conn) dropLocked() {
	for r := c.head; r != nil; {
		next := r.next
		c.releaseLocked(r)
		r = next
	}
	c.head, c.tail = nil, nil
}

// serve runs the transmission phase until it ends. It returns nil after an
// orderly goodbye or a drain.
func (c *Conn) serve() error {
	c.in.before, c.in.after = c.uncork, c.cork
	err := c.serveRequests()
	c.uncork()
	if err == nil {
		c.awaitIdle()
	}
	c.mu.Lock()
	if err == nil && c.broken != nil {
		err = c.broken
	}
	c.alive.Store(false)
	if c.broken == nil {
		c.broken = ErrClosed
		if err != nil {
			c.broken = err
		}
	}
	if err != nil {
		c.t.cut()
	}
	c.cancel()
	c.changed.Broadcast()
	for c.writing {
		c.changed.Wait()
	}
	c.dropLocked()
	c.mu.Unlock()
	c.t.close()
	return err
}

func (c *Conn) serveRequests() error {
	for {
		head, err := c.in.next(requestSize)
		if err != nil {
			return c.readError(err)
		}
		h, err := parseRequest(head)
		if err != nil {
			return c.refusing(err)
		}
		if h.op == opDisc {
			return nil
		}
		r, errno, why := c.admit(h)
		if r == nil {
			return c.readError(io.ErrClosedPipe)
		}
		if err := c.payload(r, h, errno); err != nil {
			c.abandon(r)
			if errors.Is(err, ErrProtocol) {
				err = c.refusing(err)
			}
			return c.readError(err)
		}
		if errno != 0 {
			r.Done(c.refusing(fmt.Errorf("%w: %s", errno, why)))
			continue
		}
		c.exp.handler.Handle(r)
	}
}

// refusing tells the export's owner that a request will be refused.
func (c *Conn) refusing(err error) error {
	if f := c.exp.OnRefuse; f != nil {
		f(c, err)
	}
	return err
}

// readError explains why reading ended: our own reason, an orderly drain, or
// the peer's.
func (c *Conn) readError(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.broken != nil:
		return c.broken
	case errors.Is(err, io.EOF):
		return fmt.Errorf("client closed without goodbye: %w", io.EOF)
	}
	return fmt.Errorf("read request: %w", err)
}

// admit takes a request in, waiting for room. A nil request means that the
// connection broke; errno says why the request is refused.
func (c *Conn) admit(h reqHeader) (r *Request, errno Errno, why string) {
	errno, why = c.check(h)
	cost := int64(0)
	if errno == 0 && (h.op == OpRead || h.op == OpWrite) {
		cost = int64(h.length)
	}
	if !c.reserve(cost) {
		return nil, 0, ""
	}
	r, ok := c.s.requests.Get().(*Request)
	if !ok {
		r = new(Request)
	}
	r.conn, r.Op, r.Flags, r.cookie = c, h.op, h.flags, h.cookie
	r.Offset, r.Length, r.cost = int64(h.off), int64(h.length), cost
	r.open.Store(true)
	return r, errno, why
}

// reserve waits until one more request of so many bytes may be in flight.
func (c *Conn) reserve(cost int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	corked := c.corked
	for c.broken == nil && c.requests > 0 && (c.requests >= c.exp.MaxRequests || c.bytes+cost > c.exp.MaxBytes) {
		if c.corked {
			c.corked = false
			c.flushLocked(false)
			continue
		}
		c.waiters++
		c.changed.Wait()
		c.waiters--
	}
	c.corked = corked
	if c.broken != nil {
		return false
	}
	c.requests++
	c.bytes += cost
	return true
}

// payload reads the data of a WRITE, or skips that of a refused one.
func (c *Conn) payload(r *Request, h reqHeader, errno Errno) error {
	switch {
	case h.op == OpWrite && errno != 0:
		if h.length > maxPayloadDrain {
			return fmt.Errorf("%w: write of %d bytes", ErrProtocol, h.length)
		}
		return c.in.discard(int64(h.length))
	case errno != 0:
	case h.op == OpWrite:
		r.buf = c.s.buffers.get(int(h.length))
		r.Data = r.buf.data
		return c.in.full(r.Data)
	case h.op == OpRead:
		r.buf = c.s.buffers.get(int(h.length))
		r.Data = r.buf.data
	}
	return nil
}

// abandon gives back a request that never reached the back end.
func (c *Conn) abandon(r *Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r.open.Store(false)
	c.releaseLocked(r)
}

// releaseLocked returns r to the pool and its share of the limits.
func (c *Conn) releaseLocked(r *Request) {
	c.requests--
	c.bytes -= r.cost
	if c.waiters > 0 {
		c.changed.Broadcast()
	}
	if r.buf != nil {
		r.buf.Release()
	}
	parts := r.parts[:0]
	*r = Request{parts: parts}
	c.s.requests.Put(r)
}

// finish is Request.Done; mayBlock allows waiting for the client's socket.
func (c *Conn) finish(r *Request, err error, mayBlock bool) {
	if !r.open.CompareAndSwap(true, false) {
		panic("nbd: request completed twice")
	}
	if err == nil && r.Op == OpBlockStatus {
		err = r.checkExtents()
	}
	if err != nil {
		r.errno = errnoOf(err, r.Op)
		if c.structured {
			r.msg = err.Error()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken != nil && !c.writing {
		c.releaseLocked(r)
		return
	}
	if c.tail == nil {
		c.head = r
	} else {
		c.tail.next = r
	}
	c.tail = r
	if !c.corked {
		c.flushLocked(mayBlock)
	}
}

func (c *Conn) cork() {
	c.mu.Lock()
	c.corked = true
	c.mu.Unlock()
}

// uncork sends what has gathered; called before the reader may wait.
func (c *Conn) uncork() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.corked = false
	c.flushLocked(false)
}

// flushLocked writes queued replies unless somebody is writing, who will then
// take them too. With mayBlock false it never waits for the socket: what does
// not fit is left to a goroutine.
func (c *Conn) flushLocked(mayBlock bool) {
	if c.writing || c.head == nil {
		return
	}
	c.writing = true
	c.writeQueueLocked(mayBlock)
}

// writeQueueLocked is the writer's loop: c.writing is set and c.mu held.
func (c *Conn) writeQueueLocked(mayBlock bool) {
	for c.head != nil && c.broken == nil {
		c.takeBatchLocked()
		c.mu.Unlock()
		rest, err := c.t.try(c.encodeBatch())
		if err == nil && len(rest) > 0 {
			if !mayBlock {
				go c.finishWrite(rest)
				c.mu.Lock()
				return
			}
			err = c.t.write(rest)
		}
		c.mu.Lock()
		c.batchDoneLocked(err)
	}
	c.writing = false
	if c.broken != nil {
		c.dropLocked()
	}
	c.changed.Broadcast()
}

// finishWrite goes on for a writer that must not wait.
func (c *Conn) finishWrite(rest vector) {
	err := c.t.write(rest)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.batchDoneLocked(err)
	c.writeQueueLocked(true)
}

func (c *Conn) takeBatchLocked() {
	c.batch = c.batch[:0]
	var bytes int64
	for c.head != nil && len(c.batch) < maxBatch && bytes < maxBatchBytes {
		r := c.head
		c.head, r.next = r.next, nil
		bytes += r.cost
		c.batch = append(c.batch, r)
	}
	if c.head == nil {
		c.tail = nil
	}
}

func (c *Conn) batchDoneLocked(err error) {
	for i, r := range c.batch {
		c.releaseLocked(r)
		c.batch[i] = nil
	}
	clear(c.vec)
	if err != nil {
		c.failLocked(fmt.Errorf("write reply: %w", err))
	}
}

// awaitIdle waits until every request was answered or the connection broke.
func (c *Conn) awaitIdle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiters++
	defer func() { c.waiters-- }()
	for c.broken == nil && (c.requests > 0 || c.writing) {
		c.changed.Wait()
	}
}

// awaitReleased waits until the back end holds no request of c any more.
func (c *Conn) awaitReleased() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiters++
	defer func() { c.waiters-- }()
	for c.requests > 0 {
		c.changed.Wait()
	}
}

// drain refuses new requests with ESHUTDOWN, waits for those in flight, and
// cuts the connection.
func (c *Conn) drain() {
	c.mu.Lock()
	c.draining = true
	c.mu.Unlock()
	c.awaitIdle()
	c.fail(ErrClosed)
	c.awaitReleased()
}
