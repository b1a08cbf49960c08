package source

import (
	"context"
	"fmt"
	"slices"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/extent"
	"rebound/internal/site"
)

// Seed is what a source that ended clean leaves behind: which position of its
// stream the disks hold, and how to see that nobody has written to them since.
// It outlives the source, which is forgotten at the commit.
type Seed struct {
	Spec  control.ReplicationSpec `json:"spec"`
	Clean *cleanStop              `json:"clean"`
}

// Seed returns the group's; Position of it is zero unless it ended clean.
func (g *Group) Seed() Seed {
	st := g.state()
	return Seed{Spec: st.Spec, Clean: st.Clean}
}

// Position returns the position that the disks hold now, zero when that is not
// known. The members must exist and be off.
func (s Seed) Position(ctx context.Context, d site.Driver) dr.Position {
	if s.Clean == nil || !s.Clean.untouched(ctx, d, s.Spec) {
		return dr.Position{}
	}
	return s.Clean.Durable
}

// differs returns, by disk, all in which the standby can differ when its disks
// hold spec.Seed, a position of the stream that came to this site before. The
// members' disks were made equal to the position of the commit, and a bitmap
// has been on since: so it is that bitmap, and what the stream wrote between
// the two positions. ok is false when any part of that is missing.
func (a *attempt) differs(ctx context.Context) (map[dr.GroupDisk]*extent.Set, bool, error) {
	if a.spec.Seed.IsZero() || !a.opened.PreviousDurable.IsZero() || a.g.cfg.Committed == nil {
		return nil, false, nil
	}
	pos, after, ok := a.g.cfg.Committed()
	if !ok || a.spec.Seed.Before(pos) {
		return nil, false, nil
	}
	for _, m := range members(a.spec) {
		found, err := a.g.cap.Bitmaps(ctx, m)
		if err != nil {
			return nil, false, fmt.Errorf("list bitmaps of %s: %w", m, err)
		}
		if !slices.Contains(found, site.CommitBitmap) {
			return nil, false, nil
		}
	}
	for _, d := range a.spec.Disks {
		if after[d] == nil {
			return nil, false, nil // another disk table
		}
		since, err := a.g.cap.Dirty(ctx, d.Machine, d.Disk, []string{site.CommitBitmap})
		if err != nil {
			return nil, false, fmt.Errorf("read bitmap of %s of %s: %w", d.Disk, d.Machine, err)
		}
		after[d].Union(since)
	}
	return after, true, nil
}

// dropCommitBitmap takes the bitmap of the commit off: from here on the group's
// own bitmaps remember.
func (a *attempt) dropCommitBitmap(ctx context.Context) error {
	for _, m := range members(a.spec) {
		if err := a.g.cap.DropBitmap(ctx, m, site.CommitBitmap); err != nil {
			return fmt.Errorf("drop bitmap of %s: %w", m, err)
		}
	}
	return nil
}
