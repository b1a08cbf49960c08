package journal

import (
	"bytes"
	"testing"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/segment"
)

// writeAt sends one write and a point after it, confirmed.
func (w *world) writeAt(off int64, data []byte) dr.Position {
	w.t.Helper()
	e := w.entry(segment.KindWrite)
	e.off, e.len, e.data = off, int64(len(data)), data
	w.send([]modelEntry{e})
	w.opMarker()
	at := w.head
	w.beacon()
	w.sync()
	return at
}

// rot flips one bit of a base.
func (w *world) rot(disk int, off int64) {
	w.t.Helper()
	var b [1]byte
	f := w.j.bases[disk].file
	_, err := f.ReadAt(b[:], off)
	w.must(err)
	b[0] ^= 0x10
	_, err = f.WriteAt(b[:], off)
	w.must(err)
}

func (w *world) readsAt(pos dr.Position, off, n int64) error {
	w.t.Helper()
	dev, err := w.j.OpenView(w.t.Context(), pos, 0)
	w.must(err)
	defer dev.Close()
	return dev.ReadAt(w.t.Context(), make([]byte, n), off)
}

// TestRotInBase: a bit that flips in a base is found by the read that needs its
// block, by no other, and Verify names the points that need it.
func TestRotInBase(t *testing.T) {
	w := script(t, 2)
	first := w.writeAt(8192, bytes.Repeat([]byte{1}, 16384))
	w.must(w.j.FoldExactly(t.Context(), first, nil))
	second := w.writeAt(12288, bytes.Repeat([]byte{2}, 100)) // a part of the block
	third := w.writeAt(12288, bytes.Repeat([]byte{3}, 4096)) // all of it
	rep, err := w.j.Verify(t.Context())
	if err != nil || len(rep.Bases) != 0 || rep.BaseBytes == 0 || rep.UnknownBytes == 0 {
		t.Fatalf("verify of a sound journal: %+v, %v", rep, err)
	}
	w.rot(0, 12288+4000)
	for _, c := range []struct {
		pos    dr.Position
		off, n int64
		hit    bool
	}{
		{first, 8192, 4096, false},
		{first, 16384, 8192, false},
		{first, 12288, 4096, true},
		{first, 12288, 512, true}, // the block is checked as a whole
		{first, 0, 32768, true},
		{second, 12288, 100, false}, // from redo
		{second, 12288, 101, true},
		{third, 0, 32768, false},
	} {
		if err := w.readsAt(c.pos, c.off, c.n); problem.HasCode(err, problem.JournalDamaged) != c.hit {
			t.Errorf("%d bytes at %d of %v: %v", c.n, c.off, c.pos, err)
		}
	}
	rep, err = w.j.Verify(t.Context())
	want := BaseDamage{Disk: 0, Offset: 12288, Length: 4096}
	if err != nil || len(rep.Bases) != 1 || rep.Bases[0] != want || len(rep.Hit) != 2 || rep.Hit[1].Position != second {
		t.Fatalf("verify: %+v, %v", rep, err)
	}
}

// TestRotIsNotBlessed: a fold that overwrites a part of a rotten block does not
// make the rest look sound; one that overwrites all of it mends it.
func TestRotIsNotBlessed(t *testing.T) {
	w := script(t, 2)
	w.must(w.j.FoldExactly(t.Context(), w.writeAt(0, bytes.Repeat([]byte{1}, 8192)), nil))
	w.rot(0, 100)
	part := w.writeAt(2048, bytes.Repeat([]byte{2}, 2048))
	w.must(w.j.FoldExactly(t.Context(), part, nil))
	if err := w.readsAt(part, 0, 512); !problem.HasCode(err, problem.JournalDamaged) {
		t.Errorf("the rest of a rotten block: %v", err)
	}
	if err := w.readsAt(part, 4096, 4096); err != nil {
		t.Errorf("the block behind it: %v", err)
	}
	whole := w.writeAt(0, bytes.Repeat([]byte{3}, 4096))
	w.must(w.j.FoldExactly(t.Context(), whole, nil))
	if err := w.readsAt(whole, 0, 8192); err != nil {
		t.Errorf("after the block was written anew: %v", err)
	}
}

// TestSumsOfOldJournal: a journal from before there were sums gets them as its
// bases are written; until then nothing is said about them.
func TestSumsOfOldJournal(t *testing.T) {
	w := script(t, 2)
	w.must(w.j.FoldExactly(t.Context(), w.writeAt(0, bytes.Repeat([]byte{1}, 4096)), nil))
	w.must(w.j.Close())
	for i := range w.disks {
		w.must(w.mem.Remove(sumsPath("/j", i)))
	}
	ro, err := OpenReadOnly(t.Context(), "/j", w.opts)
	w.must(err)
	if rep, err := ro.Verify(t.Context()); err != nil || rep.UnknownBytes != int64(w.disks)*modelDiskSize {
		t.Errorf("verify without sums: %+v, %v", rep, err)
	}
	w.must(ro.Close())
	w.j, err = Open(t.Context(), "/j", w.opts)
	w.must(err)
	w.startEpoch()
	at := w.writeAt(4096, bytes.Repeat([]byte{2}, 4096))
	w.must(w.j.FoldExactly(t.Context(), at, nil))
	w.rot(0, 4096)
	w.rot(0, 0)
	if err := w.readsAt(at, 4096, 4096); !problem.HasCode(err, problem.JournalDamaged) {
		t.Errorf("a block that was folded since: %v", err)
	}
	if err := w.readsAt(at, 0, 4096); err != nil {
		t.Errorf("a block of which nothing is known: %v", err)
	}
}

func TestPartialBlocks(t *testing.T) {
	p := func(off, n int64) piece { return piece{off: off, len: n} }
	const size = 10*sumBlock + 512
	for _, c := range []struct {
		pieces []piece
		want   []int64
	}{
		{nil, nil},
		{[]piece{p(0, sumBlock)}, nil},
		{[]piece{p(0, 5*sumBlock)}, nil},
		{[]piece{p(100, 5*sumBlock)}, []int64{0, 5 * sumBlock}},
		{[]piece{p(0, 100), p(100, sumBlock-100)}, nil},
		{[]piece{p(0, 100), p(200, 100), p(2*sumBlock, 3*sumBlock+1)}, []int64{0, 5 * sumBlock}},
		{[]piece{p(10*sumBlock, 512)}, nil},
		{[]piece{p(10*sumBlock, 511)}, []int64{10 * sumBlock}},
	} {
		got := partial(c.pieces, size)
		if len(got) != len(c.want) {
			t.Errorf("%v: %v, want %v", c.pieces, got, c.want)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("%v: %v, want %v", c.pieces, got, c.want)
			}
		}
	}
}
