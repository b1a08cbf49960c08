package nbd

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"rebound/internal/block"
)

// Errno is an error value of the protocol. A Handler or Device that returns one
// chooses what the client sees; a Client returns the server's.
type Errno uint32

// The error values that the document allows.
const (
	EPERM     Errno = 1
	EIO       Errno = 5
	ENOMEM    Errno = 12
	EINVAL    Errno = 22
	ENOSPC    Errno = 28
	EOVERFLOW Errno = 75
	ENOTSUP   Errno = 95
	ESHUTDOWN Errno = 108
)

// Error names the value.
func (e Errno) Error() string {
	switch e {
	case EPERM:
		return "nbd: operation not permitted"
	case EIO:
		return "nbd: input/output error"
	case ENOMEM:
		return "nbd: out of memory"
	case EINVAL:
		return "nbd: invalid argument"
	case ENOSPC:
		return "nbd: no space left on device"
	case EOVERFLOW:
		return "nbd: value too large"
	case ENOTSUP:
		return "nbd: not supported"
	case ESHUTDOWN:
		return "nbd: server is shutting down"
	}
	return fmt.Sprintf("nbd: error %d", uint32(e))
}

// Is lets errors.Is see block.ErrReadOnly, block.ErrNotFast and the operating
// system's numbers in what a server answered.
func (e Errno) Is(target error) bool {
	switch e {
	case EPERM:
		return target == block.ErrReadOnly || target == syscall.EPERM
	case ENOSPC:
		return target == syscall.ENOSPC
	case ENOTSUP:
		return target == block.ErrNotFast || target == errors.ErrUnsupported
	}
	return false
}

// RemoteError is an error reply with the server's message, if it sent one.
type RemoteError struct {
	Errno   Errno
	Message string
}

// Error joins value and message.
func (e *RemoteError) Error() string {
	if e.Message == "" {
		return e.Errno.Error()
	}
	return e.Errno.Error() + ": " + e.Message
}

// Unwrap returns the Errno.
func (e *RemoteError) Unwrap() error { return e.Errno }

// errnoOf maps an error of a device or handler to what the client may see.
// ENOMEM is never sent: the document advises against it.
func errnoOf(err error, op Op) Errno {
	if e, ok := errors.AsType[Errno](err); ok {
		return e
	}
	writes := op == OpWrite || op == OpWriteZeroes
	switch {
	case errors.Is(err, block.ErrReadOnly):
		return EPERM
	case errors.Is(err, block.ErrOutOfRange) && writes:
		return ENOSPC
	case errors.Is(err, block.ErrOutOfRange):
		return EINVAL
	case errors.Is(err, block.ErrNotFast):
		return ENOTSUP
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return ENOSPC
	case errors.Is(err, context.Canceled):
		return ESHUTDOWN
	}
	return EIO
}
