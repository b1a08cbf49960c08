package capture

import (
	"context"
	"time"
)

// completer is a request that waits for its acknowledgement; an *nbd.Request
// is one.
type completer interface{ Done(err error) }

// answered is a request that was acknowledged already.
type answered struct{}

func (answered) Done(error) {}

// entryCost is what each entry counts in the ring besides its data, in bytes. It
// is more than it takes, so that entries without data (zeroes, trims) fill the
// ring by their number before its table of entries overflows.
const entryCost = 1024

// verdict is what becomes of an acknowledgement.
type verdict uint8

const (
	ackNow verdict = iota
	ackHeld
	ackShed
)

// heldAck is an acknowledgement that is held back.
type heldAck struct {
	req  completer
	at   time.Duration // when it is due, on the monotonic clock
	full bool          // the ring was over its size when the write came
}

// holder is the queue of held acknowledgements, in order of their due times,
// guarded by the sequencer's lock.
type holder struct {
	queue []heldAck
	wake  chan struct{} // holds one
}

func (h *holder) signal() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// hold decides about the acknowledgement of a write that has just been put
// into the ring, which is fuller than throttle.above.
func (q *sequencer) hold(req completer) verdict {
	full := q.used > q.throttle.size
	if full && q.throttle.decide(false) == overflowShed {
		return ackShed
	}
	now := q.clock.Mono()
	d := q.throttle.delay(now, q.used)
	if d == 0 && !full {
		return ackNow
	}
	at := now + d
	if n := len(q.held.queue); n > 0 {
		at = max(at, q.held.queue[n-1].at)
	}
	q.counters.Delayed += at - now
	q.held.queue = append(q.held.queue, heldAck{req, at, full})
	return ackHeld
}

// runHeld gives the held acknowledgements when they are due, when the ring has
// room again, and when the stream is sealed. It returns when ctx ends, after
// all were given.
func (q *sequencer) runHeld(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var due []heldAck
	for {
		var next time.Duration
		var shed bool
		due, next, shed = q.takeDue(due[:0], ctx.Err() != nil)
		if shed {
			q.seal("the ring stayed full for as long as a write may be delayed")
		}
		for i := range due {
			due[i].req.Done(nil)
			due[i].req = nil
		}
		if ctx.Err() != nil {
			return
		}
		timer.Reset(next)
		select {
		case <-q.held.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
}

// takeDue moves what is due from the queue to dst. It returns for how long
// nothing else will be, and whether a write's delay ended with the ring still
// over its size.
func (q *sequencer) takeDue(dst []heldAck, all bool) ([]heldAck, time.Duration, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	all = all || q.state != StateOpen || q.used <= q.throttle.above
	now := q.clock.Mono()
	shed := false
	n := 0
	for ; n < len(q.held.queue); n++ {
		h := q.held.queue[n]
		if !all && h.at > now {
			break
		}
		if !all && h.full && q.used > q.throttle.size && q.throttle.decide(true) == overflowShed {
			shed, all = true, true
		}
		dst = append(dst, h)
	}
	rest := copy(q.held.queue, q.held.queue[n:])
	clear(q.held.queue[rest:])
	q.held.queue = q.held.queue[:rest]
	next := time.Hour
	if rest > 0 {
		next = q.held.queue[0].at - now
	}
	return dst, next, shed
}
