package block

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// ErrLocked is returned when another process has the image open in a way that
// does not go together with ours.
var ErrLocked = errors.New("block: image is in use by another process")

// QEMU's image locks (its block/file-posix.c): a process holds a shared lock on
// byte 100+n of the file for each permission n that it uses, and on byte 200+n
// for each that it does not let others use. Having taken its own, it looks
// whether anybody holds the opposite of one of them.
const (
	lockPermBase   = 100
	lockUnshare    = 200
	permRead       = 1 << 0 // consistent read
	permWrite      = 1 << 1
	permUnchanged  = 1 << 2 // write unchanged data
	permResize     = 1 << 3
	lockPermCount  = 4
	permAnyWriting = permWrite | permUnchanged | permResize
)

// lockImage takes the locks of a user that reads (and writes) and wants no
// other writer. They last until every duplicate of fd is closed.
func lockImage(fd int, readOnly bool) error {
	use, unshare := uint(permRead), uint(permWrite|permResize)
	if !readOnly {
		use |= permWrite
		unshare = permAnyWriting
	}
	for n := range lockPermCount {
		if use&(1<<n) != 0 {
			if err := setLock(fd, lockPermBase+int64(n)); err != nil {
				return err
			}
		}
		if unshare&(1<<n) != 0 {
			if err := setLock(fd, lockUnshare+int64(n)); err != nil {
				return err
			}
		}
	}
	for n := range lockPermCount {
		if use&(1<<n) != 0 {
			if err := checkLock(fd, lockUnshare+int64(n)); err != nil {
				return err
			}
		}
		if unshare&(1<<n) != 0 {
			if err := checkLock(fd, lockPermBase+int64(n)); err != nil {
				return err
			}
		}
	}
	return nil
}

func setLock(fd int, at int64) error {
	lk := unix.Flock_t{Type: unix.F_RDLCK, Whence: io.SeekStart, Start: at, Len: 1}
	switch err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &lk); err {
	case nil:
		return nil
	case unix.EAGAIN, unix.EACCES:
		return ErrLocked
	default:
		return fmt.Errorf("lock image: %w", err)
	}
}

// checkLock fails if somebody else holds a lock on the byte.
func checkLock(fd int, at int64) error {
	lk := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: at, Len: 1}
	if err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_GETLK, &lk); err != nil {
		return fmt.Errorf("look at image lock: %w", err)
	}
	if lk.Type != unix.F_UNLCK {
		return ErrLocked
	}
	return nil
}
