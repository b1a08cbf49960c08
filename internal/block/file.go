package block

import "context"

// FileOptions say how a File is opened.
type FileOptions struct {
	// ReadOnly opens for reading; writes fail with ErrReadOnly.
	ReadOnly bool
	// CreateSize > 0 creates the file with that size in bytes; it must not exist.
	CreateSize int64
	// Lock takes QEMU's image locks, so that no QEMU can write the file while
	// it is open (nor read it without force-share): a QEMU that tries fails
	// with `Failed to get "write" lock`. OpenFile fails with ErrLocked when a
	// QEMU, or another File, has it.
	Lock bool
	// Direct bypasses the page cache is not offered: views and folds live on it.
}

// File is a Device on a raw image file or block device.
type File struct{}

// OpenFile opens a raw image.
func OpenFile(path string, o FileOptions) (*File, error) { return nil, ErrReadOnly }

// Size returns the size in bytes.
func (f *File) Size() int64 { return 0 }

func (f *File) ReadAt(ctx context.Context, p []byte, off int64) error  { return ErrReadOnly }
func (f *File) WriteAt(ctx context.Context, p []byte, off int64) error { return ErrReadOnly }
func (f *File) WriteZeroes(ctx context.Context, off, length int64) error {
	return ErrReadOnly
}
func (f *File) Trim(ctx context.Context, off, length int64) error { return ErrReadOnly }
func (f *File) Flush(ctx context.Context) error                   { return ErrReadOnly }
func (f *File) Extents(ctx context.Context, off, length int64) ([]Extent, error) {
	return nil, ErrReadOnly
}
func (f *File) Close() error { return nil }

// Memory is a sparse Device in memory.
type Memory struct{ size int64 }

// NewMemory returns a Memory of size bytes, all holes.
func NewMemory(size int64) *Memory { return &Memory{size} }

// ReadOnly returns d with all writes refused by ErrReadOnly.
func ReadOnly(d Device) Device { return d }

// Slice returns the bytes [off, off+length) of d as a device. Closing it does not close d.
func Slice(d Device, off, length int64) (Device, error) { return d, nil }
