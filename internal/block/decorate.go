package block

import (
	"context"
	"fmt"
)

// ExtentsOf asks d, or says that all is data if d is no Mapper.
func ExtentsOf(ctx context.Context, d Device, off, length int64) ([]Extent, error) {
	if m, ok := d.(Mapper); ok {
		return m.Extents(ctx, off, length)
	}
	if err := CheckRange(off, length, d.Size()); err != nil || length == 0 {
		return nil, err
	}
	return []Extent{{Length: length}}, nil
}

type readOnly struct{ d Device }

// ReadOnly returns d with every write, zeroing and trim refused by ErrReadOnly.
// Closing it closes d.
func ReadOnly(d Device) Device { return readOnly{d} }

func (r readOnly) Size() int64 { return r.d.Size() }

func (r readOnly) ReadAt(ctx context.Context, p []byte, off int64) error {
	return r.d.ReadAt(ctx, p, off)
}
func (readOnly) WriteAt(context.Context, []byte, int64) error    { return ErrReadOnly }
func (readOnly) WriteZeroes(context.Context, int64, int64) error { return ErrReadOnly }
func (readOnly) Trim(context.Context, int64, int64) error        { return ErrReadOnly }
func (r readOnly) Flush(ctx context.Context) error               { return ctx.Err() }
func (r readOnly) Close() error                                  { return r.d.Close() }
func (r readOnly) Extents(c context.Context, o, n int64) ([]Extent, error) {
	return ExtentsOf(c, r.d, o, n)
}

type slice struct {
	d         Device
	off, size int64
}

// Slice returns the bytes [off, off+length) of d as a device of their own, with
// ErrOutOfRange if d does not hold them. Closing it does not close d.
func Slice(d Device, off, length int64) (Device, error) {
	if err := CheckRange(off, length, d.Size()); err != nil {
		return nil, fmt.Errorf("slice device: %w", err)
	}
	return &slice{d, off, length}, nil
}

func (s *slice) Size() int64 { return s.size }

func (s *slice) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := CheckRange(off, int64(len(p)), s.size); err != nil {
		return err
	}
	return s.d.ReadAt(ctx, p, s.off+off)
}

func (s *slice) WriteAt(ctx context.Context, p []byte, off int64) error {
	if err := CheckRange(off, int64(len(p)), s.size); err != nil {
		return err
	}
	return s.d.WriteAt(ctx, p, s.off+off)
}

func (s *slice) WriteZeroes(ctx context.Context, off, length int64) error {
	if err := CheckRange(off, length, s.size); err != nil {
		return err
	}
	return s.d.WriteZeroes(ctx, s.off+off, length)
}

func (s *slice) Trim(ctx context.Context, off, length int64) error {
	if err := CheckRange(off, length, s.size); err != nil {
		return err
	}
	return s.d.Trim(ctx, s.off+off, length)
}

func (s *slice) Flush(ctx context.Context) error { return s.d.Flush(ctx) }
func (s *slice) Close() error                    { return nil }

func (s *slice) Extents(ctx context.Context, off, length int64) ([]Extent, error) {
	if err := CheckRange(off, length, s.size); err != nil {
		return nil, err
	}
	return ExtentsOf(ctx, s.d, s.off+off, length)
}
