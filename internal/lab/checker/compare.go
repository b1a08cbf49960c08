package checker

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// BlockSize is the unit in which CompareImages counts.
const BlockSize = 4096

// Difference is how two images differ.
type Difference struct {
	// Blocks is the number of 4 KiB blocks with different content; a block
	// beyond the end of the shorter image counts when it is not zero.
	Blocks int64 `json:"blocks"`
	// Bytes is Blocks * BlockSize.
	Bytes int64 `json:"bytes"`
	// First is the offset of the first difference, -1 when there is none.
	First int64 `json:"first"`
}

// CompareImages counts the 4 KiB blocks in which two raw images differ. Holes
// read as zeros and are not read.
func CompareImages(a, b string) (Difference, error) {
	d := Difference{First: -1}
	fa, err := os.Open(a)
	if err != nil {
		return d, fmt.Errorf("open image: %w", err)
	}
	defer fa.Close()
	fb, err := os.Open(b)
	if err != nil {
		return d, fmt.Errorf("open image: %w", err)
	}
	defer fb.Close()
	size, err := longer(fa, fb)
	if err != nil {
		return d, err
	}
	const chunk = 1 << 20
	bufA, bufB := make([]byte, chunk), make([]byte, chunk)
	for off := int64(0); off < size; off += chunk {
		next, err := nextData(fa, fb, off, size)
		if err != nil {
			return d, err
		}
		off = next - next%chunk
		if off >= size {
			break
		}
		if err := readZeroed(fa, bufA, off); err != nil {
			return d, err
		}
		if err := readZeroed(fb, bufB, off); err != nil {
			return d, err
		}
		d.count(bufA, bufB, off)
	}
	d.Bytes = d.Blocks * BlockSize
	return d, nil
}

func (d *Difference) count(a, b []byte, off int64) {
	if bytes.Equal(a, b) {
		return
	}
	for i := 0; i < len(a); i += BlockSize {
		if !bytes.Equal(a[i:i+BlockSize], b[i:i+BlockSize]) {
			d.Blocks++
			if d.First < 0 {
				d.First = off + int64(i)
			}
		}
	}
}

func longer(a, b *os.File) (int64, error) {
	var size int64
	for _, f := range []*os.File{a, b} {
		st, err := f.Stat()
		if err != nil {
			return 0, fmt.Errorf("stat image: %w", err)
		}
		size = max(size, st.Size())
	}
	return size, nil
}

// nextData returns the first offset from off on at which either file has
// data, or size.
func nextData(a, b *os.File, off, size int64) (int64, error) {
	next := size
	for _, f := range []*os.File{a, b} {
		n, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
		switch {
		case errors.Is(err, unix.ENXIO): // none beyond
		case err != nil:
			return 0, fmt.Errorf("find data of %s: %w", f.Name(), err)
		default:
			next = min(next, n)
		}
	}
	return next, nil
}

// readZeroed reads at off; what lies beyond the end is zero.
func readZeroed(f *os.File, buf []byte, off int64) error {
	n, err := f.ReadAt(buf, off)
	clear(buf[n:])
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read %s at %d: %w", f.Name(), off, err)
	}
	return nil
}
