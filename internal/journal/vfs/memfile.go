package vfs

import (
	"fmt"
	"io"
	"io/fs"
	"slices"
	"syscall"
)

// memFile is an open file of a Mem.
type memFile struct {
	m        *Mem
	node     *inode
	name     string
	readOnly bool
	life     int
	closed   bool
}

// begin checks the handle and locks the file system.
func (f *memFile) begin() error {
	f.m.mu.Lock()
	if f.closed || f.life != f.m.life {
		f.m.mu.Unlock()
		return fmt.Errorf("%s: %w", f.name, fs.ErrClosed)
	}
	return nil
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.begin(); err != nil {
		return 0, err
	}
	defer f.m.mu.Unlock()
	if off >= int64(len(f.node.now)) {
		return 0, io.EOF
	}
	n := copy(p, f.node.now[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.m.hook("write", f.name); err != nil {
		return 0, err
	}
	return len(p), f.write(p, off)
}

func (f *memFile) write(p []byte, off int64) error {
	if err := f.begin(); err != nil {
		return err
	}
	defer f.m.mu.Unlock()
	if f.readOnly {
		return &fs.PathError{Op: "write", Path: f.name, Err: syscall.EBADF}
	}
	if err := f.m.room(max(0, off+int64(len(p))-int64(len(f.node.now)))); err != nil {
		return err
	}
	for len(p) > 0 {
		n := min(int64(len(p)), sector-off%sector)
		c := change{off: off, data: slices.Clone(p[:n]), size: -1}
		f.node.now = c.apply(f.node.now)
		f.node.pending = append(f.node.pending, c)
		p, off = p[n:], off+n
	}
	return nil
}

func (f *memFile) Zero(off, length int64) error {
	if err := f.m.hook("zero", f.name); err != nil {
		return err
	}
	return f.write(make([]byte, length), off)
}

func (f *memFile) NextData(off int64) (start, end int64, err error) {
	if err := f.begin(); err != nil {
		return 0, 0, err
	}
	defer f.m.mu.Unlock()
	size := int64(len(f.node.now))
	for start = off; start < size && f.node.now[start] == 0; start++ {
	}
	for end = start; end < size && f.node.now[end] != 0; end++ {
	}
	return min(start, size), end, nil
}

func (f *memFile) Truncate(size int64) error {
	if err := f.m.hook("truncate", f.name); err != nil {
		return err
	}
	if err := f.begin(); err != nil {
		return err
	}
	defer f.m.mu.Unlock()
	if err := f.m.room(size - int64(len(f.node.now))); err != nil {
		return err
	}
	c := change{size: size}
	f.node.now = c.apply(f.node.now)
	f.node.pending = append(f.node.pending, c)
	return nil
}

func (f *memFile) Size() (int64, error) {
	if err := f.begin(); err != nil {
		return 0, err
	}
	defer f.m.mu.Unlock()
	return int64(len(f.node.now)), nil
}

func (f *memFile) Sync() error {
	if err := f.m.hook("sync", f.name); err != nil {
		return err
	}
	if err := f.begin(); err != nil {
		return err
	}
	defer f.m.mu.Unlock()
	for _, c := range f.node.pending {
		f.node.disk = c.apply(f.node.disk)
	}
	f.node.pending = nil
	return nil
}

func (f *memFile) Datasync() error { return f.Sync() }

// LockImage is granted: there is no QEMU in here.
func (f *memFile) LockImage() error { return nil }

func (f *memFile) Close() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.closed = true
	return nil
}
