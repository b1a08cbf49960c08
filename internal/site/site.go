// Package site is the seam between Rebound and the places that run machines.
// A Driver is small; what only some sites can do is an optional one-method or
// few-method interface, named in Capabilities. Every driver passes package
// sitetest. The gateway is the only caller.
package site

import (
	"context"
	"time"

	"rebound/internal/block"
	"rebound/internal/dr"
	"rebound/internal/extent"
)

// PowerState is whether a machine runs.
type PowerState string

// The power states. A machine in Paused keeps its memory and runs no code;
// one in Off has none.
const (
	Off     PowerState = "off"
	Running PowerState = "running"
	Paused  PowerState = "paused"
	// Unknown means the site could not tell, for example because the
	// hypervisor does not answer.
	Unknown PowerState = "unknown"
)

// Machine is what a site knows of one machine.
type Machine struct {
	Definition dr.Definition `json:"definition"`
	State      PowerState    `json:"state"`
	// Imported machines were started by somebody else; the driver can
	// capture them and stop them, and takes over their definition.
	Imported bool `json:"imported,omitempty"`
	// Standby machines are reserved as the target of a replication group;
	// Start refuses them.
	Standby bool `json:"standby,omitempty"`
	// BootedAt is when the present run of the machine began, by the clock of
	// its host: that of the hypervisor's process, which a restart inside of
	// the guest does not change. Zero when it is off or not known.
	BootedAt time.Time `json:"bootedAt,omitzero"`
}

// Network is a network that machines can be connected to.
type Network struct {
	Name string `json:"name"`
	// Kind is "user" (the hypervisor's own NAT) or "bridge".
	Kind string `json:"kind"`
	// Test networks exist for a test failover only and reach nothing else.
	Test bool `json:"test,omitempty"`
}

// Capabilities says which optional interfaces a driver supports. A field that
// is true promises that the driver implements the interface of that name.
type Capabilities struct {
	Capturer     bool `json:"capturer"`
	BootFromView bool `json:"bootFromView"`
	Importer     bool `json:"importer"`
	Freezer      bool `json:"freezer"`
	Console      bool `json:"console"`
	// MaxCPUs and MaxMemoryMiB are the most that the site gives to one
	// machine; 0 when it is not known.
	MaxCPUs      int `json:"maxCPUs,omitempty"`
	MaxMemoryMiB int `json:"maxMemoryMiB,omitempty"`
}

// StopMode says how hard to stop a machine.
type StopMode string

// The ways to stop. Graceful asks the guest and gives up after the timeout
// with a MachineRunning problem; Hard pulls the plug; GracefulThenHard does
// both in turn.
const (
	Graceful         StopMode = "graceful"
	Hard             StopMode = "hard"
	GracefulThenHard StopMode = "graceful-then-hard"
)

// Driver is what every site can do.
//
// Contract:
//   - All methods are idempotent: repeating one that succeeded succeeds and
//     changes nothing. (Create of an existing machine succeeds when the
//     definition is the same, else NameTaken.)
//   - A crash of the caller in the middle of any method leaves a state from
//     which repeating the method ends well.
//   - Unknown names give UnknownMachine, UnknownDisk or UnknownNetwork; but
//     Delete and DiscardRecovered of a machine that is not there succeed, since
//     it cannot be told from one that was deleted before.
//   - Definitions in Machine come without NVRAM; Capturer.Definition has it.
//     A nil NVRAM in Update leaves the present one.
//   - Calls for different machines may run at the same time; the driver
//     serialises calls for one machine.
type Driver interface {
	Capabilities() Capabilities
	Machines(ctx context.Context) ([]Machine, error)
	Machine(ctx context.Context, name dr.MachineName) (Machine, error)
	Networks(ctx context.Context) ([]Network, error)
	// Room returns free and total bytes of the place where the site keeps
	// machines' disks.
	Room(ctx context.Context) (free, total int64, err error)

	// Create makes the machine and its disks. A disk that exists with the
	// right size is kept with its content; a missing one is made empty.
	Create(ctx context.Context, def dr.Definition) error
	// Delete removes a machine that is off. Its disks stay when keepDisks.
	Delete(ctx context.Context, name dr.MachineName, keepDisks bool) error
	// Update replaces the definition of a machine that is off.
	Update(ctx context.Context, def dr.Definition) error

	Start(ctx context.Context, name dr.MachineName, opts StartOptions) error
	Stop(ctx context.Context, name dr.MachineName, mode StopMode, timeout time.Duration) error

	// OpenDisk opens a disk of a machine that is off, for writing. While
	// it is open nobody can start the machine, not by hand either.
	OpenDisk(ctx context.Context, name dr.MachineName, disk dr.DiskID) (block.Device, error)
	// DiskPath returns where the disk's content lies as a raw file, for
	// the journal that uses it as its base.
	DiskPath(ctx context.Context, name dr.MachineName, disk dr.DiskID) (string, error)
	// SetStandby marks a machine as the target of a replication group (or
	// not): Start then refuses it with MachineInUse.
	SetStandby(ctx context.Context, name dr.MachineName, standby bool) error
}

// StartOptions are the ways to start a machine.
type StartOptions struct {
	// Paused starts the machine without running it, so that capture can
	// attach before the first write; Resume lets it run.
	Paused bool
}

// Importer takes in a machine that somebody else started.
type Importer interface {
	// Import reads the machine behind a QMP socket and adds it to the
	// inventory under its own name (or under name when not empty).
	Import(ctx context.Context, qmpSocket string, name dr.MachineName) (Machine, error)
}

// CaptureTarget says where the writes of one disk are to be sent.
type CaptureTarget struct {
	Disk dr.DiskID
	// Socket is the Unix socket of the capture process's NBD server and
	// Export the name of the disk's export there.
	Socket, Export string
}

// Capturer sends the writes of a running machine to a capture process.
//
// Contract:
//   - Attach returns once every target receives all writes that start after
//     it returned, each before the guest sees it complete. It proves that the
//     socket negotiates before it lets the hypervisor near it.
//   - Bitmaps: BeginBitmap adds a bitmap of that name to every writable disk
//     of the machine, in one transaction over its disks; it is never lost while the
//     hypervisor process lives. Writes from before BeginBitmap returned may
//     be missing from it; all later ones are in it.
//   - Attached reports, by asking the hypervisor, whether all targets are
//     still being written to.
type Capturer interface {
	Attach(ctx context.Context, name dr.MachineName, targets []CaptureTarget) error
	Attached(ctx context.Context, name dr.MachineName) (bool, error)
	// Detach ends the sending in the way that never harms the guest.
	Detach(ctx context.Context, name dr.MachineName) error
	// Resume continues a machine that was started paused.
	Resume(ctx context.Context, name dr.MachineName) error

	BeginBitmap(ctx context.Context, name dr.MachineName, bitmap string) error
	DropBitmap(ctx context.Context, name dr.MachineName, bitmap string) error
	Bitmaps(ctx context.Context, name dr.MachineName) ([]string, error)
	// Dirty returns what the union of the named bitmaps holds.
	Dirty(ctx context.Context, name dr.MachineName, disk dr.DiskID, bitmaps []string) (*extent.Set, error)

	// OpenSource opens the present content of a disk of a running machine
	// for reading.
	OpenSource(ctx context.Context, name dr.MachineName, disk dr.DiskID) (block.Device, error)
	// Definition returns the machine's present definition, NVRAM included.
	Definition(ctx context.Context, name dr.MachineName) (dr.Definition, error)
}

// SourceExporter serves the present content of a running machine's disk to
// another process, read-only, over NBD on a Unix socket. Serving again what is
// served changes nothing; it ends with Detach or with the machine.
type SourceExporter interface {
	ExportSource(ctx context.Context, name dr.MachineName, disk dr.DiskID) (socket, export string, err error)
}

// DiskWatcher sees the disks of a running machine that its definition does not
// name: those that somebody added since it started or was imported. Only writable
// hard disks count. A machine that does not run has none.
type DiskWatcher interface {
	ExtraDisks(ctx context.Context, name dr.MachineName) ([]ExtraDisk, error)
}

// ExtraDisk is one such disk, by the site's name for it.
type ExtraDisk struct {
	Name      string
	SizeBytes int64
}

// Quiescer makes a machine write no more, for good, while its hypervisor
// process, its bitmaps and its capture stay: on return every write it made has
// reached its capture targets. Graceful asks the guest to power off and gives
// up after the timeout with MachineRunning; Hard stops its processors. Driver.Stop
// ends the process afterwards.
type Quiescer interface {
	Quiesce(ctx context.Context, name dr.MachineName, mode StopMode, timeout time.Duration) error
}

// Freezer stills the file systems of a running machine for the moment of an
// application-consistent point, through an agent in the guest.
//
// Contract:
//   - Freeze returns once the guest has run its hooks, written out what it
//     held in memory and frozen its file systems, one at least. If it cannot do
//     so within the time, or a hook fails, it returns GuestNotFrozen and the
//     guest is thawed: by the guest itself, by the driver, or by what the
//     driver left behind to do it.
//   - Thaw lets the guest go on, whoever froze it; thawed says how many file
//     systems were still frozen then. 0 means that the guest had thawed by
//     itself (Windows does after about 10 s). Thawing a guest that is not
//     frozen succeeds with 0.
//   - Frozen asks the guest whether its file systems are frozen now.
//   - No call waits for a guest for longer than its ctx allows, and none holds
//     up other calls for the machine. Two users of one agent wait for each other.
//   - A guest that Freeze froze is thawed at the latest when the given time is
//     over, even if the calling process has died meanwhile.
type Freezer interface {
	Freeze(ctx context.Context, name dr.MachineName, within time.Duration) error
	Frozen(ctx context.Context, name dr.MachineName) (bool, error)
	Thaw(ctx context.Context, name dr.MachineName) (thawed int, err error)
}

// ViewDisk is one disk of a machine that is to run on a journal's view.
type ViewDisk struct {
	Disk dr.DiskID
	// Socket and Export name the NBD server of the read-only view.
	Socket, Export string
}

// RecoveredSpec describes a machine to be started from views.
type RecoveredSpec struct {
	// Definition is the point's, after target settings were applied.
	Definition dr.Definition
	Disks      []ViewDisk
	// Test machines run on a test network, with MACs of their own, under
	// the name Definition.Name + "-test".
	Test    bool
	Network string // the test network; made when missing
}

// BootFromView runs machines on views without copying them.
//
// Contract: writes of the guest go to an overlay of its own; the view is never
// written. The machine pauses, instead of failing, while a view's server is
// away, and goes on when it is back.
type BootFromView interface {
	StartRecovered(ctx context.Context, spec RecoveredSpec) (dr.MachineName, error)
	// DiscardRecovered stops the machine hard and deletes its overlays and
	// its definition, and the test network when it was its last member.
	DiscardRecovered(ctx context.Context, name dr.MachineName) error
	// CommitRecovered makes a running machine independent of its views:
	// bases holds, by disk, the raw file whose content now equals the
	// view. On return the machine runs on those files directly, a bitmap
	// named CommitBitmap holds all that changed in them since, and the
	// machine is an ordinary machine of the site whose disks are those
	// files. progress is called with done and total bytes, and may be nil.
	CommitRecovered(ctx context.Context, name dr.MachineName, bases map[dr.DiskID]string, progress func(done, total int64)) error
}

// CommitBitmap is the bitmap that CommitRecovered leaves on every disk.
const CommitBitmap = "rebound-commit"

// Scratcher gives a driver of the same hypervisor and networks over an empty
// place of its own on the same volume, so that a site in use can be tried
// without touching its machines. done stops what was started there and deletes
// the place.
type Scratcher interface {
	Scratch(ctx context.Context) (d Driver, done func() error, err error)
}
