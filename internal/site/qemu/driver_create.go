package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"

	"rebound/internal/dr"
	"rebound/internal/problem"
)

var (
	uuidRE        = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
	machineTypeRE = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]*$`)
	serialRE      = regexp.MustCompile(`^[a-zA-Z0-9._-]{0,20}$`)
)

// nicModels are the emulated cards that a definition may name.
func nicModels() []string {
	return []string{"", "virtio-net-pci", "e1000", "e1000e", "rtl8139"}
}

// validate reports what of a definition QEMU could not build.
func validate(def dr.Definition) error {
	if err := dr.ValidName(string(def.Name)); err != nil {
		return problem.Wrap(err, problem.InvalidName, "%s", def.Name)
	}
	bad := func(format string, args ...any) error {
		return problem.New(problem.InvalidRequest, "machine %s: %s", def.Name, fmt.Sprintf(format, args...))
	}
	switch {
	case def.UUID != "" && !uuidRE.MatchString(def.UUID):
		return bad("uuid %q is none", def.UUID)
	case def.CPUs < 1 || def.CPUs > maxCPUs:
		return bad("cpus %d: want 1 to %d", def.CPUs, maxCPUs)
	case def.MemoryMiB < 1:
		return bad("memoryMiB %d: want at least 1", def.MemoryMiB)
	case def.Firmware != dr.BIOS && def.Firmware != dr.UEFI:
		return bad("firmware %q: want %q or %q", def.Firmware, dr.BIOS, dr.UEFI)
	case def.MachineType != "" && !machineTypeRE.MatchString(def.MachineType):
		return bad("machineType %q is none", def.MachineType)
	case def.Graphics != "" && !slices.Contains(graphicsModels(), def.Graphics):
		return bad("graphics %q: want one of %s, or none", def.Graphics, strings.Join(graphicsModels(), ", "))
	case len(def.NICs) > maxNICs:
		return bad("%d network cards: at most %d", len(def.NICs), maxNICs)
	}
	for i, nic := range def.NICs {
		hw, err := net.ParseMAC(nic.MAC)
		if err != nil || len(hw) != 6 || hw[0]&1 != 0 {
			return bad("network card %d: MAC %q: want a unicast Ethernet address", i, nic.MAC)
		}
		if !slices.Contains(nicModels(), nic.Model) {
			return bad("network card %d: model %q is not known", i, nic.Model)
		}
	}
	if len(def.Label) > 63 || strings.ContainsFunc(def.Label, unicode.IsControl) {
		return bad("label %q: want at most 63 printing characters", def.Label)
	}
	return validateDisks(def)
}

func validateDisks(def dr.Definition) error {
	seen := map[dr.DiskID]bool{}
	sata := 0
	for _, disk := range def.Disks {
		bad := func(format string, args ...any) error {
			return problem.New(problem.DiskNotSupported, "machine %s, disk %s: %s", def.Name, disk.ID, fmt.Sprintf(format, args...))
		}
		if disk.Bus == "sata" {
			sata++
		}
		switch {
		// A block node's name has at most 31 bytes; suffixes take 8.
		case dr.ValidName(string(disk.ID)) != nil || len(disk.ID) > 20 || seen[disk.ID]:
			return bad("want an id of its own, 1 to 20 letters, digits or hyphens")
		case disk.SizeBytes <= 0 || disk.SizeBytes%512 != 0:
			return bad("size %d: want a positive multiple of 512", disk.SizeBytes)
		case !slices.Contains([]string{"virtio", "scsi", "sata"}, disk.Bus):
			return bad("bus %q: want virtio, scsi or sata", disk.Bus)
		case !serialRE.MatchString(disk.Serial):
			return bad("serial %q: want at most 20 letters, digits, dots, hyphens or underscores", disk.Serial)
		case sata > maxSATADisks:
			return bad("more than %d SATA disks", maxSATADisks)
		}
		seen[disk.ID] = true
	}
	return nil
}

// Create makes the machine and its disks; site.Driver has the contract.
func (d *Driver) Create(ctx context.Context, def dr.Definition) error { return d.create(ctx, def, "") }

// create makes the machine, and those of its disks that do not exist in dir.
func (d *Driver) create(ctx context.Context, def dr.Definition, dir string) error {
	if err := validate(def); err != nil {
		return err
	}
	unlock, err := d.lock(ctx, "machine-"+string(def.Name))
	if err != nil {
		return err
	}
	defer unlock()
	m := d.at(def.Name)
	rec, err := m.record()
	switch {
	case err == nil && sameDefinition(rec.Definition, def) && !rec.isTest():
		return nil
	case err == nil:
		return problem.New(problem.NameTaken, "machine %s exists with another definition", def.Name)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return fmt.Errorf("create machine %s: %w", def.Name, err)
	}
	rec = &record{Definition: def}
	if err := m.placeDisks(rec, dir); err != nil {
		return err
	}
	if err := m.makeDisks(rec, def.Disks); err != nil {
		return err
	}
	if def.Firmware == dr.UEFI {
		if err := m.makeNVRAM("nvram.fd", def.NVRAM); err != nil {
			return err
		}
	}
	return m.save(rec)
}

func (r *record) isTest() bool { return r.Recovered != nil && r.Recovered.Test }

// makeDisks makes the raw files that are missing and lets short ones grow.
func (m *machine) makeDisks(rec *record, disks []dr.DiskSpec) error {
	for _, disk := range disks {
		if err := growDisk(m.diskPath(rec, disk.ID), disk.SizeBytes); err != nil {
			return fmt.Errorf("create disk %s of machine %s: %w", disk.ID, m.name, noRoom(err, m.dir))
		}
	}
	if err := syncDir(m.dir); err != nil {
		return fmt.Errorf("create disks of machine %s: %w", m.name, err)
	}
	return nil
}

// growDisk makes a sparse file of a size. One that is there keeps its content
// and may be shorter; data is never cut off.
func growDisk(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.Size() == size || !st.Mode().IsRegular() {
		return nil
	}
	if st.Size() > size {
		return problem.New(problem.DiskNotSupported, "%s holds %d bytes: it cannot shrink to %d", path, st.Size(), size)
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	return f.Sync()
}

// noRoom turns a full disk into its problem.
func noRoom(err error, dir string) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return problem.Wrap(err, problem.NoRoom, "volume of %s", dir)
	}
	return err
}

// firmwarePlaces are where distributions keep OVMF: code, template of the
// variable store. The 4M build comes first because Debian 12 has it as default.
func firmwarePlaces() [][2]string {
	return [][2]string{
		{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
		{"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"},
		{"/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"},
		{"/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"},
	}
}

func (d *Driver) firmware() (code, vars string, err error) {
	if d.cfg.FirmwareCode != "" && d.cfg.FirmwareVars != "" {
		return d.cfg.FirmwareCode, d.cfg.FirmwareVars, nil
	}
	for _, p := range firmwarePlaces() {
		_, errCode := os.Stat(p[0])
		_, errVars := os.Stat(p[1])
		if errCode == nil && errVars == nil {
			return p[0], p[1], nil
		}
	}
	return "", "", problem.New(problem.HypervisorError, "this host has no UEFI firmware (OVMF)")
}

// makeNVRAM writes a variable store: the given content, or when there is none
// the firmware's template unless a store is there already.
func (m *machine) makeNVRAM(file string, content []byte) error {
	if content == nil {
		if _, err := os.Stat(m.path(file)); err == nil {
			return nil
		}
		_, vars, err := m.d.firmware()
		if err != nil {
			return err
		}
		if content, err = os.ReadFile(vars); err != nil {
			return fmt.Errorf("read variable store template: %w", err)
		}
	}
	if err := writeFile(m.path(file), content); err != nil {
		return fmt.Errorf("write variable store of machine %s: %w", m.name, noRoom(err, m.dir))
	}
	return nil
}

// Update replaces the definition of a machine that is off. Disks that the new
// definition does not name keep their files; disks can grow and not shrink. A
// nil NVRAM leaves the variable store as it is.
func (d *Driver) Update(ctx context.Context, def dr.Definition) error {
	if err := validate(def); err != nil {
		return err
	}
	m, rec, unlock, err := d.lockKnown(ctx, def.Name)
	if err != nil {
		return err
	}
	defer unlock()
	if sameDefinition(rec.Definition, def) && def.NVRAM == nil {
		return nil
	}
	if rec.Recovered != nil {
		return problem.New(problem.MachineInUse, "machine %s runs on a view", def.Name)
	}
	if err := m.off(ctx, rec); err != nil {
		return err
	}
	if err := m.makeDisks(rec, def.Disks); err != nil {
		return err
	}
	if def.Firmware == dr.UEFI {
		if err := m.makeNVRAM("nvram.fd", def.NVRAM); err != nil {
			return err
		}
	}
	rec.Definition = def
	return m.save(rec)
}

// Delete removes a machine that is off. Disks that lie outside its folder (an
// imported machine's) are never deleted. Deleting what is not there succeeds.
func (d *Driver) Delete(ctx context.Context, name dr.MachineName, keepDisks bool) error {
	if filepath.Base(string(name)) != string(name) || name == "" || name == "." || name == ".." {
		return problem.New(problem.UnknownMachine, "%q", name)
	}
	unlock, err := d.lock(ctx, "machine-"+string(name))
	if err != nil {
		return err
	}
	defer unlock()
	m := d.at(name)
	rec, err := m.record()
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case rec.Standby:
		return problem.New(problem.MachineInUse, "machine %s is the standby of a replication group", name)
	case rec.Recovered != nil:
		return problem.New(problem.MachineInUse, "machine %s runs on a view", name)
	default:
		if err := m.off(ctx, rec); err != nil {
			return err
		}
	}
	m.disconnect()
	return m.remove(keepDisks)
}

// remove deletes the folder, the record first: what a crash leaves is no
// machine any more, and the same call removes it.
func (m *machine) remove(keepDisks bool) error {
	if err := os.Remove(m.path("machine.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete machine %s: %w", m.name, err)
	}
	if !keepDisks {
		if err := m.removeElsewhere(); err != nil {
			return err
		}
		if err := os.RemoveAll(m.dir); err != nil {
			return fmt.Errorf("delete machine %s: %w", m.name, err)
		}
		return syncDir(filepath.Dir(m.dir))
	}
	entries, err := os.ReadDir(m.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete machine %s: %w", m.name, err)
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) == ".raw" {
			continue
		}
		if err := os.RemoveAll(m.path(e.Name())); err != nil {
			return fmt.Errorf("delete machine %s: %w", m.name, err)
		}
	}
	return nil
}
