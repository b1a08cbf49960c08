package standby

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"time"

	"rebound/internal/block"
	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/gateway/statefile"
	"rebound/internal/journal"
	"rebound/internal/problem"
	"rebound/internal/site"
)

// roomBeside is what a new standby needs besides its missing disks: two fold
// batches, the manifest, and some redo.
const roomBeside = 1 << 30

// created answers a repetition of the command that made the group.
func (g *group) created(r control.CreateJournalRequest) (control.CreateJournalResult, bool, error) {
	set := g.settings()
	switch {
	case reflect.DeepEqual(set.Request, r) && set.Phase == phaseJournal:
		return set.Result, true, nil
	case set.Phase != phaseCommitted && r.Generation <= set.Request.Generation:
		return control.CreateJournalResult{}, false, problem.New(problem.NameTaken, "group %s has a journal here already, of generation %d", g.id, set.Request.Generation)
	case len(set.Recovered) > 0:
		return control.CreateJournalResult{}, false, problem.New(problem.MachineRunning, "machines of group %s run on its journal", g.id)
	}
	return control.CreateJournalResult{}, false, nil
}

// createGroup makes machines, bases and journal. It can be cut short anywhere
// and repeated: the settings are written last.
func createGroup(ctx context.Context, h *Host, r control.CreateJournalRequest) (*group, control.CreateJournalResult, error) {
	var res control.CreateJournalResult
	if err := checkRequest(r); err != nil {
		return nil, res, err
	}
	if err := checkRoom(ctx, h.cfg.Driver, r.Definitions); err != nil {
		return nil, res, err
	}
	for _, def := range r.Definitions {
		ran, err := reserveMachine(ctx, h.cfg.Driver, def)
		if err != nil {
			return nil, res, fmt.Errorf("reserve machine %s: %w", def.Name, err)
		}
		if ran {
			res.PoweredOff = append(res.PoweredOff, def.Name)
		}
	}
	bases, seeded, err := findBases(ctx, h.cfg.Driver, r.Disks)
	if err != nil {
		return nil, res, err
	}
	res.Seeded = seeded
	g := &group{id: r.Group, dir: h.groupDir(r.Group), host: h}
	jrn, err := g.createJournal(ctx, r, bases, seeded)
	if err != nil {
		return nil, res, err
	}
	g.set = settings{Request: r, Result: res, BasePaths: bases, Phase: phaseJournal}
	if err := statefile.Save(g.settingsPath(), g.set); err != nil {
		return nil, res, errors.Join(err, jrn.Close())
	}
	if err := g.start(ctx, jrn); err != nil {
		return nil, res, errors.Join(err, jrn.Close())
	}
	return g, res, nil
}

func checkRequest(r control.CreateJournalRequest) error {
	if len(r.Disks) == 0 {
		return problem.New(problem.MachineHasNoDisks, "group %s has no disks", r.Group)
	}
	for _, def := range r.Definitions {
		if err := dr.ValidName(string(def.Name)); err != nil {
			return problem.Wrap(err, problem.InvalidName, "machine of group %s", r.Group)
		}
	}
	return nil
}

// checkRoom refuses a target that could not hold the disks that are missing.
func checkRoom(ctx context.Context, d site.Driver, defs []dr.Definition) error {
	var need int64
	for _, def := range defs {
		if _, err := d.Machine(ctx, def.Name); err == nil {
			continue // its disks are there
		} else if !problem.HasCode(err, problem.UnknownMachine) {
			return fmt.Errorf("look at machine %s: %w", def.Name, err)
		}
		for _, disk := range def.Disks {
			need += disk.SizeBytes
		}
	}
	free, _, err := d.Room(ctx)
	if err != nil {
		return fmt.Errorf("measure room: %w", err)
	}
	if free < need+roomBeside {
		return problem.New(problem.NoRoom, "the standby's machines need %d bytes and 1 GiB beside them, %d bytes are free", need, free)
	}
	return nil
}

// reserveMachine makes the machine exist, off, and marked as a standby.
func reserveMachine(ctx context.Context, d site.Driver, def dr.Definition) (poweredOff bool, err error) {
	m, err := d.Machine(ctx, def.Name)
	switch {
	case problem.HasCode(err, problem.UnknownMachine):
		if err := d.Create(ctx, def); err != nil {
			return false, fmt.Errorf("create: %w", err)
		}
	case err != nil:
		return false, err
	default:
		if err := sameDisks(m.Definition, def); err != nil {
			return false, err
		}
		if m.State != site.Off {
			if err := d.Stop(ctx, def.Name, site.Hard, 10*time.Second); err != nil {
				return false, fmt.Errorf("power off: %w", err)
			}
			poweredOff = true
		}
	}
	return poweredOff, d.SetStandby(ctx, def.Name, true)
}

// sameDisks refuses an existing machine whose disks are not the group's.
func sameDisks(have, want dr.Definition) error {
	sizes := map[dr.DiskID]int64{}
	for _, d := range have.Disks {
		sizes[d.ID] = d.SizeBytes
	}
	for _, d := range want.Disks {
		if size, ok := sizes[d.ID]; !ok || size != d.SizeBytes {
			return problem.New(problem.NameTaken, "a machine %s exists at the target with other disks (%s: %d bytes, want %d)", want.Name, d.ID, size, d.SizeBytes)
		}
	}
	return nil
}

// findBases returns the raw files of the disks, and whether any holds data.
func findBases(ctx context.Context, d site.Driver, disks []dr.GroupDisk) (paths []string, seeded bool, err error) {
	for _, disk := range disks {
		path, err := d.DiskPath(ctx, disk.Machine, disk.Disk)
		if err != nil {
			return nil, false, fmt.Errorf("find disk %s of %s: %w", disk.Disk, disk.Machine, err)
		}
		has, err := hasData(ctx, path)
		if err != nil {
			return nil, false, err
		}
		paths = append(paths, path)
		seeded = seeded || has
	}
	return paths, seeded, nil
}

// hasData reports whether anything in the file is allocated.
func hasData(ctx context.Context, path string) (bool, error) {
	f, err := block.OpenFile(path, block.FileOptions{ReadOnly: true})
	if err != nil {
		return false, fmt.Errorf("open base: %w", err)
	}
	defer f.Close()
	for off := int64(0); off < f.Size(); {
		exts, err := f.Extents(ctx, off, f.Size()-off)
		if err != nil {
			return false, fmt.Errorf("map base %s: %w", path, err)
		}
		for _, e := range exts {
			if !e.Zero {
				return true, nil
			}
			off += e.Length
		}
	}
	return false, nil
}

// createJournal makes the journal, over the remains of an attempt cut short.
func (g *group) createJournal(ctx context.Context, r control.CreateJournalRequest, bases []string, seeded bool) (*journal.Journal, error) {
	if err := os.RemoveAll(g.journalDir()); err != nil {
		return nil, fmt.Errorf("clear journal directory: %w", err)
	}
	if err := os.MkdirAll(g.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make journal directory: %w", err)
	}
	return journal.Create(ctx, g.journalDir(), journal.Config{
		Group: r.Group, Generation: r.Generation, Disks: r.Disks, BasePaths: bases, Seeded: seeded,
		Definitions: r.Definitions, RedoWindow: r.RedoWindow,
	}, journal.Options{Logger: g.host.cfg.Log})
}

// releaseMachines gives the standby machines free before the journal goes.
func (g *group) releaseMachines(ctx context.Context, keep bool) error {
	g.work.Lock()
	defer g.work.Unlock()
	for _, r := range g.settings().Recovered {
		if r.Test {
			if err := g.discardLocked(ctx, r.Name); err != nil {
				return err
			}
			continue
		}
		return problem.New(problem.MachineRunning, "%s runs on the journal of group %s: commit or undo the failover first", r.Name, g.id)
	}
	committed := g.settings().Phase == phaseCommitted
	if err := g.closeJournal(); err != nil {
		return err
	}
	if committed {
		return nil // the machines are nobody's standby any more
	}
	for _, def := range g.settings().Request.Definitions {
		if err := g.host.cfg.Driver.SetStandby(ctx, def.Name, false); err != nil {
			return fmt.Errorf("release machine %s: %w", def.Name, err)
		}
		if keep {
			continue
		}
		if err := g.host.cfg.Driver.Delete(ctx, def.Name, false); err != nil && !problem.HasCode(err, problem.UnknownMachine) {
			return fmt.Errorf("delete machine %s: %w", def.Name, err)
		}
	}
	return nil
}
