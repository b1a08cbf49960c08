package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/extent"
	"rebound/internal/journal/vfs"
	"rebound/internal/problem"
	"rebound/internal/segment"
)

func rangeOf(i int64) extent.Range { return extent.Range{Off: i, Len: 1} }

// TestSealRefusesOldGeneration: fencing. Not one entry of the sealed
// generation gets in, and each attempt is counted.
func TestSealRefusesOldGeneration(t *testing.T) {
	w := script(t, 2)
	writeHistory(w)
	before := w.head
	durable, confirmed, err := w.j.Seal(2)
	w.must(err)
	if durable != before || confirmed.IsZero() {
		t.Errorf("sealed at %v, confirmed %v; head was %v", durable, confirmed, before)
	}
	if err := w.appendStale(); !errors.Is(err, ErrStale) || !problem.HasCode(err, problem.StaleGeneration) {
		t.Errorf("frame of the sealed generation: %v", err)
	}
	if s := w.j.Status(); s.StaleFrames != 1 || s.Appended != before {
		t.Errorf("status %+v", s)
	}
	if _, err := w.j.NewEpoch(1); !problem.HasCode(err, problem.StaleGeneration) {
		t.Errorf("epoch of the sealed generation: %v", err)
	}
	if _, _, err := w.j.Seal(1); !problem.HasCode(err, problem.StaleGeneration) {
		t.Errorf("seal backwards: %v", err)
	}
	w.must(w.j.Close())
	w.gen = 2
	w.reopen()
	if err := w.appendStale(); !errors.Is(err, ErrStale) {
		t.Errorf("after reopening: %v", err)
	}
}

// TestNothingConfirmedPastBreak: what arrived between the last beacon and a
// break may miss another member's writes, and is never offered.
func TestNothingConfirmedPastBreak(t *testing.T) {
	w := script(t, 2)
	w.opWrites()
	last := w.beacon()
	w.opWrites()
	w.send([]modelEntry{w.entry(segment.KindBreak)})
	w.sync()
	check := func() {
		t.Helper()
		r, err := w.j.Resolve(dr.Latest)
		if err != nil || r.Position != last {
			t.Errorf("latest is %v, %v; want %v", r.Position, err, last)
		}
		for _, e := range w.entries {
			if last.Before(e.pos) {
				if _, err := w.j.Resolve(dr.PointSelector("@" + e.pos.String())); !problem.HasCode(err, problem.PointNotConfirmed) {
					t.Errorf("%v past the last beacon: %v", e.pos, err)
				}
			}
		}
	}
	check()
	w.must(w.j.Close())
	w.reopen()
	check()
	if err := w.appendStale(); !errors.Is(err, ErrOutOfOrder) {
		t.Errorf("entry after the break: %v", err)
	}
}

func TestAppendOrder(t *testing.T) {
	w := script(t, 2)
	w.opWrites()
	for name, c := range map[string]struct {
		gen   dr.Generation
		epoch dr.Epoch
		seq   dr.Seq
		want  error
	}{
		"repeated":    {1, 1, w.head.Seq, ErrOutOfOrder},
		"gap":         {1, 1, w.head.Seq + 2, ErrOutOfOrder},
		"next epoch":  {1, 2, 1, ErrOutOfOrder},
		"newer":       {2, 1, w.head.Seq + 1, ErrOutOfOrder},
		"stale epoch": {1, 0, w.head.Seq + 1, ErrStale},
	} {
		w.builder.Reset(c.gen, c.epoch)
		w.builder.Add(segment.Entry{Seq: c.seq, Kind: segment.KindZero, Length: 512})
		frame, err := w.builder.Finish()
		w.must(err)
		if err := w.j.Append(frame); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	for name, e := range map[string]segment.Entry{
		"disk":       {Kind: segment.KindZero, Disk: 9, Length: 512},
		"range":      {Kind: segment.KindZero, Offset: modelDiskSize, Length: 512},
		"control":    {Kind: segment.KindBeacon, Data: []byte("junk")},
		"definition": {Kind: segment.KindDefinition, Data: mustBinary(segment.Definition{Machine: "vm0", JSON: []byte("{")})},
	} {
		w.builder.Reset(1, 1)
		e.Seq = w.head.Seq + 1
		w.builder.Add(e)
		frame, err := w.builder.Finish()
		w.must(err)
		if err := w.j.Append(frame); !problem.HasCode(err, problem.ProtocolError) {
			t.Errorf("%s: %v", name, err)
		}
		frame[len(frame)-1] ^= 1
		if err := w.j.Append(frame); !problem.HasCode(err, problem.ProtocolError) {
			t.Errorf("%s, flipped: %v", name, err)
		}
	}
	if w.j.Appended() != w.head {
		t.Errorf("head moved to %v", w.j.Appended())
	}
}

func mustBinary(v interface{ MarshalBinary() ([]byte, error) }) []byte {
	b, err := v.MarshalBinary()
	if err != nil {
		panic(err)
	}
	return b
}

func TestResolve(t *testing.T) {
	w := script(t, 2)
	if _, err := w.j.Resolve(dr.Latest); !problem.HasCode(err, problem.NoRecoveryPoint) {
		t.Errorf("latest of nothing: %v", err)
	}
	t0 := w.clock
	w.opWrites()
	w.opMarker()
	first := w.beacon() // at t0 + 1 s
	w.opWrites()
	second := w.beacon() // + 2 s
	w.opWrites()
	w.sync()
	at := func(d time.Duration) dr.PointSelector {
		return dr.PointSelector(t0.Add(d).Format(time.RFC3339Nano))
	}
	for sel, want := range map[dr.PointSelector]dr.Position{
		dr.Latest: second, dr.LatestProcessed: {Generation: 1, Epoch: 1, Seq: first.Seq}, "p1": first,
		at(time.Second): first, at(1900 * time.Millisecond): first, at(2 * time.Second): second,
		at(6 * time.Second): second, dr.PointSelector("@" + first.String()): first,
	} {
		r, err := w.j.Resolve(sel)
		if err != nil || r.Position != want {
			t.Errorf("%s: %v, %v; want %v", sel, r.Position, err, want)
		}
		if len(r.Definitions) != 2 || r.Definitions[0].Name != "vm0" {
			t.Errorf("%s: definitions %v", sel, r.Definitions)
		}
	}
	for sel, want := range map[dr.PointSelector]problem.Code{
		dr.LatestApp: problem.NoRecoveryPoint, "nonsense": problem.UnknownPoint,
		at(0): problem.UnknownPoint, at(8 * time.Second): problem.UnknownPoint,
		dr.PointSelector("@" + w.head.String()): problem.PointNotConfirmed, "@x": problem.InvalidRequest,
	} {
		if _, err := w.j.Resolve(sel); !problem.HasCode(err, want) {
			t.Errorf("%s: %v, want %s", sel, err, want)
		}
	}
	r, err := w.j.Resolve(dr.PointSelector("@" + first.String()))
	if err != nil || r.LostSeconds != 1 || r.LostBytes == 0 || r.Point == nil {
		t.Errorf("resolved %+v, %v", r, err)
	}
	spans := w.j.Spans()
	if len(spans) != 1 || spans[0].Low != first || spans[0].High != second {
		t.Errorf("spans %+v", spans)
	}
	w.startEpoch() // an epoch without a beacon adds nothing
	w.sync()
	if got := w.j.Spans(); len(got) != 1 {
		t.Errorf("spans %+v", got)
	}
}

// TestThawed: the label comes after its marker, is worth nothing before it is
// durable, outlives a restart, and is given to no marker of another epoch.
func TestThawed(t *testing.T) {
	w := script(t, 2)
	w.opWrites()
	w.opMarker() // p1
	w.opWrites()
	w.opMarker() // p2, never labelled
	w.beacon()
	w.sync()
	if _, err := w.j.Resolve(dr.LatestApp); !problem.HasCode(err, problem.NoRecoveryPoint) {
		t.Errorf("before the label: %v", err)
	}
	thawed := func(name string) {
		e := w.entry(segment.KindThawed)
		e.name = name
		w.send([]modelEntry{e})
	}
	thawed("p1")
	w.sync()
	check := func() {
		t.Helper()
		for _, sel := range []dr.PointSelector{dr.LatestApp, dr.LatestMultiVMApp} {
			r, err := w.j.Resolve(sel)
			if err != nil || r.Point == nil || r.Point.ID != "p1" || r.Point.Kind != dr.AppConsistent || r.Point.Name != "app p1" {
				t.Errorf("%s: %+v, %v", sel, r, err)
			}
		}
		if got := w.j.Points(Filter{Kind: dr.AppConsistent}); len(got) != 1 {
			t.Errorf("application-consistent points %+v", got)
		}
		if r, err := w.j.Resolve(dr.LatestProcessed); err != nil || r.Point == nil || r.Point.ID != "p2" {
			t.Errorf("latest processed: %+v, %v", r, err)
		}
	}
	check()
	w.must(w.j.Close())
	w.reopen()
	check()
	w.startEpoch()
	thawed("p2")
	w.sync()
	check()
}

// TestResolveInGap: nobody knows what the disks held between a break and the
// end of the next synchronisation.
func TestResolveInGap(t *testing.T) {
	w := script(t, 2)
	t0 := w.clock
	w.opWrites()
	before := w.beacon() // t0 + 1 s
	w.send([]modelEntry{w.entry(segment.KindBreak)})
	w.clock = w.clock.Add(time.Minute)
	w.startEpoch()
	after := w.beacon() // t0 + 62 s
	w.sync()
	if s := w.j.Spans(); len(s) != 2 || s[0].High != before || s[1].Low != after {
		t.Errorf("spans %+v", s)
	}
	for d, want := range map[time.Duration]dr.Position{
		time.Second: before, 5 * time.Second: before, 30 * time.Second: {}, 61 * time.Second: {},
		62 * time.Second: after, 66 * time.Second: after, 70 * time.Second: {},
	} {
		r, err := w.j.Resolve(dr.PointSelector(t0.Add(d).Format(time.RFC3339)))
		if r.Position != want || (want.IsZero() && !problem.HasCode(err, problem.UnknownPoint)) {
			t.Errorf("%v: %v, %v; want %v", d, r.Position, err, want)
		}
	}
}

func TestDivergedPoint(t *testing.T) {
	w := newWorld(t, 3) // seeded
	w.startEpoch()
	if len(w.j.Points(Filter{})) != 0 {
		t.Error("a diverged point before anything was synchronised")
	}
	e := w.entry(segment.KindSyncBegin)
	w.send([]modelEntry{e})
	w.send([]modelEntry{w.randomWrite(w.entry(0).pos, true)})
	w.send([]modelEntry{w.entry(segment.KindSyncEnd)})
	writeHistory(w)
	pts := w.j.Points(Filter{Kind: dr.Diverged})
	if len(pts) != 1 || pts[0].ID != "diverged-1" {
		t.Fatalf("points %v", pts)
	}
	anchor, err := w.j.Fold(context.Background(), dr.Position{})
	w.must(err)
	if anchor != pts[0].Position {
		t.Errorf("folded past the diverged point to %v", anchor)
	}
	v, ok := w.openAt(pts[0].Position, 0)
	if !ok {
		t.Fatal("cannot be opened")
	}
	w.checkView(v)
	w.must(v.dev.Close())
	w.must(w.j.DropDiverged())
	if anchor, err = w.j.Fold(context.Background(), dr.Position{}); err != nil || !pts[0].Position.Before(anchor) {
		t.Errorf("fold to %v, %v", anchor, err)
	}
	w.checkAll()
}

func TestNoRoomKeepsEverything(t *testing.T) {
	t.Run("reserve", func(t *testing.T) { testNoRoom(t, 100<<10) })
	t.Run("full volume", func(t *testing.T) { testNoRoom(t, -1) })
}

func testNoRoom(t *testing.T, reserve int64) {
	w := script(t, 2)
	writeHistory(w)
	w.must(w.j.Close())
	w.opts.ReserveBytes = reserve
	w.reopen()
	w.mem.SetRoom(300 << 10)
	refused := 0
	for range 400 {
		e := w.randomWrite(w.entry(0).pos, false)
		w.builder.Reset(w.epochOf, w.head.Epoch)
		w.builder.Add(e.wire())
		frame, err := w.builder.Finish()
		w.must(err)
		if err := w.j.Append(frame); err != nil {
			if !problem.HasCode(err, problem.NoRoom) {
				t.Fatal(err)
			}
			if refused++; refused > 5 {
				break
			}
			continue
		}
		w.entries, w.head = append(w.entries, e), e.pos
	}
	if refused == 0 {
		t.Fatal("never out of room")
	}
	if !w.j.Status().NoRoom {
		t.Error("the status says that there is room")
	}
	// Sealing a segment takes an index page or a few of it, which is why there
	// is more in the reserve than the fold batches.
	if free, _ := w.mem.Free("/j"); free < reserve-32<<10 {
		t.Errorf("the reserve was used: %d bytes left", free)
	}
	w.sync()
	w.checkAll()
	w.mem.SetRoom(10 << 20)
	if w.j.Status().NoRoom {
		t.Error("the status says that there is no room")
	}
	w.opWrites()
	w.beacon()
	w.sync()
	w.checkAll()
	w.must(w.j.Close())
	w.reopen()
	w.checkAll()
}

func TestOneOwner(t *testing.T) {
	w := script(t, 2)
	if _, err := Open(t.Context(), "/j", w.opts); !problem.HasCode(err, problem.JournalInUse) {
		t.Errorf("opened twice: %v", err)
	}
	if _, err := OpenReadOnly(t.Context(), "/j", w.opts); !problem.HasCode(err, problem.JournalInUse) {
		t.Errorf("read beside the owner: %v", err)
	}
	if in, err := Inspect("/j", w.mem); err != nil || !in.InUse || in.Group != "g" {
		t.Errorf("inspect: %+v, %v", in, err)
	}
	// Somebody takes the manifest over though the lock is held.
	m, err := loadManifest(w.mem, "/j")
	w.must(err)
	m.OwnerEpoch++
	w.must((&manifestStore{fs: w.mem, path: "/j/manifest"}).write(&m))
	if err := w.j.RegisterView(View{ID: "x", Position: w.head}); err == nil {
		t.Error("a view was registered without confirmation")
	}
	if _, _, err := w.j.Seal(9); !problem.HasCode(err, problem.JournalInUse) {
		t.Errorf("the old owner switched the manifest: %v", err)
	}
	if _, err := Create(t.Context(), "/j", Config{}, w.opts); !problem.HasCode(err, problem.InvalidRequest) {
		t.Errorf("create: %v", err)
	}
}

// TestDamage flips one byte in each frame's blocks in turn: only the moments
// that need it are hit, and Verify says which.
func TestDamage(t *testing.T) {
	w := script(t, 2)
	var points []dr.Position
	for range 6 {
		e := w.entry(segment.KindWrite)
		e.disk, e.off, e.data = 0, int64(len(points))*4096, bytes.Repeat([]byte{byte(len(points) + 1)}, 4096)
		e.len = 4096
		w.send([]modelEntry{e})
		w.opMarker()
		points = append(points, w.head)
		w.beacon()
	}
	w.sync()
	seg := w.j.segs[0]
	rep, err := w.j.Verify(t.Context())
	if err != nil || len(rep.Damages) != 0 || rep.Points != 6 || rep.Frames == 0 {
		t.Fatalf("verify of a sound journal: %+v, %v", rep, err)
	}
	r := seg.records[2] // of the third write
	var b [1]byte
	at := int64(r.Frame) + segment.HeaderSize
	w.must(seg.readAt(b[:], at))
	b[0] ^= 1
	_, err = seg.file.WriteAt(b[:], at)
	w.must(err)
	rep, err = w.j.Verify(t.Context())
	if err != nil || len(rep.Damages) != 1 || len(rep.Hit) != 4 || rep.Hit[0].Position != points[2] {
		t.Fatalf("verify: %+v, %v", rep, err)
	}
	for i, p := range points {
		dev, err := w.j.OpenView(t.Context(), p, 0)
		w.must(err)
		err = dev.ReadAt(t.Context(), make([]byte, modelDiskSize), 0)
		if hit := i >= 2; hit != problem.HasCode(err, problem.JournalDamaged) {
			t.Errorf("point %d: %v", i, err)
		}
		if err := dev.ReadAt(t.Context(), make([]byte, 4096), 0); err != nil {
			t.Errorf("point %d, where it is whole: %v", i, err)
		}
		w.must(dev.Close())
	}
}

// TestDamagedSegmentHeader: what lies before stays usable, what lies behind is
// refused with the reason.
func TestDamagedSegmentHeader(t *testing.T) {
	w := script(t, 2)
	for range 14 {
		w.opWrites()
		w.opMarker()
		w.beacon()
	}
	w.sync()
	if len(w.j.segs) < 3 {
		t.Fatalf("only %d segments", len(w.j.segs))
	}
	bad := w.j.segs[1]
	edge := w.j.segs[0].end()
	w.must(w.j.Close())
	f, err := w.mem.Open(bad.path, false)
	w.must(err)
	_, err = f.WriteAt([]byte("rotten"), 20)
	w.must(err)
	j, err := Open(t.Context(), "/j", w.opts)
	w.must(err)
	if r, err := j.Resolve(dr.Latest); err != nil || edge.Before(r.Position) {
		t.Errorf("latest %v, %v; damage begins after %v", r.Position, err, edge)
	}
	if err := j.checkPosition(w.head); !problem.HasCode(err, problem.JournalDamaged) {
		t.Errorf("behind the damage: %v", err)
	}
	if _, err := j.NewEpoch(1); !problem.HasCode(err, problem.JournalDamaged) {
		t.Errorf("new epoch: %v", err)
	}
	rep, err := j.Verify(t.Context())
	if err != nil || len(rep.Damages) == 0 || rep.Damages[0].From != edge || len(rep.Hit) == 0 {
		t.Errorf("verify: %+v, %v", rep, err)
	}
	w.must(j.Close())
}

// TestConcurrentUse appends, commits, folds and reads at the same time, for
// the race detector; a view held throughout keeps its content.
func TestConcurrentUse(t *testing.T) {
	w := script(t, 2)
	writeHistory(w)
	pos := w.j.Status().Confirmed
	want := w.content(1, pos)
	dev, err := w.j.OpenView(t.Context(), pos, 1)
	w.must(err)
	head, err := w.j.HeadView(1)
	w.must(err)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	fail := make(chan error, 10)
	run := func(f func() error) {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := f(); err != nil && ctx.Err() == nil {
					fail <- err
					return
				}
			}
		})
	}
	run(func() error { return w.j.Commit(ctx, func(dr.Position) {}) })
	run(func() error {
		got := make([]byte, modelDiskSize)
		if err := dev.ReadAt(ctx, got, 0); err != nil {
			return err
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("the view at %v changed", pos)
		}
		return head.ReadAt(ctx, got, 0)
	})
	run(func() error {
		if _, err := w.j.Fold(ctx, dr.Position{}); err != nil {
			return err
		}
		_, err := w.j.Prune(ctx)
		return err
	})
	run(func() error {
		w.j.Points(Filter{})
		w.j.Spans()
		p := w.j.Status().Confirmed
		d, err := w.j.OpenView(ctx, p, 0)
		if problem.HasCode(err, problem.UnknownPoint) { // folded past it meanwhile
			return nil
		}
		if err != nil {
			return err
		}
		return d.Close()
	})
	for range 60 {
		w.opWrites()
		w.beacon()
	}
	cancel()
	wg.Wait()
	close(fail)
	for err := range fail {
		t.Error(err)
	}
	w.sync()
	w.checkAll()
	w.must(dev.Close())
}

func TestCommitReports(t *testing.T) {
	w := script(t, 2)
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan dr.Position, 100)
	ended := make(chan error, 1)
	go func() { ended <- w.j.Commit(ctx, func(p dr.Position) { got <- p }) }()
	w.opWrites()
	for p := range got {
		if p == w.head {
			break
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestFailedSyncEndsTheJournal(t *testing.T) {
	w := script(t, 2)
	w.opWrites()
	w.mem.Hook = func(op, name string) error {
		if op == "sync" {
			return errors.New("EIO")
		}
		return nil
	}
	if _, err := w.j.Sync(); !errors.Is(err, ErrFailed) {
		t.Errorf("sync: %v", err)
	}
	w.mem.Hook = nil
	if _, err := w.j.Sync(); !errors.Is(err, ErrFailed) {
		t.Errorf("a second sync: %v", err)
	}
	if err := w.appendStale(); !errors.Is(err, ErrFailed) {
		t.Errorf("append: %v", err)
	}
}

var _ vfs.FS = (*vfs.Mem)(nil)
