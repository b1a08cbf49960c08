package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site"
)

// recoveredNVRAM is the variable store of a machine that runs on views; the
// standby machine's own stays untouched until commit.
const recoveredNVRAM = "recovered-nvram.fd"

// recovered says that a machine runs on views, and how far its commit is. It is
// the authority after a crash: a disk in Pivoted lies in its base and its
// overlay is stale; any other one lies in the overlay over its base (Bases set)
// or over its view.
type recovered struct {
	Definition dr.Definition   `json:"definition"`
	Disks      []site.ViewDisk `json:"disks"`
	Test       bool            `json:"test,omitempty"`
	Network    string          `json:"network,omitempty"`
	// Alone means that there was no machine of the name before, so that
	// nothing is to stay when this one is discarded.
	Alone bool `json:"alone,omitempty"`
	// Bases are set when a commit has begun.
	Bases map[dr.DiskID]string `json:"bases,omitempty"`
	// Pivoted disks are committed.
	Pivoted map[dr.DiskID]bool `json:"pivoted,omitempty"`
}

// settled means that every disk has been committed.
func (r *recovered) settled() bool {
	if r.Bases == nil {
		return false
	}
	for _, v := range r.Disks {
		if !r.Pivoted[v.Disk] {
			return false
		}
	}
	return true
}

func (r *recovered) view(id dr.DiskID) *site.ViewDisk {
	for i := range r.Disks {
		if r.Disks[i].Disk == id {
			return &r.Disks[i]
		}
	}
	return nil
}

// launchDisk says what a disk stands on.
func (r *recovered) launchDisk(m *machine, rec *record, spec dr.DiskSpec) launchDisk {
	if spec.ReadOnly {
		return launchDisk{spec: spec, raw: m.diskPath(rec, spec.ID)} // not replicated: no view
	}
	disk := launchDisk{spec: spec, overlay: m.overlayPath(spec.ID)}
	switch {
	case r.Pivoted[spec.ID]:
		disk.overlay, disk.raw = "", r.Bases[spec.ID]
	case r.Bases != nil:
		disk.raw = r.Bases[spec.ID]
	default:
		disk.view = r.view(spec.ID)
	}
	return disk
}

// same reports whether a repeated request asks for the machine that is there.
func (r *recovered) same(spec site.RecoveredSpec) bool {
	return r.Test == spec.Test && (!r.Test || r.Network == spec.Network) &&
		sameDefinition(r.Definition, spec.Definition) && slices.Equal(r.Disks, spec.Disks)
}

// StartRecovered starts a machine on views; site.BootFromView has the contract.
func (d *Driver) StartRecovered(ctx context.Context, spec site.RecoveredSpec) (dr.MachineName, error) {
	if err := validateRecovered(spec); err != nil {
		return "", err
	}
	name := spec.Definition.Name
	if spec.Test {
		name += "-test"
	}
	unlock, err := d.lock(ctx, "machine-"+string(name))
	if err != nil {
		return "", err
	}
	defer unlock()
	m := d.at(name)
	rec, err := m.record()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		rec, err = m.recover(ctx, &record{Definition: spec.Definition}, spec, true)
	case err != nil:
	case rec.Recovered != nil && rec.Recovered.same(spec):
	case rec.Recovered != nil:
		err = problem.New(problem.MachineRunning, "machine %s runs on another view: discard that first", name)
	case spec.Test:
		err = problem.New(problem.NameTaken, "machine %s exists and is no test", name)
	default:
		rec, err = m.recover(ctx, rec, spec, false)
	}
	if err != nil {
		return "", err
	}
	if err := m.makeOverlays(ctx, rec); err != nil {
		return "", err
	}
	if err := m.start(ctx, rec, false); err != nil {
		return "", err
	}
	return name, nil
}

func validateRecovered(spec site.RecoveredSpec) error {
	if err := validate(spec.Definition); err != nil {
		return err
	}
	matched := 0
	for _, disk := range spec.Definition.Disks {
		n := 0
		for _, v := range spec.Disks {
			if v.Disk == disk.ID {
				n++
			}
		}
		want := 1
		if disk.ReadOnly {
			want = 0
		}
		if n != want {
			return problem.New(problem.UnknownDisk, "machine %s: %d views for disk %s, want %d", spec.Definition.Name, n, disk.ID, want)
		}
		matched += n
	}
	if len(spec.Disks) != matched {
		return problem.New(problem.UnknownDisk, "machine %s: views for disks that it does not have", spec.Definition.Name)
	}
	if spec.Test && spec.Network == "" && len(spec.Definition.NICs) > 0 {
		return problem.New(problem.UnknownNetwork, "machine %s: a test needs a test network", spec.Definition.Name)
	}
	return nil
}

// recover writes the record of a machine that is to run on views. Overlays of
// an earlier recovery go first: from then on one that exists is ours.
func (m *machine) recover(ctx context.Context, rec *record, spec site.RecoveredSpec, alone bool) (*record, error) {
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return nil, fmt.Errorf("recover machine %s: %w", m.name, err)
	}
	if err := m.off(ctx, rec); err != nil {
		return nil, err
	}
	if err := m.dropOverlays(); err != nil {
		return nil, err
	}
	if spec.Definition.Firmware == dr.UEFI {
		if err := m.makeNVRAM(recoveredNVRAM, spec.Definition.NVRAM); err != nil {
			return nil, err
		}
	}
	rec.Recovered = &recovered{
		Definition: spec.Definition, Disks: slices.Clone(spec.Disks),
		Test: spec.Test, Network: spec.Network, Alone: alone,
	}
	return rec, m.save(rec)
}

// dropOverlays deletes what an ended recovery left.
func (m *machine) dropOverlays() error {
	files, err := filepath.Glob(filepath.Join(globEscape(m.dir), "*.overlay"))
	if err != nil {
		return fmt.Errorf("list overlays of machine %s: %w", m.name, err)
	}
	for _, f := range append(files, m.path(recoveredNVRAM)) {
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("delete overlay of machine %s: %w", m.name, err)
		}
	}
	return syncDir(m.dir)
}

// makeOverlays makes what the machine's disks are to stand on. Once a commit
// has begun, overlays are there or no longer needed.
func (m *machine) makeOverlays(ctx context.Context, rec *record) error {
	for _, disk := range rec.Recovered.Definition.Disks {
		var err error
		switch {
		case disk.ReadOnly:
			err = m.makeDisks(rec, []dr.DiskSpec{disk})
		case rec.Recovered.Bases == nil:
			err = m.makeOverlay(ctx, disk)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// makeOverlay makes a disk's empty overlay unless it is there. extended_l2
// lets a small write allocate 4 KiB (of a 128 KiB cluster) without copying the
// rest from the view.
func (m *machine) makeOverlay(ctx context.Context, disk dr.DiskSpec) error {
	path := m.overlayPath(disk.ID)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	tmp := path + ".new"
	cmd := exec.CommandContext(ctx, m.d.cfg.ImageTool, "create", "-q", "-f", "qcow2",
		"-o", "extended_l2=on,cluster_size=128k", tmp, strconv.FormatInt(disk.SizeBytes, 10))
	if out, err := cmd.CombinedOutput(); err != nil {
		_ = os.Remove(tmp)
		return problem.Wrap(err, problem.HypervisorError, "make overlay of disk %s of machine %s: %s", disk.ID, m.name, out)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("make overlay of disk %s of machine %s: %w", disk.ID, m.name, err)
	}
	return syncDir(m.dir)
}

// DiscardRecovered stops a machine that runs on views and forgets all that it
// wrote; site.BootFromView has the contract. A standby machine of the name
// stays as it was before.
func (d *Driver) DiscardRecovered(ctx context.Context, name dr.MachineName) error {
	m, rec, unlock, err := d.lockKnown(ctx, name)
	if problem.HasCode(err, problem.UnknownMachine) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	if rec.Recovered == nil {
		return nil
	}
	if rec.Recovered.Bases != nil {
		return problem.New(problem.OperationNotAllowed, "the commit of machine %s has begun; it can only be ended", name)
	}
	// Nothing that it would flush is wanted, and with its view's server
	// away it could not flush.
	if err := m.killMachine(ctx); err != nil {
		return err
	}
	m.disconnect()
	if rec.Recovered.Test || rec.Recovered.Alone {
		return m.remove(false)
	}
	rec.Recovered = nil
	if err := m.save(rec); err != nil {
		return err
	}
	return m.dropOverlays()
}

// settle makes a machine whose disks are all committed an ordinary one.
func (m *machine) settle(rec *record) error {
	r := rec.Recovered
	if r.Definition.Firmware == dr.UEFI {
		err := os.Rename(m.path(recoveredNVRAM), m.path("nvram.fd"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("commit machine %s: %w", m.name, err)
		}
		if err := syncDir(m.dir); err != nil {
			return fmt.Errorf("commit machine %s: %w", m.name, err)
		}
	}
	paths := maps.Clone(rec.DiskPaths)
	if paths == nil {
		paths = map[dr.DiskID]string{}
	}
	for id, base := range r.Bases {
		delete(paths, id)
		if base != m.path(string(id)+".raw") {
			paths[id] = base
		}
	}
	rec.Definition, rec.DiskPaths = r.Definition, paths
	rec.Standby, rec.Recovered = false, nil
	if err := m.save(rec); err != nil {
		return err
	}
	return m.dropOverlays()
}
