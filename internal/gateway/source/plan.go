package source

import (
	"context"
	"fmt"

	"rebound/internal/capture"
	"rebound/internal/dr"
	"rebound/internal/extent"
	"rebound/internal/resync"
)

// beginBitmap books and puts on the bitmap of this attempt, and clears away
// bitmaps of ours that the book does not rely on. A book whose bitmaps are not
// all there (the hypervisor is another process) says nothing and is closed.
func (a *attempt) beginBitmap(ctx context.Context) error {
	book := a.g.state().Bitmaps
	book.purge()
	whole, err := a.clearBitmaps(ctx, book)
	if err != nil {
		return err
	}
	if !whole {
		if err := a.dropBitmaps(ctx, book.On); err != nil {
			return err
		}
	}
	// Booked before it is on: one that is on and not booked would be
	// forgotten, one that is booked and not on is not relied on.
	var t tracked
	err = a.g.save(func(s *state) {
		s.Bitmaps.purge()
		if !whole {
			s.Bitmaps.reset()
		}
		t = s.Bitmaps.begin()
		s.Bitmaps.First = t.N
	})
	if err != nil {
		return err
	}
	return a.putBitmap(ctx, t)
}

// clearBitmaps drops bitmaps that the book does not know and reports whether
// those it knows are on at every member.
func (a *attempt) clearBitmaps(ctx context.Context, book bitmaps) (whole bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, attachPatience)
	defer cancel()
	whole = true
	for _, m := range members(a.spec) {
		found, err := a.g.cap.Bitmaps(ctx, m)
		if err != nil {
			return false, fmt.Errorf("list bitmaps of %s: %w", m, err)
		}
		whole = whole && book.present(found)
		for _, name := range book.strangers(found) {
			if err := a.g.cap.DropBitmap(ctx, m, name); err != nil {
				return false, fmt.Errorf("drop bitmap %s of %s: %w", name, m, err)
			}
		}
	}
	return whole, nil
}

// putBitmap puts a booked bitmap on everywhere, and notes that it is.
func (a *attempt) putBitmap(ctx context.Context, t tracked) error {
	ctx, cancel := context.WithTimeout(ctx, attachPatience)
	defer cancel()
	for _, m := range members(a.spec) {
		if err := a.g.cap.BeginBitmap(ctx, m, t.name()); err != nil {
			return fmt.Errorf("begin bitmap of %s: %w", m, err)
		}
	}
	return a.g.save(func(s *state) { s.Bitmaps.put(t.N) })
}

// letBitmapsGo takes bitmaps out of the book and off the members: the standby
// has all up to durable, and needs none of them. In this order, so that a crash
// leaves bitmaps that nobody knows, which the next attempt drops.
func (a *attempt) letBitmapsGo(ctx context.Context, old []tracked, durable dr.Position, also func(*state)) error {
	err := a.g.save(func(s *state) {
		s.Bitmaps.drop(len(old), durable)
		also(s)
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, attachPatience)
	defer cancel()
	return a.dropBitmaps(ctx, old)
}

// dropBitmaps takes bitmaps off every member; those that are gone are fine.
func (a *attempt) dropBitmaps(ctx context.Context, list []tracked) error {
	for _, m := range members(a.spec) {
		for _, t := range list {
			if err := a.g.cap.DropBitmap(ctx, m, t.name()); err != nil {
				return fmt.Errorf("drop bitmap %s of %s: %w", t.name(), m, err)
			}
		}
	}
	return nil
}

// plan decides how the standby is made equal: a fresh one is copied to; after
// a clean stop nothing needs to be looked at; bitmaps that cover what the
// standby has name what to look at; else everything is compared.
func (a *attempt) plan(ctx context.Context) (capture.SyncRequest, error) {
	st := a.g.state()
	prev := a.opened.PreviousDurable
	req := capture.SyncRequest{Mode: resync.ModeCompare}
	var names []string
	seed, seeded, err := a.differs(ctx)
	if err != nil {
		return req, err
	}
	switch {
	case a.opened.Fresh:
		req.Mode = resync.ModeCopy
	case st.Compare:
	case seeded:
		req.Mode, names = resync.ModeBitmap, st.Bitmaps.names()
	case a.clean && st.Clean.covers(prev), st.Bitmaps.whole(prev):
		req.Mode, names = resync.ModeBitmap, st.Bitmaps.names()
	}
	if req.Mode != resync.ModeBitmap {
		// The bitmaps say nothing about this standby (which may be another
		// one than before) until its synchronisation has ended: one that is
		// cut short is followed by another of its kind.
		if err := a.g.save(func(s *state) { s.Bitmaps.Covered = dr.Position{} }); err != nil {
			return req, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, attachPatience)
	defer cancel()
	for i, d := range a.spec.Disks {
		disk, err := a.syncDisk(ctx, i, d, req.Mode, names)
		if err != nil {
			return req, err
		}
		if req.Mode == resync.ModeBitmap && seeded {
			seed[d].Union(extent.NewSet(disk.Ranges...))
			disk.Ranges = seed[d].Runs()
		}
		req.Disks = append(req.Disks, disk)
	}
	a.g.cfg.Log.Info("synchronisation", "mode", req.Mode, "previous", prev, "bitmaps", names, "seeded", seeded)
	return req, nil
}

func (a *attempt) syncDisk(ctx context.Context, i int, d dr.GroupDisk, mode resync.Mode, names []string) (capture.SyncDisk, error) {
	socket, export, err := a.g.cap.ExportSource(ctx, d.Machine, d.Disk)
	if err != nil {
		return capture.SyncDisk{}, fmt.Errorf("export disk %s of %s: %w", d.Disk, d.Machine, err)
	}
	out := capture.SyncDisk{Index: uint16(i), Socket: socket, Export: export, All: mode != resync.ModeBitmap}
	if mode != resync.ModeBitmap {
		return out, nil
	}
	set, err := a.g.cap.Dirty(ctx, d.Machine, d.Disk, names)
	if err != nil {
		return capture.SyncDisk{}, fmt.Errorf("read bitmaps of %s of %s: %w", d.Disk, d.Machine, err)
	}
	out.Ranges = set.Runs()
	return out, nil
}
