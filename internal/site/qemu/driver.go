package qemu

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"rebound/internal/dr"
	"rebound/internal/qga"
	"rebound/internal/qmp"
	"rebound/internal/site"
)

// Config says where and how a Driver works. Only Dir is needed.
type Config struct {
	// Dir is the datastore; it is made when missing.
	Dir string
	// Datastores are further folders for disks, beside Dir.
	Datastores []Datastore
	// Networks are the networks of the site. Nil: those of networks.json in
	// the datastore, or one user-mode network "default" when there is none.
	Networks []Network
	// Accel is "kvm", "tcg", or "" to find out by experiment.
	Accel string
	// CPU is QEMU's CPU model; "" means "max".
	CPU string
	// Binary and ImageTool are QEMU's programs; "" means
	// qemu-system-x86_64 and qemu-img in PATH.
	Binary, ImageTool string
	// FirmwareCode and FirmwareVars are OVMF's code and its template of a
	// variable store; "" means the first known place that has them.
	FirmwareCode, FirmwareVars string
	// ProbeKernels are guest kernels (globs) to prove KVM with; nil means
	// the host's own in /boot.
	ProbeKernels []string
	// ConvergeAfter is how long a commit may chase the guest's writes
	// before they are throttled; 0 means 10 s.
	ConvergeAfter time.Duration
	// ViewReconnect is how long the reads of a machine on views wait for a
	// view's server that is away, in whole seconds; after that QEMU pauses
	// the machine. 0 means 1 h.
	ViewReconnect time.Duration
	// Admin works through the machines' third monitor, for a program beside
	// the gateway: a monitor serves one connection at a time.
	Admin bool
	// ThawGuard is the command line of a process that runs GuardThaw; the
	// socket and the time are added to it. Nil: a guest that is frozen when
	// this process dies stays so until somebody thaws it.
	ThawGuard []string
	Logger    *slog.Logger
}

// withDefaults fills what was left empty.
func (c Config) withDefaults() Config {
	c.CPU = cmp.Or(c.CPU, "max")
	c.Binary = cmp.Or(c.Binary, "qemu-system-x86_64")
	c.ImageTool = cmp.Or(c.ImageTool, "qemu-img")
	c.ConvergeAfter = cmp.Or(c.ConvergeAfter, 10*time.Second)
	c.ViewReconnect = cmp.Or(c.ViewReconnect, time.Hour)
	if c.ProbeKernels == nil {
		c.ProbeKernels = []string{"/boot/vmlinuz-*", "/vmlinuz"}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Driver runs machines with QEMU. All methods may be called at the same time.
type Driver struct {
	cfg      Config
	log      *slog.Logger
	networks []Network

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	// beforeCommit, when not nil, is asked before each command of a commit
	// that changes something; an error of it ends the call there. Tests
	// cut commits off with it.
	beforeCommit func(command string) error

	mu       sync.Mutex
	closed   bool
	locks    map[string]chan struct{}
	monitors map[string]*qmp.Monitor // by socket path
	folders  map[string]*os.File     // open machine folders whose sockets' paths are too long
	watched  map[dr.MachineName]bool // a watch runs; true: it was asked for again
	agents   map[string]*qga.Agent   // by socket path
	freezes  map[dr.MachineName]*freeze
	accel    string
}

var (
	_ site.Driver       = (*Driver)(nil)
	_ site.BootFromView = (*Driver)(nil)
)

// New opens the datastore and takes up the watch over machines that run on
// views. Close ends it; machines go on running.
func New(cfg Config) (*Driver, error) {
	cfg = cfg.withDefaults()
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("open datastore: %w", err)
	}
	cfg.Dir = dir
	if err := checkDatastores(cfg.Datastores); err != nil {
		return nil, err
	}
	for _, sub := range []string{"machines", "locks"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("open datastore: %w", err)
		}
	}
	networks, err := loadNetworks(cfg)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	d := &Driver{
		cfg: cfg, log: cfg.Logger, networks: networks, ctx: ctx, cancel: cancel,
		locks:    map[string]chan struct{}{},
		monitors: map[string]*qmp.Monitor{},
		folders:  map[string]*os.File{},
		watched:  map[dr.MachineName]bool{},
		agents:   map[string]*qga.Agent{},
		freezes:  map[dr.MachineName]*freeze{},
	}
	if err := d.watchAll(); err != nil {
		_ = d.Close()
		return nil, err
	}
	return d, nil
}

// Close ends the driver's connections and watches. It does not touch machines.
func (d *Driver) Close() error {
	d.mu.Lock()
	d.closed = true
	monitors := d.monitors
	folders := d.folders
	d.monitors, d.folders = map[string]*qmp.Monitor{}, map[string]*os.File{}
	d.mu.Unlock()
	d.cancel()
	var errs []error
	for _, m := range monitors {
		errs = append(errs, m.Close())
	}
	d.wg.Wait()
	for _, f := range folders {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// Dir returns the datastore's folder.
func (d *Driver) Dir() string { return d.cfg.Dir }

// MachineDir returns the folder of a machine, whether or not it exists.
func (d *Driver) MachineDir(name dr.MachineName) string {
	return filepath.Join(d.cfg.Dir, "machines", string(name))
}

// Capabilities says that the driver can do everything. A machine gets at most
// as many processors as QEMU's q35 takes, and the memory of the host.
func (d *Driver) Capabilities() site.Capabilities {
	return site.Capabilities{Capturer: true, BootFromView: true, Importer: true, Freezer: true, Console: true, MaxCPUs: maxCPUs, MaxMemoryMiB: hostMemoryMiB()}
}

// maxCPUs is the most that validate takes.
const maxCPUs = 255

// hostMemoryMiB is the memory of the host; 0 when it cannot be told.
func hostMemoryMiB() int {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0
	}
	return int(info.Totalram * uint64(info.Unit) >> 20)
}

// Machines returns all machines, by name. Definitions come without NVRAM,
// which only Capturer.Definition reads.
func (d *Driver) Machines(ctx context.Context) ([]site.Machine, error) {
	names, err := d.names()
	if err != nil {
		return nil, err
	}
	list := make([]site.Machine, 0, len(names))
	for _, name := range names {
		m := d.at(name)
		rec, err := m.record()
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted just now
		}
		if err != nil {
			// One broken record must not hide all other machines.
			d.log.Error("machine cannot be read", "machine", name, "error", err)
			list = append(list, site.Machine{Definition: dr.Definition{Name: name}, State: site.Unknown})
			continue
		}
		list = append(list, m.describe(ctx, rec))
	}
	return list, nil
}

// names lists the machines of the datastore in order.
func (d *Driver) names() ([]dr.MachineName, error) {
	files, err := filepath.Glob(filepath.Join(globEscape(d.cfg.Dir), "machines", "*", "machine.json"))
	if err != nil {
		return nil, fmt.Errorf("list machines: %w", err)
	}
	names := make([]dr.MachineName, 0, len(files))
	for _, f := range files {
		names = append(names, dr.MachineName(filepath.Base(filepath.Dir(f))))
	}
	slices.Sort(names)
	return names, nil
}

func globEscape(path string) string {
	var out []rune
	for _, r := range path {
		if r == '*' || r == '?' || r == '[' || r == '\\' {
			out = append(out, '\\')
		}
		out = append(out, r)
	}
	return string(out)
}

// Machine returns one machine, without NVRAM.
func (d *Driver) Machine(ctx context.Context, name dr.MachineName) (site.Machine, error) {
	m, rec, err := d.known(name)
	if err != nil {
		return site.Machine{}, err
	}
	return m.describe(ctx, rec), nil
}

// Room returns free and total bytes of the file system of the datastore.
func (d *Driver) Room(context.Context) (free, total int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(d.cfg.Dir, &st); err != nil {
		return 0, 0, fmt.Errorf("look at room of %s: %w", d.cfg.Dir, err)
	}
	return int64(st.Bavail) * st.Bsize, int64(st.Blocks) * st.Bsize, nil
}

// sameDefinition compares definitions apart from NVRAM, which the guest
// changes by itself.
func sameDefinition(a, b dr.Definition) bool {
	a.NVRAM, b.NVRAM = nil, nil
	x, errA := json.Marshal(a)
	y, errB := json.Marshal(b)
	return errA == nil && errB == nil && string(x) == string(y)
}
