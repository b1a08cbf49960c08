package standby

import (
	"context"
	"sync"

	"rebound/internal/block"
)

// readable is what a view is: a device that also knows its holes.
type readable interface {
	block.Device
	block.Mapper
}

// swapDevice is a read-only device whose content can be taken over by another
// device of the same content while it is being read: at a commit the base
// replaces the view that it has become equal to.
type swapDevice struct {
	mu  sync.RWMutex
	dev readable
}

var _ readable = (*swapDevice)(nil)

// swap lets all reads from its return on go to next, and closes the old one.
func (s *swapDevice) swap(next readable) error {
	s.mu.Lock()
	old := s.dev
	s.dev = next
	s.mu.Unlock()
	return old.Close()
}

// Size returns the size in bytes.
func (s *swapDevice) Size() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.dev.Size()
}

// ReadAt reads from the present device.
func (s *swapDevice) ReadAt(ctx context.Context, p []byte, off int64) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.dev.ReadAt(ctx, p, off)
}

// Extents asks the present device.
func (s *swapDevice) Extents(ctx context.Context, off, length int64) ([]block.Extent, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.dev.Extents(ctx, off, length)
}

// WriteAt fails: views are read-only.
func (s *swapDevice) WriteAt(context.Context, []byte, int64) error { return block.ErrReadOnly }

// WriteZeroes fails: views are read-only.
func (s *swapDevice) WriteZeroes(context.Context, int64, int64) error { return block.ErrReadOnly }

// Trim fails: views are read-only.
func (s *swapDevice) Trim(context.Context, int64, int64) error { return block.ErrReadOnly }

// Flush has nothing to do.
func (s *swapDevice) Flush(context.Context) error { return nil }

// Close closes the present device.
func (s *swapDevice) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dev.Close()
}
