// Package block states what a block device is to Rebound, once. Files, NBD
// exports, journal views and test doubles implement Device; package blocktest
// is the conformance suite that each implementation passes. Decorators live
// here, one job each.
package block

import (
	"context"
	"errors"
)

// ErrReadOnly is returned by writes to a device that cannot be written.
var ErrReadOnly = errors.New("block: device is read-only")

// ErrOutOfRange is returned when a request does not lie within the device.
var ErrOutOfRange = errors.New("block: request out of range")

// Device is an array of bytes of fixed size.
//
// Contract:
//   - Requests carry byte offsets and lengths; any alignment is accepted. A
//     request that does not lie within [0, Size) fails with ErrOutOfRange and
//     touches nothing. A request of length 0 succeeds.
//   - Concurrent calls are allowed. Writes that overlap in time and place leave
//     either's content, byte by byte, never anything else.
//   - A read that starts after a write returned sees that write.
//   - Order across requests is not promised. Data is durable once a Flush that
//     started after the write returned has itself returned without error.
//   - WriteZeroes leaves zeroes. Trim leaves unspecified content until the next
//     write; it may do nothing.
//   - ReadAt fills p whole or returns an error.
//   - Errors do not change the device's size and may be retried.
type Device interface {
	Size() int64
	ReadAt(ctx context.Context, p []byte, off int64) error
	WriteAt(ctx context.Context, p []byte, off int64) error
	WriteZeroes(ctx context.Context, off, length int64) error
	Trim(ctx context.Context, off, length int64) error
	Flush(ctx context.Context) error
	Close() error
}

// Extent is a run of bytes with one allocation state.
type Extent struct {
	Length int64
	// Hole means not allocated; Zero means it reads as zeroes.
	Hole, Zero bool
}

// Mapper is implemented by devices that know which parts are holes or zeroes.
// Extents returns at least one extent when length > 0, in order from off, never
// beyond off+length; it may cover less than asked. Claiming data where there is
// none is always right; claiming zero where there is data never is.
type Mapper interface {
	Extents(ctx context.Context, off, length int64) ([]Extent, error)
}

// CheckRange returns ErrOutOfRange unless [off, off+length) lies within size.
func CheckRange(off, length, size int64) error {
	if off < 0 || length < 0 || off > size || length > size-off {
		return ErrOutOfRange
	}
	return nil
}

// ErrNotFast is returned by a fast-only zeroing that would have to write.
var ErrNotFast = errors.New("block: zeroing would not be fast")

// ZeroMode says how zeroes are to be stored.
type ZeroMode uint8

// The modes; they can be joined.
const (
	// ZeroKeep keeps the range allocated: later writes to it need no room.
	ZeroKeep ZeroMode = 1 << iota
	// ZeroFastOnly fails with ErrNotFast, having changed nothing, when zeroing
	// would be no faster than writing.
	ZeroFastOnly
)

// Zeroer is implemented by devices that can choose how zeroes are stored.
type Zeroer interface {
	WriteZeroesMode(ctx context.Context, off, length int64, mode ZeroMode) error
}
