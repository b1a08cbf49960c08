package capture

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"rebound/internal/dr"
	"rebound/internal/segment"
)

// ackFunc is a request that calls itself when it is acknowledged.
type ackFunc func(err error)

func (f ackFunc) Done(err error) { f(err) }

// memory counts the releases of a write's data.
type memory struct{ released atomic.Int64 }

func (m *memory) Release() { m.released.Add(1) }

// testSequencer is open, with n disks attached.
func testSequencer(t testing.TB, l Limits, n int) *sequencer {
	t.Helper()
	clock := NewSystemClock()
	q := newSequencer(l, clock, &stamper{clock: clock})
	for range n {
		q.disks = append(q.disks, diskState{name: "vm/disk", conns: 1})
	}
	if err := q.open(1, 1); err != nil {
		t.Fatal(err)
	}
	return q
}

func testWrite(disk uint16, off int64, n int) slot {
	return slot{kind: segment.KindWrite, disk: disk, off: off, length: int64(n), data: make([]byte, n), cost: int64(n)}
}

// TestNumberBeforeAcknowledgement: when a write is acknowledged it is in the
// stream.
func TestNumberBeforeAcknowledgement(t *testing.T) {
	q := testSequencer(t, Limits{}, 1)
	for want := dr.Seq(1); want <= 10; want++ {
		acked := false
		q.record(testWrite(0, int64(want)*4096, 4096), ackFunc(func(error) {
			acked = true
			var e [1]segment.Entry
			if n := q.collect(want, e[:], 1); n != 1 || e[0].Offset != int64(want)*4096 {
				t.Errorf("write %d was acknowledged before it was in the stream", want)
			}
		}))
		if !acked {
			t.Fatalf("write %d was not acknowledged", want)
		}
	}
}

func TestSealEndsRecording(t *testing.T) {
	q := testSequencer(t, Limits{}, 2)
	var at dr.Position
	q.onSeal = func(p dr.Position, _ string) { at = p }
	acks := 0
	ack := ackFunc(func(err error) {
		if err != nil {
			t.Error(err)
		}
		acks++
	})
	q.record(testWrite(0, 0, 512), ack)
	q.disconnected(1, false, "gone")
	if at != (dr.Position{Generation: 1, Epoch: 1, Seq: 2}) {
		t.Errorf("break at %v", at)
	}
	m := &memory{}
	w := testWrite(0, 512, 512)
	w.owner = m
	q.record(w, ack)
	if acks != 2 || m.released.Load() != 1 {
		t.Errorf("%d acknowledged, %d released; want 2 and 1", acks, m.released.Load())
	}
	if q.head != 2 || q.at(2).kind != segment.KindBreak {
		t.Errorf("head %d, want the break at 2", q.head)
	}
	if q.seal("again") {
		t.Error("sealed twice")
	}
	if _, err := q.probe(); err == nil {
		t.Error("probe of a sealed stream")
	}
	if _, err := q.control(segment.KindMarker, segment.Marker{}); err == nil {
		t.Error("marker in a sealed stream")
	}
}

func TestProbeIsRefused(t *testing.T) {
	q := testSequencer(t, Limits{}, 2)
	old, err := q.probe()
	if err != nil {
		t.Fatal(err)
	}
	q.record(testWrite(0, 0, 512), ackFunc(func(error) {}))
	newer, err := q.probe()
	if err != nil {
		t.Fatal(err)
	}
	if newer.N != 1 || newer.Wall.Before(old.Wall) {
		t.Errorf("probe %+v after %+v", newer, old)
	}
	if _, err := q.confirm(newer); err != nil {
		t.Fatal(err)
	}
	if _, err := q.confirm(old); err == nil {
		t.Error("an older probe was confirmed after a newer one")
	}
	other := newer
	other.Epoch++
	if _, err := q.confirm(other); err == nil {
		t.Error("a probe of another epoch was confirmed")
	}
	q.sockets = func() error { return errRefused }
	if _, err := q.confirm(newer); err == nil {
		t.Error("confirmed with a socket that its client has closed")
	}
	q.sockets = func() error { return nil }
	q.mu.Lock()
	q.disks[1].conns = 0 // as between the closing of a socket and its seal
	q.mu.Unlock()
	if _, err := q.confirm(newer); err == nil {
		t.Error("confirmed without a socket of disk 1")
	}
}

func TestOpenNeedsAllDisks(t *testing.T) {
	q := testSequencer(t, Limits{}, 2)
	q.seal("test")
	q.disks[1].conns = 0
	if err := q.open(1, 2); err == nil {
		t.Error("opened without disk 1")
	}
	q.disks[1].conns = 1
	if err := q.open(1, 2); err != nil {
		t.Error(err)
	}
	if q.head != 0 || q.used != 0 {
		t.Errorf("new epoch begins at %d with %d bytes", q.head, q.used)
	}
}

// TestRingLimits: a stalled standby delays writes within the limits, then the
// stream is shed; nothing is ever delayed longer, and memory is bounded.
func TestRingLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := testSequencer(t, Limits{RingBytes: 4 << 20}, 1)
		ctx, cancel := context.WithCancel(t.Context())
		go q.runHeld(ctx)
		var longest, total time.Duration
		var peak int64
		sealedAt := time.Duration(-1)
		start := time.Now()
		q.onSeal = func(dr.Position, string) { sealedAt = time.Since(start) }
		for range 4000 { // one writer, queue depth 1
			begin := time.Now()
			acked := make(chan struct{})
			q.record(testWrite(0, 0, 4096), ackFunc(func(error) { close(acked) }))
			<-acked
			d := time.Since(begin)
			longest, total = max(longest, d), total+d
			q.mu.Lock()
			peak = max(peak, q.used)
			q.mu.Unlock()
		}
		if sealedAt < 0 {
			t.Error("the stream was not shed")
		}
		if longest == 0 || longest > 20*time.Millisecond {
			t.Errorf("longest delay of a write %v, want up to 20ms", longest)
		}
		if total > 2*time.Second {
			t.Errorf("delays sum up to %v, want at most 2s", total)
		}
		if peak > 4<<20+8192 {
			t.Errorf("ring grew to %d bytes", peak)
		}
		t.Logf("longest %v, total %v, peak %d, shed after %v", longest, total, peak, sealedAt)
		cancel()
		synctest.Wait()
	})
}

// TestDelayMatchesDrain: a standby that is slower than the guests slows them
// down and nothing is shed while the budget lasts; relief ends the delay.
func TestDelayMatchesDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := testSequencer(t, Limits{RingBytes: 4 << 20}, 1)
		ctx, cancel := context.WithCancel(t.Context())
		go q.runHeld(ctx)
		go func() { // 64 KiB each millisecond: 64 MB/s
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
				q.mu.Lock()
				to := min(q.head, q.durable+16)
				q.mu.Unlock()
				q.release(to)
			}
		}()
		start := time.Now()
		acked := make(chan struct{}, 64)
		for range 16 { // queue depth 16
			go func() {
				for range 600 {
					done := make(chan struct{})
					q.record(testWrite(0, 0, 4096), ackFunc(func(error) { close(done) }))
					<-done
				}
				acked <- struct{}{}
			}()
		}
		for range 16 {
			<-acked
		}
		took := time.Since(start)
		if q.stateNow() != StateOpen {
			t.Errorf("shed: %s", q.reason)
		}
		if took < 400*time.Millisecond {
			t.Errorf("37.5 MiB in %v: the writers were not slowed down", took)
		}
		time.Sleep(time.Second)
		q.mu.Lock()
		if q.throttle.spent != 0 {
			t.Errorf("budget spent %v after the ring drained", q.throttle.spent)
		}
		q.mu.Unlock()
		cancel()
		synctest.Wait()
	})
}

// TestEntriesWithoutDataFillTheRing: a flood of zeroes is delayed and shed by
// the ring's limits, like data, and never overruns the table of entries.
func TestEntriesWithoutDataFillTheRing(t *testing.T) {
	q := testSequencer(t, Limits{RingBytes: 4 << 20}, 1)
	n := 0
	for ; q.stateNow() == StateOpen && n < 1<<20; n++ {
		q.record(slot{kind: segment.KindZero, length: 512, cost: entryCost}, ackFunc(func(error) {}))
		if n%8 == 0 {
			q.takeDue(nil, false)
			q.mu.Lock()
			q.held.queue = q.held.queue[:0] // as if their time had come
			q.mu.Unlock()
		}
		if n > 4096 {
			q.throttle.spent = q.throttle.total
		}
	}
	if q.used > 4<<20+entryCost*16 || !strings.Contains(q.reason, "ring is full") {
		t.Errorf("%d entries, %d bytes, sealed: %q", n, q.used, q.reason)
	}
}

// TestReliefFreesHeldWrites: held acknowledgements are given as soon as the
// standby has caught up, not at their time.
func TestReliefFreesHeldWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := testSequencer(t, Limits{RingBytes: 4 << 20, MaxWriteDelay: time.Second}, 1)
		ctx, cancel := context.WithCancel(t.Context())
		go q.runHeld(ctx)
		held := 0
		for range 900 {
			held++
			q.record(testWrite(0, 0, 4096), ackFunc(func(error) { held-- }))
		}
		synctest.Wait()
		if held == 0 {
			t.Fatal("nothing was held back")
		}
		q.release(q.head)
		synctest.Wait()
		if held != 0 {
			t.Errorf("%d writes still held after all was durable", held)
		}
		cancel()
		synctest.Wait()
	})
}

func TestMemoryIsReleasedOnce(t *testing.T) {
	q := testSequencer(t, Limits{}, 1)
	m := &memory{}
	for range 10 {
		w := testWrite(0, 0, 512)
		w.owner = m
		q.record(w, ackFunc(func(error) {}))
	}
	q.release(4)
	q.release(4)
	q.release(3)
	q.release(99)
	if got := m.released.Load(); got != 4 || q.durable != 4 {
		t.Errorf("%d released, durable %d; want 4", got, q.durable)
	}
	q.seal("end")
	if err := q.open(1, 2); err != nil {
		t.Fatal(err)
	}
	if got := m.released.Load(); got != 10 || q.used != 0 {
		t.Errorf("%d released, %d bytes used; want 10 and 0", got, q.used)
	}
}

func TestDrainWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := testSequencer(t, Limits{}, 1)
		for range 3 {
			q.record(testWrite(0, 0, 512), ackFunc(func(error) {}))
		}
		done := make(chan dr.Position, 1)
		go func() {
			at, err := q.drain(t.Context())
			if err != nil {
				t.Error(err)
			}
			done <- at
		}()
		synctest.Wait()
		q.release(2)
		synctest.Wait()
		select {
		case at := <-done:
			t.Fatalf("drained at %v with entry 3 not durable", at)
		default:
		}
		q.release(3)
		if at := <-done; at.Seq != 3 {
			t.Errorf("drained at %v", at)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		q.record(testWrite(0, 0, 512), ackFunc(func(error) {}))
		if _, err := q.drain(ctx); err == nil || !strings.Contains(err.Error(), "durable up to 3") {
			t.Errorf("drain without progress: %v", err)
		}
	})
}

func TestThrottle(t *testing.T) {
	th := newThrottle(Limits{RingBytes: 1000, DelayAbove: 50, MaxWriteDelay: 20 * time.Millisecond, MaxTotalDelay: 50 * time.Millisecond}.withDefaults())
	if d := th.delay(0, 500); d != 0 {
		t.Errorf("delay %v at the mark", d)
	}
	if d := th.delay(0, 750); d != 10*time.Millisecond {
		t.Errorf("delay %v halfway, want 10ms", d)
	}
	if d := th.delay(5*time.Millisecond, 2000); d != 20*time.Millisecond {
		t.Errorf("delay %v beyond the size, want 20ms", d)
	}
	if th.spent != 25*time.Millisecond {
		t.Errorf("spent %v, want the union 25ms", th.spent)
	}
	if th.decide(false) != overflowHold || th.decide(true) != overflowShed {
		t.Error("want hold at arrival, shed after the delay")
	}
	th.delay(time.Second, 1000)
	if d := th.delay(2*time.Second, 1000); d != 5*time.Millisecond {
		t.Errorf("delay %v with 5ms of budget left", d)
	}
	if d := th.delay(3*time.Second, 1000); d != 0 || th.decide(false) != overflowShed {
		t.Errorf("delay %v without budget", d)
	}
	if th.drained(300); th.spent == 0 {
		t.Error("budget renewed above half of the mark")
	}
	if th.drained(250); th.spent != 0 {
		t.Error("budget not renewed")
	}
}

func TestLimitsValidate(t *testing.T) {
	if err := (Limits{}).Validate(); err != nil {
		t.Error(err)
	}
	for _, l := range []Limits{
		{RingBytes: 1},
		{RingBytes: 1 << 40},
		{DelayAbove: 100},
		{DelayAbove: -1},
		{SyncBelow: 100},
		{MaxWriteDelay: -1},
		{MaxTotalDelay: -1},
	} {
		if l.Validate() == nil {
			t.Errorf("%+v passed", l)
		}
	}
}
