package nbd

import (
	"math/bits"
	"sync"
)

// Buffer is pooled memory that held the payload of a WRITE.
type Buffer struct {
	data  []byte // the payload, a prefix of mem
	mem   []byte
	class int
	pool  *bufferPool
}

// Bytes returns the payload; valid until Release.
func (b *Buffer) Bytes() []byte { return b.data }

// Cap returns how many bytes of memory the buffer holds, at least len(Bytes()).
func (b *Buffer) Cap() int { return cap(b.mem) }

// Release gives the memory back. Neither b nor its bytes may be touched after.
func (b *Buffer) Release() {
	b.data = nil
	b.pool.classes[b.class].Put(b)
}

// The classes are 4 KiB << (n/2), and halfway between, up to MaxPayload and
// above: at most a third of a buffer beyond 4 KiB is unused.
const (
	minBufferShift = 12
	bufferClasses  = 2*(25-minBufferShift) + 1
)

// bufferPool hands out buffers by size class. The zero value is ready.
type bufferPool struct {
	classes [bufferClasses]sync.Pool
}

// classOf returns the smallest class that holds n bytes and its size.
func classOf(n int) (class, size int) {
	if n <= 1<<minBufferShift {
		return 0, 1 << minBufferShift
	}
	shift := bits.Len(uint(n - 1)) // 1<<(shift-1) < n <= 1<<shift
	class = 2 * (shift - minBufferShift)
	if half := 3 << (shift - 2); n <= half {
		return class - 1, half
	}
	return class, 1 << shift
}

// get returns a buffer of n bytes, 0 <= n <= MaxPayload, content arbitrary.
func (p *bufferPool) get(n int) *Buffer {
	class, size := classOf(n)
	b, ok := p.classes[class].Get().(*Buffer)
	if !ok {
		b = &Buffer{mem: make([]byte, size), class: class, pool: p}
	}
	b.data = b.mem[:n]
	return b
}
