// Package blocktest is the conformance suite of block.Device: every
// implementation passes Run in its own tests. Only tests may import it.
package blocktest

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"rebound/internal/block"
)

// Size is the size in bytes of the devices that New is asked for: odd in
// units of blocks and pages, so that tails are met.
const Size = 1<<20 + 3*4096

// New makes an empty device (all zeroes) of Size bytes for one test; it cleans
// up by t.Cleanup.
type New func(t *testing.T) block.Device

// Seed returns REBOUND_SEED or a new seed, and prints it.
func Seed(t testing.TB) uint64 {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("REBOUND_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("REBOUND_SEED: %v", err)
		}
		seed = n
	}
	t.Logf("REBOUND_SEED=%d", seed)
	return seed
}

// Run holds a device against block.Device's contract.
func Run(t *testing.T, make New) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, block.Device)
	}{
		{"bounds", bounds},
		{"model", model},
		{"disjoint writers", disjoint},
		{"overlapping writers", overlapping},
		{"zeroes and trims", zeroes},
		{"zero modes", zeroModes},
		{"large requests", large},
		{"cancelled", cancelled},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := make(t)
			if d.Size() != Size {
				t.Fatalf("Size = %d, want %d", d.Size(), Size)
			}
			c.run(t, d)
			if err := d.Flush(t.Context()); err != nil {
				t.Fatalf("Flush: %v", err)
			}
			extents(t, d)
		})
	}
}

// Fill returns n bytes of noise of a seed.
func Fill(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, uint64(n)))
	b := make([]byte, (n+7)/8*8)
	for i := 0; i < len(b); i += 8 {
		x := r.Uint64()
		for j := range 8 {
			b[i+j] = byte(x >> (8 * j))
		}
	}
	return b[:n]
}

// Content reads the whole device.
func Content(t testing.TB, d block.Device) []byte {
	t.Helper()
	b := make([]byte, d.Size())
	for i := range b {
		b[i] = 0xEE // ReadAt must overwrite all of it
	}
	if err := d.ReadAt(t.Context(), b, 0); err != nil {
		t.Fatalf("read whole device: %v", err)
	}
	return b
}

func ok(t testing.TB, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func bounds(t *testing.T, d block.Device) {
	ctx := t.Context()
	want := Fill(1, Size)
	ok(t, "fill", d.WriteAt(ctx, want, 0))
	for _, r := range []struct{ off, n int64 }{
		{-1, 1}, {Size, 1}, {Size - 1, 2}, {Size + 1, 0}, {0, Size + 1}, {1 << 62, 1}, {-4096, 8192},
	} {
		p := make([]byte, r.n)
		for name, err := range map[string]error{
			"ReadAt": d.ReadAt(ctx, p, r.off), "WriteAt": d.WriteAt(ctx, p, r.off),
			"WriteZeroes": d.WriteZeroes(ctx, r.off, r.n), "Trim": d.Trim(ctx, r.off, r.n),
		} {
			if !errors.Is(err, block.ErrOutOfRange) {
				t.Errorf("%s(%d, %d) = %v, want ErrOutOfRange", name, r.off, r.n, err)
			}
		}
	}
	for _, off := range []int64{0, 5, Size} {
		ok(t, "read nothing", d.ReadAt(ctx, nil, off))
		ok(t, "write nothing", d.WriteAt(ctx, nil, off))
		ok(t, "zero nothing", d.WriteZeroes(ctx, off, 0))
		ok(t, "trim nothing", d.Trim(ctx, off, 0))
	}
	if !bytes.Equal(Content(t, d), want) {
		t.Error("a refused or empty request changed the content")
	}
}

// model runs random requests against a slice of bytes.
func model(t *testing.T, d block.Device) {
	ctx := t.Context()
	r := rand.New(rand.NewPCG(Seed(t), 1))
	want := make([]byte, Size)
	known := bytes.Repeat([]byte{1}, Size) // 0: trimmed, unspecified
	for i := range 300 {
		off := r.Int64N(Size)
		n := min(1+r.Int64N(1<<r.IntN(18)), Size-off)
		if r.IntN(2) == 0 { // aligned, as most are
			off, n = off&^4095, min((n+4095)&^4095, Size-off&^4095)
		}
		switch r.IntN(6) {
		case 0, 1:
			p := Fill(r.Uint64(), int(n))
			ok(t, "write", d.WriteAt(ctx, p, off))
			copy(want[off:], p)
			fill(known[off:off+n], 1)
		case 2:
			ok(t, "zero", d.WriteZeroes(ctx, off, n))
			clear(want[off : off+n])
			fill(known[off:off+n], 1)
		case 3:
			if i%3 == 0 {
				ok(t, "trim", d.Trim(ctx, off, n))
				clear(known[off : off+n])
			}
		case 4:
			ok(t, "flush", d.Flush(ctx))
		case 5:
			p := make([]byte, n)
			ok(t, "read", d.ReadAt(ctx, p, off))
			same(t, p, want[off:off+n], known[off:off+n], off)
		}
	}
	same(t, Content(t, d), want, known, 0)
}

func fill(b []byte, v byte) {
	for i := range b {
		b[i] = v
	}
}

func same(t *testing.T, got, want, known []byte, off int64) {
	t.Helper()
	for i := range got {
		if known[i] != 0 && got[i] != want[i] {
			t.Fatalf("byte %d is %#x, want %#x", off+int64(i), got[i], want[i])
		}
	}
}

func disjoint(t *testing.T, d block.Device) {
	ctx := t.Context()
	const step = 1000 // unaligned neighbours
	want := Fill(7, Size)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for off := w * step; off < Size; off += 8 * step {
				end := min(off+step, Size)
				if err := d.WriteAt(ctx, want[off:end], int64(off)); err != nil {
					t.Errorf("write at %d: %v", off, err)
				}
				got := make([]byte, end-off)
				if err := d.ReadAt(ctx, got, int64(off)); err != nil || !bytes.Equal(got, want[off:end]) {
					t.Errorf("read back at %d: equal %v, %v", off, bytes.Equal(got, want[off:end]), err)
				}
			}
		})
	}
	wg.Wait()
	if !bytes.Equal(Content(t, d), want) {
		t.Error("content differs after concurrent writes of neighbours")
	}
}

func overlapping(t *testing.T, d block.Device) {
	ctx := t.Context()
	for round := range 20 {
		var wg sync.WaitGroup
		for w := range 4 {
			p := bytes.Repeat([]byte{byte(0x10 + w)}, 64<<10)
			wg.Go(func() {
				if err := d.WriteAt(ctx, p, int64(100*w)); err != nil {
					t.Errorf("write: %v", err)
				}
			})
		}
		wg.Wait()
		got := make([]byte, 64<<10+300)
		ok(t, "read", d.ReadAt(ctx, got, 0))
		for i, b := range got {
			// Byte i was written by the writers w with 100*w <= i < 100*w+64Ki.
			lo, hi := max(0, (i-64<<10)/100+1), min(3, i/100)
			if i < 64<<10 {
				lo = 0
			}
			if w := int(b) - 0x10; w < lo || w > hi {
				t.Fatalf("round %d: byte %d is %#x, of no writer", round, i, b)
			}
		}
	}
}

func zeroes(t *testing.T, d block.Device) {
	ctx := t.Context()
	want := Fill(3, Size)
	ok(t, "fill", d.WriteAt(ctx, want, 0))
	for _, r := range []struct{ off, n int64 }{{0, 1}, {4095, 2}, {70000, 200000}, {512 << 10, 128 << 10}, {Size - 5000, 5000}} {
		ok(t, "zero", d.WriteZeroes(ctx, r.off, r.n))
		clear(want[r.off : r.off+r.n])
	}
	if !bytes.Equal(Content(t, d), want) {
		t.Fatal("content differs after zeroing")
	}
	ok(t, "trim", d.Trim(ctx, 300001, 150000))
	got := Content(t, d)
	if !bytes.Equal(got[:300001], want[:300001]) || !bytes.Equal(got[450001:], want[450001:]) {
		t.Fatal("trim changed what lies around it")
	}
	again := Fill(4, 150000)
	ok(t, "write after trim", d.WriteAt(ctx, again, 300001))
	if got := Content(t, d); !bytes.Equal(got[300001:450001], again) {
		t.Fatal("content differs after a write to a trimmed range")
	}
}

func zeroModes(t *testing.T, d block.Device) {
	z, is := d.(block.Zeroer)
	if !is {
		return
	}
	ctx := t.Context()
	for mode := range block.ZeroMode(4) {
		want := Fill(uint64(mode), Size)
		ok(t, "fill", d.WriteAt(ctx, want, 0))
		off, n := int64(12345), int64(234567)
		err := z.WriteZeroesMode(ctx, off, n, mode)
		switch {
		case err == nil:
			clear(want[off : off+n])
		case mode&block.ZeroFastOnly != 0 && errors.Is(err, block.ErrNotFast):
		default:
			t.Fatalf("mode %d: %v", mode, err)
		}
		if !bytes.Equal(Content(t, d), want) {
			t.Fatalf("mode %d (%v): content differs", mode, err)
		}
	}
}

func large(t *testing.T, d block.Device) {
	want := Fill(9, Size)
	ok(t, "write all", d.WriteAt(t.Context(), want, 0))
	if !bytes.Equal(Content(t, d), want) {
		t.Fatal("content differs")
	}
	ok(t, "zero all", d.WriteZeroes(t.Context(), 0, Size))
	if !bytes.Equal(Content(t, d), make([]byte, Size)) {
		t.Fatal("content differs after zeroing all")
	}
}

// cancelled: a call under an ended context must not hang, and leaves the device
// usable.
func cancelled(t *testing.T, d block.Device) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := make([]byte, 4096)
	for name, err := range map[string]error{
		"ReadAt": d.ReadAt(ctx, p, 0), "WriteAt": d.WriteAt(ctx, p, 0), "Flush": d.Flush(ctx),
	} {
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("%s = %v, want nil or Canceled", name, err)
		}
	}
	want := Fill(2, 4096)
	ok(t, "write", d.WriteAt(t.Context(), want, 0))
	ok(t, "read", d.ReadAt(t.Context(), p, 0))
	if !bytes.Equal(p, want) {
		t.Error("content differs")
	}
}

// extents checks what a Mapper claims against the content.
func extents(t *testing.T, d block.Device) {
	m, is := d.(block.Mapper)
	if !is {
		return
	}
	content := Content(t, d)
	for _, from := range []int64{0, 1, 4096, 65537, Size - 1} {
		for off := from; off < Size; {
			es, err := m.Extents(t.Context(), off, Size-off)
			ok(t, "Extents", err)
			if len(es) == 0 {
				t.Fatalf("no extents at %d", off)
			}
			for _, e := range es {
				if e.Length <= 0 || e.Length > Size-off {
					t.Fatalf("extent of %d bytes at %d", e.Length, off)
				}
				if e.Zero && !bytes.Equal(content[off:off+e.Length], make([]byte, e.Length)) {
					t.Fatalf("[%d, +%d) is claimed to be zero and is not", off, e.Length)
				}
				off += e.Length
			}
		}
	}
	if _, err := m.Extents(t.Context(), 0, Size+1); !errors.Is(err, block.ErrOutOfRange) {
		t.Errorf("Extents beyond the end = %v, want ErrOutOfRange", err)
	}
}
