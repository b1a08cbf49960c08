package qemu

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/qmp"
	"rebound/internal/site"
)

var _ site.Importer = (*Driver)(nil)

// Import implements site.Importer. The machine goes on as it is; what is kept
// of it is its definition, where its disks lie, and its command line.
// Importing it again from the same socket takes in what has changed.
func (d *Driver) Import(ctx context.Context, qmpSocket string, name dr.MachineName) (site.Machine, error) {
	socket, err := filepath.Abs(qmpSocket)
	if err != nil {
		return site.Machine{}, fmt.Errorf("import machine: %w", err)
	}
	mon, err := d.monitorAt(socket)
	if err != nil {
		return site.Machine{}, err
	}
	rec, line, err := readMachine(ctx, mon)
	if err != nil {
		return site.Machine{}, importFault(err, socket)
	}
	rec.Imported, rec.Socket = true, socket
	rec.Definition.Name = cmp.Or(name, rec.Definition.Name)
	if rec.Definition.Name == "" {
		return site.Machine{}, problem.New(problem.InvalidName, "the machine at %s has no name of its own; give it one", socket)
	}
	for i := range rec.Definition.NICs {
		rec.Definition.NICs[i].Network = d.networkLike(rec.Definition.NICs[i].Network)
	}
	if err := validate(rec.Definition); err != nil {
		return site.Machine{}, err
	}
	if len(rec.Definition.Disks) == 0 {
		return site.Machine{}, problem.New(problem.MachineHasNoDisks, "%s", rec.Definition.Name)
	}
	return d.takeIn(ctx, rec, line)
}

func importFault(err error, socket string) error {
	if _, ok := errors.AsType[*problem.Problem](err); ok {
		return err
	}
	return problem.Wrap(err, problem.HypervisorError, "import the machine at %s", socket)
}

// takeIn makes the machine's folder.
func (d *Driver) takeIn(ctx context.Context, rec *record, line []byte) (site.Machine, error) {
	name := rec.Definition.Name
	unlock, err := d.lock(ctx, "machine-"+string(name))
	if err != nil {
		return site.Machine{}, err
	}
	defer unlock()
	m := d.at(name)
	old, err := m.record()
	switch {
	case err == nil && (old.Socket != rec.Socket || old.Definition.UUID != rec.Definition.UUID):
		return site.Machine{}, problem.New(problem.NameTaken, "there is another machine %s", name)
	case err == nil:
		rec.Standby = old.Standby
	case !errors.Is(err, fs.ErrNotExist):
		return site.Machine{}, err
	}
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return site.Machine{}, fmt.Errorf("import machine %s: %w", name, err)
	}
	if err := writeFile(m.path("command"), bytes.ReplaceAll(line, []byte{0}, []byte{'\n'})); err != nil {
		return site.Machine{}, fmt.Errorf("import machine %s: %w", name, err)
	}
	if rec.NVRAMPath != "" {
		vars, err := os.ReadFile(rec.NVRAMPath)
		if err != nil {
			return site.Machine{}, problem.Wrap(err, problem.HypervisorError, "read UEFI variables of machine %s", name)
		}
		if err := m.makeNVRAM("nvram.fd", vars); err != nil {
			return site.Machine{}, err
		}
	}
	if err := m.save(rec); err != nil {
		return site.Machine{}, err
	}
	return m.describe(ctx, rec), nil
}

// networkLike returns the site's network for a back end of QEMU: the first of
// the kind, or the first one.
func (d *Driver) networkLike(backend string) string {
	kind := BridgeNetwork
	if backend == UserNetwork {
		kind = UserNetwork
	}
	for _, n := range d.networks {
		if n.Kind == kind {
			return n.Name
		}
	}
	if len(d.networks) > 0 {
		return d.networks[0].Name
	}
	return ""
}

// readMachine asks a QEMU what machine it is.
func readMachine(ctx context.Context, mon *qmp.Monitor) (*record, []byte, error) {
	client, err := mon.Client(ctx)
	if err != nil {
		return nil, nil, err
	}
	pid, err := client.PeerPID()
	if err != nil {
		return nil, nil, err
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil, nil, fmt.Errorf("read command line: %w", err)
	}
	cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	if err != nil {
		return nil, nil, fmt.Errorf("read working directory: %w", err)
	}
	r := &reader{mon: mon, cwd: cwd, rec: &record{DiskPaths: map[dr.DiskID]string{}, Images: map[dr.DiskID]string{}, Devices: map[dr.DiskID]string{}}}
	for _, step := range []func(context.Context) error{r.basics, r.board, r.disks, r.cards, r.display} {
		if err := step(ctx); err != nil {
			return nil, nil, err
		}
	}
	return r.rec, line, nil
}

// reader fills a record from what QEMU answers.
type reader struct {
	mon *qmp.Monitor
	cwd string
	rec *record
}

// get reads a QOM property; the zero value where there is none of that name.
func get[T any](ctx context.Context, mon qmp.Runner, path, property string) (T, error) {
	v, err := qmp.Call[T](ctx, mon, "qom-get", object{"path": path, "property": property})
	if qmp.Refused(err) {
		return v, nil
	}
	return v, err
}

// path makes a file name of QEMU's absolute.
func (r *reader) path(file string) string {
	if file == "" || filepath.IsAbs(file) {
		return file
	}
	return filepath.Join(r.cwd, file)
}

func (r *reader) basics(ctx context.Context) error {
	def := &r.rec.Definition
	name, err := qmp.Call[struct{ Name string }](ctx, r.mon, "query-name", nil)
	if err != nil {
		return err
	}
	uuid, err := qmp.Call[struct{ UUID string }](ctx, r.mon, "query-uuid", nil)
	if err != nil {
		return err
	}
	cpus, err := qmp.Call[[]any](ctx, r.mon, "query-cpus-fast", nil)
	if err != nil {
		return err
	}
	memory, err := qmp.Call[struct {
		Base    int64 `json:"base-memory"`
		Plugged int64 `json:"plugged-memory"`
	}](ctx, r.mon, "query-memory-size-summary", nil)
	if err != nil {
		return err
	}
	def.Name, def.CPUs, def.MemoryMiB = dr.MachineName(name.Name), len(cpus), int((memory.Base+memory.Plugged)>>20)
	if strings.Trim(uuid.UUID, "0-") != "" {
		def.UUID = uuid.UUID
	}
	return nil
}

// board reads machine type and firmware: a second flash chip holds variables.
func (r *reader) board(ctx context.Context) error {
	def := &r.rec.Definition
	kind, err := get[string](ctx, r.mon, "/machine", "type")
	if err != nil {
		return err
	}
	def.MachineType = strings.TrimSuffix(kind, "-machine")
	def.Firmware = dr.BIOS
	flash, err := get[string](ctx, r.mon, "/machine", "pflash1")
	if err != nil || flash == "" {
		return err
	}
	def.Firmware = dr.UEFI
	rows, err := qmp.Call[[]deviceRow](ctx, r.mon, "query-block", nil)
	if err != nil {
		return err
	}
	for _, row := range rows {
		if row.Inserted != nil && (row.Device == flash || row.Inserted.Name == flash) {
			r.rec.NVRAMPath = r.path(row.Inserted.File)
		}
	}
	return nil
}

// foundDisk is a disk of the machine and what decides its place in the
// definition, whose order is the boot order.
type foundDisk struct {
	row         deviceRow
	bus, serial string
	boot, addr  int
}

// disks takes the hard disks that can be written, in the order in which the
// firmware tries them: by their bootindex, and those without one after them, by
// their PCI address. QEMU's own order says nothing: it lists -drive first.
func (r *reader) disks(ctx context.Context) error {
	rows, err := qmp.Call[[]deviceRow](ctx, r.mon, "query-block", nil)
	if err != nil {
		return err
	}
	g, err := readGraph(ctx, r.mon)
	if err != nil {
		return err
	}
	var found []foundDisk
	for _, row := range rows {
		if row.Inserted == nil || row.Inserted.ReadOnly || row.Qdev == "" {
			continue
		}
		d, ok, err := r.disk(ctx, row)
		if err != nil {
			return err
		}
		if ok {
			found = append(found, d)
		}
	}
	slices.SortStableFunc(found, func(a, b foundDisk) int {
		return cmp.Or(cmp.Compare(a.boot, b.boot), cmp.Compare(a.addr, b.addr))
	})
	for _, d := range found {
		r.addDisk(d.row, d.bus, d.serial, g.below(d.row.Inserted.Name) != d.row.Inserted.Name)
	}
	return nil
}

// disk looks at one device; ok is false for what is no hard disk.
func (r *reader) disk(ctx context.Context, row deviceRow) (d foundDisk, ok bool, err error) {
	kind, err := get[string](ctx, r.mon, row.Qdev, "type")
	if err != nil {
		return d, false, err
	}
	if noHardDisk(kind) {
		return d, false, nil
	}
	bus, known := map[string]string{"virtio-blk-device": "virtio", "scsi-hd": "scsi", "ide-hd": "sata"}[kind]
	shared, err := get[bool](ctx, r.mon, row.Qdev, "share-rw")
	if err != nil {
		return d, false, err
	}
	if !known || shared {
		return d, false, problem.New(problem.DiskNotSupported, "the device %s (%s) of file %s: it is shared, or of a kind that is not known", row.Qdev, kind, row.Inserted.File)
	}
	d = foundDisk{row: row, bus: bus}
	if d.serial, err = get[string](ctx, r.mon, row.Qdev, "serial"); err != nil {
		return d, false, err
	}
	if d.boot, err = get[int](ctx, r.mon, row.Qdev, "bootindex"); err != nil {
		return d, false, err
	}
	if d.boot < 0 { // none was given
		d.boot = math.MaxInt
	}
	if card, virtio := strings.CutSuffix(row.Qdev, "/virtio-backend"); virtio {
		d.addr, err = get[int](ctx, r.mon, card, "addr")
	}
	return d, err == nil, err
}

func (r *reader) addDisk(row deviceRow, bus, serial string, captured bool) {
	def := &r.rec.Definition
	id := dr.DiskID(fmt.Sprintf("disk%d", len(def.Disks)))
	def.Disks = append(def.Disks, dr.DiskSpec{ID: id, Bus: bus, Serial: serial, SizeBytes: row.Inserted.Image.Size})
	r.rec.Devices[id] = row.Qdev
	// Only a raw file can be the base of a journal; others stay where they
	// are and are copied whole when this site becomes the standby.
	if row.Inserted.Driver == "raw" && !captured {
		r.rec.DiskPaths[id] = r.path(row.Inserted.File)
	} else if !captured {
		r.rec.Images[id] = r.path(row.Inserted.File)
	}
}

// cards finds the network cards by their MAC property.
func (r *reader) cards(ctx context.Context) error {
	for _, folder := range []string{"/machine/peripheral", "/machine/peripheral-anon", "/machine/unattached"} {
		list, err := qmp.Call[[]struct{ Name, Type string }](ctx, r.mon, "qom-list", object{"path": folder})
		if err != nil {
			return err
		}
		for _, child := range list {
			model, ok := strings.CutPrefix(child.Type, "child<")
			if !ok {
				continue
			}
			path := folder + "/" + child.Name
			mac, err := get[string](ctx, r.mon, path, "mac")
			if err != nil {
				return err
			}
			if mac == "" {
				continue
			}
			backend, err := r.backend(ctx, path)
			if err != nil {
				return err
			}
			r.rec.Definition.NICs = append(r.rec.Definition.NICs, dr.NIC{MAC: mac, Model: strings.TrimSuffix(model, ">"), Network: backend})
		}
	}
	return nil
}

// backend returns the kind of a card's back end: UserNetwork or BridgeNetwork.
func (r *reader) backend(ctx context.Context, card string) (string, error) {
	netdev, err := get[string](ctx, r.mon, card, "netdev")
	if err != nil || netdev == "" {
		return BridgeNetwork, err
	}
	info, err := qmp.HMP(ctx, r.mon, "info network")
	if err != nil {
		return "", err
	}
	for line := range strings.SplitSeq(info, "\n") {
		if strings.Contains(line, netdev+": ") && strings.Contains(line, "type=user") {
			return UserNetwork, nil
		}
	}
	return BridgeNetwork, nil
}
