package capture

import (
	"fmt"
	"time"
)

// Limits bound what a group may take of memory and of its guests' time. The
// zero value of a field means its default.
type Limits struct {
	// RingBytes is the memory for writes that the standby has not made
	// durable: 2 MiB to 64 GiB, default 64 MiB.
	RingBytes int64 `json:"ringBytes,omitempty"`
	// DelayAbove is the fill of the ring, in percent, from which
	// acknowledgements are delayed: 1 to 99, default 50. The delay grows
	// with the fill up to MaxWriteDelay.
	DelayAbove int `json:"delayAbove,omitempty"`
	// MaxWriteDelay is the longest that one write is held back, from when
	// its header was read: default 20 ms.
	MaxWriteDelay time.Duration `json:"maxWriteDelay,omitempty"`
	// MaxTotalDelay is for how long writes are held back in one episode; a
	// new one begins once the ring is below half of DelayAbove. Default 2 s.
	MaxTotalDelay time.Duration `json:"maxTotalDelay,omitempty"`
	// SyncBelow is the fill of the ring, in percent, up to which a
	// synchronisation may add to it: 1 to 99, default 40.
	SyncBelow int `json:"syncBelow,omitempty"`
}

// The defaults: design values that keep a guest's pause below what its
// timeouts notice.
const (
	defaultRingBytes     = 64 << 20
	minRingBytes         = 2 << 20
	maxRingBytes         = 64 << 30
	defaultDelayAbove    = 50
	defaultMaxWriteDelay = 20 * time.Millisecond
	defaultMaxTotalDelay = 2 * time.Second
	defaultSyncBelow     = 40
)

// withDefaults fills in what is zero.
func (l Limits) withDefaults() Limits {
	if l.RingBytes == 0 {
		l.RingBytes = defaultRingBytes
	}
	if l.DelayAbove == 0 {
		l.DelayAbove = defaultDelayAbove
	}
	if l.MaxWriteDelay == 0 {
		l.MaxWriteDelay = defaultMaxWriteDelay
	}
	if l.MaxTotalDelay == 0 {
		l.MaxTotalDelay = defaultMaxTotalDelay
	}
	if l.SyncBelow == 0 {
		l.SyncBelow = defaultSyncBelow
	}
	return l
}

// Validate reports the first field out of its range.
func (l Limits) Validate() error {
	l = l.withDefaults()
	switch {
	case l.RingBytes < minRingBytes || l.RingBytes > maxRingBytes:
		return fmt.Errorf("ringBytes %d: want %d to %d", l.RingBytes, int64(minRingBytes), int64(maxRingBytes))
	case l.DelayAbove < 1 || l.DelayAbove > 99:
		return fmt.Errorf("delayAbove %d: want 1 to 99 percent", l.DelayAbove)
	case l.SyncBelow < 1 || l.SyncBelow > 99:
		return fmt.Errorf("syncBelow %d: want 1 to 99 percent", l.SyncBelow)
	case l.MaxWriteDelay < 0:
		return fmt.Errorf("maxWriteDelay %v: want no negative time", l.MaxWriteDelay)
	case l.MaxTotalDelay < 0:
		return fmt.Errorf("maxTotalDelay %v: want no negative time", l.MaxTotalDelay)
	}
	return nil
}

// overflow is what becomes of a write that the ring has no room for.
type overflow uint8

const (
	// overflowHold holds its acknowledgement back; the write is in the ring
	// already, beyond its size: what guests may have in flight is bounded.
	overflowHold overflow = iota
	// overflowShed breaks the stream: guests go on, bitmaps remember.
	overflowShed
)

// throttle decides for how long acknowledgements are held back. It is pure: the
// caller brings the time and the ring's fill, and serialises calls.
type throttle struct {
	size, above int64 // of the ring; where delaying begins
	perWrite    time.Duration
	total       time.Duration

	spent time.Duration // of total, in this episode
	until time.Duration // end of the last interval charged
}

func newThrottle(l Limits) throttle {
	return throttle{
		size: l.RingBytes, above: l.RingBytes / 100 * int64(l.DelayAbove),
		perWrite: l.MaxWriteDelay, total: l.MaxTotalDelay,
	}
}

// charge counts the interval from..to, once however many writes share it.
func (t *throttle) charge(from, to time.Duration) {
	if to > t.until {
		t.spent += to - max(from, t.until)
		t.until = to
	}
}

// drained is told of the ring's fill when it sinks.
func (t *throttle) drained(used int64) {
	if used <= t.above/2 {
		t.spent = 0
	}
}

// delay returns for how long the acknowledgement of a write is held back that
// made the ring as full as used says.
func (t *throttle) delay(now time.Duration, used int64) time.Duration {
	if used <= t.above || t.spent >= t.total {
		return 0
	}
	over := min(float64(used-t.above)/float64(t.size-t.above), 1)
	d := min(time.Duration(float64(t.perWrite)*over), t.total-t.spent)
	t.charge(now, now+d)
	return d
}

// decide says what becomes of a write that finds the ring over its size: at
// its arrival, and once its delay is over. This is the one place where a
// backlog beyond memory is dealt with.
func (t *throttle) decide(delayOver bool) overflow {
	if delayOver || t.spent >= t.total || t.perWrite == 0 {
		return overflowShed
	}
	return overflowHold
}
