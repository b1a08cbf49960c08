package resync

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"rebound/internal/dr"
	"rebound/internal/extent"
)

// TestInflightAgainstBytes holds Inflight against one bool a byte and range.
func TestInflightAgainstBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const size = 64
		type model struct {
			tok     Token
			touched [size]bool
		}
		var f Inflight
		var open []*model
		seq := dr.Seq(0)
		rng := func(label string) extent.Range {
			off := rapid.Int64Range(0, size-1).Draw(t, label)
			return extent.Range{Off: off, Len: rapid.Int64Range(1, size-off).Draw(t, label)}
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch op := rapid.IntRange(0, 5).Draw(t, "op"); {
			case op == 0:
				disk := uint16(rapid.IntRange(0, 1).Draw(t, "disk"))
				tok := f.Begin(disk, rng("begin"), seq)
				if tok.Seq > seq {
					t.Fatalf("token waits for %d of %d", tok.Seq, seq)
				}
				open = append(open, &model{tok: tok})
			case op == 1 && len(open) > 0:
				i := rapid.IntRange(0, len(open)-1).Draw(t, "end")
				f.End(open[i].tok)
				if got := f.Untouched(open[i].tok, open[i].tok.Range, nil); got != nil {
					t.Fatalf("an ended token answers %v", got)
				}
				open = slices.Delete(open, i, i+1)
			default:
				seq++
				disk, r := uint16(rapid.IntRange(0, 1).Draw(t, "disk")), rng("live")
				f.LiveAt(seq, disk, r)
				for _, m := range open {
					for i := r.Off; i < r.End() && m.tok.Disk == disk; i++ {
						m.touched[i] = true
					}
				}
			}
			if f.Len() != len(open) {
				t.Fatalf("%d in flight, want %d", f.Len(), len(open))
			}
			for _, m := range open {
				probe := rng("probe").Intersect(m.tok.Range)
				left := extent.NewSet(f.Untouched(m.tok, probe, nil)...)
				for i := probe.Off; i < probe.End(); i++ {
					if left.Overlaps(extent.Range{Off: i, Len: 1}) == m.touched[i] {
						t.Fatalf("byte %d: untouched %v", i, !m.touched[i])
					}
				}
			}
		}
	})
}

// TestTokenNamesTheNewestWriteOfItsPlace demands that comparing waits for the
// writes of its own window and for no others.
func TestTokenNamesTheNewestWriteOfItsPlace(t *testing.T) {
	var f Inflight
	f.LiveAt(3, 0, extent.Range{Off: 0, Len: 512}) // before the first Begin: forgotten
	window := func(i int64) extent.Range { return extent.Range{Off: i * Window, Len: Window} }
	begin := func(disk uint16, r extent.Range, last dr.Seq) dr.Seq {
		tok := f.Begin(disk, r, last)
		f.End(tok)
		return tok.Seq
	}
	if n := begin(0, window(0), 5); n != 5 {
		t.Errorf("first window waits for %d, want 5", n)
	}
	f.LiveAt(9, 0, extent.Range{Off: 2*Window - 512, Len: 1024})
	f.LiveAt(10, 1, extent.Range{Off: 7 * Window, Len: 512})
	for i, want := range []dr.Seq{5, 9, 9, 5} {
		if n := begin(0, window(int64(i)), 20); n != want {
			t.Errorf("window %d waits for %d, want %d", i, n, want)
		}
	}
	f.Live(0, extent.Range{Off: 3 * Window, Len: 512})
	if n := begin(0, window(3), 21); n != 21 {
		t.Errorf("after a write without a number: %d, want 21", n)
	}
	f.LiveAt(30, 0, extent.Range{Off: 0, Len: 1 << 40})
	if n := begin(0, window(900), 40); n != 30 {
		t.Errorf("after a long zero: %d, want 30", n)
	}
}

// TestLiveAllocatesNothing measures the path of every write of a guest.
func TestLiveAllocatesNothing(t *testing.T) {
	var f Inflight
	if n := testing.AllocsPerRun(100, func() { f.LiveAt(1, 0, extent.Range{Off: 4096, Len: 4096}) }); n != 0 {
		t.Errorf("%v allocations with nothing in flight", n)
	}
	tok := f.Begin(0, extent.Range{Len: Window}, 1)
	if n := testing.AllocsPerRun(100, func() { f.LiveAt(2, 0, extent.Range{Off: 5 * Window, Len: 4096}) }); n != 0 {
		t.Errorf("%v allocations for a write elsewhere", n)
	}
	f.End(tok)
}

func BenchmarkLive(b *testing.B) {
	for _, c := range []struct {
		name string
		open int
	}{{"idle", 0}, {"8 in flight", 8}} {
		b.Run(c.name, func(b *testing.B) {
			var f Inflight
			for i := range c.open {
				f.Begin(0, extent.Range{Off: int64(i) * Window, Len: Window}, 0)
			}
			for i := range b.N {
				f.LiveAt(dr.Seq(i), 0, extent.Range{Off: int64(100+i%100) * Window, Len: 4096})
			}
		})
	}
}

// TestPlanWalksEveryByteOnce holds the walk against the set that it is of.
func TestPlanWalksEveryByteOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(1, 9*Window/512).Draw(t, "sectors") * 512
		set := &extent.Set{}
		for range rapid.IntRange(0, 20).Draw(t, "ranges") {
			off := rapid.Int64Range(0, size-1).Draw(t, "off")
			set.Add(extent.Range{Off: off, Len: rapid.Int64Range(1, size-off).Draw(t, "len")})
		}
		p, err := newPlan([]Source{{Device: &memDisk{data: make([]byte, size)}, Ranges: set}})
		if err != nil {
			t.Fatal(err)
		}
		want := &extent.Set{}
		for _, r := range set.Runs() {
			want.Add(r.Align(Block).Intersect(extent.Range{Len: size}))
		}
		seen := &extent.Set{}
		var bytes int64
		skip := rapid.IntRange(0, 3).Draw(t, "finish every")
		n := 0
		for j := range p.jobs {
			for _, r := range j.runs {
				if r.Off/Window != j.window || (r.End()-1)/Window != j.window || seen.Overlaps(r) {
					t.Fatalf("job of window %d has %v", j.window, r)
				}
				seen.Add(r)
				bytes += r.Len
			}
			if n++; skip > 0 && n%skip == 0 {
				p.finish(j, 0)
			}
		}
		if !slices.Equal(seen.Runs(), want.Runs()) || bytes != want.Bytes() || p.progress.Total != bytes {
			t.Fatalf("walked %v, want %v", seen.Runs(), want.Runs())
		}
		if left := p.remaining()[0].Bytes(); left != p.progress.Total-p.progress.Done {
			t.Fatalf("%d left of %+v", left, p.progress)
		}
	})
}
