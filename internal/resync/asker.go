package resync

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"rebound/internal/link"
)

// redialer asks over a compare connection and dials a new one when it breaks.
// It may be used by many goroutines; one dials, the others wait for it.
type redialer struct {
	dial     DialFunc
	min, max time.Duration

	gate     chan struct{} // holds one token while somebody looks at the rest
	cur      Asker
	failures int // since the last answer
}

func newRedialer(dial DialFunc) *redialer {
	return &redialer{dial: dial, min: 20 * time.Millisecond, max: 5 * time.Second, gate: make(chan struct{}, 1)}
}

// Hashes asks until there is an answer, ctx ends or the standby refuses for
// good.
func (r *redialer) Hashes(ctx context.Context, req *link.CompareRequest) (link.CompareAnswer, error) {
	for {
		a, err := r.get(ctx)
		if err != nil {
			return link.CompareAnswer{}, err
		}
		answer, err := a.Hashes(ctx, req)
		if err == nil {
			return answer, r.settle(ctx, nil)
		}
		if ctx.Err() != nil {
			return answer, context.Cause(ctx)
		}
		if link.Permanent(err) {
			return answer, err
		}
		if err := r.settle(ctx, a); err != nil {
			return answer, err
		}
	}
}

func (r *redialer) lock(ctx context.Context) error {
	select {
	case r.gate <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// settle notes the end of a question: broken is the connection it broke, nil
// after an answer.
func (r *redialer) settle(ctx context.Context, broken Asker) error {
	if err := r.lock(ctx); err != nil {
		return err
	}
	defer func() { <-r.gate }()
	switch {
	case broken == nil:
		r.failures = 0
	case r.cur == broken:
		r.failures++
		r.cur = nil
		_ = broken.Close()
	}
	return nil
}

// get returns the open connection, or dials one.
func (r *redialer) get(ctx context.Context) (Asker, error) {
	if err := r.lock(ctx); err != nil {
		return nil, err
	}
	defer func() { <-r.gate }()
	for r.cur == nil {
		if r.failures > 0 {
			if err := r.pause(ctx); err != nil {
				return nil, err
			}
		}
		a, err := r.dial(ctx)
		switch {
		case err == nil:
			r.cur = a
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case link.Permanent(err):
			return nil, err
		default:
			r.failures++
		}
	}
	return r.cur, nil
}

// pause waits twice as long after each failure, with a jitter of half.
func (r *redialer) pause(ctx context.Context) error {
	d := min(r.min<<min(r.failures-1, 20), r.max)
	t := time.NewTimer(d/2 + rand.N(d/2+1))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Close closes the open connection, once nobody asks any more.
func (r *redialer) Close() error {
	r.gate <- struct{}{}
	defer func() { <-r.gate }()
	if r.cur == nil {
		return nil
	}
	a := r.cur
	r.cur = nil
	return a.Close()
}

var errNoDial = errors.New("resync: nobody to compare with")
