package standby

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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

// created answers a repetition of the command that made the group. The source
// may have been described anew meanwhile: the stream brings what is true.
func (g *group) created(r control.CreateJournalRequest) (control.CreateJournalResult, bool, error) {
	set, none := g.settings(), control.CreateJournalResult{}
	old := set.Request
	same := old.Generation == r.Generation && old.Source == r.Source && old.RetentionVolume == r.RetentionVolume && slices.Equal(old.Disks, r.Disks)
	switch {
	case same && set.Phase == phaseJournal:
		return set.Result, true, nil
	case len(set.Recovered) > 0 || set.Phase == phaseCommitting:
		return none, false, problem.New(problem.MachineRunning, "machines of group %s run on its journal", g.id)
	case set.Phase != phaseCommitted && r.Generation <= g.generation():
		return none, false, problem.New(problem.NameTaken, "group %s has a journal here already, of generation %d", g.id, g.generation())
	}
	return none, false, nil
}

// checkCreate refuses what can be refused without changing anything.
func checkCreate(ctx context.Context, d site.Driver, r control.CreateJournalRequest) error {
	if err := checkRequest(r); err != nil {
		return err
	}
	for _, def := range r.Definitions {
		m, err := d.Machine(ctx, def.Name)
		if problem.HasCode(err, problem.UnknownMachine) {
			continue
		}
		if err != nil {
			return fmt.Errorf("look at machine %s: %w", def.Name, err)
		}
		if err := sameMachine(m.Definition, def); err != nil {
			return err
		}
	}
	return checkRoom(ctx, d, r)
}

// createGroup makes machines, bases and journal. It can be cut short anywhere
// and repeated: the settings are written last.
func createGroup(ctx context.Context, h *Host, r control.CreateJournalRequest, seed func(context.Context) dr.Position) (*group, control.CreateJournalResult, error) {
	var res control.CreateJournalResult
	for _, def := range r.Definitions {
		ran, err := reserveMachine(ctx, h.cfg.Driver, def, r.Datastores[def.Name])
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
	if seeded {
		res.Seed = seed(ctx)
	}
	// Content that is a known moment of the stream is nothing that diverged.
	diverged := seeded && res.Seed.IsZero()
	g := &group{id: r.Group, dir: h.groupDir(r.Group), host: h}
	g.set.Volume = h.cfg.Volumes[r.RetentionVolume]
	var jrn *journal.Journal
	err = whileInUse(ctx, func() (err error) {
		jrn, err = g.createJournal(ctx, r, bases, diverged)
		return err
	})
	if err != nil {
		return nil, res, err
	}
	g.set = settings{Request: r, Result: res, BasePaths: bases, Volume: g.set.Volume, Phase: phaseJournal}
	if err := statefile.Save(g.settingsPath(), g.set); err != nil {
		return nil, res, errors.Join(err, jrn.Close())
	}
	if err := g.start(ctx, jrn); err != nil {
		return nil, res, errors.Join(err, jrn.Close())
	}
	return g, res, nil
}

func checkRequest(r control.CreateJournalRequest) error {
	if err := dr.ValidName(string(r.Group)); err != nil {
		return problem.Wrap(err, problem.InvalidName, "group %q", r.Group)
	}
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

// checkRoom refuses a target that could not hold the disks that are missing,
// each in the datastore that is asked for.
func checkRoom(ctx context.Context, d site.Driver, r control.CreateJournalRequest) error {
	need := map[string]int64{}
	for _, def := range r.Definitions {
		if _, err := d.Machine(ctx, def.Name); err == nil {
			continue // its disks are there
		} else if !problem.HasCode(err, problem.UnknownMachine) {
			return fmt.Errorf("look at machine %s: %w", def.Name, err)
		}
		for _, disk := range def.Disks {
			need[cmp.Or(r.Datastores[def.Name], site.DefaultDatastore)] += disk.SizeBytes
		}
	}
	// The journal itself lies with the default one unless it has a volume.
	if r.RetentionVolume == "" || r.RetentionVolume == control.DefaultVolume {
		need[site.DefaultDatastore] += roomBeside
	}
	stores, err := site.DatastoresOf(ctx, d)
	if err != nil {
		return fmt.Errorf("measure room: %w", err)
	}
	for name, bytes := range need {
		i := slices.IndexFunc(stores, func(s site.Datastore) bool { return s.Name == name && !s.ReadOnly })
		if i < 0 {
			return problem.New(problem.DatastoreUnusable, "the site has no datastore %q that can be written to", name)
		}
		if stores[i].FreeBytes < bytes {
			return problem.New(problem.NoRoom, "datastore %s has %d bytes free; %d are needed for the standby's machines and the journal's reserve of 1 GiB", name, stores[i].FreeBytes, bytes)
		}
	}
	return nil
}

// reserveMachine makes the machine exist, off, and marked as a standby.
func reserveMachine(ctx context.Context, d site.Driver, def dr.Definition, datastore string) (poweredOff bool, err error) {
	m, err := d.Machine(ctx, def.Name)
	switch {
	case problem.HasCode(err, problem.UnknownMachine):
		if err := site.CreateIn(ctx, d, def, datastore); err != nil {
			return false, fmt.Errorf("create: %w", err)
		}
	case err != nil:
		return false, err
	default:
		if err := sameMachine(m.Definition, def); err != nil {
			return false, err
		}
		// Also one that is off: its hypervisor may live, and hold the disks.
		if err := d.Stop(ctx, def.Name, site.Hard, 10*time.Second); err != nil {
			return false, fmt.Errorf("power off: %w", err)
		}
		poweredOff = m.State != site.Off
	}
	return poweredOff, d.SetStandby(ctx, def.Name, true)
}

// sameMachine refuses an existing machine that is another one, or whose disks
// are not the group's: it would be powered off and written over.
func sameMachine(have, want dr.Definition) error {
	if have.UUID != want.UUID {
		return problem.New(problem.NameTaken, "another machine %s exists at the target (%s, want %s)", want.Name, have.UUID, want.UUID)
	}
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
func (g *group) createJournal(ctx context.Context, r control.CreateJournalRequest, bases []string, diverged bool) (*journal.Journal, error) {
	if err := os.RemoveAll(g.journalDir()); err != nil {
		return nil, fmt.Errorf("clear journal directory: %w", err)
	}
	for _, dir := range []string{g.set.Volume, g.dir, filepath.Dir(g.journalDir())} {
		if dir == "" {
			continue
		}
		if err := statefile.MakeDir(dir); err != nil {
			return nil, fmt.Errorf("make journal directory: %w", err)
		}
	}
	return journal.Create(ctx, g.journalDir(), journal.Config{
		Group: r.Group, Generation: r.Generation, Disks: r.Disks, BasePaths: bases, Seeded: diverged,
		Definitions: r.Definitions, RedoWindow: r.RedoWindow,
	}, journal.Options{Logger: g.host.cfg.Log, Keys: g.host.cfg.Keys})
}

// releaseMachines gives the standby machines free before the journal goes. That
// it goes is noted first: a journal some of whose machines are deleted is not
// opened again.
func (g *group) releaseMachines(ctx context.Context, keep bool) error {
	for _, r := range g.settings().Recovered {
		if !r.Test {
			return problem.New(problem.MachineRunning, "%s runs on the journal of group %s: commit or undo the failover first", r.Name, g.id)
		}
		if err := g.discardRecovered(ctx, r.Name); err != nil {
			return err
		}
	}
	g.work.Lock()
	defer g.work.Unlock()
	switch set := g.settings(); {
	case set.Phase == phaseCommitted:
		return nil // the machines are nobody's standby any more
	case set.Phase == phaseCommitting || len(set.Recovered) > 0:
		return problem.New(problem.MachineRunning, "machines of group %s run on its journal", g.id)
	}
	if err := g.save(func(s *settings) { s.Phase = phaseDeleting }); err != nil {
		return err
	}
	if err := g.closeJournal(); err != nil {
		return err
	}
	for _, def := range g.settings().Request.Definitions {
		if err := g.releaseMachine(ctx, def.Name, keep); err != nil && !problem.HasCode(err, problem.UnknownMachine) {
			return err // unknown: deleted by an earlier attempt
		}
	}
	return nil
}

func (g *group) releaseMachine(ctx context.Context, name dr.MachineName, keep bool) error {
	if err := g.host.cfg.Driver.SetStandby(ctx, name, false); err != nil {
		return fmt.Errorf("release machine %s: %w", name, err)
	}
	if keep {
		return nil
	}
	if err := g.host.cfg.Driver.Delete(ctx, name, false); err != nil {
		return fmt.Errorf("delete machine %s: %w", name, err)
	}
	return nil
}
