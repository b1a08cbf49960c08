package link

import (
	"context"
	"sync"
	"time"

	"rebound/internal/dr"
)

const (
	// limitBurst is how much of a limit may be saved up while nothing is sent.
	limitBurst = 100 * time.Millisecond
	// limitLook is how often a wait looks at the schedule again.
	limitLook = 250 * time.Millisecond
)

// Throttle is a Limiter that follows a schedule of bandwidths. It may be used
// by several streams, which then share it. The zero value does not limit.
type Throttle struct {
	mu       sync.Mutex
	schedule dr.BandwidthSchedule
	tokens   float64 // bytes that may be sent; below zero after a large frame
	at       time.Time
}

var _ Limiter = (*Throttle)(nil)

// Set changes the schedule, also for who waits now.
func (t *Throttle) Set(s dr.BandwidthSchedule) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.schedule = s
}

// Wait implements Limiter. A frame that is larger than what may be sent now goes
// out once the frames before it have been paid for, and is paid for after it.
func (t *Throttle) Wait(ctx context.Context, bytes int) error {
	for {
		d := t.take(time.Now(), bytes)
		if d == 0 {
			return nil
		}
		timer := time.NewTimer(min(d, limitLook))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}

// take pays for bytes, or returns for how long they have to wait.
func (t *Throttle) take(now time.Time, bytes int) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	rate := float64(t.schedule.At(now))
	passed := now.Sub(t.at)
	t.at = now
	if rate == 0 {
		t.tokens = 0
		return 0
	}
	t.tokens = min(t.tokens+rate*max(passed, 0).Seconds(), rate*limitBurst.Seconds())
	if t.tokens < 0 {
		return max(time.Duration(-t.tokens/rate*float64(time.Second)), time.Millisecond)
	}
	t.tokens -= float64(bytes)
	return 0
}
