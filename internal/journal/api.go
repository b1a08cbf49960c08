package journal

import (
	"context"
	"errors"

	"rebound/internal/block"
	"rebound/internal/dr"
	"rebound/internal/extent"
)

var errNotYet = errors.New("journal: body follows")

// Journal is an open journal. All methods may be called concurrently.
type Journal struct{}

// Device is a view of one disk.
type Device interface {
	block.Device
	block.Mapper
}

// Create makes a journal in dir, which must not hold one, and opens it.
func Create(ctx context.Context, dir string, cfg Config, opts Options) (*Journal, error) {
	return nil, errNotYet
}

// Open opens a journal for the one process that owns it.
func Open(ctx context.Context, dir string, opts Options) (*Journal, error) { return nil, errNotYet }

// OpenReadOnly opens a journal that nobody owns; it changes nothing on disk.
func OpenReadOnly(ctx context.Context, dir string, opts Options) (*Journal, error) {
	return nil, errNotYet
}

// Close syncs what was appended and lets go of the directory and the bases.
func (j *Journal) Close() error { return errNotYet }

// Status returns the journal at a glance.
func (j *Journal) Status() Status { return Status{} }

// NewEpoch begins an epoch: the one before is sealed, its tail made durable.
// gen must not be older than the journal's (StaleGeneration); a newer one
// seals the journal first.
func (j *Journal) NewEpoch(gen dr.Generation) (dr.Epoch, error) { return 0, errNotYet }

// Durable returns the last position that survives a crash.
func (j *Journal) Durable() dr.Position { return dr.Position{} }

// Appended returns the last position appended; it may not be durable yet.
func (j *Journal) Appended() dr.Position { return dr.Position{} }

// Append takes one frame, whole. It must be of the present generation and
// epoch, and its first entry the successor of Appended: else ErrStale (also
// counted, and a StaleGeneration problem when the generation is older) or
// ErrOutOfOrder. With a NoRoom problem nothing was taken: try again later.
func (j *Journal) Append(frame []byte) error { return errNotYet }

// Sync makes all that was appended before the call durable.
func (j *Journal) Sync() (dr.Position, error) { return dr.Position{}, errNotYet }

// Commit runs group commit until ctx ends: whenever something was appended it
// syncs and calls durable with the position reached. It returns ctx's error
// or the first failure of the volume.
func (j *Journal) Commit(ctx context.Context, durable func(dr.Position)) error { return errNotYet }

// Seal raises the generation, durably. From its return on no frame of an older
// one is accepted. It returns the last durable and the newest confirmed position.
func (j *Journal) Seal(gen dr.Generation) (durable, confirmed dr.Position, err error) {
	return dr.Position{}, dr.Position{}, errNotYet
}

// Points returns the points that can be chosen, oldest first.
func (j *Journal) Points(f Filter) []dr.Point { return nil }

// Spans returns the stretches of time in which any moment can be chosen.
func (j *Journal) Spans() []Span { return nil }

// Resolve answers a selector, or one of UnknownPoint, PointNotConfirmed and
// NoRecoveryPoint.
func (j *Journal) Resolve(sel dr.PointSelector) (Resolved, error) { return Resolved{}, errNotYet }

// OpenView opens one disk, by its index in the disk table, at a confirmed
// position. The view pins its position until it is closed.
func (j *Journal) OpenView(ctx context.Context, pos dr.Position, disk uint16) (Device, error) {
	return nil, errNotYet
}

// HeadView opens one disk with everything appended, confirmed or not. Its
// content moves with the stream.
func (j *Journal) HeadView(disk uint16) (Device, error) { return nil, errNotYet }

// RegisterView makes a view durable: its position stays readable, across
// restarts, until DropView. Registering the same view again changes nothing.
func (j *Journal) RegisterView(v View) error { return errNotYet }

// Views returns the registered views.
func (j *Journal) Views() []View { return nil }

// DropView removes a registered view; an unknown id is no error.
func (j *Journal) DropView(id string) error { return errNotYet }

// Fold moves the bases towards the head: to the newest confirmed position that is
// not after upTo (the zero position: as far as allowed), nor after what the redo
// window, pins and the diverged point keep. It returns the new anchor.
func (j *Journal) Fold(ctx context.Context, upTo dr.Position) (dr.Position, error) {
	return dr.Position{}, errNotYet
}

// Prune drops redo that the redo window does not hold and no base, view or
// point needs. It returns how many bytes it freed.
func (j *Journal) Prune(ctx context.Context) (int64, error) { return 0, errNotYet }

// DropDiverged gives up the diverged point, so that Fold can pass it.
func (j *Journal) DropDiverged() error { return errNotYet }

// FoldExactly makes the bases equal to the views at pos. It refuses with
// PointInUse while a view at an older position is open or registered.
// progress gets done and total bytes and may be nil.
func (j *Journal) FoldExactly(ctx context.Context, pos dr.Position, progress func(done, total int64)) error {
	return errNotYet
}

// Release gives the bases to the machine: the manifest says owner = vm, the
// base files and their locks are closed, and nothing writes them any more.
func (j *Journal) Release() error { return errNotYet }

// RollbackSet returns, by disk index, the ranges that were written after pos:
// what the fenced source holds beyond the point. It is saved in the journal's
// directory first; LoadRollbackSet reads it with nothing open.
func (j *Journal) RollbackSet(pos dr.Position) (map[uint16]*extent.Set, error) {
	return nil, errNotYet
}
