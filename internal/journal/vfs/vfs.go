// Package vfs is the seam to the file system of what must survive crashes: the
// real one, and one in memory that can crash and then keeps or loses what was
// not synced. Journal and spool use it.
package vfs

import "io/fs"

// FS is a file system.
//
// Contract: names are paths as the caller gave them. A file's content is
// durable after its Sync or Datasync; its name is durable after SyncDir of the
// directory. Rename replaces atomically. Errors are those of package os
// (fs.ErrNotExist, fs.ErrExist, syscall.ENOSPC).
type FS interface {
	// Open opens a file that exists.
	Open(name string, readOnly bool) (File, error)
	// Create makes a file that must not exist.
	Create(name string) (File, error)
	Rename(from, to string) error
	Remove(name string) error
	// MkdirAll makes directories, durably.
	MkdirAll(dir string) error
	// ReadDir returns the names in dir, sorted.
	ReadDir(dir string) ([]string, error)
	SyncDir(dir string) error
	// Free returns how many bytes can still be written in dir's volume.
	Free(dir string) (int64, error)
	// Lock takes a lock that the process's end releases; shared locks
	// exclude exclusive ones only. It fails with ErrLocked at once.
	Lock(name string, shared bool) (Unlocker, error)
}

// Unlocker releases a lock.
type Unlocker interface{ Unlock() error }

// File is an open file; calls may be concurrent.
type File interface {
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
	// Zero makes a range within the file read as zeroes and frees it where
	// the file system can.
	Zero(off, length int64) error
	// NextData returns the first run [start, end) of data at or after off;
	// start == end == size when there is none. It may claim too much.
	NextData(off int64) (start, end int64, err error)
	Truncate(size int64) error
	Size() (int64, error)
	Sync() error
	// Datasync is Sync without the times.
	Datasync() error
	// LockImage takes QEMU's image locks: nobody else can open the file for
	// writing as a disk image while it is held, and it fails with ErrLocked
	// when somebody has. It ends with Close.
	LockImage() error
	Close() error
}

type lockedError struct{}

func (lockedError) Error() string { return "locked by another process" }

// Is makes a lockedError an fs.ErrPermission too.
func (lockedError) Is(err error) bool { return err == fs.ErrPermission }

// ErrLocked means that somebody else holds the lock.
var ErrLocked error = lockedError{}
