package segment

import (
	"errors"
	"fmt"
	"io"
)

// ReadFullAt fills p from off on; a file that ends too early is ErrDamaged.
func ReadFullAt(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: file ends at %d", ErrDamaged, off+int64(n))
	}
	return err
}

// ReadFrame reads and checks the frame at an offset of a segment file with the
// header h into buf, which holds MaxStored bytes; end is where frames end. The
// frame refers to buf; what of it is encrypted has no key yet.
func ReadFrame(r io.ReaderAt, h *FileHeader, buf []byte, at, end int64) (Frame, error) {
	if end-at < HeaderSize {
		return Frame{}, fmt.Errorf("%w: %d bytes at the end", ErrDamaged, end-at)
	}
	if err := ReadFullAt(r, buf[:HeaderSize], at); err != nil {
		return Frame{}, err
	}
	size, err := FrameSize(buf)
	if err != nil {
		return Frame{}, err
	}
	if int64(size) > end-at {
		return Frame{}, fmt.Errorf("%w: frame of %d bytes, %d are left", ErrDamaged, size, end-at)
	}
	if err := ReadFullAt(r, buf[HeaderSize:size], at+HeaderSize); err != nil {
		return Frame{}, err
	}
	f, err := ParseStored(buf[:size])
	if err == nil && (f.Epoch != h.Epoch || f.Generation != h.Generation) {
		err = fmt.Errorf("%w: frame of another epoch", ErrDamaged)
	}
	return f, err
}

// NoFrame reports whether err says that the bytes are not a frame, and not that
// they could not be read.
func NoFrame(err error) bool {
	return errors.Is(err, ErrDamaged) || errors.Is(err, ErrVersion) || errors.Is(err, ErrShort) || errors.Is(err, ErrEntry)
}
