package block

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// FileOptions say how a File is opened.
type FileOptions struct {
	// ReadOnly opens for reading; writes fail with ErrReadOnly.
	ReadOnly bool
	// CreateSize > 0 creates the file with that size in bytes, all holes; it
	// must not exist. The file's name is durable when OpenFile returns.
	CreateSize int64
	// Lock takes QEMU's image locks, so that no QEMU can write the file while
	// it is open: one that tries fails with `Failed to get "write" lock`.
	// OpenFile fails with ErrLocked while a QEMU, or another locking File, has
	// the image open for writing (or, for a writable File, open at all in a way
	// that forbids writers).
	Lock bool
}

// File is a Device on a raw image file or a block device. It is a Mapper (by
// SEEK_HOLE) and a Zeroer (by fallocate).
//
// After a Flush has failed every later Flush fails too: the kernel drops pages
// that it could not write, so that a later success would prove nothing.
type File struct {
	f        *os.File
	size     int64
	readOnly bool
	flushErr atomic.Pointer[error]
	// noPunch and noZero remember what the file system cannot do.
	noPunch, noZero atomic.Bool
}

var (
	_ Device = (*File)(nil)
	_ Mapper = (*File)(nil)
	_ Zeroer = (*File)(nil)
)

// OpenFile opens a raw image. The size is taken once; whoever resizes the file
// opens it anew.
func OpenFile(path string, o FileOptions) (*File, error) {
	flags := os.O_RDWR
	if o.ReadOnly {
		flags = os.O_RDONLY
	}
	if o.CreateSize > 0 {
		flags |= os.O_CREATE | os.O_EXCL
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open image: %w", err)
	}
	d := &File{f: f, readOnly: o.ReadOnly}
	if err := d.prepare(path, o); err != nil {
		f.Close()
		return nil, fmt.Errorf("open image %s: %w", path, err)
	}
	return d, nil
}

func (d *File) prepare(path string, o FileOptions) error {
	if o.Lock {
		if err := lockImage(int(d.f.Fd()), o.ReadOnly); err != nil {
			return err
		}
	}
	if o.CreateSize > 0 {
		if err := d.f.Truncate(o.CreateSize); err != nil {
			return err
		}
		if err := errors.Join(d.f.Sync(), syncDir(filepath.Dir(path))); err != nil {
			return err
		}
	}
	size, err := d.f.Seek(0, io.SeekEnd) // Stat says 0 for block devices
	d.size = size
	return err
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// Size returns the size in bytes.
func (d *File) Size() int64 { return d.size }

// begin checks a request.
func (d *File) begin(ctx context.Context, off, length int64, writes bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if writes && d.readOnly {
		return ErrReadOnly
	}
	return CheckRange(off, length, d.size)
}

// ReadAt implements Device.
func (d *File) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := d.begin(ctx, off, int64(len(p)), false); err != nil {
		return err
	}
	_, err := d.f.ReadAt(p, off)
	if err == io.EOF {
		return fmt.Errorf("image was cut short: %w", io.ErrUnexpectedEOF)
	}
	return err
}

// WriteAt implements Device.
func (d *File) WriteAt(ctx context.Context, p []byte, off int64) error {
	if err := d.begin(ctx, off, int64(len(p)), true); err != nil {
		return err
	}
	_, err := d.f.WriteAt(p, off)
	return err
}

// WriteZeroes implements Device: it makes a hole where the file system can.
func (d *File) WriteZeroes(ctx context.Context, off, length int64) error {
	return d.WriteZeroesMode(ctx, off, length, 0)
}

// WriteZeroesMode implements Zeroer.
func (d *File) WriteZeroesMode(ctx context.Context, off, length int64, mode ZeroMode) error {
	if err := d.begin(ctx, off, length, true); err != nil || length == 0 {
		return err
	}
	if mode&ZeroKeep == 0 {
		if done, err := d.fallocate(&d.noPunch, unix.FALLOC_FL_PUNCH_HOLE, off, length); done {
			return err
		}
	}
	if done, err := d.fallocate(&d.noZero, unix.FALLOC_FL_ZERO_RANGE, off, length); done {
		return err
	}
	if mode&ZeroFastOnly != 0 {
		return ErrNotFast
	}
	return d.writeZeroData(ctx, off, length)
}

// fallocate reports done false where the file system does not know the mode,
// which lacking remembers.
func (d *File) fallocate(lacking *atomic.Bool, mode uint32, off, length int64) (done bool, err error) {
	if lacking.Load() {
		return false, nil
	}
	for {
		err = unix.Fallocate(int(d.f.Fd()), mode|unix.FALLOC_FL_KEEP_SIZE, off, length)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EOPNOTSUPP || err == unix.ENOSYS || err == unix.ENODEV || err == unix.EINVAL:
			// EINVAL: block devices, for ranges that are not whole sectors.
			if err != unix.EINVAL {
				lacking.Store(true)
			}
			return false, nil
		case err != nil:
			return true, fmt.Errorf("fallocate: %w", err)
		}
		return true, nil
	}
}

// zeroData is how much is zeroed by one write, in bytes.
const zeroData = 1 << 20

func (d *File) writeZeroData(ctx context.Context, off, length int64) error {
	zeroes := make([]byte, min(length, zeroData))
	for length > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(length, zeroData)
		if _, err := d.f.WriteAt(zeroes[:n], off); err != nil {
			return err
		}
		off, length = off+n, length-n
	}
	return nil
}

// Trim implements Device; it does nothing where the file system cannot.
func (d *File) Trim(ctx context.Context, off, length int64) error {
	if err := d.begin(ctx, off, length, true); err != nil || length == 0 {
		return err
	}
	_, err := d.fallocate(&d.noPunch, unix.FALLOC_FL_PUNCH_HOLE, off, length)
	return err
}

// Flush implements Device.
func (d *File) Flush(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if p := d.flushErr.Load(); p != nil {
		return *p
	}
	if d.readOnly {
		return nil
	}
	for {
		err := unix.Fdatasync(int(d.f.Fd()))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			err = fmt.Errorf("sync image: %w", err)
			d.flushErr.CompareAndSwap(nil, &err)
		}
		return err
	}
}

// maxExtents bounds what one call of Extents returns.
const maxExtents = 1024

// Extents implements Mapper. A hole reads as zeroes.
func (d *File) Extents(ctx context.Context, off, length int64) ([]Extent, error) {
	if err := d.begin(ctx, off, length, false); err != nil || length == 0 {
		return nil, err
	}
	fd, end := int(d.f.Fd()), off+length
	var out []Extent
	for off < end && len(out) < maxExtents {
		data, err := unix.Seek(fd, off, unix.SEEK_DATA)
		switch {
		case err == unix.ENXIO: // no data up to the end of the file
			data = end
		case err != nil: // the file system cannot tell
			return append(out, Extent{Length: end - off}), nil
		}
		if data = min(data, end); data > off {
			out = append(out, Extent{Length: data - off, Hole: true, Zero: true})
			off = data
			continue
		}
		hole, err := unix.Seek(fd, off, unix.SEEK_HOLE)
		if err != nil || hole <= off {
			return append(out, Extent{Length: end - off}), nil
		}
		hole = min(hole, end)
		out = append(out, Extent{Length: hole - off})
		off = hole
	}
	return out, nil
}

// Close closes the file and gives its locks back. It does not flush.
func (d *File) Close() error { return d.f.Close() }
