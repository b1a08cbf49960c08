package journal

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"rebound/internal/dr"
	"rebound/internal/journal/vfs"
	"rebound/internal/problem"
)

const manifestName = "manifest"

// The owners of the bases.
const (
	ownerJournal = "journal"
	ownerVM      = "vm"
)

// manifest is the one place that says what the files of a journal mean. It is
// replaced whole, never changed.
type manifest struct {
	Group dr.GroupID `json:"group"`
	// OwnerEpoch grows with every Open; a switch by a process whose epoch
	// is not the file's is refused.
	OwnerEpoch uint64 `json:"ownerEpoch"`
	Owner      string `json:"owner"`
	// Generation is the lowest that is accepted; Epoch was handed out
	// last, to a sequencer of EpochGeneration.
	Generation      dr.Generation  `json:"generation"`
	Epoch           dr.Epoch       `json:"epoch"`
	EpochGeneration dr.Generation  `json:"epochGeneration"`
	Disks           []dr.GroupDisk `json:"disks"`
	BasePaths       []string       `json:"basePaths"`
	RedoWindow      time.Duration  `json:"redoWindow"`
	Created         time.Time      `json:"created"`
	// Seeded until the diverged point is given up.
	Seeded bool `json:"seeded"`
	// Anchor is the position of the bases. While Folding is set, they lie
	// between Anchor and Folding.To, and only redo knows their content.
	Anchor  anchor   `json:"anchor"`
	Folding *folding `json:"folding,omitempty"`
	// Ends is set once the bases are folded for good, each to the position
	// at its disk's index, which may be before the anchor.
	Ends []dr.Position `json:"ends,omitempty"`
	// FirstSegment is the lowest number that belongs to the journal.
	FirstSegment uint64 `json:"firstSegment"`
	Views        []View `json:"views"`
}

// anchor is what must be known of everything up to the anchor, since the
// entries themselves may be gone.
type anchor struct {
	Position    dr.Position      `json:"position"`
	Epoch       epochState       `json:"epoch"` // as far as the anchor
	Points      []dr.Point       `json:"points,omitempty"`
	Definitions []machineVersion `json:"definitions"`
	Time        time.Time        `json:"time"`
}

// machineVersion is a machine's definition from a position on.
type machineVersion struct {
	Machine  dr.MachineName  `json:"machine"`
	Position dr.Position     `json:"position"`
	JSON     json.RawMessage `json:"definition"`
}

// folding says what a fold is doing to the bases.
type folding struct {
	From dr.Position `json:"from"`
	To   dr.Position `json:"to"`
	// Next becomes the anchor when all is written.
	Next anchor `json:"next"`
}

// manifestStore holds the present manifest and switches it.
type manifestStore struct {
	fs   vfs.FS
	path string

	switching sync.Mutex // one change at a time; held while the disk works
	mu        sync.Mutex // guards now
	now       manifest
}

func loadManifest(fsys vfs.FS, dir string) (manifest, error) {
	var m manifest
	b, err := readFile(fsys, filepath.Join(dir, manifestName))
	if err != nil {
		return m, err
	}
	if err := openEnvelope(manifestMagic, b, &m); err != nil {
		return m, problem.Wrap(err, problem.JournalDamaged, "the manifest in %s cannot be read", dir)
	}
	if len(m.Disks) != len(m.BasePaths) {
		return m, problem.New(problem.JournalDamaged, "the manifest in %s names %d disks and %d bases", dir, len(m.Disks), len(m.BasePaths))
	}
	return m, nil
}

// get returns the present manifest; its slices are never written again.
func (s *manifestStore) get() manifest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// change switches to a manifest that edit has changed. Nothing is changed when
// it fails.
func (s *manifestStore) change(edit func(*manifest) error) error {
	s.switching.Lock()
	defer s.switching.Unlock()
	now := s.get()
	next, err := now.clone()
	if err != nil {
		return err
	}
	if err := edit(&next); err != nil {
		return err
	}
	disk, err := loadManifest(s.fs, filepath.Dir(s.path))
	if err != nil {
		return fmt.Errorf("look at the manifest's owner: %w", err)
	}
	if disk.OwnerEpoch != now.OwnerEpoch {
		return problem.New(problem.JournalInUse, "%s has been taken over by another process", filepath.Dir(s.path))
	}
	if err := s.write(&next); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = next
	return nil
}

func (s *manifestStore) write(m *manifest) error {
	b, err := sealEnvelope(manifestMagic, m)
	if err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	return writeFile(s.fs, s.path, b)
}

func (m *manifest) clone() (manifest, error) {
	var c manifest
	b, err := json.Marshal(m)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		return c, fmt.Errorf("copy manifest: %w", err)
	}
	return c, nil
}
