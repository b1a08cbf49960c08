package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/qmp"
	"rebound/internal/site"
)

// maxSocketPath is the longest path of a Unix socket: sun_path less its NUL.
const maxSocketPath = 107

// statusTimeout bounds how long a machine's state waits for QEMU's answer.
const statusTimeout = 3 * time.Second

// record is what machine.json holds. Definitions in it have no NVRAM: nvram.fd
// is the only place of that.
type record struct {
	Version    int           `json:"version"`
	Definition dr.Definition `json:"definition"`
	Standby    bool          `json:"standby,omitempty"`
	Imported   bool          `json:"imported,omitempty"`
	// Socket is the QMP socket of a machine that somebody else started;
	// empty: the folder's own.
	Socket string `json:"socket,omitempty"`
	// DiskPaths holds where disks lie that are not in the folder.
	DiskPaths map[dr.DiskID]string `json:"diskPaths,omitempty"`
	// Images holds where disks of an imported machine lie that are no raw
	// files; they cannot be the base of a journal.
	Images    map[dr.DiskID]string `json:"images,omitempty"`
	Recovered *recovered           `json:"recovered,omitempty"`
	// Devices holds, for an imported machine, the QOM path of each disk's
	// device; those of our own machines carry the disk's name.
	Devices map[dr.DiskID]string `json:"devices,omitempty"`
	// NVRAMPath is where an imported machine keeps its UEFI variables.
	NVRAMPath string `json:"nvramPath,omitempty"`
	// NoPicture: an imported machine has a display that draws in its own time.
	NoPicture bool `json:"noPicture,omitempty"`
}

const recordVersion = 1

// present is the definition that the machine runs with or would start with.
func (r *record) present() dr.Definition {
	if r.Recovered != nil {
		return r.Recovered.Definition
	}
	return r.Definition
}

// machine is a machine's folder.
type machine struct {
	d    *Driver
	name dr.MachineName
	dir  string
}

func (d *Driver) at(name dr.MachineName) *machine {
	return &machine{d: d, name: name, dir: d.MachineDir(name)}
}

// known returns a machine and its record, or UnknownMachine.
func (d *Driver) known(name dr.MachineName) (*machine, *record, error) {
	m := d.at(name)
	if filepath.Base(string(name)) != string(name) {
		return nil, nil, problem.New(problem.UnknownMachine, "%q", name)
	}
	rec, err := m.record()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, problem.New(problem.UnknownMachine, "%s", name)
	}
	return m, rec, err
}

// lockKnown is known under the machine's lock.
func (d *Driver) lockKnown(ctx context.Context, name dr.MachineName) (*machine, *record, func(), error) {
	unlock, err := d.lock(ctx, "machine-"+string(name))
	if err != nil {
		return nil, nil, nil, err
	}
	m, rec, err := d.known(name)
	if err != nil {
		unlock()
		return nil, nil, nil, err
	}
	return m, rec, unlock, nil
}

func (m *machine) path(file string) string { return filepath.Join(m.dir, file) }

func (m *machine) record() (*record, error) {
	text, err := os.ReadFile(m.path("machine.json"))
	if err != nil {
		return nil, fmt.Errorf("read record of machine %s: %w", m.name, err)
	}
	var rec record
	if err := json.Unmarshal(text, &rec); err != nil {
		return nil, fmt.Errorf("read record of machine %s: %w", m.name, err)
	}
	if rec.Version != recordVersion {
		return nil, fmt.Errorf("read record of machine %s: version %d, want %d", m.name, rec.Version, recordVersion)
	}
	return &rec, nil
}

// save makes the record durable; a crash leaves the old one or the new one.
func (m *machine) save(rec *record) error {
	rec.Version = recordVersion
	rec.Definition.NVRAM = nil
	if rec.Recovered != nil {
		rec.Recovered.Definition.NVRAM = nil
	}
	text, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return fmt.Errorf("save record of machine %s: %w", m.name, err)
	}
	if err := writeFile(m.path("machine.json"), append(text, '\n')); err != nil {
		return fmt.Errorf("save record of machine %s: %w", m.name, err)
	}
	return nil
}

// diskPath returns where the raw content of a disk lies.
func (m *machine) diskPath(rec *record, id dr.DiskID) string {
	if p, ok := rec.DiskPaths[id]; ok {
		return p
	}
	return m.path(string(id) + ".raw")
}

func (m *machine) overlayPath(id dr.DiskID) string { return m.path(string(id) + ".overlay") }

// describe returns what the site knows of the machine.
func (m *machine) describe(ctx context.Context, rec *record) site.Machine {
	def := rec.present()
	def.Name = m.name // that of a test differs from its definition's
	return site.Machine{
		Definition: def,
		State:      m.state(ctx, rec),
		Imported:   rec.Imported,
		Standby:    rec.Standby,
		BootedAt:   m.bootedAt(ctx, rec),
	}
}

// state asks the process table and QEMU. A guest that powered itself off
// counts as Off although its QEMU still lives (for the bitmaps' sake).
func (m *machine) state(ctx context.Context, rec *record) site.PowerState {
	if rec.Socket == "" {
		p, err := m.process()
		if err != nil {
			return site.Unknown
		}
		if p == nil {
			return site.Off
		}
		p.close()
	}
	status, err := m.status(ctx, rec)
	switch {
	case qmp.Gone(err) && rec.Socket != "":
		return site.Off
	case err != nil:
		// It may have ended since we looked.
		if p, perr := m.process(); perr == nil && p == nil && rec.Socket == "" {
			return site.Off
		} else if p != nil {
			p.close()
		}
		return site.Unknown
	case status == "shutdown":
		return site.Off
	case status == "running":
		return site.Running
	}
	return site.Paused
}

// status is QEMU's own word for the state of the machine.
func (m *machine) status(ctx context.Context, rec *record) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	mon, err := m.monitor(rec)
	if err != nil {
		return "", err
	}
	s, err := qmp.Call[struct {
		Status string `json:"status"`
	}](ctx, mon, "query-status", nil)
	return s.Status, err
}

// monitor returns the machine's monitor, one for all of the driver. It does
// not dial: QEMU need not be there.
func (m *machine) monitor(rec *record) (*qmp.Monitor, error) {
	if rec.Socket != "" {
		return m.d.monitorAt(rec.Socket)
	}
	return m.ownMonitor(m.firstMonitor())
}

// firstMonitor is the monitor that this driver works with.
func (m *machine) firstMonitor() string {
	if m.d.cfg.Admin {
		return "admin.sock"
	}
	return "qmp.sock"
}

// rescue returns the second monitor, for out-of-band commands while the first
// one hangs. Imported machines have none.
func (m *machine) rescue(rec *record) (*qmp.Monitor, error) {
	if rec.Socket != "" {
		return nil, problem.New(problem.HypervisorError, "machine %s was imported: there is no second monitor", m.name)
	}
	return m.ownMonitor("rescue.sock")
}

func (m *machine) ownMonitor(file string) (*qmp.Monitor, error) {
	path, err := m.socketPath(file)
	if err != nil {
		return nil, err
	}
	return m.d.monitorAt(path)
}

func (d *Driver) monitorAt(path string) (*qmp.Monitor, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, qmp.ErrClosed
	}
	mon := d.monitors[path]
	if mon == nil {
		mon = qmp.NewMonitor(path)
		d.monitors[path] = mon
	}
	return mon, nil
}

// socketPath returns a path that connect(2) takes: the real one, or one
// through an open descriptor of the folder when the real one is too long.
func (m *machine) socketPath(file string) (string, error) {
	if p := m.path(file); len(p) <= maxSocketPath {
		return p, nil
	}
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	f := m.d.folders[m.dir]
	if f == nil {
		var err error
		if f, err = os.Open(m.dir); err != nil {
			return "", fmt.Errorf("open folder of machine %s: %w", m.name, err)
		}
		m.d.folders[m.dir] = f
	}
	return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) + "/" + file, nil
}

// disconnect drops the monitors of a machine whose QEMU has ended.
func (m *machine) disconnect() {
	for _, file := range []string{"qmp.sock", "rescue.sock", "admin.sock"} {
		path, err := m.socketPath(file)
		if err != nil {
			continue
		}
		m.d.mu.Lock()
		mon := m.d.monitors[path]
		delete(m.d.monitors, path)
		m.d.mu.Unlock()
		if mon != nil {
			_ = mon.Close()
		}
	}
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	if f := m.d.folders[m.dir]; f != nil {
		_ = f.Close()
		delete(m.d.folders, m.dir)
	}
}

// lockRetry is how often a lock that another process holds is tried again;
// flock(2) cannot be waited for with a context.
const lockRetry = 20 * time.Millisecond

// lock serialises work on one machine or network, also between processes that
// share the datastore. The result unlocks.
func (d *Driver) lock(ctx context.Context, name string) (func(), error) {
	d.mu.Lock()
	sem := d.locks[name]
	if sem == nil {
		sem = make(chan struct{}, 1)
		d.locks[name] = sem
	}
	d.mu.Unlock()
	select {
	case sem <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for %s: %w", name, context.Cause(ctx))
	}
	f, err := flock(ctx, filepath.Join(d.cfg.Dir, "locks", filepath.Base(name)))
	if err != nil {
		<-sem
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return func() {
		_ = f.Close()
		<-sem
	}, nil
}

func flock(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(lockRetry)
	defer tick.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			_ = f.Close()
			return nil, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			_ = f.Close()
			return nil, context.Cause(ctx)
		}
	}
}

// writeFile replaces a file durably: temporary file, fsync, rename, fsync of
// the folder.
func writeFile(path string, data []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
