package ledger

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// records makes a chain of n records.
func records(t interface{ Fatal(...any) }, n int) []Record {
	var out []Record
	var prev Ref
	for i := range n {
		r := Record{N: uint64(i + 1), Wall: time.Unix(1000, int64(i)).UTC(), Prev: prev.CRC, Guest: "alpha", Peer: Ref{N: uint64(i), CRC: 7}}
		_, crc, err := r.Encode(nil)
		if err != nil {
			t.Fatal(err)
		}
		r.CRC = crc
		prev = r.Ref()
		out = append(out, r)
	}
	return out
}

// files lays records out; those in skip stay zero.
func files(t interface{ Fatal(...any) }, rs []Record, skip ...uint64) (f [Files][]byte) {
	for _, r := range rs {
		b, _, err := r.Encode(nil)
		if err != nil {
			t.Fatal(err)
		}
		i, off := FileOf(r.N)
		if slices.Contains(skip, r.N) {
			clear(b)
		}
		f[i] = append(f[i][:off], b...)
	}
	return f
}

func TestRecordGolden(t *testing.T) {
	r := Record{N: 0x0102030405060708, Wall: time.Unix(0, 0x1122334455667788).UTC(), Boot: [16]byte{1, 2, 3}, Peer: Ref{N: 9, CRC: 0xaabbccdd}, Prev: 0x01020304, Guest: "alpha"}
	b, crc, err := r.Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	// Computed by another program from the layout in Encode.
	const want = "52424c4701008000080706050403020188776655443322110102030000000000" +
		"00000000000000000900000000000000ddccbbaa04030201616c706861000000" +
		"00000000000000000000000000000000d8a435c5dca435c5e0a435c5e4a435c5" +
		"e8a435c5eca435c5f0a435c5f4a435c5f8a435c5fca435c500a535c521dad5e5"
	if got := hex.EncodeToString(b); got != want {
		t.Errorf("encoded\n%s, want\n%s", got, want)
	}
	r.CRC = crc
	got, err := Decode(b)
	if err != nil || got != r {
		t.Errorf("Decode = %+v, %v; want %+v", got, err, r)
	}
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 0x10
		if _, err := Decode(bad); err == nil {
			t.Errorf("Decode accepts a flipped bit in byte %d", i)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	for _, r := range []Record{{}, {N: 1, Guest: strings.Repeat("x", 25)}} {
		if _, _, err := r.Encode(nil); err == nil {
			t.Errorf("Encode(%+v): no error", r)
		}
	}
}

func TestParse(t *testing.T) {
	rs := records(t, 10)
	other := records(t, 10)
	other[4].Prev++ // record 5 names another record 4
	swapped := files(t, rs)
	swapped[0], swapped[1] = swapped[1], swapped[0]
	torn := files(t, rs)
	torn[1] = torn[1][:len(torn[1])-50]
	tornMiddle := files(t, rs)
	tornMiddle[0] = tornMiddle[0][:len(tornMiddle[0])-50]
	ahead := files(t, rs)
	ahead[0] = ahead[0][:2*RecordSize] // first disk: 1, 3; second: 2 4 6 8 10
	for _, tc := range []struct {
		name       string
		files      [Files][]byte
		count      uint64
		gaps       uint64
		torn       int
		brokenLink bool
	}{
		{name: "empty"},
		{name: "whole", files: files(t, rs), count: 10},
		{name: "the last lost", files: files(t, rs[:9]), count: 9},
		{name: "the last zero", files: files(t, rs, 10), count: 9, torn: 1},
		{name: "the last torn", files: torn, count: 9, torn: 1},
		{name: "the last but one torn", files: tornMiddle, count: 8, gaps: 1, torn: 1},
		{name: "one missing", files: files(t, rs, 4), count: 3, gaps: 1},
		{name: "one disk ahead", files: ahead, count: 4, gaps: 3},
		{name: "one disk empty", files: [Files][]byte{1: files(t, rs)[1]}, count: 0, gaps: 5},
		{name: "disks exchanged", files: swapped, count: 0, brokenLink: true},
		{name: "broken link", files: files(t, other), count: 4, brokenLink: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := Parse(tc.files).State
			if s.Count != tc.count || s.Gaps != tc.gaps || s.Torn != tc.torn || s.ChainOK == tc.brokenLink {
				t.Errorf("state %+v", s)
			}
			if s.Sound() == (tc.gaps != 0 || tc.brokenLink) || !s.Sound() && s.Problem == "" {
				t.Errorf("sound %v of %+v", s.Sound(), s)
			}
			if s.Count > 0 && s.Newest.N != s.Count {
				t.Errorf("newest %+v", s.Newest)
			}
		})
	}
}

// TestPrefixes: disks cut off at one moment always give a sound ledger, those
// cut off at moments two or more records apart never do.
func TestPrefixes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 60).Draw(t, "records")
		rs := records(t, n)
		a, b := rapid.IntRange(0, n).Draw(t, "first disk at"), rapid.IntRange(0, n).Draw(t, "second disk at")
		f := [Files][]byte{files(t, rs[:a])[0], files(t, rs[:b])[1]}
		l := Parse(f)
		// What each disk holds, by the newest record on it.
		newest := [Files]int{a - (1 - a%2), b - b%2}
		sound := max(newest[0], newest[1]) <= 1 || newest[0] == newest[1]+1 || newest[1] == newest[0]+1
		if newest[0] < 0 {
			sound = newest[1] <= 0
		}
		if l.State.Sound() != sound {
			t.Fatalf("disks at %d and %d (newest %v): %+v", a, b, newest, l.State)
		}
		if sound && len(l.Records) != max(newest[0], newest[1], 0) {
			t.Fatalf("disks at %d and %d: %d records", a, b, len(l.Records))
		}
	})
}

func open(t *testing.T, dir string) (*Writer, *Ledger) {
	t.Helper()
	w, l, _, err := Open([Files]string{filepath.Join(dir, "a"), filepath.Join(dir, "b")}, "alpha", [16]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w, l
}

func appendN(t *testing.T, w *Writer, n int) {
	t.Helper()
	for range n {
		if _, err := w.Append(time.Now(), Ref{}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWriterGoesOn(t *testing.T) {
	dir := t.TempDir()
	w, _ := open(t, dir)
	appendN(t, w, 7)
	newest := w.Newest()
	w2, l := open(t, dir)
	if l.State.Newest != newest || !l.State.Sound() {
		t.Fatalf("found %+v, want %+v", l.State, newest)
	}
	appendN(t, w2, 4)
	if _, l := open(t, dir); l.State.Count != 11 || !l.State.Sound() {
		t.Errorf("found %+v", l.State)
	}
}

// TestWriterCutsTail: records beyond a gap are cut off, for good, so that they
// can never join a later chain.
func TestWriterCutsTail(t *testing.T) {
	for _, tear := range []int64{0, 1, RecordSize, RecordSize + 1, 3 * RecordSize} {
		t.Run(fmt.Sprint(tear), func(t *testing.T) {
			dir := t.TempDir()
			w, _ := open(t, dir)
			appendN(t, w, 12)
			if err := os.Truncate(filepath.Join(dir, "a"), tear); err != nil {
				t.Fatal(err)
			}
			w2, l := open(t, dir)
			appendN(t, w2, 3)
			_, again := open(t, dir)
			if want := l.State.Count + 3; again.State.Count != want || !again.State.Sound() || again.State.Torn != 0 {
				t.Errorf("after a cut to %d: found %+v, then %+v", tear, l.State, again.State)
			}
		})
	}
}

func TestHas(t *testing.T) {
	l := Parse(files(t, records(t, 5)))
	for ref, want := range map[Ref]bool{{}: true, l.Records[4].Ref(): true, {N: 6}: false, {N: 5, CRC: 1}: false} {
		if l.Has(ref) != want {
			t.Errorf("Has(%+v) = %v", ref, !want)
		}
	}
}

func FuzzParse(f *testing.F) {
	good := files(f, records(f, 6))
	f.Add(good[0], good[1])
	f.Add([]byte{}, good[1])
	f.Fuzz(func(t *testing.T, a, b []byte) {
		l := Parse([Files][]byte{a, b})
		if uint64(len(l.Records)) != l.State.Count {
			t.Fatalf("%d records, state %+v", len(l.Records), l.State)
		}
		var prev uint32
		for i, r := range l.Records {
			if r.N != uint64(i+1) || r.Prev != prev {
				t.Fatalf("record %d is %+v", i+1, r)
			}
			prev = r.CRC
		}
	})
}
