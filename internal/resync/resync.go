package resync

import (
	"context"

	"rebound/internal/block"
	"rebound/internal/dr"
	"rebound/internal/extent"
	"rebound/internal/link"
)

// Sizes of the algorithm, in bytes.
const (
	// Window is how much of a disk is in flight at a time (per worker).
	Window = 1 << 20
	// Leaf is what is hashed first.
	Leaf = 64 << 10
	// Block is the smallest unit that is compared and sent.
	Block = 4 << 10
	// MaxPiece is the longest piece with data: it bounds how long a
	// sequencer copies under its lock.
	MaxPiece = 256 << 10
)

// Piece is a part of a window that differs. Data is Range.Len bytes, or nil
// for zeroes. Pieces of one window are sorted and disjoint; one with data is at
// most MaxPiece long, one of zeroes at most Window. Data is valid until CommitRange returns.
type Piece struct {
	Range extent.Range
	Data  []byte
}

// Sequencer is what a synchronisation needs of the group's sequencer.
//
// Contract:
//   - BeginSync appends the sync-begin entry, EndSync the sync-end entry; both
//     return its number.
//   - BeginRange puts r of the disk in flight (Inflight.Begin) under the lock
//     that hands out numbers.
//   - CommitRange appends one entry for each part of each piece that no live
//     write has touched since BeginRange (Inflight.Untouched), flagged Sync.
//     The subtraction and the numbers of a piece are one critical section;
//     between pieces it may let go of the lock to wait for room. It ends the
//     token, also when it fails. It returns how many bytes it appended.
//   - AbandonRange ends the token without a record.
//   - Untouched tells Verify which parts of r no live write has touched since
//     BeginRange.
//   - Every live write calls Inflight.LiveAt in the critical section that gives
//     it its number.
//   - A broken or closed stream gives an error; the synchronisation ends.
//
// Inflight does the tracking for implementations.
type Sequencer interface {
	Tracker
	BeginSync(ctx context.Context, mode Mode, bytes int64) (dr.Seq, error)
	CommitRange(ctx context.Context, t Token, pieces []Piece) (int64, error)
	EndSync(ctx context.Context, compared, copied int64) (dr.Seq, error)
}

// Tracker is the part of a Sequencer that Verify needs.
type Tracker interface {
	BeginRange(disk uint16, r extent.Range) Token
	AbandonRange(t Token)
	Untouched(t Token, r extent.Range) []extent.Range
}

// Mode says how a synchronisation finds out what to send; it is recorded in
// the sync-begin entry.
type Mode string

// The modes.
const (
	// ModeCopy sends all that is not zero: the standby is empty.
	ModeCopy Mode = "copy"
	// ModeBitmap compares what bitmaps name, ModeCompare everything.
	ModeBitmap  Mode = "bitmap"
	ModeCompare Mode = "compare"
)

// Source is one disk of the source.
type Source struct {
	// Index is the disk's place in the group's disk table.
	Index uint16
	// Device reads the disk's present content. If it is a block.Mapper,
	// its holes and zeroes are not read.
	Device block.Device
	// Ranges limits the work; nil means the whole disk.
	Ranges *extent.Set
}

// Asker asks the standby for hashes; *link.CompareConn is one. Hashes may be
// called from several goroutines.
type Asker interface {
	Hashes(ctx context.Context, req *link.CompareRequest) (link.CompareAnswer, error)
	Close() error
}

// DialFunc opens a new Asker; it is called again after one broke. An error for
// which link.Permanent holds ends the synchronisation.
type DialFunc func(ctx context.Context) (Asker, error)

// Progress counts bytes since the synchronisation began.
type Progress struct {
	Total int64 // to be looked at
	Done  int64 // looked at, and sent where different
	Sent  int64 // appended to the stream
}
