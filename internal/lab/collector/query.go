package collector

import (
	"context"
	"fmt"
	"time"

	"rebound/internal/lab/wire"
)

// Acks returns a copy of the acknowledgement log, oldest first, of one guest or
// (with "") of all.
func (c *Collector) Acks(guest string) []Ack {
	c.mu.Lock()
	defer c.mu.Unlock()
	var acks []Ack
	for _, a := range c.log.acks {
		if guest == "" || a.Guest == guest {
			acks = append(acks, a)
		}
	}
	return acks
}

// AckedAt returns the newest record of a boot that had been acknowledged by
// time t, 0 when none had. Boot "" means all boots of the guest.
func (c *Collector) AckedAt(guest, boot string, t time.Time) uint64 {
	var newest uint64
	for _, a := range c.Acks(guest) {
		if (boot == "" || a.Boot == boot) && !a.Wall.After(t) {
			newest = max(newest, a.Record.N)
		}
	}
	return newest
}

// Rate returns records per second acknowledged by a guest (or by all, with "")
// in the last window.
func (c *Collector) Rate(guest string, window time.Duration) float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	since := time.Since(c.start) - window
	n := 0
	for i := len(c.log.acks) - 1; i >= 0 && c.log.acks[i].Mono >= since; i-- {
		if a := c.log.acks[i]; !a.Hello && (guest == "" || a.Guest == guest) {
			n++
		}
	}
	return float64(n) / window.Seconds()
}

// WaitBoot waits until a boot of the guest that began to connect after t has
// said hello, and returns it.
func (c *Collector) WaitBoot(ctx context.Context, guest string, after time.Time) (Session, error) {
	var found Session
	err := c.wait(ctx, fmt.Sprintf("a boot of %s", guest), func() bool {
		for _, s := range c.sessions {
			if s.Guest == guest && s.Opened.After(after) && (found.Boot == "" || s.Opened.After(found.Opened)) {
				found = s.Session
			}
		}
		return found.Boot != ""
	})
	return found, err
}

// WaitNewRecord waits for the first record that a boot itself made durable and
// returns its acknowledgement.
func (c *Collector) WaitNewRecord(ctx context.Context, boot string) (Ack, error) {
	return c.WaitAck(ctx, boot, 0)
}

// WaitAck waits until a boot has acknowledged a record of its own numbered n
// or higher, and returns the first such acknowledgement.
func (c *Collector) WaitAck(ctx context.Context, boot string, n uint64) (Ack, error) {
	var found Ack
	next := 0
	err := c.wait(ctx, fmt.Sprintf("record %d of boot %s", n, boot), func() bool {
		for ; next < len(c.log.acks); next++ {
			if a := c.log.acks[next]; a.Boot == boot && !a.Hello && a.Record.N >= n {
				found = a
				return true
			}
		}
		return false
	})
	return found, err
}

// WaitReach waits for a report of what a boot can reach.
func (c *Collector) WaitReach(ctx context.Context, boot string) (wire.Reach, error) {
	var found wire.Reach
	err := c.wait(ctx, "what boot "+boot+" can reach", func() bool {
		s, ok := c.sessions[boot]
		if ok && s.Reach != nil {
			found = *s.Reach
			return true
		}
		return false
	})
	return found, err
}

// WaitLedger waits until a boot has uploaded the raw ledger that it found.
func (c *Collector) WaitLedger(ctx context.Context, boot string) (Session, error) {
	var found Session
	err := c.wait(ctx, "the ledger of boot "+boot, func() bool {
		s, ok := c.sessions[boot]
		if ok && s.ledger != nil {
			found = s.Session
			return true
		}
		return false
	})
	return found, err
}

// WaitQuiet waits until a paused guest's boot has acknowledged everything: it
// has answered with no record for the given time while connected.
func (c *Collector) WaitQuiet(ctx context.Context, boot string, quiet time.Duration) (uint64, error) {
	for {
		s, ok := c.Session(boot)
		if !ok {
			return 0, fmt.Errorf("wait for quiet: unknown boot %s", boot)
		}
		next, cancel := context.WithTimeout(ctx, quiet)
		_, err := c.WaitAck(next, boot, s.Newest.N+1)
		cancel()
		if ctx.Err() != nil {
			return 0, fmt.Errorf("wait for quiet of boot %s: %w", boot, ctx.Err())
		}
		if err != nil {
			return s.Newest.N, nil
		}
	}
}
