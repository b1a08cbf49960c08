package source

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/gateway/statefile"
	"rebound/internal/problem"
	"rebound/internal/site"
)

// want is what the group was told to do.
type want string

const (
	wantNothing want = ""
	wantRun     want = "run"
	// wantPaused: a person suspended replication; the bitmaps stay on.
	wantPaused want = "paused"
	// wantFenced: the active site is elsewhere.
	wantFenced want = "fenced"
)

// state is what a group keeps on disk.
type state struct {
	Spec control.ReplicationSpec `json:"spec"`
	Want want                    `json:"want"`
	// Generation is at least the spec's; fencing raises it.
	Generation dr.Generation `json:"generation"`
	Bitmaps    bitmaps       `json:"bitmaps"`
	// Drained is set when everything that the members wrote was durable, and
	// they are about to be ended; Clean once they are off.
	Drained *cleanStop `json:"drained,omitempty"`
	Clean   *cleanStop `json:"clean,omitempty"`
	// Resume lists members that were off, or paused, when the group was told
	// to start them: they run once they are attached. Whoever is switched off
	// later stays off.
	Resume []dr.MachineName `json:"resume,omitempty"`
	// Synced is the epoch (its position 0) whose synchronisation is durable.
	Synced dr.Position `json:"synced"`
	// Frozen lists members that this gateway froze, or was about to, and that
	// are not known to be thawed.
	Frozen []dr.MachineName `json:"frozen,omitempty"`
	// Compare demands that the next synchronisation compares everything.
	Compare bool `json:"compare,omitempty"`
}

// cleanStop is the proof that the standby lacks nothing: its position, and what
// the disks' files looked like, so that a start by hand since then shows.
type cleanStop struct {
	Durable dr.Position         `json:"durable"`
	Files   map[string]fileMark `json:"files"`
}

// fileMark tells whether a file was written, or put in another's place, since.
type fileMark struct {
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
	// Changed is when anything about the file changed: it shows copies that
	// kept the time of modification.
	Changed time.Time `json:"changed"`
	Device  uint64    `json:"device"`
	Inode   uint64    `json:"inode"`
}

// sameContent compares what a hypervisor that only closes the file leaves.
func (m fileMark) sameContent(o fileMark) bool {
	return m.Size == o.Size && m.Modified.Equal(o.Modified) && m.Device == o.Device && m.Inode == o.Inode
}

func markOf(path string) (fileMark, error) {
	info, err := os.Stat(path)
	if err != nil {
		return fileMark{}, fmt.Errorf("look at disk: %w", err)
	}
	m := fileMark{Size: info.Size(), Modified: info.ModTime().UTC()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		m.Changed, m.Device, m.Inode = time.Unix(st.Ctim.Unix()).UTC(), st.Dev, st.Ino
	}
	return m, nil
}

// admits refuses a spec of a generation that is over.
func (s *state) admits(spec control.ReplicationSpec, group dr.GroupID) error {
	if spec.Generation < s.Generation || (spec.Generation == s.Generation && s.Want == wantFenced) {
		return problem.New(problem.StaleGeneration, "group %s is at generation %d, the request is of %d", group, s.Generation, spec.Generation)
	}
	return nil
}

// begin takes a spec on. What is known of another standby, or of other disks,
// says nothing about this one.
func (s *state) begin(spec control.ReplicationSpec, resume []dr.MachineName) {
	if s.Spec.Standby != spec.Standby || !slices.Equal(s.Spec.Disks, spec.Disks) {
		s.Clean, s.Bitmaps.Covered = nil, dr.Position{}
	}
	s.Compare = spec.Mode == control.SyncCompare || (s.Compare && s.Generation == spec.Generation)
	s.Spec, s.Want, s.Generation, s.Resume, s.Drained = spec, wantRun, spec.Generation, resume, nil
}

// sameSpec reports whether a stream of a is one of b, but for what can change
// without a break.
func sameSpec(a, b control.ReplicationSpec) bool {
	setPolicy(&a, policyOf(b))
	a.Keep = b.Keep
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

func (g *Group) statePath() string { return filepath.Join(g.cfg.Dir, "source.json") }

// save changes the state, durably.
func (g *Group) save(change func(*state)) error {
	return g.trySave(func(s *state) error {
		change(s)
		return nil
	})
}

// trySave changes the state, durably, unless change refuses.
func (g *Group) trySave(change func(*state) error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.saveLocked(change)
}

// saveLocked is trySave for a caller that holds mu.
func (g *Group) saveLocked(change func(*state) error) error {
	next := g.st
	next.Bitmaps.On = slices.Clone(g.st.Bitmaps.On)
	next.Resume = slices.Clone(g.st.Resume)
	if err := change(&next); err != nil {
		return err
	}
	if err := statefile.Save(g.statePath(), next); err != nil {
		return err
	}
	g.st = next
	return nil
}

func (g *Group) state() state {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.st
}

// members returns the group's machines, each once, in the disk table's order.
func members(spec control.ReplicationSpec) []dr.MachineName {
	var out []dr.MachineName
	for _, d := range spec.Disks {
		if !slices.Contains(out, d.Machine) {
			out = append(out, d.Machine)
		}
	}
	return out
}

// markFiles notes what the members' disk files look like now.
func markFiles(ctx context.Context, d site.Driver, spec control.ReplicationSpec) (map[string]fileMark, error) {
	out := map[string]fileMark{}
	for _, disk := range spec.Disks {
		path, err := d.DiskPath(ctx, disk.Machine, disk.Disk)
		if err != nil {
			return nil, fmt.Errorf("find disk %s of %s: %w", disk.Disk, disk.Machine, err)
		}
		if out[path], err = markOf(path); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// sameFiles reports whether same holds for all files of a and b.
func sameFiles(a, b map[string]fileMark, same func(x, y fileMark) bool) bool {
	if len(a) != len(b) {
		return false
	}
	for path, x := range a {
		y, ok := b[path]
		if !ok || !same(x, y) {
			return false
		}
	}
	return true
}

// covers reports whether a standby whose newest durable position is prev has
// all that the members wrote: after the clean end only the break entry follows.
func (c *cleanStop) covers(prev dr.Position) bool {
	return prev.Generation == c.Durable.Generation && prev.Epoch == c.Durable.Epoch && prev.Seq >= c.Durable.Seq
}

// untouched reports whether no file changed since the clean stop.
func (c *cleanStop) untouched(ctx context.Context, d site.Driver, spec control.ReplicationSpec) bool {
	now, err := markFiles(ctx, d, spec)
	if err != nil {
		return false
	}
	return sameFiles(c.Files, now, func(x, y fileMark) bool { return x.sameContent(y) && x.Changed.Equal(y.Changed) })
}
