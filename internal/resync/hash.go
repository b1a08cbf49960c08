package resync

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/zeebo/blake3"

	"rebound/internal/block"
	"rebound/internal/extent"
	"rebound/internal/link"
)

// hash is what travels of a BLAKE3 hash; see link.HashSize for why it is
// enough.
type hash [link.HashSize]byte

// hasher hashes units. It knows the hashes of zeroes, which need no reading.
type hasher struct{ zeroLeaf, zeroBlock hash }

func newHasher() hasher {
	return hasher{zeroLeaf: sum(make([]byte, Leaf)), zeroBlock: sum(make([]byte, Block))}
}

func sum(b []byte) hash {
	full := blake3.Sum256(b)
	return hash(full[:link.HashSize])
}

// of returns the hash of b.
func (h *hasher) of(b []byte) hash {
	switch {
	case len(b) == Leaf && allZero(b):
		return h.zeroLeaf
	case len(b) == Block && allZero(b):
		return h.zeroBlock
	}
	return sum(b)
}

// allZero reports whether b holds nothing but zeroes.
func allZero(b []byte) bool {
	for len(b) >= 32 {
		if binary.LittleEndian.Uint64(b)|binary.LittleEndian.Uint64(b[8:])|
			binary.LittleEndian.Uint64(b[16:])|binary.LittleEndian.Uint64(b[24:]) != 0 {
			return false
		}
		b = b[32:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// readRun fills p with the content of dev from off on. What the device says
// reads as zeroes is not read.
func readRun(ctx context.Context, dev block.Device, p []byte, off int64) error {
	m, ok := dev.(block.Mapper)
	if !ok {
		return dev.ReadAt(ctx, p, off)
	}
	from := 0 // p[from:at] is data that was not read yet
	at := 0
	read := func() error {
		if from == at {
			return nil
		}
		return dev.ReadAt(ctx, p[from:at], off+int64(from))
	}
	for at < len(p) {
		exts, err := m.Extents(ctx, off+int64(at), int64(len(p)-at))
		if err != nil {
			return fmt.Errorf("map %d bytes at %d: %w", len(p)-at, off+int64(at), err)
		}
		before := at
		for _, e := range exts {
			n := int(min(e.Length, int64(len(p)-at)))
			if !e.Zero {
				at += n
				continue
			}
			if err := read(); err != nil {
				return err
			}
			clear(p[at : at+n])
			at += n
			from = at
		}
		if at <= before {
			return fmt.Errorf("map %d bytes at %d: the device returned no extent", len(p)-at, off+int64(at))
		}
	}
	return read()
}

// units yields the pieces of unit bytes of a run; the last may be shorter.
func units(r extent.Range, unit int64) func(yield func(extent.Range) bool) {
	return func(yield func(extent.Range) bool) {
		for off := r.Off; off < r.End(); off += unit {
			if !yield(extent.Range{Off: off, Len: min(unit, r.End()-off)}) {
				return
			}
		}
	}
}
