package run

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rebound/internal/dr"
)

var update = flag.Bool("update", false, "write golden files")

// file is an io.WriterAt in memory.
type file struct{ b []byte }

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	if off != int64(len(f.b)) {
		return 0, io.ErrShortWrite // a run is written from front to back
	}
	f.b = append(f.b, p...)
	return len(p), nil
}

func build(t testing.TB, records map[uint16][]Record) []byte {
	t.Helper()
	f := &file{}
	w := NewWriter(f, 7)
	for d := range uint16(4) {
		for _, r := range records[d] {
			if err := w.Add(d, r); err != nil {
				t.Fatal(err)
			}
		}
	}
	n, err := w.Finish([]byte(`{"a":1}`))
	if err != nil || n != int64(len(f.b)) {
		t.Fatalf("%d bytes of %d, %v", n, len(f.b), err)
	}
	return f.b
}

func randomRecords(r *rand.Rand, n int) []Record {
	var out []Record
	at := r.Int64N(3) * 512
	for i := range n {
		rec := Record{Offset: at, Len: 1 + r.Int64N(5000), Seq: dr.Seq(i + 1), Frame: r.Int64N(1 << 40), Payload: r.Uint32N(1 << 20), File: r.Uint32N(9)}
		if r.IntN(5) == 0 {
			rec.Payload = Zeroes
		}
		at = rec.End() + r.Int64N(3)*r.Int64N(5000)
		out = append(out, rec)
	}
	return out
}

// TestLookup compares look-ups and cursors with a walk through all records.
func TestLookup(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 2))
	for _, n := range []int{1, RecordsPerPage, RecordsPerPage + 1, keysPerPage * RecordsPerPage, keysPerPage*RecordsPerPage + 1, 40000} {
		records := map[uint16][]Record{0: randomRecords(r, 3), 2: randomRecords(r, n)}
		rd, err := Open(build(t, records), 7)
		if err != nil {
			t.Fatal(err)
		}
		if string(rd.Meta()) != `{"a":1}` || rd.Records() != uint64(n+3) || !slices.Equal(rd.Disks(), []uint16{0, 2}) {
			t.Fatalf("text %s, %d records", rd.Meta(), rd.Records())
		}
		all := records[2]
		end := all[len(all)-1].End()
		for range 300 {
			off := r.Int64N(end + 1000)
			to := off + 1 + r.Int64N(20000)
			var want []Record
			for _, rec := range all {
				if rec.Offset < to && rec.End() > off {
					want = append(want, rec)
				}
			}
			got, err := rd.Lookup(nil, 2, off, to)
			if err != nil || !slices.Equal(got, want) {
				t.Fatalf("[%d, %d): %v, %v; want %v", off, to, got, err, want)
			}
			c := rd.Cursor(2, off)
			for _, rec := range want {
				if got, ok, err := c.Next(); !ok || err != nil || got != rec {
					t.Fatalf("cursor: %v %v %v, want %v", got, ok, err, rec)
				}
			}
		}
		if got, err := rd.Lookup(nil, 1, 0, 1<<40); len(got) != 0 || err != nil {
			t.Fatalf("disk without records: %v, %v", got, err)
		}
		for p := range rd.Pages() {
			if err := rd.CheckPage(p); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestEveryFlippedBitIsNoticed: no answer comes from bytes that changed.
func TestEveryFlippedBitIsNoticed(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	all := randomRecords(r, 200)
	data := build(t, map[uint16][]Record{1: all})
	end := all[len(all)-1].End()
	for at := range data {
		b := bytes.Clone(data)
		b[at] ^= 1 << (at % 8)
		rd, err := Open(b, 7)
		if err == nil {
			var got []Record
			if got, err = rd.Lookup(nil, 1, 0, end); err == nil && !slices.Equal(got, all) {
				t.Fatalf("byte %d changed, and the records differ", at)
			}
			for p := range rd.Pages() {
				err = errors.Join(err, rd.CheckPage(p))
			}
		}
		if !errors.Is(err, ErrDamaged) {
			t.Fatalf("byte %d changed: %v", at, err)
		}
	}
	if _, err := Open(data, 8); !errors.Is(err, ErrDamaged) {
		t.Fatalf("another owner: %v", err)
	}
}

// TestFaultIsAnError: a page that the volume cannot read any more must not end
// the process. A mapping beyond the end of its file behaves like that.
func TestFaultIsAnError(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	data := build(t, map[uint16][]Record{1: randomRecords(r, 2000)})
	f, err := os.Create(filepath.Join(t.TempDir(), "run"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	m, err := unix.Mmap(int(f.Fd()), 0, len(data), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(m)
	rd, err := Open(m, 7)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if _, err := rd.Lookup(nil, 1, 0, 1<<40); !errors.Is(err, ErrDamaged) {
		t.Errorf("look-up in a file that is gone: %v", err)
	}
	if _, _, err := rd.Cursor(1, 0).Next(); !errors.Is(err, ErrDamaged) {
		t.Errorf("cursor in a file that is gone: %v", err)
	}
	if err := rd.CheckPage(0); !errors.Is(err, ErrDamaged) {
		t.Errorf("check of a file that is gone: %v", err)
	}
	if _, err := Open(m, 7); !errors.Is(err, ErrDamaged) {
		t.Errorf("open a file that is gone: %v", err)
	}
}

func TestWriterRefuses(t *testing.T) {
	for name, list := range map[string][]Record{
		"overlap": {{Offset: 0, Len: 10}, {Offset: 9, Len: 1}},
		"order":   {{Offset: 10, Len: 1}, {Offset: 0, Len: 1}},
		"empty":   {{Offset: 0, Len: 0}},
	} {
		w := NewWriter(&file{}, 7)
		var err error
		for _, r := range list {
			err = errors.Join(err, w.Add(1, r))
		}
		if err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	w := NewWriter(&file{}, 7)
	if err := errors.Join(w.Add(1, Record{Len: 1}), w.Add(0, Record{Len: 1})); err == nil {
		t.Error("disks out of order: taken")
	}
}

// TestGolden holds the format still.
func TestGolden(t *testing.T) {
	var list []Record
	for i := range RecordsPerPage + 2 {
		list = append(list, Record{Offset: int64(i) << 12, Len: 4096, Seq: dr.Seq(i + 1), Frame: 64, Payload: uint32(i) << 12, File: 3})
	}
	list[1].Payload = Zeroes
	got := build(t, map[uint16][]Record{0: list[:1], 3: list})
	var text strings.Builder
	for i := 0; i < len(got); i += 32 {
		fmt.Fprintln(&text, hex.EncodeToString(got[i:min(i+32, len(got))]))
	}
	path := filepath.Join("testdata", "run.hex")
	if *update {
		if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if text.String() != string(want) {
		t.Error("the format of runs has changed; runs on disk have the old one")
	}
}

func FuzzOpen(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	f.Add(build(f, map[uint16][]Record{1: randomRecords(r, 60)}), 0, byte(0))
	f.Fuzz(func(t *testing.T, b []byte, at int, v byte) {
		b = bytes.Clone(b)
		if len(b) > 0 {
			b[uint(at)%uint(len(b))] ^= v
		}
		rd, err := Open(b, 7)
		if err != nil {
			return
		}
		for _, d := range rd.Disks() {
			_, _ = rd.Lookup(nil, d, 0, 1<<62)
			c := rd.Cursor(d, 0)
			for range 1000 {
				if _, ok, _ := c.Next(); !ok {
					break
				}
			}
		}
	})
}

func BenchmarkLookup(b *testing.B) {
	const n = 10_000_000
	f := &file{b: make([]byte, 0, n*42)}
	w := NewWriter(f, 7)
	for i := range int64(n) {
		if err := w.Add(0, Record{Offset: i * 8192, Len: 4096, Seq: 1}); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := w.Finish(nil); err != nil {
		b.Fatal(err)
	}
	rd, err := Open(f.b, 7)
	if err != nil {
		b.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	var dst []Record
	b.ReportAllocs()
	for b.Loop() {
		off := r.Int64N(n) * 8192
		if dst, err = rd.Lookup(dst[:0], 0, off, off+4096); err != nil || len(dst) != 1 {
			b.Fatal(err, len(dst))
		}
	}
}
