package journal

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/segment"
)

// step runs one random operation.
func (w *world) step() {
	w.clock = w.clock.Add(time.Duration(w.r.IntN(200)) * time.Millisecond)
	if w.ended {
		w.newEpoch()
		return
	}
	ops := []struct {
		weight int
		name   string
		run    func()
	}{
		{40, "write", w.opWrites},
		{12, "beacon", w.opBeacon},
		{6, "marker", w.opMarker},
		{3, "thawed", w.opThawed},
		{2, "definition", w.opDefinition},
		{15, "sync", w.opSync},
		{1, "break", w.opBreak},
		{1, "seal", w.opSeal},
		{2, "resync", w.opSynchronise},
		{5, "fold", w.opFold},
		{4, "prune", w.opPrune},
		{8, "open view", w.opOpenView},
		{4, "close view", w.opCloseView},
		{2, "register", w.opRegister},
		{2, "drop", w.opDrop},
		{6, "check", w.checkAll},
		{1, "reopen", w.opReopen},
		{3, "light a fuse", func() { w.fuse = 1 + w.r.IntN(60) }},
	}
	total := 0
	for _, op := range ops {
		total += op.weight
	}
	k := w.r.IntN(total)
	for _, op := range ops {
		if k -= op.weight; k < 0 {
			w.counts[op.name]++
			op.run()
			break
		}
	}
	if w.blown {
		w.crash()
		w.checkAll()
	}
}

func (w *world) newEpoch() {
	if w.r.IntN(4) == 0 {
		w.gen++
	}
	epoch, err := w.j.NewEpoch(w.gen)
	if !w.done(err) {
		w.crash()
		return
	}
	w.head = dr.Position{Generation: w.gen, Epoch: epoch}
	w.epochOf, w.ended, w.durable = w.gen, false, w.head
	w.opSynchronise()
	if w.blown {
		w.crash()
	}
}

// opSynchronise sends a whole synchronisation, in one frame or several, with
// the guest's writes between.
func (w *world) opSynchronise() {
	if !w.send([]modelEntry{w.entry(segment.KindSyncBegin)}) {
		return
	}
	for range w.r.IntN(6) {
		e := w.entry(segment.KindWrite)
		if !w.send([]modelEntry{w.randomWrite(e.pos, w.r.IntN(3) > 0)}) {
			return
		}
		if w.r.IntN(4) == 0 {
			w.opBeacon()
		}
		if w.blown || w.r.IntN(40) == 0 { // it stays unfinished
			return
		}
	}
	w.send([]modelEntry{w.entry(segment.KindSyncEnd)})
}

func (w *world) opWrites() {
	var list []modelEntry
	e := w.entry(segment.KindWrite)
	for i := range 1 + w.r.IntN(12) {
		p := e.pos
		p.Seq += dr.Seq(i)
		list = append(list, w.randomWrite(p, false))
	}
	w.send(list)
}

func (w *world) opBeacon() {
	e := w.entry(segment.KindBeacon)
	e.wall = w.clock
	e.n = e.pos.Seq - 1
	if e.n > 3 {
		e.n -= dr.Seq(w.r.IntN(3))
	}
	w.send([]modelEntry{e})
}

func (w *world) opMarker() {
	e := w.entry(segment.KindMarker)
	w.nextID++
	e.name, e.wall = fmt.Sprintf("p%d", w.nextID), w.clock
	w.send([]modelEntry{e})
}

// opThawed labels one of the markers of the epoch, a label that was given, or
// one that never was there.
func (w *world) opThawed() {
	e := w.entry(segment.KindThawed)
	e.name = fmt.Sprintf("p%d", w.nextID-w.r.IntN(4))
	w.send([]modelEntry{e})
}

func (w *world) opDefinition() {
	e := w.entry(segment.KindDefinition)
	e.name = fmt.Sprintf("d%d", w.r.IntN(4)) // some are repeated
	w.send([]modelEntry{e})
}

func (w *world) opBreak() {
	if w.send([]modelEntry{w.entry(segment.KindBreak)}) {
		w.ended = true
	}
}

func (w *world) opSync() {
	p, err := w.j.Sync()
	if w.done(err) {
		if p != w.head {
			w.t.Fatalf("synced to %v, head is %v", p, w.head)
		}
		w.durable = p
	}
}

func (w *world) opSeal() {
	durable, _, err := w.j.Seal(w.gen + 1)
	if !w.done(err) {
		return
	}
	if durable != w.head {
		w.t.Fatalf("sealed at %v, head is %v", durable, w.head)
	}
	w.durable = durable
	w.gen++
	w.ended = true
	if err := w.appendStale(); err == nil {
		w.t.Fatal("a frame of an older generation was accepted")
	}
}

// appendStale tries to go on in the sealed generation.
func (w *world) appendStale() error {
	w.builder.Reset(w.head.Generation, w.head.Epoch)
	w.builder.Add(segment.Entry{Seq: w.head.Seq + 1, Kind: segment.KindZero, Length: 512})
	frame, err := w.builder.Finish()
	w.must(err)
	return w.j.Append(frame)
}

func (w *world) opFold() {
	var upTo dr.Position
	if w.r.IntN(2) == 0 {
		upTo = w.somePosition()
	}
	floor := w.j.floor
	anchor, err := w.j.Fold(context.Background(), upTo)
	if !w.done(err) {
		return
	}
	for _, v := range w.views {
		if v.pos.Before(anchor) {
			w.t.Fatalf("folded to %v past the view at %v", anchor, v.pos)
		}
	}
	for id, p := range w.pinned {
		if p.Before(anchor) {
			w.t.Fatalf("folded to %v past the registered view %s at %v", anchor, id, p)
		}
	}
	if !upTo.IsZero() && upTo.Before(anchor) && floor.Before(anchor) {
		w.t.Fatalf("folded to %v, asked for %v", anchor, upTo)
	}
	if c := w.j.Status().Confirmed; !c.IsZero() && !w.offered(c) {
		w.t.Fatalf("after a fold to %v the newest confirmed position is %v", anchor, c)
	}
}

func (w *world) opPrune() {
	_, err := w.j.Prune(context.Background())
	w.done(err)
}

func (w *world) opOpenView() {
	if len(w.views) > 6 {
		w.opCloseView()
	}
	if v, ok := w.openAt(w.somePosition(), w.r.IntN(w.disks)); ok {
		w.views = append(w.views, v)
		w.checkView(v)
	}
}

func (w *world) opCloseView() {
	if len(w.views) > 0 {
		i := w.r.IntN(len(w.views))
		w.checkView(w.views[i])
		w.must(w.views[i].dev.Close())
		w.views = append(w.views[:i], w.views[i+1:]...)
	}
}

func (w *world) opRegister() {
	p := w.somePosition()
	if !w.offered(p) || p.Before(w.j.floor) || len(w.pinned) > 2 {
		return
	}
	w.nextID++
	id := fmt.Sprintf("v%d", w.nextID)
	if w.done(w.j.RegisterView(View{ID: id, Position: p, Machine: "vm0", Purpose: "test"})) {
		w.pinned[id] = p
	}
}

func (w *world) opDrop() {
	for id := range w.pinned {
		err := w.j.DropView(id)
		delete(w.pinned, id) // after a crash it may be there or not
		w.done(err)
		return
	}
}

func (w *world) opReopen() {
	err := w.j.Close()
	w.views = nil
	if w.blown {
		return
	}
	w.must(err)
	w.durable = w.head
	w.reopen()
}

// modelSeed takes the seed from JOURNAL_SEED, so that a run can be repeated.
func modelSeed(t *testing.T, n int) []uint64 {
	if s := os.Getenv("JOURNAL_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("JOURNAL_SEED: %v", err)
		}
		return []uint64{seed}
	}
	var out []uint64
	for i := range n {
		out = append(out, uint64(time.Now().UnixNano())/1000+uint64(i))
	}
	return out
}

// TestModel runs random operations against a disk that remembers every write.
// JOURNAL_SEED repeats a run, JOURNAL_OPS sets how many operations each has.
func TestModel(t *testing.T) {
	steps := 700
	if s := os.Getenv("JOURNAL_OPS"); s != "" {
		steps, _ = strconv.Atoi(s)
	}
	counts := map[string]int{}
	for _, seed := range modelSeed(t, 6) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			w := newWorld(t, seed)
			w.ended = true
			for range steps {
				w.step()
			}
			w.fuse = 0
			if w.blown {
				w.crash()
			}
			w.checkAll()
			if !w.blown {
				w.must(w.j.Close())
			}
			for k, v := range w.counts {
				counts[k] += v
			}
		})
	}
	t.Logf("operations: %v", counts)
}
