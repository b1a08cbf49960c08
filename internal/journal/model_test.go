package journal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/journal/vfs"
	"rebound/internal/problem"
	"rebound/internal/segment"
)

var errCrash = errors.New("the machine has stopped")

const modelDiskSize = 192 << 10

// modelEntry is one entry as the source sent it.
type modelEntry struct {
	pos  dr.Position
	kind segment.Kind
	disk uint16
	off  int64
	len  int64
	data []byte
	sync bool
	n    dr.Seq    // of a beacon
	wall time.Time // of a beacon or marker
	name string    // of a marker's or thawed marker's id, or a definition's machine uuid
}

// world is a journal beside a model that remembers every write.
type world struct {
	t       *testing.T
	r       *rand.Rand
	mem     *vfs.Mem
	j       *Journal
	opts    Options
	builder *segment.Builder
	disks   int
	seed    [][]byte // first content of the bases
	entries []modelEntry
	head    dr.Position
	durable dr.Position // as reported: may not be lost
	gen     dr.Generation
	epochOf dr.Generation
	ended   bool
	clock   time.Time
	fuse    int // file operations until the crash; 0: none
	blown   bool
	views   []heldView
	pinned  map[string]dr.Position
	counts  map[string]int
	nextID  int
	window  time.Duration
}

type heldView struct {
	pos  dr.Position
	disk int
	dev  Device
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{
		t: t, r: rand.New(rand.NewPCG(seed, 1)), mem: vfs.NewMem(0), builder: segment.NewBuilder(segment.Codec(seed % 2)),
		disks: 2, gen: 1, clock: time.Unix(1700000000, 0).UTC(), pinned: map[string]dr.Position{}, counts: map[string]int{},
		window: 3 * time.Second,
	}
	w.opts = Options{FS: w.mem, SegmentBytes: 48 << 10, FoldBatchBytes: 20 << 10, ReserveBytes: -1, Now: func() time.Time { return w.clock }}
	w.mem.Hook = w.hook
	cfg := Config{Group: "g", Generation: 1, Seeded: seed%3 == 0, RedoWindow: w.window}
	for i := range w.disks {
		content := make([]byte, modelDiskSize)
		for k := range content[:modelDiskSize/2] {
			content[k] = byte(w.r.Uint32())
		}
		w.seed = append(w.seed, content)
		path := fmt.Sprintf("/bases/%d.raw", i)
		f, err := w.mem.Create(path)
		w.must(err)
		_, err = f.WriteAt(content, 0)
		w.must(err)
		w.must(f.Sync())
		w.must(f.Close())
		cfg.Disks = append(cfg.Disks, dr.GroupDisk{Machine: dr.MachineName(fmt.Sprintf("vm%d", i)), Disk: "disk0", SizeBytes: modelDiskSize})
		cfg.BasePaths = append(cfg.BasePaths, path)
		cfg.Definitions = append(cfg.Definitions, dr.Definition{Name: dr.MachineName(fmt.Sprintf("vm%d", i)), UUID: "first"})
	}
	w.must(w.mem.SyncDir("/bases"))
	j, err := Create(t.Context(), "/j", cfg, w.opts)
	w.must(err)
	w.j = j
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) hook(string, string) error {
	if w.blown {
		return errCrash
	}
	if w.fuse > 0 {
		w.fuse--
		if w.fuse == 0 {
			w.blown = true
			return errCrash
		}
	}
	return nil
}

// done says how an operation ended: false means that the machine stopped in it.
func (w *world) done(err error) bool {
	w.t.Helper()
	if w.blown {
		return false
	}
	w.must(err)
	return true
}

// entry makes the next entry of the stream.
func (w *world) entry(kind segment.Kind) modelEntry {
	p := w.head
	p.Seq++
	return modelEntry{pos: p, kind: kind}
}

// wire turns model entries into a frame and appends it.
func (w *world) send(list []modelEntry) bool {
	w.builder.Reset(w.epochOf, w.head.Epoch)
	for i := range list {
		if !w.builder.Add(list[i].wire()) {
			w.t.Fatal("entry does not fit")
		}
	}
	frame, err := w.builder.Finish()
	w.must(err)
	if !w.done(w.j.Append(frame)) {
		// It may be on disk or not: known after the crash.
		w.entries = append(w.entries, list...)
		return false
	}
	w.entries = append(w.entries, list...)
	w.head = list[len(list)-1].pos
	w.counts["append"] += len(list)
	return true
}

func (e *modelEntry) wire() segment.Entry {
	out := segment.Entry{Seq: e.pos.Seq, Kind: e.kind, Disk: e.disk, Offset: e.off, Length: e.len, Data: e.data}
	if e.sync {
		out.Flags = segment.FlagSync
	}
	var v interface{ MarshalBinary() ([]byte, error) }
	switch e.kind {
	case segment.KindMarker:
		v = segment.Marker{ID: dr.PointID(e.name), Kind: dr.CrashConsistent, Time: e.wall}
	case segment.KindThawed:
		v = segment.Thawed{ID: dr.PointID(e.name), Name: "app " + e.name}
	case segment.KindBeacon:
		v = segment.Beacon{Wall: e.wall, N: e.n}
	case segment.KindBreak:
		v = segment.Break{Reason: "test"}
	case segment.KindSyncBegin:
		v = segment.SyncBegin{Mode: "compare"}
	case segment.KindSyncEnd:
		v = segment.SyncEnd{}
	case segment.KindDefinition:
		b, _ := json.Marshal(dr.Definition{Name: "vm0", UUID: e.name})
		v = segment.Definition{Machine: "vm0", JSON: b}
	default:
		return out
	}
	out.Data, _ = v.MarshalBinary()
	return out
}

// randomWrite is a write, zero or trim somewhere.
func (w *world) randomWrite(p dr.Position, sync bool) modelEntry {
	e := modelEntry{pos: p, kind: segment.KindWrite, disk: uint16(w.r.IntN(w.disks)), sync: sync}
	e.len = 1 + w.r.Int64N(6000)
	if w.r.IntN(2) == 0 {
		e.len = 512 * (1 + w.r.Int64N(16))
	}
	e.off = w.r.Int64N(modelDiskSize - e.len + 1)
	switch k := w.r.IntN(10); {
	case k == 0 && !sync:
		e.kind = segment.KindTrim
	case k <= 2:
		e.kind = segment.KindZero
	default:
		e.data = make([]byte, e.len)
		for i := range e.data {
			e.data[i] = byte(w.r.Uint32N(4) * uint32(i/64))
		}
		e.data[0] = byte(w.r.Uint32())
	}
	return e
}

// content replays the model's disk up to p.
func (w *world) content(disk int, p dr.Position) []byte {
	out := bytes.Clone(w.seed[disk])
	for i := range w.entries {
		e := &w.entries[i]
		if p.Before(e.pos) {
			break
		}
		if int(e.disk) != disk {
			continue
		}
		switch e.kind {
		case segment.KindWrite:
			copy(out[e.off:], e.data)
		case segment.KindZero:
			clear(out[e.off : e.off+e.len])
		}
	}
	return out
}

// offered is the rule of confirmed positions, written a second time and
// slowly: of durable entries, some beacon of the epoch covers p, a
// synchronisation of the epoch has ended, and p is in none.
func (w *world) offered(p dr.Position) bool {
	w.durable = w.j.Durable() // it syncs by itself too
	covered, synced, inside := false, false, false
	for i := range w.entries {
		e := &w.entries[i]
		if e.pos.Epoch != p.Epoch || w.durable.Before(e.pos) {
			continue
		}
		covered = covered || (e.kind == segment.KindBeacon && e.n >= p.Seq)
		if e.pos.Seq <= p.Seq {
			switch e.kind {
			case segment.KindSyncBegin:
				inside = true
			case segment.KindSyncEnd:
				inside, synced = false, true
			}
		}
	}
	return covered && synced && !inside && p.Seq > 0 && !w.durable.Before(p)
}

func (w *world) checkView(v heldView) {
	w.t.Helper()
	want := w.content(v.disk, v.pos)
	off, end := int64(0), int64(modelDiskSize)
	if w.r.IntN(3) > 0 {
		off = w.r.Int64N(modelDiskSize)
		end = off + w.r.Int64N(modelDiskSize-off) + 1
	}
	got := make([]byte, end-off)
	w.must(v.dev.ReadAt(context.Background(), got, off))
	if !bytes.Equal(got, want[off:end]) {
		at := 0
		for got[at] == want[off+int64(at)] {
			at++
		}
		w.t.Fatalf("disk %d at %v differs from byte %d on (anchor %v, floor %v, head %v)", v.disk, v.pos, off+int64(at), w.j.Status().Anchor, w.j.floor, w.head)
	}
	w.counts["view checked"]++
	w.checkExtents(v, want)
}

// checkExtents holds the view to its word on what is zero.
func (w *world) checkExtents(v heldView, want []byte) {
	w.t.Helper()
	for at := int64(0); at < modelDiskSize; {
		list, err := v.dev.Extents(context.Background(), at, modelDiskSize-at)
		w.must(err)
		if len(list) == 0 {
			w.t.Fatal("no extents")
		}
		for _, x := range list {
			if x.Zero && len(bytes.Trim(want[at:at+x.Length], "\x00")) > 0 {
				w.t.Fatalf("disk %d at %v: [%d, +%d) is said to be zero", v.disk, v.pos, at, x.Length)
			}
			at += x.Length
		}
	}
}

// openAt opens a view, or makes sure that it is refused for the right reason.
func (w *world) openAt(p dr.Position, disk int) (heldView, bool) {
	w.t.Helper()
	dev, err := w.j.OpenView(context.Background(), p, uint16(disk))
	isDiverged := slices.ContainsFunc(w.j.Points(Filter{Kind: dr.Diverged}), func(d dr.Point) bool { return d.Position == p })
	switch {
	case isDiverged || (w.offered(p) && !p.Before(w.j.floor)):
		w.must(err)
		return heldView{p, disk, dev}, true
	case err == nil:
		w.t.Fatalf("a view at %v was opened that is not offered (floor %v)", p, w.j.floor)
	case !problem.HasCode(err, problem.UnknownPoint) && !problem.HasCode(err, problem.PointNotConfirmed):
		w.t.Fatalf("view at %v: %v", p, err)
	}
	return heldView{}, false
}

// somePosition picks a position of the stream.
func (w *world) somePosition() dr.Position {
	if len(w.entries) == 0 || w.r.IntN(20) == 0 {
		return w.j.Status().Anchor
	}
	if w.r.IntN(3) == 0 {
		return w.j.Status().Confirmed
	}
	return w.entries[w.r.IntN(len(w.entries))].pos
}

func (w *world) checkAll() {
	w.t.Helper()
	for _, v := range w.views {
		w.checkView(v)
	}
	for d := range w.disks {
		dev, err := w.j.HeadView(uint16(d))
		w.must(err)
		w.checkView(heldView{w.head, d, dev})
	}
	for _, p := range w.pinned {
		v, ok := w.openAt(p, w.r.IntN(w.disks))
		if !ok {
			w.t.Fatalf("registered view at %v cannot be opened", p)
		}
		w.checkView(v)
		w.must(v.dev.Close())
	}
	for range 3 {
		if v, ok := w.openAt(w.somePosition(), w.r.IntN(w.disks)); ok {
			w.checkView(v)
			w.must(v.dev.Close())
		}
	}
	w.checkPoints()
}

// checkPoints compares the points with the markers of the model.
func (w *world) checkPoints() {
	w.t.Helper()
	var want, got []string
	for i := range w.entries {
		e := &w.entries[i]
		if e.kind == segment.KindMarker && w.offered(e.pos) && !e.pos.Before(w.j.floor) {
			kind, name := w.label(e)
			want = append(want, fmt.Sprintf("%s@%s %s %q", e.name, e.pos, kind, name))
		}
	}
	for _, p := range w.j.Points(Filter{}) {
		if p.Kind == dr.Diverged {
			if p.Position != (dr.Position{Generation: 1}) {
				w.t.Fatalf("diverged point at %v", p.Position)
			}
			continue
		}
		got = append(got, fmt.Sprintf("%s@%s %s %q", p.ID, p.Position, p.Kind, p.Name))
		if r, err := w.j.Resolve(dr.PointSelector(p.ID)); err != nil || r.Position != p.Position || r.Definitions[0].UUID != w.definition(p.Position) {
			w.t.Fatalf("point %s resolves to %+v, %v; want definition %s", p.ID, r, err, w.definition(p.Position))
		}
	}
	if !slices.Equal(got, want) {
		w.t.Fatalf("points %v, want %v", got, want)
	}
}

// label returns what a marker is called once a durable entry of its epoch has
// said that it was thawed after it.
func (w *world) label(marker *modelEntry) (dr.PointKind, string) {
	durable := w.j.Durable()
	for i := range w.entries {
		e := &w.entries[i]
		if e.kind == segment.KindThawed && e.name == marker.name && e.pos.Epoch == marker.pos.Epoch && !durable.Before(e.pos) {
			return dr.AppConsistent, "app " + e.name
		}
	}
	return dr.CrashConsistent, ""
}

// definition returns what the model knows of vm0 at p.
func (w *world) definition(p dr.Position) string {
	name := "first"
	for i := range w.entries {
		if e := &w.entries[i]; e.kind == segment.KindDefinition && !p.Before(e.pos) {
			name = e.name
		}
	}
	return name
}

// reopen opens the journal after a crash or a clean close, and checks what it
// kept.
func (w *world) reopen() {
	w.t.Helper()
	j, err := Open(w.t.Context(), "/j", w.opts)
	if w.blown { // a crash while recovering from a crash
		w.crash()
		return
	}
	w.must(err)
	w.j = j
	got := j.Durable()
	if got.Before(w.durable) {
		w.t.Fatalf("reopened at %v, but %v was durable", got, w.durable)
	}
	w.entries = slices.DeleteFunc(w.entries, func(e modelEntry) bool { return got.Before(e.pos) })
	w.head, w.durable = got, got
	w.gen = j.Status().Generation
	w.epochOf = got.Generation
	w.ended = got.Epoch == 0 || got.Generation < w.gen
	if n := len(w.entries); n > 0 && w.entries[n-1].pos == got {
		w.ended = w.ended || w.entries[n-1].kind == segment.KindBreak
	}
	for id, p := range w.pinned {
		if !slices.ContainsFunc(j.Views(), func(v View) bool { return v.ID == id && v.Position == p }) {
			w.t.Fatalf("registered view %s is gone", id)
		}
	}
	for _, v := range j.Views() {
		w.pinned[v.ID] = v.Position // its registration was under way
	}
}

func (w *world) crash() {
	w.t.Helper()
	w.counts["crash"]++
	w.views = nil
	w.mem.Crash(w.r)
	w.blown, w.fuse = false, 0
	if w.r.IntN(10) == 0 {
		w.fuse = 1 + w.r.IntN(20)
	}
	w.reopen()
}
