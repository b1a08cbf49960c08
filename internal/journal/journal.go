// Package journal keeps the history of a replication group's disks at its
// standby: for every disk a base (the disk's own raw file, at an anchor
// position) and redo, every entry in order from the anchor to the head. From
// these it opens a read-only view of any disk at any confirmed position,
// folds redo into the bases, and says which moments can be chosen.
//
// It promises: what Durable has reported survives a crash at any moment; a
// position that is offered is consistent over all disks of the group; a view
// that is open keeps its content whatever happens to the journal around it;
// no byte is handed out that its checksum does not cover. FORMAT.md is in
// docs/journal-format.md.
//
// One process at a time owns a journal. The gateway is the caller, and the
// commands under "rebound journal", which need nothing but the directory.
package journal

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"rebound/internal/dr"
	"rebound/internal/journal/keyring"
	"rebound/internal/journal/vfs"
)

// Config describes a journal to be created.
type Config struct {
	Group dr.GroupID
	// Generation of the first epoch, at least 1.
	Generation dr.Generation
	// Disks is the group's disk table; BasePaths holds, at the same
	// indexes, the raw files that are the bases. A missing one is made,
	// sparse; one that exists is kept with its content.
	Disks     []dr.GroupDisk
	BasePaths []string
	// Seeded says that the bases hold content of value: it stays readable
	// at the point "diverged-<generation>".
	Seeded bool
	// Definitions of the machines until the stream brings others.
	Definitions []dr.Definition
	// RedoWindow is how long every confirmed write boundary can be chosen;
	// 0 means DefaultRedoWindow.
	RedoWindow time.Duration
}

// Options say how to open a journal. The zero value is right.
type Options struct {
	Logger *slog.Logger
	FS     vfs.FS
	// SegmentBytes is the size at which a segment is sealed; 0 means 64 MiB.
	SegmentBytes int64
	// FoldBatchBytes bounds how much one fold batch writes; 0 means 256
	// MiB, the most is 1 GiB.
	FoldBatchBytes int64
	// ReserveBytes stay free on the journal's volume; 0 means two fold
	// batches and 16 MiB. Negative turns the reserve off.
	ReserveBytes int64
	// NoImageLocks leaves out QEMU's image locks on the bases.
	NoImageLocks bool
	// Keys unwrap and wrap the keys of what is encrypted at rest. Without
	// them new redo is not encrypted, and a journal that is encrypted does
	// not open (KeyMissing).
	Keys *keyring.Wrapping
	// now is the clock of what is not the source's (views' creation).
	Now func() time.Time
}

// Defaults.
const (
	DefaultRedoWindow     = 2 * time.Hour
	defaultSegmentBytes   = 64 << 20
	defaultFoldBatchBytes = 256 << 20
	maxFoldBatchBytes     = 1 << 30
	manifestReserve       = 16 << 20
)

// Errors for the receiver of a stream. What operators read is a
// *problem.Problem around them.
var (
	// ErrOutOfOrder means that a frame is not the successor of the last
	// one; the sender goes on from Appended.
	ErrOutOfOrder = errors.New("journal: frame out of order")
	// ErrStale means a frame of an older generation or epoch.
	ErrStale = errors.New("journal: stale frame")
	// ErrFailed means that the volume failed under the journal; it must be
	// opened again. Wrapped with the first failure.
	ErrFailed = errors.New("journal: volume failed")
	// ErrClosed means that the journal was closed or released.
	ErrClosed = errors.New("journal: closed")
)

// View is a view that outlives the process: it pins its position.
type View struct {
	ID       string         `json:"id"`
	Machine  dr.MachineName `json:"machine"`
	Position dr.Position    `json:"position"`
	// Alone: the position is of the machine alone (ResolveMembers).
	Alone bool `json:"alone,omitempty"`
	// Purpose is for the caller, such as "recovered" or "test".
	Purpose string `json:"purpose"`
	// Socket is the Unix socket on which the gateway serves it.
	Socket  string    `json:"socket"`
	Created time.Time `json:"created"`
	// Note is for the caller.
	Note string `json:"note,omitempty"`
}

// Filter selects points; zero fields select all.
type Filter struct {
	From, To time.Time
	Kind     dr.PointKind
	Limit    int // the newest so many
}

// Span is a stretch of time in which any confirmed moment can be chosen.
type Span struct {
	From, To  time.Time
	Low, High dr.Position
}

// Resolved is one exact moment.
type Resolved struct {
	Position dr.Position
	// Time is the source's clock at the confirmed boundary: all that
	// arrived before it is included. For the diverged point it is zero.
	Time time.Time
	// Point is set when the moment is a named point.
	Point *dr.Point
	// LostSeconds and LostBytes say what of the received stream lies after.
	LostSeconds float64
	LostBytes   int64
	// Definitions are the machines' at the moment, in disk-table order.
	Definitions []dr.Definition
}

// Status is a journal at a glance.
type Status struct {
	Group         dr.GroupID     `json:"group"`
	Generation    dr.Generation  `json:"generation"`
	Anchor        dr.Position    `json:"anchor"`
	Durable       dr.Position    `json:"durable"`
	Appended      dr.Position    `json:"appended"`
	Confirmed     dr.Position    `json:"confirmed"`
	ConfirmedTime time.Time      `json:"confirmedTime"` // source's clock
	Syncing       bool           `json:"syncing"`       // inside a synchronisation
	Points        int            `json:"points"`
	Segments      int            `json:"segments"`
	Bytes         int64          `json:"bytes"` // of redo on disk
	StaleFrames   int64          `json:"staleFrames"`
	NoRoom        bool           `json:"noRoom"` // nothing more is taken
	Seeded        bool           `json:"seeded"`
	Owner         string         `json:"owner"` // "journal" or "vm"
	Disks         []dr.GroupDisk `json:"disks"`
	BasePaths     []string       `json:"basePaths"`
	Views         []View         `json:"views,omitempty"`
}

// DivergedID returns the id of the point that holds a seeded journal's first
// content.
func DivergedID(gen dr.Generation) dr.PointID {
	return dr.PointID(fmt.Sprintf("diverged-%d", gen))
}
