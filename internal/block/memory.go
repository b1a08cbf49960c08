package block

import (
	"context"
	"sync"
)

// pageSize is the grain of Memory's allocation in bytes.
const pageSize = 64 << 10

// Memory is a sparse Device in memory, for tests and demonstrations.
type Memory struct {
	size int64
	mu   sync.RWMutex
	page map[int64][]byte // by page number; absent is a hole
}

var (
	_ Device = (*Memory)(nil)
	_ Mapper = (*Memory)(nil)
	_ Zeroer = (*Memory)(nil)
)

// NewMemory returns a device of size bytes, all holes.
func NewMemory(size int64) *Memory {
	return &Memory{size: size, page: map[int64][]byte{}}
}

// Size returns the size in bytes.
func (m *Memory) Size() int64 { return m.size }

func (m *Memory) begin(ctx context.Context, off, length int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return CheckRange(off, length, m.size)
}

// pieces calls f for each page of a range: page number, offset in it, length,
// and distance from the range's start.
func pieces(off, length int64, f func(page, in, n, at int64)) {
	for at := int64(0); at < length; {
		page, in := (off+at)/pageSize, (off+at)%pageSize
		n := min(pageSize-in, length-at)
		f(page, in, n, at)
		at += n
	}
}

// ReadAt implements Device.
func (m *Memory) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := m.begin(ctx, off, int64(len(p))); err != nil {
		return err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	pieces(off, int64(len(p)), func(page, in, n, at int64) {
		if b := m.page[page]; b != nil {
			copy(p[at:at+n], b[in:])
		} else {
			clear(p[at : at+n])
		}
	})
	return nil
}

// WriteAt implements Device.
func (m *Memory) WriteAt(ctx context.Context, p []byte, off int64) error {
	if err := m.begin(ctx, off, int64(len(p))); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	pieces(off, int64(len(p)), func(page, in, n, at int64) {
		b := m.page[page]
		if b == nil {
			b = make([]byte, pageSize)
			m.page[page] = b
		}
		copy(b[in:in+n], p[at:])
	})
	return nil
}

// WriteZeroes implements Device; whole pages become holes.
func (m *Memory) WriteZeroes(ctx context.Context, off, length int64) error {
	return m.WriteZeroesMode(ctx, off, length, 0)
}

// WriteZeroesMode implements Zeroer; it is always fast.
func (m *Memory) WriteZeroesMode(ctx context.Context, off, length int64, mode ZeroMode) error {
	if err := m.begin(ctx, off, length); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	pieces(off, length, func(page, in, n, _ int64) {
		b := m.page[page]
		switch {
		case mode&ZeroKeep != 0 && b == nil:
			m.page[page] = make([]byte, pageSize)
		case b == nil:
		case mode&ZeroKeep == 0 && n == pageSize:
			delete(m.page, page)
		default:
			clear(b[in : in+n])
		}
	})
	return nil
}

// Trim implements Device: whole pages become holes, the rest stays.
func (m *Memory) Trim(ctx context.Context, off, length int64) error {
	if err := m.begin(ctx, off, length); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	pieces(off, length, func(page, _, n, _ int64) {
		if n == pageSize {
			delete(m.page, page)
		}
	})
	return nil
}

// Flush implements Device.
func (m *Memory) Flush(ctx context.Context) error { return ctx.Err() }

// Extents implements Mapper by pages.
func (m *Memory) Extents(ctx context.Context, off, length int64) ([]Extent, error) {
	if err := m.begin(ctx, off, length); err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out []Extent
	pieces(off, min(length, maxExtents*pageSize), func(page, _, n, _ int64) {
		hole := m.page[page] == nil
		if last := len(out) - 1; last >= 0 && out[last].Hole == hole {
			out[last].Length += n
			return
		}
		out = append(out, Extent{Length: n, Hole: hole, Zero: hole})
	})
	return out, nil
}

// Close implements Device; the content stays.
func (m *Memory) Close() error { return nil }
