package capture

import (
	"bytes"
	"context"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/nbd"
	"rebound/internal/problem"
	"rebound/internal/segment"
)

// issued is a write as its client saw it. issue and ack are readings of one
// counter: a was acknowledged before b was issued iff a.ack < b.issue.
type issued struct {
	disk       uint16
	kind       segment.Kind
	off        int64
	length     int64
	issue, ack int64 // ack is MaxInt64 if it never came
}

// history is everything that clients did, by id.
type history struct {
	clock atomic.Int64
	mu    sync.Mutex
	all   []issued
}

func (h *history) begin(w issued) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	w.issue, w.ack = h.clock.Add(1), math.MaxInt64
	h.all = append(h.all, w)
	return len(h.all) - 1
}

func (h *history) acked(id int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all[id].ack = h.clock.Add(1)
}

// pattern is the content of write id.
func pattern(id int, n int64) []byte {
	b := make([]byte, n)
	for i := 0; i+8 <= len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], uint64(id)<<16|uint64(i/8)&0xffff)
	}
	return b
}

func patternID(b []byte) int { return int(binary.LittleEndian.Uint64(b) >> 16) }

// write does one random request of a writer in its own part of the disk:
// hypervisors serialise what overlaps. It reports whether the client lives.
func (h *history) write(c *nbd.Client, disk uint16, base, room int64, rng *rand.Rand) bool {
	n := 512 * (1 + rng.Int64N(8))
	if rng.IntN(20) == 0 {
		n = room
	}
	w := issued{disk: disk, kind: segment.KindWrite, off: base + 512*rng.Int64N((room-n)/512+1), length: n}
	switch rng.IntN(16) {
	case 0:
		w.kind = segment.KindZero
	case 1:
		w.kind = segment.KindTrim
	case 2:
		return c.Flush(bg()) == nil
	}
	id := h.begin(w)
	var err error
	switch w.kind {
	case segment.KindZero:
		err = c.WriteZeroes(bg(), w.off, n)
	case segment.KindTrim:
		err = c.Trim(bg(), w.off, n)
	default:
		err = c.WriteAt(bg(), pattern(id, n), w.off)
	}
	if err != nil {
		return false
	}
	h.acked(id)
	return true
}

// check compares an epoch's entries with what the clients did from id first on.
func (h *history) check(t *testing.T, entries []storedEntry, first int) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	pos := map[int]int{}
	for i, e := range entries {
		if e.Seq != dr.Seq(i+1) {
			t.Fatalf("entry %d has number %d", i+1, e.Seq)
		}
		if !e.Kind.HasRange() {
			continue
		}
		id := h.find(t, &e, first, pos)
		pos[id] = i
	}
	// Whatever was acknowledged before an entry was issued lies before it.
	inOrder := make([]int, 0, len(entries))
	for id := first; id < len(h.all); id++ {
		if _, ok := pos[id]; !ok && h.all[id].ack != math.MaxInt64 {
			for other, p := range pos {
				if h.all[other].issue > h.all[id].ack {
					t.Fatalf("write %d (entry %d) is in the stream, write %d, acknowledged before it, is not", other, p+1, id)
				}
			}
		}
	}
	byPos := make([]int, len(entries))
	for i := range byPos {
		byPos[i] = -1
	}
	for id, p := range pos {
		byPos[p] = id
	}
	earliest, whose := int64(math.MaxInt64), -1
	for i := len(byPos) - 1; i >= 0; i-- {
		id := byPos[i]
		if id < 0 {
			continue
		}
		inOrder = append(inOrder, id)
		if earliest < h.all[id].issue {
			t.Fatalf("entry %d (write %d) comes before write %d, which was acknowledged before it was issued", i+1, id, whose)
		}
		if h.all[id].ack < earliest {
			earliest, whose = h.all[id].ack, id
		}
	}
	t.Logf("%d writes issued, %d in the stream of %d entries", len(h.all)-first, len(inOrder), len(entries))
}

// find returns the write that an entry is, and checks that it is that whole.
func (h *history) find(t *testing.T, e *storedEntry, first int, taken map[int]int) int {
	t.Helper()
	if e.Kind == segment.KindWrite {
		id := patternID(e.data)
		if id < first || id >= len(h.all) {
			t.Fatalf("entry %d: unknown write %d", e.Seq, id)
		}
		w := h.all[id]
		if w.disk != e.Disk || w.off != e.Offset || w.length != e.Length || !bytes.Equal(e.data, pattern(id, w.length)) {
			t.Fatalf("entry %d is not write %d: %+v, want %+v", e.Seq, id, e.Meta, w)
		}
		if _, twice := taken[id]; twice {
			t.Fatalf("entry %d: write %d a second time", e.Seq, id)
		}
		return id
	}
	for id := first; id < len(h.all); id++ {
		w := h.all[id]
		if _, used := taken[id]; !used && w.kind == e.Kind && w.disk == e.Disk && w.off == e.Offset && w.length == e.Length {
			return id
		}
	}
	t.Fatalf("entry %d: nobody asked for %+v", e.Seq, e.Meta)
	return 0
}

// TestStreamIsConsistent drives random writes of several clients through
// epochs with link cuts, slow standbys and lost members, and checks the
// promises on what arrived.
func TestStreamIsConsistent(t *testing.T) {
	seed := testSeed(t)
	rng := rand.New(rand.NewPCG(seed, 1))
	r := newRig(t, 4, Limits{RingBytes: 4 << 20})
	r.config.Compression = []string{"none", "s2"}[seed%2]
	if err := r.client.Configure(r.ctx(), r.config); err != nil {
		t.Fatal(err)
	}
	h := &history{}
	for round := range 6 {
		r.standby.set(func(s *standby) {
			s.delay = time.Duration(rng.IntN(8)) * time.Millisecond
			s.forget = rng.IntN(2) == 0
		})
		first := len(h.all)
		disks := r.disks()
		var attached atomic.Bool
		attached.Store(true)
		r.open()
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for i, c := range disks {
			for w := range 3 {
				own := rand.New(rand.NewPCG(seed, uint64(round*100+i*10+w)))
				wg.Go(func() {
					const room = 256 << 10
					for h.write(c, uint16(i), int64(w)*room, room, own) {
						select {
						case <-stop:
							return
						default:
						}
					}
				})
			}
		}
		var lost atomic.Int64 // when a member was lost
		wg.Go(func() { confirmAll(t, r, &attached, stop) })
		for range 10 {
			time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond)
			if rng.IntN(3) == 0 {
				r.proxy.cut()
			}
		}
		if round%2 == 0 {
			attached.Store(false) // from here on the monitor shows a job less
			lost.Store(h.clock.Load())
			_ = disks[rng.IntN(len(disks))].Close()
			time.Sleep(20 * time.Millisecond)
		}
		close(stop)
		wg.Wait()
		if _, err := r.client.Seal(r.ctx(), "end of round"); err != nil {
			t.Fatal(err)
		}
		entries := r.standby.awaitBreak()
		h.check(t, entries, first)
		checkBeacons(t, h, entries, lost.Load())
		for _, c := range disks {
			_ = c.Close()
		}
		r.await("detached disks", func(s Status) bool {
			for _, d := range s.Disks {
				if d.Conns > 0 {
					return false
				}
			}
			return true
		})
	}
}

// confirmAll is the gateway's loop.
func confirmAll(t *testing.T, r *rig, attached *atomic.Bool, stop chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(2 * time.Millisecond):
		}
		p, err := r.client.Probe(r.ctx())
		if err == nil && attached.Load() {
			_, err = r.client.Confirm(r.ctx(), p)
		}
		if err != nil && !problem.HasCode(err, problem.OperationNotAllowed) {
			t.Errorf("confirm: %v", err)
			return
		}
	}
}

// checkBeacons checks that beacons are in order, and that none confirms a write
// that was issued after a member was lost (0: none was).
func checkBeacons(t *testing.T, h *history, entries []storedEntry, lost int64) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	var last segment.Beacon
	for _, e := range entries {
		if e.Kind != segment.KindBeacon {
			continue
		}
		var b segment.Beacon
		if err := b.UnmarshalBinary(e.data); err != nil {
			t.Fatal(err)
		}
		if b.N >= e.Seq || b.N < last.N || b.Wall.Before(last.Wall) || b.Mono < last.Mono {
			t.Fatalf("beacon %+v at %d after %+v", b, e.Seq, last)
		}
		last = b
	}
	for _, e := range entries[:last.N] {
		if lost == 0 || e.Kind != segment.KindWrite {
			continue
		}
		if id := patternID(e.data); h.all[id].issue > lost {
			t.Fatalf("entry %d, issued at %d, is confirmed; a member was lost at %d", e.Seq, h.all[id].issue, lost)
		}
	}
}

// TestNothingAfterALostMember: once the socket of one member is closed,
// nothing that another one sends is recorded or confirmed, even if the
// hypervisor's monitor lies about its jobs.
func TestNothingAfterALostMember(t *testing.T) {
	r := newRig(t, 2, Limits{})
	disks := r.disks()
	r.open()
	for i, c := range disks {
		if err := c.WriteAt(bg(), pattern(i, 4096), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := disks[0].Close(); err != nil {
		t.Fatal(err)
	}
	r.await("closed socket", func(s Status) bool { return s.Disks[0].Conns == 0 })
	if err := disks[1].WriteAt(bg(), pattern(2, 4096), 4096); err != nil {
		t.Fatalf("the other member got an error: %v", err)
	}
	p, err := r.client.Probe(r.ctx())
	if err == nil {
		_, err = r.client.Confirm(r.ctx(), p)
	}
	if err == nil {
		t.Error("a moment after the loss of a member was confirmed")
	}
	if s := r.status(); s.State != StateSealed || s.Reason == "" {
		t.Errorf("state %s (%q), want sealed with a reason", s.State, s.Reason)
	}
	entries := r.standby.awaitBreak()
	if len(entries) != 3 || entries[2].Kind != segment.KindBreak {
		t.Errorf("%d entries at the standby, want two writes and a break", len(entries))
	}
}

func bg() context.Context { return context.Background() }
