package journal

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"rebound/internal/dr"
	"rebound/internal/journal/keyring"
	"rebound/internal/journal/vfs"
)

// SegmentInfo describes one file of redo.
type SegmentInfo struct {
	Number uint64      `json:"number"`
	First  dr.Position `json:"first"`
	Last   dr.Position `json:"last"`
	Frames uint32      `json:"frames"`
	Bytes  int64       `json:"bytes"`
	Sealed bool        `json:"sealed"`
	Error  string      `json:"error,omitempty"`
}

// Inspection is what a journal's directory says of itself.
type Inspection struct {
	Group      dr.GroupID       `json:"group"`
	Owner      string           `json:"owner"`
	OwnerEpoch uint64           `json:"ownerEpoch"`
	InUse      bool             `json:"inUse"` // a process has it open
	Generation dr.Generation    `json:"generation"`
	Epoch      dr.Epoch         `json:"epoch"`
	Created    time.Time        `json:"created"`
	RedoWindow time.Duration    `json:"redoWindow"`
	Disks      []dr.GroupDisk   `json:"disks"`
	BasePaths  []string         `json:"basePaths"`
	Anchor     dr.Position      `json:"anchor"`
	FoldingTo  *dr.Position     `json:"foldingTo,omitempty"`
	Views      []View           `json:"views"`
	Segments   []SegmentInfo    `json:"segments"`
	Machines   []dr.MachineName `json:"machines"`
	// Keys says what new redo is encrypted with; zero: it is not.
	Keys keyring.Info `json:"keys"`
}

// Inspect reads a journal's directory. It takes no lock and changes nothing, so
// that it works beside the owner; what grows meanwhile may be seen in part.
func Inspect(dir string, fsys vfs.FS) (Inspection, error) {
	if fsys == nil {
		fsys = vfs.OS{}
	}
	m, err := loadManifest(fsys, dir)
	if err != nil {
		return Inspection{}, fmt.Errorf("inspect journal: %w", err)
	}
	in := Inspection{
		Group: m.Group, Owner: m.Owner, OwnerEpoch: m.OwnerEpoch, Generation: m.Generation, Epoch: m.Epoch,
		Created: m.Created, RedoWindow: m.RedoWindow, Disks: m.Disks, BasePaths: m.BasePaths,
		Anchor: m.Anchor.Position, Views: m.Views,
	}
	if m.Folding != nil {
		in.FoldingTo = &m.Folding.To
	}
	for _, d := range m.Anchor.Definitions {
		in.Machines = append(in.Machines, d.Machine)
	}
	if l, err := fsys.Lock(filepath.Join(dir, "lock"), true); errors.Is(err, vfs.ErrLocked) {
		in.InUse = true
	} else if err == nil {
		err = l.Unlock()
		if err != nil {
			return in, fmt.Errorf("inspect journal: %w", err)
		}
	}
	if in.Keys, err = keyring.Look(fsys, dir); err != nil {
		return in, fmt.Errorf("inspect journal: %w", err)
	}
	numbers, err := segmentNumbers(fsys, dir)
	if err != nil {
		return in, err
	}
	for _, n := range numbers {
		if n >= m.FirstSegment {
			in.Segments = append(in.Segments, inspectSegment(fsys, dir, n))
		}
	}
	return in, nil
}

func inspectSegment(fsys vfs.FS, dir string, number uint64) SegmentInfo {
	s, err := lookAtSegment(fsys, dir, number)
	if err != nil {
		return SegmentInfo{Number: number, Error: err.Error()}
	}
	defer s.release()
	return SegmentInfo{Number: number, First: s.at(s.First), Last: s.end(), Frames: s.frames, Bytes: s.size, Sealed: s.sealed}
}
