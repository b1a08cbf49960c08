package journal

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/segment"
)

// script is a world that does what it is told.
func script(t *testing.T, seed uint64) *world {
	w := newWorld(t, seed)
	w.startEpoch()
	return w
}

// startEpoch begins an epoch with an empty synchronisation.
func (w *world) startEpoch() {
	w.t.Helper()
	epoch, err := w.j.NewEpoch(w.gen)
	w.must(err)
	w.head = dr.Position{Generation: w.gen, Epoch: epoch}
	w.epochOf, w.ended = w.gen, false
	w.send([]modelEntry{w.entry(segment.KindSyncBegin)})
	w.send([]modelEntry{w.entry(segment.KindSyncEnd)})
}

// beacon confirms everything before it, a second later.
func (w *world) beacon() dr.Position {
	w.clock = w.clock.Add(time.Second)
	e := w.entry(segment.KindBeacon)
	e.wall, e.n = w.clock, e.pos.Seq-1
	w.send([]modelEntry{e})
	return dr.Position{Generation: e.pos.Generation, Epoch: e.pos.Epoch, Seq: e.n}
}

func (w *world) sync() dr.Position {
	w.t.Helper()
	p, err := w.j.Sync()
	w.must(err)
	return p
}

// checkOffered opens positions of the stream all over, on all disks.
func (w *world) checkOffered() int {
	w.t.Helper()
	n := 0
	for i := w.r.IntN(4); i < len(w.entries); i += 1 + w.r.IntN(7) {
		for d := range w.disks {
			if v, ok := w.openAt(w.entries[i].pos, d); ok {
				n++
				w.checkView(v)
				w.must(v.dev.Close())
			}
		}
	}
	return n
}

// TestSyncedSurvivesCrash: what Sync reported is there after a power cut,
// whatever else was lost.
func TestSyncedSurvivesCrash(t *testing.T) {
	for seed := range uint64(20) {
		w := script(t, seed)
		for range 5 {
			w.opWrites()
			w.beacon()
		}
		synced := w.sync()
		w.opWrites()
		w.crash()
		if w.j.Durable().Before(synced) {
			t.Fatalf("seed %d: reopened at %v, %v was durable", seed, w.j.Durable(), synced)
		}
		w.checkAll()
	}
}

// crashEverywhere runs op with a crash at its first file operation, then at
// its second, and so on until it runs through.
func crashEverywhere(t *testing.T, prepare, op func(w *world)) {
	t.Helper()
	base := uint64(time.Now().UnixNano()) / 1000 % 1000
	t.Logf("seed %d", base)
	for k := 1; ; k++ {
		w := script(t, base+uint64(k)%5)
		prepare(w)
		w.r = rand.New(rand.NewPCG(base, uint64(k))) // another crash each time
		w.fuse = k
		op(w)
		if !w.blown {
			if k < 3 {
				t.Fatalf("only %d file operations: nothing was tested", k-1)
			}
			t.Logf("%d crashes", k-1)
			return
		}
		w.crash()
		if w.checkOffered() == 0 {
			t.Fatal("no position is offered after the crash")
		}
		w.checkAll()
		w.fuse = 0
		op(w) // and it goes well the second time
		w.checkOffered()
	}
}

// history writes some seconds of confirmed history.
func writeHistory(w *world) {
	for range 8 {
		w.opWrites()
		w.beacon()
	}
	w.sync()
}

func TestCrashAnywhereInFold(t *testing.T) {
	crashEverywhere(t, writeHistory, func(w *world) {
		_, err := w.j.Fold(context.Background(), dr.Position{})
		w.done(err)
	})
}

func TestCrashAnywhereInPrune(t *testing.T) {
	crashEverywhere(t, func(w *world) {
		writeHistory(w)
		_, err := w.j.Fold(context.Background(), dr.Position{})
		w.must(err)
	}, func(w *world) {
		_, err := w.j.Prune(context.Background())
		w.done(err)
		if !w.blown {
			w.done(w.j.DropView("none")) // a manifest switch
		}
	})
}

func TestCrashAnywhereInAppendAndSeal(t *testing.T) {
	crashEverywhere(t, writeHistory, func(w *world) {
		if w.ended = w.ended || w.head.Generation < w.gen; w.ended {
			w.startEpoch()
		}
		for range 12 { // rolls segments
			if w.blown {
				return
			}
			w.opWrites()
		}
		if !w.blown {
			w.opSync()
		}
	})
}

func TestCrashAnywhereInNewEpoch(t *testing.T) {
	crashEverywhere(t, writeHistory, func(w *world) {
		for range 2 {
			epoch, err := w.j.NewEpoch(w.gen)
			if !w.done(err) {
				return
			}
			w.head = dr.Position{Generation: w.gen, Epoch: epoch}
			w.epochOf, w.ended = w.gen, false
			if !w.send([]modelEntry{w.entry(segment.KindSyncBegin)}) || !w.send([]modelEntry{w.entry(segment.KindSyncEnd)}) {
				return
			}
		}
	})
}

func TestCrashAnywhereInRegister(t *testing.T) {
	n := 0
	crashEverywhere(t, writeHistory, func(w *world) {
		n++
		pos := w.j.Status().Confirmed
		for i := range 3 {
			id := fmt.Sprintf("r%d-%d", n, i)
			if !w.done(w.j.RegisterView(View{ID: id, Position: pos})) {
				return
			}
			w.pinned[id] = pos
		}
	})
}

// TestFoldExactlyMakesTheBase: after it, the base files are the view.
func TestFoldExactlyMakesTheBase(t *testing.T) {
	w := script(t, 4)
	writeHistory(w)
	pos := w.beacon()
	w.opWrites()
	w.beacon()
	w.sync()
	v, ok := w.openAt(pos, 0)
	if !ok {
		t.Fatal("not offered")
	}
	var last, total int64
	w.must(w.j.FoldExactly(context.Background(), pos, func(d, n int64) { last, total = d, n }))
	if last != total && last == 0 {
		t.Errorf("progress ended at %d of %d", last, total)
	}
	w.checkView(v)
	w.must(v.dev.Close())
	sets, err := w.j.RollbackSet(pos)
	w.must(err)
	w.must(w.j.Release())
	for d := range w.disks {
		f, err := w.mem.Open(fmt.Sprintf("/bases/%d.raw", d), true)
		w.must(err)
		got := make([]byte, modelDiskSize)
		_, err = f.ReadAt(got, 0)
		w.must(err)
		want := w.content(d, pos)
		if string(got) != string(want) {
			t.Errorf("base %d is not the view at %v", d, pos)
		}
		head := w.content(d, w.head)
		for i := range head {
			if head[i] != want[i] && len(sets[uint16(d)].Outside(rangeOf(int64(i)))) > 0 {
				t.Fatalf("disk %d byte %d changed after the point and is not in the rollback set", d, i)
			}
		}
	}
	at, loaded, err := LoadRollbackSet("/j", w.mem)
	if err != nil || at != pos || loaded[0].Bytes() != sets[0].Bytes() {
		t.Errorf("loaded rollback set: %v, %v", at, err)
	}
	w.must(DeleteRollbackSet("/j", w.mem))
	if _, err := Open(t.Context(), "/j", w.opts); err == nil {
		t.Error("a journal whose bases belong to a machine was opened")
	}
}
