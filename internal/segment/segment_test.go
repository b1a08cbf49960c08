package segment

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"rebound/internal/dr"
)

var update = flag.Bool("update", false, "write golden files anew")

func codecs() map[string]Codec { return map[string]Codec{"none": CodecNone, "s2": CodecS2} }

// sample makes n random entries with every kind of data.
func sample(r *rand.Rand, first dr.Seq, n int) []Entry {
	var out []Entry
	for i := range n {
		e := Entry{Seq: first + dr.Seq(i), Disk: uint16(r.IntN(5)), Offset: r.Int64N(1 << 40)}
		switch r.IntN(6) {
		case 0:
			e.Kind, e.Length = KindZero, 1+r.Int64N(1<<40)
		case 1:
			e.Kind, e.Length, e.Flags = KindTrim, 1+r.Int64N(1<<40), FlagSync
		case 2:
			e = Entry{Seq: e.Seq, Kind: KindMarker, Data: []byte("marker")}
			e.Length = int64(len(e.Data))
		default:
			e.Kind = KindWrite
			e.Data = make([]byte, 1+r.IntN(20000))
			e.Length = int64(len(e.Data))
			switch r.IntN(3) {
			case 0:
				for j := range e.Data {
					e.Data[j] = byte(r.Uint32())
				}
			case 1:
				for j := range e.Data {
					e.Data[j] = byte(j / 100)
				}
			}
		}
		out = append(out, e)
	}
	return out
}

func pack(t *testing.T, b *Builder, entries []Entry) []byte {
	t.Helper()
	for _, e := range entries {
		if !b.Add(e) {
			t.Fatal("entry does not fit")
		}
	}
	buf, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return buf
}

func TestFrameRoundTrip(t *testing.T) {
	for name, codec := range codecs() {
		t.Run(name, func(t *testing.T) {
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			r := rand.New(rand.NewPCG(seed, 0))
			b := NewBuilder(codec)
			for range 30 {
				b.Reset(3, 7)
				want := sample(r, 1+dr.Seq(r.IntN(1000)), 1+r.IntN(40))
				buf := pack(t, b, want)
				checkFrame(t, buf, want, r)
			}
		})
	}
}

func checkFrame(t *testing.T, buf []byte, want []Entry, r *rand.Rand) {
	t.Helper()
	if n, err := FrameSize(buf[:HeaderSize]); err != nil || n != len(buf) {
		t.Fatalf("FrameSize = %d, %v; want %d", n, err, len(buf))
	}
	f, err := ParseFrame(buf)
	if err != nil {
		t.Fatal(err)
	}
	if f.Generation != 3 || f.Epoch != 7 || f.First != want[0].Seq || f.Count != len(want) || f.Last() != want[len(want)-1].Seq {
		t.Fatalf("header %+v", f.Header)
	}
	i := 0
	for m := range f.Entries() {
		w := want[i]
		got := Entry{Seq: m.Seq, Kind: m.Kind, Flags: m.Flags, Disk: m.Disk, Offset: m.Offset, Length: m.Length}
		if m.Kind.HasPayload() {
			got.Data = make([]byte, m.PayloadLength)
			if err := f.ReadPayload(got.Data, m.PayloadOffset); err != nil {
				t.Fatal(err)
			}
			at := r.IntN(m.PayloadLength)
			part := make([]byte, r.IntN(m.PayloadLength-at)+1)
			if err := f.ReadPayloadWith(new(Scratch), part, m.PayloadOffset+at); err != nil || !bytes.Equal(part, w.Data[at:at+len(part)]) {
				t.Fatalf("entry %d: part differs: %v", i, err)
			}
		}
		if !reflect.DeepEqual(got, w) {
			t.Fatalf("entry %d: got %+v, want %+v", i, m, w)
		}
		i++
	}
	if i != len(want) {
		t.Fatalf("%d entries, want %d", i, len(want))
	}
}

// TestFrameNotices flips every byte in turn, and cuts at every length: no
// change goes by unseen.
func TestFrameNotices(t *testing.T) {
	for name, codec := range codecs() {
		t.Run(name, func(t *testing.T) {
			b := NewBuilder(codec)
			b.Reset(1, 1)
			buf := bytes.Clone(pack(t, b, []Entry{
				{Seq: 1, Kind: KindWrite, Offset: 4096, Data: bytes.Repeat([]byte("abcd"), 512)},
				{Seq: 2, Kind: KindZero, Offset: 1, Length: 2},
			}))
			for i := range buf {
				buf[i] ^= 0x41
				if _, err := ParseFrame(buf); !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrVersion) {
					t.Fatalf("byte %d flipped: %v", i, err)
				}
				buf[i] ^= 0x41
				if _, err := ParseFrame(buf[:i]); !errors.Is(err, ErrShort) {
					t.Fatalf("cut at %d: %v", i, err)
				}
			}
		})
	}
}

func TestBuilderLimits(t *testing.T) {
	b := NewBuilder(CodecNone)
	b.Reset(1, 1)
	if _, err := b.Finish(); !errors.Is(err, ErrEntry) {
		t.Errorf("empty frame: %v", err)
	}
	big := make([]byte, MaxPayload)
	if !b.Add(Entry{Seq: 1, Kind: KindWrite, Data: big}) || b.Add(Entry{Seq: 2, Kind: KindWrite, Data: big[:1]}) {
		t.Error("a frame takes exactly MaxPayload")
	}
	if buf, err := b.Finish(); err != nil || len(buf) >= 1000 {
		t.Errorf("zero blocks are not elided: %d bytes, %v", len(buf), err)
	}
	b.Reset(1, 1)
	for i := range MaxEntries {
		if !b.Add(Entry{Seq: dr.Seq(i + 1), Kind: KindZero, Length: 1}) {
			t.Fatalf("entry %d does not fit", i)
		}
	}
	if b.Add(Entry{Seq: MaxEntries + 1, Kind: KindZero, Length: 1}) {
		t.Error("entry beyond MaxEntries fits")
	}
	if buf, err := b.Finish(); err != nil {
		t.Error(err)
	} else if _, err := ParseFrame(buf); err != nil {
		t.Error(err)
	}
}

func TestBuilderRefuses(t *testing.T) {
	ok := Entry{Seq: 1, Kind: KindZero, Length: 1}
	for name, list := range map[string][]Entry{
		"kind 0":         {{Seq: 1}},
		"kind 11":        {{Seq: 1, Kind: 11}},
		"seq 0":          {{Kind: KindZero, Length: 1}},
		"gap":            {ok, {Seq: 3, Kind: KindZero, Length: 1}},
		"repeat":         {ok, ok},
		"empty write":    {{Seq: 1, Kind: KindWrite}},
		"empty zero":     {{Seq: 1, Kind: KindZero}},
		"negative":       {{Seq: 1, Kind: KindZero, Offset: -1, Length: 1}},
		"overflow":       {{Seq: 1, Kind: KindZero, Offset: 1<<63 - 1, Length: 2}},
		"flags":          {{Seq: 1, Kind: KindZero, Length: 1, Flags: 2}},
		"marker on disk": {{Seq: 1, Kind: KindMarker, Disk: 1, Data: []byte("x")}},
		"after break":    {{Seq: 1, Kind: KindBreak, Data: []byte("x")}, {Seq: 2, Kind: KindZero, Length: 1}},
		"too long":       {{Seq: 1, Kind: KindWrite, Data: make([]byte, MaxPayload+1)}},
	} {
		b := NewBuilder(CodecNone)
		b.Reset(1, 1)
		for _, e := range list {
			if !b.Add(e) {
				t.Errorf("%s: Add says it does not fit", name)
			}
		}
		if _, err := b.Finish(); !errors.Is(err, ErrEntry) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPayloads(t *testing.T) {
	at := time.Unix(1700000000, 123456789).UTC()
	for _, v := range []interface {
		MarshalBinary() ([]byte, error)
	}{
		Marker{"p1", dr.Bookmark, "before the change", at},
		Marker{},
		Beacon{at, time.Hour, 77},
		Break{"socket closed"},
		Break{},
		Definition{"db-01", []byte(`{"name":"db-01"}`)},
		SyncBegin{"bitmap", 9},
		SyncEnd{9, 5},
	} {
		b, err := v.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		p := reflect.New(reflect.TypeOf(v))
		u := p.Interface().(interface{ UnmarshalBinary([]byte) error })
		if err := u.UnmarshalBinary(b); err != nil || !reflect.DeepEqual(p.Elem().Interface(), v) {
			t.Errorf("%T: %+v, %v", v, p.Elem().Interface(), err)
		}
		for i := range b {
			if err := u.UnmarshalBinary(b[:i]); err == nil {
				t.Errorf("%T cut at %d: no error", v, i)
			}
		}
		if err := u.UnmarshalBinary(append(b, 0)); err == nil {
			t.Errorf("%T with a byte too many: no error", v)
		}
	}
}

func TestFileParts(t *testing.T) {
	h := FileHeader{Number: 3, Generation: 2, Epoch: 9, First: 77, Group: 0xabcd}
	b, _ := h.MarshalBinary()
	var h2 FileHeader
	if err := h2.UnmarshalBinary(b); err != nil || h2 != h {
		t.Errorf("header %+v, %v", h2, err)
	}
	tr := Trailer{IndexOffset: 4096, Records: 205, Last: 99, Frames: 3, ControlsSize: 5, ControlsSum: 6}
	c, _ := tr.MarshalBinary()
	var tr2 Trailer
	if err := tr2.UnmarshalBinary(c); err != nil || tr2 != tr {
		t.Errorf("trailer %+v, %v", tr2, err)
	}
	for i := range b {
		b[i] ^= 1
		c[i] ^= 1
		if h2.UnmarshalBinary(b) == nil || tr2.UnmarshalBinary(c) == nil {
			t.Errorf("byte %d flipped: no error", i)
		}
		b[i] ^= 1
		c[i] ^= 1
	}
}

func TestIndexPages(t *testing.T) {
	var want []Record
	for i := range 2*RecordsPerPage + 1 {
		want = append(want, Record{uint16(i / 100), KindWrite, FlagSync, uint32(i), int64(i) * 4096, 4096, dr.Seq(i + 1), 64})
	}
	buf := AppendIndex(nil, want)
	if int64(len(buf)) != IndexSize(uint64(len(want))) {
		t.Fatalf("%d bytes, want %d", len(buf), IndexSize(uint64(len(want))))
	}
	var got []Record
	var err error
	for ; len(buf) > 0; buf = buf[IndexPageSize:] {
		if got, err = ParseIndexPage(got, buf[:IndexPageSize]); err != nil {
			t.Fatal(err)
		}
		buf[100] ^= 1
		if _, err := ParseIndexPage(nil, buf[:IndexPageSize]); !errors.Is(err, ErrDamaged) {
			t.Errorf("flipped byte: %v", err)
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Error("index differs")
	}
}

func TestControls(t *testing.T) {
	want := []Control{{1, KindMarker, []byte("m")}, {9, KindBreak, []byte{}}}
	var buf []byte
	for _, c := range want {
		buf = AppendControl(buf, c)
	}
	got, err := ParseControls(buf)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	for i := range len(buf) {
		if got, err := ParseControls(buf[:i]); err == nil && i != 0 && i != 17 {
			t.Errorf("cut at %d: %v", i, got)
		}
	}
}

// TestGolden holds the format still: a change of any byte needs a new version.
func TestGolden(t *testing.T) {
	entries := []Entry{
		{Seq: 41, Kind: KindWrite, Disk: 1, Offset: 8192, Data: bytes.Repeat([]byte("rebound "), 64)},
		{Seq: 42, Kind: KindZero, Flags: FlagSync, Offset: 1 << 33, Length: 1 << 20},
	}
	at := time.Unix(1700000000, 5)
	add := func(k Kind, v interface{ MarshalBinary() ([]byte, error) }) {
		b, _ := v.MarshalBinary()
		entries = append(entries, Entry{Seq: 41 + dr.Seq(len(entries)), Kind: k, Data: b})
	}
	add(KindMarker, Marker{"p-1", dr.CrashConsistent, "n", at})
	add(KindBeacon, Beacon{at, 77 * time.Second, 43})
	add(KindDefinition, Definition{"vm", []byte("{}")})
	add(KindSyncBegin, SyncBegin{"compare", 1 << 30})
	add(KindSyncEnd, SyncEnd{1 << 30, 4096})
	add(KindThawed, Thawed{"p-1", "before the upgrade"})
	add(KindBreak, Break{"the end"})
	files := map[string][]byte{}
	for name, codec := range codecs() {
		b := NewBuilder(codec)
		b.Reset(2, 5)
		files["frame-"+name] = bytes.Clone(pack(t, b, entries))
	}
	h, _ := FileHeader{Number: 1, Generation: 2, Epoch: 5, First: 41, Group: 7}.MarshalBinary()
	tr, _ := Trailer{IndexOffset: 4096, Records: 1, Last: 48, Frames: 1}.MarshalBinary()
	files["file-header"], files["trailer"] = h, tr
	files["index-page"] = AppendIndex(nil, []Record{{1, KindWrite, 0, 0, 8192, 512, 41, 64}})[:64]
	for name, got := range files {
		path := filepath.Join("testdata", name+".hex")
		if *update {
			if err := os.WriteFile(path, []byte(hex.EncodeToString(got)+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if hex.EncodeToString(got) != string(bytes.TrimSpace(want)) {
			t.Errorf("%s differs from its golden bytes", name)
		}
	}
}
