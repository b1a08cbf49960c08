package vfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// OS is the real file system.
type OS struct{}

var _ FS = OS{}

// Open opens a file that exists.
func (OS) Open(name string, readOnly bool) (File, error) {
	flag := os.O_RDWR
	if readOnly {
		flag = os.O_RDONLY
	}
	f, err := os.OpenFile(name, flag, 0)
	if err != nil {
		return nil, err
	}
	return &osFile{f}, nil
}

// Create makes a file that must not exist.
func (OS) Create(name string) (File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return &osFile{f}, nil
}

// Rename replaces to by from.
func (OS) Rename(from, to string) error { return os.Rename(from, to) }

// Remove removes a file.
func (OS) Remove(name string) error { return os.Remove(name) }

// MkdirAll makes dir and syncs what is above it.
func (o OS) MkdirAll(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := o.MkdirAll(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return o.SyncDir(filepath.Dir(dir))
}

// ReadDir returns the sorted names in dir.
func (OS) ReadDir(dir string) ([]string, error) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	return names, nil
}

// SyncDir makes the names in dir durable.
func (OS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Free returns the bytes available to us in dir's volume.
func (OS) Free(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// Lock locks a file, made when missing.
func (OS) Lock(name string, shared bool) (Unlocker, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	how := unix.LOCK_EX
	if shared {
		how = unix.LOCK_SH
	}
	if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", name, ErrLocked)
		}
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return &osLock{f}, nil
}

type osLock struct{ f *os.File }

func (l *osLock) Unlock() error { return l.f.Close() }

type osFile struct{ *os.File }

func (f *osFile) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if st.Mode().IsRegular() {
		return st.Size(), nil
	}
	return f.File.Seek(0, 2) // a block device
}

func (f *osFile) Datasync() error { return unix.Fdatasync(int(f.Fd())) }

func (f *osFile) Zero(off, length int64) error {
	fd := int(f.Fd())
	err := unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("punch hole: %w", err)
	}
	zeroes := make([]byte, min(length, 1<<20))
	for length > 0 {
		n := min(length, int64(len(zeroes)))
		if _, err := f.WriteAt(zeroes[:n], off); err != nil {
			return err
		}
		off, length = off+n, length-n
	}
	return nil
}

func (f *osFile) NextData(off int64) (start, end int64, err error) {
	size, err := f.Size()
	if err != nil || off >= size {
		return size, size, err
	}
	fd := int(f.Fd())
	start, err = unix.Seek(fd, off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size, size, nil
	case errors.Is(err, unix.EINVAL):
		return off, size, nil // no such thing here: all is data
	case err != nil:
		return 0, 0, fmt.Errorf("seek data: %w", err)
	}
	end, err = unix.Seek(fd, start, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, fmt.Errorf("seek hole: %w", err)
	}
	return start, end, nil
}

// QEMU's image locks (block/file-posix.c): one byte for each permission that
// somebody uses, from 100 on, and for each that somebody does not share, from
// 200 on. Bits: 0 consistent read, 1 write, 3 resize.
const (
	imagePermBase   = 100
	imageUnshared   = 200
	imageConsistent = 0
	imageWrite      = 1
	imageResize     = 3
)

func (f *osFile) LockImage() error {
	fd := f.Fd()
	used := []int64{imagePermBase + imageConsistent, imagePermBase + imageWrite, imagePermBase + imageResize}
	denied := []int64{imageUnshared + imageWrite, imageUnshared + imageResize}
	for _, at := range append(slices.Clone(used), denied...) {
		lk := unix.Flock_t{Type: unix.F_RDLCK, Start: at, Len: 1}
		if err := unix.FcntlFlock(fd, unix.F_OFD_SETLK, &lk); err != nil {
			return fmt.Errorf("lock image %s: %w", f.Name(), ErrLocked)
		}
	}
	// Nobody may deny what we use, nor use what we deny.
	for _, at := range []int64{
		imageUnshared + imageConsistent, imageUnshared + imageWrite, imageUnshared + imageResize,
		imagePermBase + imageWrite, imagePermBase + imageResize,
	} {
		lk := unix.Flock_t{Type: unix.F_WRLCK, Start: at, Len: 1}
		if err := unix.FcntlFlock(fd, unix.F_OFD_GETLK, &lk); err != nil {
			return fmt.Errorf("test image lock %s: %w", f.Name(), err)
		}
		if lk.Type != unix.F_UNLCK {
			return fmt.Errorf("image %s: %w", f.Name(), ErrLocked)
		}
	}
	return nil
}
