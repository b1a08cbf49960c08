package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"rebound/internal/block"
	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/qmp"
	"rebound/internal/site"
)

// Start starts a machine; site.Driver has the contract. A machine that runs on
// a view starts again on its overlay.
func (d *Driver) Start(ctx context.Context, name dr.MachineName, opts site.StartOptions) error {
	m, rec, unlock, err := d.lockKnown(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	if rec.Recovered == nil && rec.Standby {
		return problem.New(problem.MachineInUse, "machine %s is the standby of a replication group", name)
	}
	return m.start(ctx, rec, opts.Paused)
}

// start brings the machine up, whatever is left of an earlier run. The caller
// holds the machine's lock.
func (m *machine) start(ctx context.Context, rec *record, paused bool) error {
	switch m.state(ctx, rec) {
	case site.Running:
		return nil
	case site.Paused:
		if paused {
			return nil
		}
		return m.resumeStarted(ctx, rec)
	case site.Unknown:
		return problem.New(problem.HypervisorError, "QEMU of machine %s does not answer", m.name)
	}
	if err := m.end(ctx, rec); err != nil { // one whose guest is off, or that is just starting
		return err
	}
	rec, err := m.adopt(rec)
	if err != nil {
		return err
	}
	if rec.Recovered != nil && rec.Recovered.Test {
		unlock, err := m.d.lock(ctx, "network-"+lockName(rec.Recovered.Network))
		if err != nil {
			return err
		}
		defer unlock()
	}
	l, files, err := m.launch(ctx, rec, paused)
	defer closeAll(files)
	if err != nil {
		return err
	}
	if err := m.spawn(ctx, rec, l.args(), files); err != nil {
		return lockedImage(err, m)
	}
	m.d.log.Info("machine started", "machine", m.name, "accel", l.accel, "paused", paused)
	if rec.Recovered != nil {
		m.d.watch(m.name)
	}
	return nil
}

// adopt makes an imported machine, whose own QEMU is gone, one of ours, and
// ends a commit that was as good as done.
func (m *machine) adopt(rec *record) (*record, error) {
	if rec.Socket != "" {
		rec.Socket = ""
		return rec, m.save(rec)
	}
	if rec.Recovered != nil && rec.Recovered.settled() {
		return rec, m.settle(rec)
	}
	return rec, nil
}

// resumeStarted lets a machine run that was started paused before.
func (m *machine) resumeStarted(ctx context.Context, rec *record) error {
	mon, err := m.monitor(rec)
	if err != nil {
		return err
	}
	if err := mon.Run(ctx, "cont", nil, nil); err != nil {
		return problem.Wrap(err, problem.HypervisorError, "continue machine %s", m.name)
	}
	return nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close()
		}
	}
}

// launch gathers all that the command line depends on and makes what QEMU
// needs: the files are to become its descriptors 3 and up, and are to be closed
// by the caller, after an error too.
func (m *machine) launch(ctx context.Context, rec *record, paused bool) (*launch, []*os.File, error) {
	def := rec.present()
	def.Name = m.name // that of a test differs
	accel, err := m.d.accelerator(ctx)
	if err != nil {
		return nil, nil, err
	}
	l := &launch{dir: m.dir, def: def, accel: accel, cpu: m.d.cfg.CPU, paused: paused}
	if def.Firmware == dr.UEFI {
		file := "nvram.fd"
		if rec.Recovered != nil {
			file = recoveredNVRAM
		}
		if err := m.makeNVRAM(file, nil); err != nil {
			return nil, nil, err
		}
		l.nvram = m.path(file)
		if l.firmware, _, err = m.d.firmware(); err != nil {
			return nil, nil, err
		}
	}
	if l.disks, err = m.launchDisks(rec); err != nil {
		return nil, nil, err
	}
	files, err := m.connect(ctx, rec, l)
	return l, files, err
}

// launchDisks says what each disk's device stands on now.
func (m *machine) launchDisks(rec *record) ([]launchDisk, error) {
	var list []launchDisk
	for _, spec := range rec.present().Disks {
		disk := launchDisk{spec: spec, raw: m.diskPath(rec, spec.ID)}
		if r := rec.Recovered; r != nil {
			disk = r.launchDisk(m, rec, spec)
		}
		probe := disk.raw
		if disk.overlay != "" {
			probe = disk.overlay
		}
		if _, err := os.Stat(probe); errors.Is(err, fs.ErrNotExist) {
			return nil, problem.Wrap(err, problem.UnknownDisk, "disk %s of machine %s has no file", spec.ID, m.name)
		}
		disk.direct = takesDirect(probe)
		disk.reconnect = int(m.d.cfg.ViewReconnect.Seconds())
		list = append(list, disk)
	}
	return list, nil
}

// connect makes the network ends of the machine's cards.
func (m *machine) connect(ctx context.Context, rec *record, l *launch) ([]*os.File, error) {
	var files []*os.File
	test := rec.isTest()
	if test {
		ns, err := m.d.testNamespace(ctx, rec.Recovered.Network, m.name)
		if err != nil {
			return nil, err
		}
		files = append(files, ns) // becomes descriptor namespaceFD
	}
	for i, nic := range l.def.NICs {
		id := fmt.Sprintf("net%d", i)
		mac := nic.MAC
		var tap *os.File
		var err error
		if test {
			mac = testMAC(mac)
			tap, err = m.d.testTap(ctx, files[0], m.name, i)
		} else {
			if tap, err = m.connectCard(i, nic, l); err != nil {
				return files, err
			}
		}
		if err != nil {
			return files, err
		}
		if tap != nil {
			files = append(files, tap)
			l.netdevs = append(l.netdevs, fmt.Sprintf("tap,id=%s,fd=%d", id, 2+len(files)))
		}
		l.macs = append(l.macs, mac)
	}
	return files, nil
}

// lockedImage tells a start that failed because somebody has a disk open from
// other failures.
func lockedImage(err error, m *machine) error {
	p := problem.From(err)
	if containsLock(p.Detail) {
		return problem.Wrap(err, problem.MachineInUse, "machine %s: another process has its disks open", m.name)
	}
	return err
}

// DiskPath returns where the raw content of a disk lies.
func (d *Driver) DiskPath(_ context.Context, name dr.MachineName, disk dr.DiskID) (string, error) {
	m, rec, err := d.known(name)
	if err != nil {
		return "", err
	}
	if err := rec.has(disk); err != nil {
		return "", err
	}
	return m.diskPath(rec, disk), nil
}

// has returns UnknownDisk unless the machine has the disk.
func (r *record) has(disk dr.DiskID) error {
	for _, def := range []dr.Definition{r.Definition, r.present()} {
		for _, s := range def.Disks {
			if s.ID == disk {
				return nil
			}
		}
	}
	return problem.New(problem.UnknownDisk, "machine %s has no disk %s", r.Definition.Name, disk)
}

// OpenDisk opens a disk of a machine that is off, for writing, and holds
// QEMU's image locks on it, so that nobody can start the machine meanwhile.
func (d *Driver) OpenDisk(ctx context.Context, name dr.MachineName, disk dr.DiskID) (block.Device, error) {
	m, rec, unlock, err := d.lockKnown(ctx, name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := rec.has(disk); err != nil {
		return nil, err
	}
	if rec.Recovered != nil {
		return nil, problem.New(problem.MachineInUse, "machine %s runs on a view", name)
	}
	if err := m.off(ctx, rec); err != nil {
		return nil, err
	}
	f, err := block.OpenFile(m.diskPath(rec, disk), block.FileOptions{Lock: true})
	if errors.Is(err, block.ErrLocked) {
		return nil, problem.Wrap(err, problem.MachineInUse, "disk %s of machine %s", disk, name)
	}
	if err != nil {
		return nil, fmt.Errorf("open disk %s of machine %s: %w", disk, name, err)
	}
	return f, nil
}

// SetStandby marks a machine as the target of a replication group, or not.
func (d *Driver) SetStandby(ctx context.Context, name dr.MachineName, standby bool) error {
	m, rec, unlock, err := d.lockKnown(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	if rec.Standby == standby {
		return nil
	}
	rec.Standby = standby
	return m.save(rec)
}

// quitImported is how an imported machine's QEMU is ended: only its monitor is
// known.
func (m *machine) quitImported(ctx context.Context, rec *record) error {
	mon, err := m.monitor(rec)
	if err != nil {
		return err
	}
	if err := mon.Run(ctx, "quit", nil, nil); err != nil && qmp.Refused(err) {
		return problem.Wrap(err, problem.HypervisorError, "stop machine %s", m.name)
	}
	return nil
}

// connectCard makes the network end of one card: a TAP, or an option of QEMU's
// own. A card without a network gets a hub with nobody else on it.
func (m *machine) connectCard(i int, nic dr.NIC, l *launch) (*os.File, error) {
	id := fmt.Sprintf("net%d", i)
	if nic.Network == "" {
		l.netdevs = append(l.netdevs, fmt.Sprintf("hubport,id=%s,hubid=%d", id, i))
		return nil, nil
	}
	network, err := m.d.network(nic.Network)
	if err != nil {
		return nil, err
	}
	if network.Kind == BridgeNetwork {
		return m.d.bridgeTap(m.name, i, network.Bridge)
	}
	l.netdevs = append(l.netdevs, network.userNetdev(id))
	return nil, nil
}
