package segment

import (
	"math/rand/v2"
	"testing"

	"rebound/internal/dr"
)

// benchEntry is a 4 KiB write, half random, half compressible.
func benchEntry() Entry {
	data := make([]byte, 4096)
	r := rand.New(rand.NewPCG(1, 1))
	for i := range data[:2048] {
		data[i] = byte(r.Uint32())
	}
	return Entry{Kind: KindWrite, Offset: 1 << 30, Data: data}
}

func fill(b *Builder, e Entry) int {
	b.Reset(1, 1)
	for i := 1; ; i++ {
		e.Seq = dr.Seq(i)
		if !b.Add(e) {
			return i - 1
		}
	}
}

func BenchmarkBuild(b *testing.B) {
	for name, codec := range codecs() {
		b.Run(name, func(b *testing.B) {
			bl, e := NewBuilder(codec), benchEntry()
			b.SetBytes(MaxPayload)
			b.ReportAllocs()
			fill(bl, e)
			for b.Loop() {
				fill(bl, e)
				if _, err := bl.Finish(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	for name, codec := range codecs() {
		b.Run(name, func(b *testing.B) {
			bl := NewBuilder(codec)
			fill(bl, benchEntry())
			buf, err := bl.Finish()
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(MaxPayload)
			b.ReportAllocs()
			var sum int64
			for b.Loop() {
				f, err := ParseFrame(buf)
				if err != nil {
					b.Fatal(err)
				}
				for m := range f.Entries() {
					sum += m.Length
				}
			}
			_ = sum
		})
	}
}

// TestNoAllocations holds the promise that the hot paths allocate nothing.
func TestNoAllocations(t *testing.T) {
	for name, codec := range codecs() {
		bl, e := NewBuilder(codec), benchEntry()
		fill(bl, e)
		build := testing.AllocsPerRun(5, func() {
			fill(bl, e)
			if _, err := bl.Finish(); err != nil {
				t.Fatal(err)
			}
		})
		buf, _ := bl.Finish()
		var sum int64
		parse := testing.AllocsPerRun(5, func() {
			f, err := ParseFrame(buf)
			if err != nil {
				t.Fatal(err)
			}
			for m := range f.Entries() {
				sum += m.Length
			}
		})
		if build != 0 || parse != 0 {
			t.Errorf("%s: %v allocations to build a frame, %v to parse one", name, build, parse)
		}
	}
}
