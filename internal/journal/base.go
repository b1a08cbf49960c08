package journal

import (
	"errors"
	"fmt"
	"io"

	"rebound/internal/journal/vfs"
	"rebound/internal/problem"
)

// base is the raw file that a disk's redo stands on.
type base struct {
	file vfs.File
	path string
	size int64
}

func openBase(fsys vfs.FS, path string, size int64, readOnly, lock bool) (*base, error) {
	f, err := fsys.Open(path, readOnly)
	if err != nil {
		return nil, fmt.Errorf("open base: %w", err)
	}
	b := &base{file: f, path: path, size: size}
	have, err := f.Size()
	if err == nil && have < size {
		err = problem.New(problem.JournalDamaged, "base %s has %d bytes, its disk %d", path, have, size)
	}
	if err == nil && lock {
		if err = f.LockImage(); errors.Is(err, vfs.ErrLocked) {
			err = problem.Wrap(err, problem.MachineInUse, "base %s is open in a hypervisor or another process", path)
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return b, nil
}

func (b *base) readAt(p []byte, off int64) error {
	n, err := b.file.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read base %s at %d: %w", b.path, off, err)
}
