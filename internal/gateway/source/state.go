package source

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/gateway/statefile"
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
	// Clean is set when the stream ended with everything durable and the
	// members off.
	Clean *cleanStop `json:"clean,omitempty"`
	// Compare demands that the next synchronisation compares everything.
	Compare bool `json:"compare,omitempty"`
}

// cleanStop is the proof that the standby lacks nothing: its position, and what
// the disks' files looked like, so that a start by hand since then shows.
type cleanStop struct {
	Durable dr.Position         `json:"durable"`
	Files   map[string]fileMark `json:"files"`
}

// fileMark tells whether a file was written since.
type fileMark struct {
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
}

func (g *Group) statePath() string { return filepath.Join(g.cfg.Dir, "source.json") }

// save changes the state, durably.
func (g *Group) save(change func(*state)) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	next := g.st
	next.Bitmaps.On = slices.Clone(g.st.Bitmaps.On)
	change(&next)
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
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("look at disk: %w", err)
		}
		out[path] = fileMark{info.Size(), info.ModTime().UTC()}
	}
	return out, nil
}

// covers reports whether a standby whose newest durable position is prev has
// all that the members wrote: after the clean end only the break entry follows.
func (c *cleanStop) covers(prev dr.Position) bool {
	return prev.Generation == c.Durable.Generation && prev.Epoch == c.Durable.Epoch && prev.Seq >= c.Durable.Seq
}

// untouched reports whether no file changed since the clean stop.
func (c *cleanStop) untouched(ctx context.Context, d site.Driver, spec control.ReplicationSpec) bool {
	now, err := markFiles(ctx, d, spec)
	if err != nil || len(now) != len(c.Files) {
		return false
	}
	for path, mark := range c.Files {
		m, ok := now[path]
		if !ok || m.Size != mark.Size || !m.Modified.Equal(mark.Modified) {
			return false
		}
	}
	return true
}
