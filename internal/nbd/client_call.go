package nbd

import (
	"context"
	"fmt"
	"time"
)

// command is one request as the caller of start sees it.
type command struct {
	op     Op
	flags  CmdFlags
	off    int64
	length int64
	data   []byte
}

// acquire takes a free slot. With wait false it returns nil when there is none.
func (c *Client) acquire(ctx context.Context, wait bool) (*slot, error) {
	select {
	case s := <-c.free:
		return s, nil
	default:
	}
	if !wait {
		return nil, nil
	}
	select {
	case s := <-c.free:
		return s, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-c.lost:
		return nil, c.Err()
	}
}

// start queues a request in s and sends the queue unless somebody is sending.
func (c *Client) start(s *slot, cmd command) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.err
	if err == nil && c.leaving {
		err = ESHUTDOWN
	}
	if err != nil {
		c.free <- s
		return err
	}
	s.cookie += 1 << slotShift
	s.op, s.off, s.length, s.data = cmd.op, cmd.off, cmd.length, cmd.data
	s.active, s.queued = true, true
	s.sending, s.filling, s.replied, s.leave, s.abandoned = false, false, false, false, false
	s.err, s.statuses = nil, nil
	s.cover.Reset()
	appendRequest(s.head[:0], reqHeader{cmd.flags, cmd.op, s.cookie, uint64(cmd.off), uint32(cmd.length)})
	c.inFlight++
	c.queue = append(c.queue, s)
	if !c.writing {
		c.writing = true
		c.sendLocked(false)
	}
	return nil
}

// sendLocked is the writer's loop: c.writing is set and c.mu held. With
// mayBlock false what the socket does not take is left to a goroutine.
func (c *Client) sendLocked(mayBlock bool) {
	for len(c.queue) > 0 && c.err == nil {
		c.batch, c.vec = c.batch[:0], c.vec[:0]
		n := min(len(c.queue), maxBatch)
		for _, s := range c.queue[:n] {
			s.queued, s.sending = false, true
			c.batch = append(c.batch, s)
			c.vec = c.vec.add(s.head[:])
			if s.op == OpWrite {
				c.vec = c.vec.add(s.data)
			}
		}
		c.queue = append(c.queue[:0], c.queue[n:]...)
		c.mu.Unlock()
		rest, err := c.t.try(c.vec)
		if err == nil && len(rest) > 0 {
			if !mayBlock {
				go c.finishSend(rest)
				c.mu.Lock()
				return
			}
			err = c.t.write(rest)
		}
		c.mu.Lock()
		c.sentLocked(err)
	}
	c.writing = false
	c.failAllLocked()
}

func (c *Client) finishSend(rest vector) {
	err := c.t.write(rest)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sentLocked(err)
	c.sendLocked(true)
}

// sentLocked ends the sending of a batch: its data is the callers' again.
func (c *Client) sentLocked(err error) {
	clear(c.vec)
	if err != nil {
		c.setErrLocked(fmt.Errorf("write request: %w", err))
		c.t.cut()
	}
	for i, s := range c.batch {
		c.batch[i] = nil
		s.sending = false
		if s.replied {
			c.completeLocked(s)
		} else if s.leave && err == nil {
			c.letGoLocked(s)
		}
	}
}

// completeLocked ends a request whose reply has come or never will.
func (c *Client) completeLocked(s *slot) {
	if s.sending {
		s.replied = true
		return
	}
	s.active, s.data = false, nil
	c.inFlight--
	if s.abandoned {
		c.free <- s
	} else {
		s.done <- true
	}
	if c.leaving && c.inFlight == 0 && c.err == nil {
		go c.Close() //nolint:errcheck // never fails
	}
}

// letGoLocked lets a caller go that waits to leave; the reply will be skipped.
func (c *Client) letGoLocked(s *slot) {
	s.abandoned, s.data = true, nil
	s.done <- false
}

// wait returns the outcome of a started request and, unless the caller left
// before the reply, gives the slot back. take, if set, runs before that.
func (c *Client) wait(ctx context.Context, s *slot, take func(*slot)) error {
	select {
	case <-s.done:
	case <-ctx.Done():
		if !c.leave(s) {
			return ctx.Err()
		}
	}
	c.mu.Lock()
	err := s.err
	c.mu.Unlock()
	if err == nil && take != nil {
		take(s)
	}
	c.free <- s
	return err
}

// leave gives up a request. It returns true if the request was completed after
// all, false if the slot is no longer the caller's.
func (c *Client) leave(s *slot) bool {
	c.mu.Lock()
	switch {
	case !s.active || c.err != nil: // completed, or about to be
		c.mu.Unlock()
		return <-s.done
	case s.queued:
		c.dequeueLocked(s)
		s.active, s.queued, s.data = false, false, nil
		c.inFlight--
		c.mu.Unlock()
		c.free <- s
		return false
	case !s.filling && !(s.sending && s.op == OpWrite):
		s.abandoned, s.data = true, nil
		c.mu.Unlock()
		return false
	}
	// Its data is on the wire just now, in one direction or the other.
	s.leave = true
	c.mu.Unlock()
	grace := time.NewTimer(c.opts.CancelGrace)
	defer grace.Stop()
	select {
	case completed := <-s.done:
		return completed
	case <-grace.C:
	}
	c.fail(fmt.Errorf("request cancelled while its data was on the wire: %w", ErrClosed))
	return <-s.done
}

func (c *Client) dequeueLocked(s *slot) {
	for i, q := range c.queue {
		if q == s {
			c.queue = append(c.queue[:i], c.queue[i+1:]...)
			return
		}
	}
}

// do runs one request to its end.
func (c *Client) do(ctx context.Context, cmd command, take func(*slot)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s, err := c.acquire(ctx, true)
	if err != nil {
		return err
	}
	if err := c.start(s, cmd); err != nil {
		return err
	}
	return c.wait(ctx, s, take)
}

// maxWindow bounds the parts of one split request in flight.
const maxWindow = 16

// doParts runs a request in parts of at most size bytes, several at a time. The
// first error ends it, after all that was started has ended.
func (c *Client) doParts(ctx context.Context, cmd command, size int64) error {
	if cmd.length <= size {
		return c.do(ctx, cmd, nil)
	}
	var window [maxWindow]*slot
	var first error
	head, n := 0, 0
	for cmd.length > 0 || n > 0 {
		if cmd.length > 0 && n < maxWindow && first == nil {
			s, err := c.acquire(ctx, n == 0)
			if err == nil && s != nil {
				part := cmd.cut(size)
				if err = c.start(s, part); err == nil {
					window[(head+n)%maxWindow] = s
					n++
					continue
				}
			}
			first = err // nil when there was no free slot
		}
		if n == 0 {
			return first
		}
		if err := c.wait(ctx, window[head], nil); err != nil && first == nil {
			first = err
		}
		head, n = (head+1)%maxWindow, n-1
	}
	return first
}

// cut takes the first part of at most size bytes off cmd.
func (cmd *command) cut(size int64) command {
	part := *cmd
	part.length = min(cmd.length, size)
	if cmd.data != nil {
		part.data = cmd.data[:part.length]
		cmd.data = cmd.data[part.length:]
	}
	cmd.off += part.length
	cmd.length -= part.length
	return part
}
