package resync

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"rebound/internal/dr"
	"rebound/internal/extent"
	"rebound/internal/segment"
)

// world is one random case of the property test.
type world struct {
	rng     *rand.Rand
	source  []*memDisk
	first   []*memDisk // the source at the beginning
	base    []*memDisk // the standby at the beginning
	standby *memStandby
	seq     *refSequencer
}

func newWorld(seed uint64, disks int, size int64, driftPercent int) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 7))}
	var head []*memDisk
	for range disks {
		d := &memDisk{data: make([]byte, size)}
		fillRandom(w.rng, d.data)
		w.source = append(w.source, d)
		w.first = append(w.first, d.clone())
		b := drift(w.rng, d, driftPercent)
		w.base = append(w.base, b)
		head = append(head, b.clone())
	}
	w.standby = newMemStandby(head)
	w.seq = newRefSequencer(w.source)
	return w
}

func (w *world) sources(ranges []*extent.Set) []Source {
	var out []Source
	for i, d := range w.source {
		s := Source{Index: uint16(i), Device: d}
		if ranges != nil {
			s.Ranges = ranges[i]
		}
		out = append(out, s)
	}
	return out
}

// follow applies the log to the standby until it is sealed.
func (w *world) follow() {
	for i := 0; ; i++ {
		w.seq.mu.Lock()
		for i == len(w.seq.log) && !w.seq.sealed {
			w.seq.moved.Wait()
		}
		if i == len(w.seq.log) {
			w.seq.mu.Unlock()
			return
		}
		e := w.seq.log[i]
		w.seq.mu.Unlock()
		w.standby.apply(&e)
	}
}

// guest writes at random until stop; some writes rest between source and
// sequencer.
func (w *world) guest(seed uint64, stop <-chan struct{}) {
	rng := rand.New(rand.NewPCG(seed, 9))
	for {
		select {
		case <-stop:
			return
		default:
		}
		disk := rng.IntN(len(w.source))
		size := w.source[disk].Size()
		n := int64(1+rng.IntN(40)) * 512
		off := rng.Int64N(size/512) * 512
		n = min(n, size-off)
		data := make([]byte, n)
		for i := range data {
			data[i] = byte(rng.Uint32())
		}
		w.seq.write(uint16(disk), off, data, func() {
			for range rng.IntN(4) {
				runtime.Gosched()
			}
		})
		if rng.IntN(4) == 0 {
			time.Sleep(time.Duration(rng.IntN(100)) * time.Microsecond)
		}
	}
}

type failer interface {
	Fatalf(format string, args ...any)
	Helper()
}

// check holds the standby against the source, at the end marker and at the
// end of the log.
func (w *world) check(t failer, end dr.Seq) {
	t.Helper()
	for i, d := range w.source {
		if diff := diffBlocks(d.data, w.standby.disks[i].data); !diff.Empty() {
			t.Fatalf("disk %d: standby differs from source at the end of the log: %v", i, diff.Runs())
		}
		// The source at the end marker: everything numbered up to it. What
		// was under way then may be there or not, in part too.
		want := w.first[i].clone()
		underway := &extent.Set{}
		for _, l := range w.seq.live {
			switch {
			case int(l.disk) != i:
			case l.seq <= end:
				copy(want.data[l.off:], l.data)
			case l.began <= end:
				underway.Add(extent.Range{Off: l.off, Len: int64(len(l.data))})
			}
		}
		got := newMemStandby([]*memDisk{w.base[i].clone()})
		for k := range w.seq.log[:end] {
			if e := w.seq.log[k]; int(e.Disk) == i && e.Kind.HasRange() {
				e.Disk = 0
				got.apply(&e)
			}
		}
		for _, r := range diffBlocks(want.data, got.disks[0].data).Runs() {
			for b := r.Off; b < r.End(); b++ {
				if want.data[b] != got.disks[0].data[b] && !underway.Overlaps(extent.Range{Off: b, Len: 1}) {
					t.Fatalf("disk %d: at the end marker %d byte %d is not the source's", i, end, b)
				}
			}
		}
	}
}

// TestSyncWithLiveWrites is the property: whatever both sides held, whatever
// guests write meanwhile and however often the connection breaks, the standby
// equals the source at the end marker and after it, and what was sent is
// bounded by what differed or was written.
func TestSyncWithLiveWrites(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		disks := rapid.IntRange(1, 2).Draw(t, "disks")
		size := rapid.Int64Range(1, 2*Window/512).Draw(t, "sectors") * 512
		percent := rapid.SampledFrom([]int{0, 1, 10, 60}).Draw(t, "drift")
		guests := rapid.IntRange(0, 3).Draw(t, "guests")
		wait := rapid.Bool().Draw(t, "wait for head")
		failing := rapid.SampledFrom([]int{0, 5, 30}).Draw(t, "failures in a hundred")
		w := newWorld(seed, disks, size, percent)
		stopGuests := make(chan struct{})
		var running, following sync.WaitGroup
		for g := range guests {
			running.Go(func() { w.guest(seed+uint64(g), stopGuests) })
		}
		following.Go(w.follow)
		if guests > 0 {
			w.injectWrites(seed)
		}

		var failMu sync.Mutex
		failRng := rand.New(rand.NewPCG(seed, 11))
		st := NewStandby(w.standby.disk, nil)
		s, err := New(Config{
			Sources: w.sources(nil), Mode: ModeCompare, Sequencer: w.seq, Epoch: 1, Workers: 3,
			Dial: func(context.Context) (Asker, error) {
				return &directAsker{standby: st, head: w.standby, wait: wait, fail: func() bool {
					failMu.Lock()
					defer failMu.Unlock()
					return failRng.IntN(100) < failing
				}}, nil
			},
		})
		if err != nil {
			t.Fatalf("new: %v", err)
		}
		res, err := s.Run(context.Background())
		close(stopGuests)
		running.Wait()
		w.seq.seal()
		following.Wait()
		if err != nil {
			t.Fatalf("run: %v", err)
		}
		w.check(t, res.End)
		bound := int64(0)
		for i := range w.source {
			set := diffBlocks(w.first[i].data, w.base[i].data)
			for _, l := range w.seq.live {
				if int(l.disk) == i {
					set.Add(extent.Range{Off: l.off, Len: int64(len(l.data))}.Align(Block).Intersect(extent.Range{Len: size}))
				}
			}
			bound += set.Bytes()
		}
		if res.Copied > bound || (guests == 0 && res.Copied != bound) {
			t.Fatalf("sent %d bytes, %d differed or were written", res.Copied, bound)
		}
		if p := s.Progress(); p.Done != p.Total || res.Compared != int64(disks)*size {
			t.Fatalf("progress %+v, result %+v", p, res)
		}
	})
}

// injectWrites makes guests write into ranges exactly between their read and
// their commit.
func (w *world) injectWrites(seed uint64) {
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(seed, 13))
	hit := func(disk int, r extent.Range) {
		mu.Lock()
		if rng.IntN(3) != 0 {
			mu.Unlock()
			return
		}
		sectors := max(r.Len/512, 1)
		off := r.Off/512*512 + rng.Int64N(sectors)*512
		data := make([]byte, min(int64(1+rng.IntN(9))*512, w.source[disk].Size()-off))
		for i := range data {
			data[i] = byte(rng.Uint32())
		}
		mu.Unlock()
		w.seq.write(uint16(disk), off, data, nil)
	}
	for i, d := range w.source {
		d.onRead = func(r extent.Range) { hit(i, r) }
	}
}

// TestLiveWriteBetweenReadAndCommit is the case that a synchronisation must
// never get wrong, without chance: a guest writes a block after it was read
// and before its record has a number.
func TestLiveWriteBetweenReadAndCommit(t *testing.T) {
	w := newWorld(1, 1, Window, 0)
	clear(w.base[0].data)
	clear(w.standby.disks[0].data)
	for i := range w.source[0].data {
		w.source[0].data[i] = 1
	}
	w.first[0] = w.source[0].clone()
	var once sync.Once
	w.seq.onCommit = func(*Piece) {
		once.Do(func() { w.seq.write(0, 8192, bytes.Repeat([]byte{2}, 4096), nil) })
	}
	var following sync.WaitGroup
	following.Go(w.follow)
	s, err := New(Config{Sources: w.sources(nil), Mode: ModeCopy, Sequencer: w.seq})
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.Run(t.Context())
	w.seq.seal()
	following.Wait()
	if err != nil {
		t.Fatal(err)
	}
	w.check(t, res.End)
	if res.Copied != Window-4096 {
		t.Errorf("sent %d bytes, want all but the block that the guest wrote", res.Copied)
	}
}

// TestCopyLeavesOutZeroes demands that a first copy reads no holes and sends
// no zeroes.
func TestCopyLeavesOutZeroes(t *testing.T) {
	w := newWorld(2, 1, 5*Window+512, 0)
	src := w.source[0]
	clear(src.data)
	copy(src.data[Window+5*Block:], bytes.Repeat([]byte{7}, 3*Block))
	src.data[5*Window+511] = 9
	w.first[0] = src.clone()
	clear(w.base[0].data)
	clear(w.standby.disks[0].data)
	var following sync.WaitGroup
	following.Go(w.follow)
	s, err := New(Config{Sources: w.sources(nil), Mode: ModeCopy, Sequencer: w.seq})
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.Run(t.Context())
	w.seq.seal()
	following.Wait()
	if err != nil {
		t.Fatal(err)
	}
	w.check(t, res.End)
	if res.Copied != 3*Block+512 || src.reads != 3*Block+512 {
		t.Errorf("sent %d bytes and read %d, want %d", res.Copied, src.reads, 3*Block+512)
	}
}

// TestRangesAndResume limits the work to a set, breaks off in the middle and
// goes on.
func TestRangesAndResume(t *testing.T) {
	w := newWorld(3, 2, 6*Window, 0)
	ranges := []*extent.Set{{}, {}}
	want := int64(0)
	for i, set := range ranges {
		for range 40 {
			off := w.rng.Int64N(6*Window/512-8) * 512
			set.Add(extent.Range{Off: off, Len: 512})
			w.source[i].data[off] ^= 0xff
		}
		w.first[i] = w.source[i].clone()
		want += diffBlocks(w.source[i].data, w.base[i].data).Bytes()
	}
	st := NewStandby(w.standby.disk, nil)
	var following sync.WaitGroup
	following.Go(w.follow)
	ctx, cancel := context.WithCancel(t.Context())
	windows := 0
	s, err := New(Config{
		Sources: w.sources(ranges), Mode: ModeBitmap, Sequencer: w.seq, Epoch: 1, Workers: 1,
		Dial: func(context.Context) (Asker, error) {
			return &directAsker{standby: st, head: w.standby}, nil
		},
		OnProgress: func(Progress) {
			if windows++; windows == 4 {
				cancel()
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Run(ctx); err == nil {
		t.Fatal("a cancelled run succeeded")
	}
	before := s.Progress()
	var left int64
	for _, set := range s.Remaining() {
		left += set.Bytes()
	}
	if before.Done == 0 || left == 0 || before.Done+left != before.Total {
		t.Errorf("progress %+v, %d left", before, left)
	}
	if n := w.seq.inflight.Len(); n != 0 {
		t.Errorf("%d ranges in flight after a cancelled run", n)
	}
	res, err := s.Run(t.Context())
	w.seq.seal()
	following.Wait()
	if err != nil {
		t.Fatal(err)
	}
	w.check(t, res.End)
	if res.Copied != want {
		t.Errorf("sent %d bytes, %d differ", res.Copied, want)
	}
	marks := 0
	for _, e := range w.seq.log {
		if e.Kind == segment.KindSyncBegin || e.Kind == segment.KindSyncEnd {
			marks++
		}
	}
	if marks != 2 {
		t.Errorf("%d markers", marks)
	}
}

func TestVerify(t *testing.T) {
	w := newWorld(4, 2, 2*Window+1024, 0)
	st := NewStandby(w.standby.disk, nil)
	var following, running sync.WaitGroup
	following.Go(w.follow)
	stop := make(chan struct{})
	running.Go(func() { w.guest(5, stop) })
	verify := func() VerifyResult {
		t.Helper()
		res, err := Verify(t.Context(), VerifyConfig{
			Sources: w.sources(nil), Tracker: w.seq, Epoch: 1,
			Dial: func(context.Context) (Asker, error) {
				return &directAsker{standby: st, head: w.standby, wait: true}, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	if res := verify(); !res.Equal() || res.Compared != 2*(2*Window+1024) {
		t.Errorf("equal disks: %d compared, differing %v, unsettled %v", res.Compared, res.Differing, res.Unsettled)
	}
	close(stop)
	running.Wait()
	// Rot at the standby, which no live write explains.
	w.standby.disks[1].mu.Lock()
	w.standby.disks[1].data[Window+3*Block+17] ^= 1
	w.standby.disks[1].data[2*Window+1023] ^= 1
	w.standby.disks[1].mu.Unlock()
	res := verify()
	want := extent.NewSet(extent.Range{Off: Window + 3*Block, Len: Block}, extent.Range{Off: 2 * Window, Len: 1024})
	if res.Differing[1] == nil || fmt.Sprint(res.Differing[1].Runs()) != fmt.Sprint(want.Runs()) || len(res.Differing) != 1 {
		t.Errorf("found %v differing, want %v on disk 1", res.Differing, want.Runs())
	}
	w.seq.seal()
	following.Wait()
}
