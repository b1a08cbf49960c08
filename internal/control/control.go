// Package control is what the vault and a gateway say to each other.
//
// The gateway dials the vault; over that one connection the vault sends
// commands (the Commands interface) and the gateway sends reports. Neither
// carries guest data. This file holds the vocabulary; transport and the
// once-only execution of commands are in the files beside it.
//
// Every command that changes something carries an Origin. A gateway refuses an
// Origin whose Lease is older than the newest it has seen (StaleLease), runs
// each (Job, Task) once, keeps its result, and answers a repetition from it.
// A command that is still running when it is repeated is joined, not started
// again. A gateway that restarted in the middle of a command runs it again
// from its beginning when the vault repeats it: implementations are idempotent.
package control

import (
	"context"
	"time"

	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/site"
)

// Origin says on whose behalf a command runs.
type Origin struct {
	Job  dr.JobID `json:"job"`
	Task string   `json:"task"`
	// Lease is the epoch of the vault process's lease.
	Lease uint64 `json:"lease"`
}

// Progress of a long command, in bytes unless Unit says otherwise.
type Progress struct {
	Done  int64  `json:"done"`
	Total int64  `json:"total"`
	Unit  string `json:"unit,omitempty"`
	Text  string `json:"text,omitempty"`
}

// Commands is what a gateway does when asked. All methods return *problem.Problem
// in the error's chain for whatever an operator should read.
type Commands interface {
	SupportCommands
	MachineCommands
	SourceCommands
	StandbyCommands
	KeeperCommands
	PrerequisiteCommands
	ActionCommands
	ConsoleCommands
}

// MachineCommands work on the machines of the gateway's site.
type MachineCommands interface {
	Inventory(ctx context.Context) (Inventory, error)
	ImportMachine(ctx context.Context, o Origin, r ImportRequest) (site.Machine, error)
	StartMachine(ctx context.Context, o Origin, r MachineRequest) error
	StopMachine(ctx context.Context, o Origin, r StopRequest) error
	// DeleteMachine removes a machine that is off; DryRun lists what would go.
	DeleteMachine(ctx context.Context, o Origin, r DeleteRequest) (Deleted, error)
	// ValidateSite tries everything that the site's driver promises, on
	// scratch machines that are gone afterwards.
	ValidateSite(ctx context.Context, o Origin, r ValidateRequest) (ValidateResult, error)
	// Probe opens a TCP connection from this gateway to addr, to prove a path.
	Probe(ctx context.Context, addr string) error
	// MachineEvidence looks whether a machine runs its guest: power, guest
	// agent, probes. A machine that is not there is UnknownMachine.
	MachineEvidence(ctx context.Context, r EvidenceRequest) (Evidence, error)
}

// SourceCommands work on a group whose active site is the gateway's.
type SourceCommands interface {
	// StartReplication attaches all members and streams to the standby;
	// it returns once all are attached and the synchronisation has begun.
	// The gateway keeps the spec and keeps the stream going by itself from
	// then on: reconnects, breaks, re-attachment and re-synchronisation
	// need no further command, across restarts of the gateway too.
	StartReplication(ctx context.Context, o Origin, r ReplicationSpec) error
	// StopReplication detaches. With Drain it first waits until all that
	// was written is durable at the standby, and returns that position;
	// the members must be off then (a planned failover stops them first).
	// With Forget the gateway also drops the spec; without, the group is
	// fenced or paused and keeps its bitmaps.
	StopReplication(ctx context.Context, o Origin, r StopReplicationRequest) (StopReplicationResult, error)
	// Fence tells this site that the group's active site changed: it stops
	// capture and powers the members off. A gateway calls it on itself
	// when the vault tells it of a newer generation.
	Fence(ctx context.Context, o Origin, r FenceRequest) error
	// CreatePoint places a marker and returns it once it is confirmed and
	// durable at the standby.
	CreatePoint(ctx context.Context, o Origin, r CreatePointRequest) (dr.Point, error)
	// Resync synchronises again: everything by hash, or the bitmaps.
	Resync(ctx context.Context, o Origin, r ResyncRequest) error
}

// StandbyCommands work on a group whose journal is kept by the gateway.
type StandbyCommands interface {
	// CreateJournal makes the group's journal and, where missing, the
	// machines and disks that are its bases. Existing machines of the
	// same definition are powered off, marked standby and used as they
	// are: their content is the seed, and what the synchronisation will
	// overwrite stays readable as the point "diverged-<generation>".
	CreateJournal(ctx context.Context, o Origin, r CreateJournalRequest) (CreateJournalResult, error)
	DeleteJournal(ctx context.Context, o Origin, r DeleteJournalRequest) error
	// Seal raises the group's generation and persists it. From its return
	// on no frame of an older generation is accepted; the result is the
	// last durable position.
	Seal(ctx context.Context, o Origin, r SealRequest) (SealResult, error)
	Points(ctx context.Context, r PointsRequest) (Points, error)
	ResolvePoint(ctx context.Context, r ResolveRequest) (Resolved, error)
	// StartRecovered starts one machine on a view at a position. Repeated
	// with another position it fails with MachineRunning until the old one
	// was discarded.
	StartRecovered(ctx context.Context, o Origin, r StartRecoveredRequest) (Recovered, error)
	DiscardRecovered(ctx context.Context, o Origin, r DiscardRecoveredRequest) error
	// CommitRecovered folds the bases to the point, moves the running
	// machines onto them and ends the journal. All members of the group
	// are committed in one call.
	CommitRecovered(ctx context.Context, o Origin, r CommitRequest) (CommitResult, error)
	Verify(ctx context.Context, o Origin, group dr.GroupID) (VerifyResult, error)
}

// Inventory is what a site holds.
type Inventory struct {
	Site         dr.SiteID         `json:"site"`
	Machines     []site.Machine    `json:"machines"`
	Networks     []site.Network    `json:"networks"`
	Capabilities site.Capabilities `json:"capabilities"`
	FreeBytes    int64             `json:"freeBytes"`
	TotalBytes   int64             `json:"totalBytes"`
	// DataAddr is where this gateway accepts streams: host:port.
	DataAddr string `json:"dataAddr"`
	// Roles of the gateway; none means both.
	Roles []Role `json:"roles,omitempty"`
}

// ImportRequest names a machine that somebody else started.
type ImportRequest struct {
	QMPSocket string         `json:"qmpSocket"`
	Name      dr.MachineName `json:"name,omitempty"`
}

// MachineRequest names a machine.
type MachineRequest struct {
	Machine dr.MachineName `json:"machine"`
}

// StopRequest says how to stop a machine.
type StopRequest struct {
	Machine dr.MachineName `json:"machine"`
	Mode    site.StopMode  `json:"mode"`
	Timeout time.Duration  `json:"timeout"`
}

// DeleteRequest says what to delete.
type DeleteRequest struct {
	Machine   dr.MachineName `json:"machine"`
	KeepDisks bool           `json:"keepDisks"`
	DryRun    bool           `json:"dryRun"`
}

// Deleted lists by name what was (or would be) deleted and what stays.
type Deleted struct {
	Removed []string `json:"removed"`
	Kept    []string `json:"kept"`
}

// SyncMode says how much the standby may lack.
type SyncMode string

// The modes. The source decides upwards by itself when it knows less than
// the mode needs (no bitmaps after a crash: SyncCompare).
const (
	// SyncAuto: copy to an empty standby, else bitmaps where they are
	// whole, else compare everything.
	SyncAuto SyncMode = "auto"
	// SyncCompare compares everything by hash.
	SyncCompare SyncMode = "compare"
)

// ReplicationSpec is all that a source needs to replicate a group. The gateway
// persists it.
type ReplicationSpec struct {
	Group      dr.GroupID     `json:"group"`
	Generation dr.Generation  `json:"generation"`
	Disks      []dr.GroupDisk `json:"disks"`
	// Standby is the receiving gateway, StandbyAddr its data address.
	Standby     dr.GatewayID `json:"standby"`
	StandbyAddr string       `json:"standbyAddr"`
	Mode        SyncMode     `json:"mode"`
	// CrashInterval is the time between crash-consistent markers.
	CrashInterval time.Duration `json:"crashInterval"`
	// AppInterval is the time between application-consistent points; 0 makes
	// none.
	AppInterval time.Duration `json:"appInterval,omitempty"`
	// Compression is "none" or "s2".
	Compression string `json:"compression"`
	// Bandwidth limits the stream.
	Bandwidth dr.Bandwidth `json:"bandwidth,omitempty"`
	// Seed is what CreateJournal said of the standby's disks. A source that
	// was committed at a position of the same stream knows what differs.
	Seed dr.Position `json:"seed,omitzero"`
	// StartStopped members are started (paused, attached, resumed).
	StartStopped bool `json:"startStopped,omitempty"`
	// Keep is kept for the vault.
	Keep Keep `json:"keep,omitempty"`
}

// StopReplicationRequest ends or suspends a stream.
type StopReplicationRequest struct {
	Group  dr.GroupID `json:"group"`
	Drain  bool       `json:"drain"`
	Forget bool       `json:"forget"`
	// Pause keeps the spec and the bitmaps; a later StartReplication with
	// the same generation goes on by bitmap.
	Pause bool `json:"pause"`
}

// StopReplicationResult says where the stream ended.
type StopReplicationResult struct {
	Durable dr.Position `json:"durable"`
	// Clean means that everything the members wrote is durable.
	Clean bool `json:"clean"`
}

// FenceRequest carries the newer generation.
type FenceRequest struct {
	Group      dr.GroupID       `json:"group"`
	Generation dr.Generation    `json:"generation"`
	Machines   []dr.MachineName `json:"machines"`
}

// CreatePointRequest asks for a marker.
type CreatePointRequest struct {
	Group dr.GroupID   `json:"group"`
	Name  string       `json:"name"`
	Kind  dr.PointKind `json:"kind"`
}

// ResyncRequest asks for a synchronisation.
type ResyncRequest struct {
	Group dr.GroupID `json:"group"`
	Mode  SyncMode   `json:"mode"`
}

// CreateJournalRequest describes a journal.
type CreateJournalRequest struct {
	Group      dr.GroupID    `json:"group"`
	Generation dr.Generation `json:"generation"`
	// Source is the gateway whose certificate may send.
	Source      dr.GatewayID    `json:"source"`
	Definitions []dr.Definition `json:"definitions"`
	Disks       []dr.GroupDisk  `json:"disks"`
	RedoWindow  time.Duration   `json:"redoWindow"`
	// Keep is kept for the vault.
	Keep Keep `json:"keep,omitempty"`
	// RetentionVolume names where the journal is kept; "" is the default.
	RetentionVolume string `json:"retentionVolume,omitempty"`
	// Datastores says where disks are made that do not exist; a machine that
	// is not named gets the default.
	Datastores map[dr.MachineName]string `json:"datastores,omitempty"`
	// Retention is how long points are kept; 0: as long as RedoWindow.
	Retention time.Duration `json:"retention,omitempty"`
}

// CreateJournalResult says what was found.
type CreateJournalResult struct {
	// Seeded means that at least one disk existed with content.
	Seeded bool `json:"seeded"`
	// PoweredOff lists machines that had to be stopped.
	PoweredOff []dr.MachineName `json:"poweredOff,omitempty"`
	// Seed is set when the content of the disks is known exactly: they were
	// the source of a stream that ended clean and drained at this position,
	// and nobody has written to them since.
	Seed dr.Position `json:"seed,omitzero"`
}

// DeleteJournalRequest ends a journal.
type DeleteJournalRequest struct {
	Group        dr.GroupID `json:"group"`
	KeepMachines bool       `json:"keepMachines"`
}

// SealRequest raises a generation.
type SealRequest struct {
	Group      dr.GroupID    `json:"group"`
	Generation dr.Generation `json:"generation"`
}

// SealResult is where the stream ended.
type SealResult struct {
	Durable   dr.Position `json:"durable"`
	Confirmed dr.Position `json:"confirmed"`
}

// PointsRequest filters points; zero times mean no limit.
type PointsRequest struct {
	Group dr.GroupID   `json:"group"`
	From  time.Time    `json:"from"`
	To    time.Time    `json:"to"`
	Kind  dr.PointKind `json:"kind,omitempty"`
	Limit int          `json:"limit,omitempty"`
}

// Span is a stretch of time in which any confirmed moment can be chosen.
type Span struct {
	From time.Time   `json:"from"`
	To   time.Time   `json:"to"`
	Low  dr.Position `json:"low"`
	High dr.Position `json:"high"`
}

// Points is a page of points, newest last, and the spans around them.
type Points struct {
	Points []dr.Point `json:"points"`
	Spans  []Span     `json:"spans"`
}

// ResolveRequest asks for the position of a selector.
type ResolveRequest struct {
	Group    dr.GroupID       `json:"group"`
	Selector dr.PointSelector `json:"selector"`
	// PerMachine asks for each member's own newest received position; the
	// selector is Latest then. Together the members are not consistent.
	PerMachine bool `json:"perMachine,omitempty"`
}

// Resolved is one exact moment.
type Resolved struct {
	Position dr.Position `json:"position"`
	// Time is the source's clock at the confirmed boundary used: all that
	// arrived before it is included.
	Time time.Time `json:"time"`
	// Point is set when the moment is a named point.
	Point *dr.Point `json:"point,omitempty"`
	// LostSeconds and LostBytes say what of the received stream lies after it.
	LostSeconds float64 `json:"lostSeconds"`
	LostBytes   int64   `json:"lostBytes"`
	// Definitions are the machines' definitions at the moment.
	Definitions []dr.Definition `json:"definitions"`
	// Members is set when each member has a position of its own; Position
	// is the lowest of them then.
	Members []dr.MemberMoment `json:"members,omitempty"`
}

// StartRecoveredRequest starts one machine from the journal.
type StartRecoveredRequest struct {
	Group    dr.GroupID     `json:"group"`
	Machine  dr.MachineName `json:"machine"`
	Position dr.Position    `json:"position"`
	// Alone: the position is the machine's own newest, which need not be
	// confirmed for the other members.
	Alone bool `json:"alone,omitempty"`
	Test  bool `json:"test"`
	// Network is the test network, or for a failover the network of every
	// NIC whose own network the site lacks.
	Network string `json:"network,omitempty"`
	// Target says how the machine is to be at this site.
	Target site.Target `json:"target,omitzero"`
}

// Recovered is a machine that runs on views.
type Recovered struct {
	Machine dr.MachineName `json:"machine"` // its name at the site: "...-test" for tests
	Started time.Time      `json:"started"`
	// Warnings say what of the target settings could not be kept to.
	Warnings []string `json:"warnings,omitempty"`
}

// DiscardRecoveredRequest undoes StartRecovered.
type DiscardRecoveredRequest struct {
	Group   dr.GroupID     `json:"group"`
	Machine dr.MachineName `json:"machine"`
	Test    bool           `json:"test"`
}

// CommitRequest makes a failover final.
type CommitRequest struct {
	Group    dr.GroupID  `json:"group"`
	Position dr.Position `json:"position"`
	// Members is set when the members run at positions of their own; Position
	// is the lowest of them then.
	Members map[dr.MachineName]dr.Position `json:"members,omitempty"`
}

// At is the position of one member.
func (r CommitRequest) At(m dr.MachineName) dr.Position {
	if p, ok := r.Members[m]; ok {
		return p
	}
	return r.Position
}

// EvidenceRequest asks what shows that a machine of the site runs its guest.
type EvidenceRequest struct {
	Machine dr.MachineName `json:"machine"`
	// Probes are the user's, of this machine.
	Probes []dr.Probe `json:"probes,omitempty"`
}

// Evidence is what was found. Nothing is changed by looking.
type Evidence struct {
	State    site.PowerState `json:"state"`
	BootedAt time.Time       `json:"bootedAt,omitzero"`
	// GuestAgent: the guest answered through the hypervisor's agent channel.
	// GuestAgentSays is why not, when it did not.
	GuestAgent     bool   `json:"guestAgent"`
	GuestAgentSays string `json:"guestAgentSays,omitempty"`
	// Passed and Failed name the probes, with what they said.
	Passed []string `json:"passed,omitempty"`
	Failed []string `json:"failed,omitempty"`
}

// CommitResult says what the commit left.
type CommitResult struct {
	// RollbackBytes is how much the fenced source is known to hold beyond
	// the point; it is compared at reprotect.
	RollbackBytes int64 `json:"rollbackBytes"`
}

// VerifyResult of comparing the standby with the source.
type VerifyResult struct {
	Bytes      int64 `json:"bytes"`
	Differing  int64 `json:"differing"`
	LeavesRead int64 `json:"leavesRead"`
}

// Report is what a gateway pushes, at every change and at least every 200 ms
// while it replicates, else every 2 s.
type Report struct {
	Gateway dr.GatewayID  `json:"gateway"`
	Time    time.Time     `json:"time"` // the gateway's clock when sent
	Groups  []GroupReport `json:"groups"`
	Events  []Event       `json:"events,omitempty"`
	// Revoked is identity.Digest of the revocations that the gateway knows.
	Revoked string `json:"revoked,omitempty"`
	// Machines lists power states that changed (all, in the first report).
	Machines []MachineReport `json:"machines,omitempty"`
	Host     HostReport      `json:"host"`
}

// HostReport is how the gateway's host fares.
type HostReport struct {
	// Version is the gateway's program's.
	Version string `json:"version,omitempty"`
	// Volumes are the file systems that the gateway writes to, one row each.
	Volumes []Volume `json:"volumes,omitempty"`
	CPUs    int      `json:"cpus,omitempty"`
	// Load1 is the load average over a minute.
	Load1           float64 `json:"load1,omitempty"`
	MemoryTotal     int64   `json:"memoryTotal,omitempty"`     // bytes
	MemoryAvailable int64   `json:"memoryAvailable,omitempty"` // bytes
}

// Volume is one file system of a gateway's host. Sizes in bytes.
type Volume struct {
	Path string `json:"path"`
	// Uses says what the gateway keeps there: state, journal, datastore, run.
	Uses       []string `json:"uses"`
	FreeBytes  int64    `json:"freeBytes"`
	TotalBytes int64    `json:"totalBytes"`
}

// UnprotectedDisk is a writable disk of a member that is not replicated, such
// as one that was added while the machine runs.
type UnprotectedDisk struct {
	Machine dr.MachineName `json:"machine"`
	// Disk names it as the site does.
	Disk      string `json:"disk"`
	SizeBytes int64  `json:"sizeBytes"`
}

// MachineReport is the power state of one machine.
type MachineReport struct {
	Machine dr.MachineName  `json:"machine"`
	State   site.PowerState `json:"state"`
	// BootedAt is when the present run of the machine began.
	BootedAt time.Time `json:"bootedAt"`
}

// Phase of a group as its gateways see it.
type Phase string

// The phases.
const (
	PhaseIdle       Phase = "idle"
	PhaseAttaching  Phase = "attaching"
	PhaseSyncing    Phase = "syncing" // first copy or re-synchronisation
	PhaseStreaming  Phase = "streaming"
	PhaseTracking   Phase = "tracking" // broken; bitmaps remember
	PhasePaused     Phase = "paused"
	PhaseFenced     Phase = "fenced"
	PhaseRecovered  Phase = "recovered"  // machines run on views
	PhaseCommitting Phase = "committing" // bases are being made final
)

// GroupReport is one group as one gateway sees it.
type GroupReport struct {
	Group      dr.GroupID    `json:"group"`
	Generation dr.Generation `json:"generation"`
	Source     bool          `json:"source"` // the gateway is the group's source
	Phase      Phase         `json:"phase"`
	Sync       Progress      `json:"sync"`
	// Of the standby: the newest confirmed and durable moment (source's
	// clock) and its position; ClockAt is the same source clock's reading
	// as far as the standby can tell now. Zero while there is none.
	Confirmed     dr.Position `json:"confirmed"`
	ConfirmedTime time.Time   `json:"confirmedTime"`
	Durable       dr.Position `json:"durable"`
	Points        int         `json:"points"`
	// NewestPointTime is the source's clock at the newest valid point.
	NewestPointTime time.Time `json:"newestPointTime,omitzero"`
	JournalBytes    int64     `json:"journalBytes"`
	// NewestAppTime is the same of the newest application-consistent point.
	NewestAppTime time.Time `json:"newestAppTime,omitzero"`
	// NoRoom: the journal takes nothing more, to keep its reserve free.
	NoRoom bool `json:"noRoom,omitempty"`
	// Of the source: disks of members that are not replicated, and how often
	// replication broke and the capture process ended by itself during the
	// last hour.
	Unprotected     []UnprotectedDisk `json:"unprotected,omitempty"`
	BreaksLastHour  int               `json:"breaksLastHour,omitempty"`
	CaptureRestarts int               `json:"captureRestartsLastHour,omitempty"`
	// Of the source.
	Counters Counters `json:"counters"`
	// Problem is why the group is not streaming, as text for people.
	Problem string `json:"problem,omitempty"`
}

// Counters of a stream since its process started.
type Counters struct {
	RawBytes        int64 `json:"rawBytes"`        // guest writes
	SyncBytes       int64 `json:"syncBytes"`       // blocks sent by synchronisation
	CompressedBytes int64 `json:"compressedBytes"` // after the codec
	SentBytes       int64 `json:"sentBytes"`       // on the data sockets, both directions, all included
	RingBytes       int64 `json:"ringBytes"`       // waiting for the standby
	SpoolBytes      int64 `json:"spoolBytes"`      // on disk, waiting for the standby
	RingLimit       int64 `json:"ringLimit"`       // room for such
	StaleFrames     int64 `json:"staleFrames"`     // standby: refused for their generation
	DroppedDiscards int64 `json:"droppedDiscards"`
}

// Event is something that people may want to know of later.
type Event struct {
	Time     time.Time      `json:"time"`
	Code     string         `json:"code"`
	Severity string         `json:"severity"` // info, warning, critical
	Group    dr.GroupID     `json:"group,omitempty"`
	Machine  dr.MachineName `json:"machine,omitempty"`
	Text     string         `json:"text"`
}

// Desired is what the vault answers to a report: what the gateway must know
// though no command reached it.
type Desired struct {
	Time time.Time `json:"time"` // the vault's clock
	// Groups that involve this gateway's site, with their generation and
	// whether this site is active. A gateway that finds itself the source
	// of a group with a newer generation fences itself.
	Groups []DesiredGroup `json:"groups"`
	// SendAll asks for all machines in the next report: the vault has just
	// started and remembers none.
	SendAll bool `json:"sendAll,omitempty"`
	// Revoked lists the certificates that are not to be accepted any more;
	// nil when the gateway knows them all.
	Revoked *[]identity.Revocation `json:"revoked,omitempty"`
}

// DesiredGroup is the vault's word on one group.
type DesiredGroup struct {
	Group      dr.GroupID       `json:"group"`
	Generation dr.Generation    `json:"generation"`
	Active     dr.SiteID        `json:"active"`
	Machines   []dr.MachineName `json:"machines"`
	// Keep, when not empty, replaces what the gateway keeps for the vault.
	Keep Keep `json:"keep,omitempty"`
	// Policy is what the group's policy says now: a gateway whose own
	// settings differ takes it over, without a break in the stream.
	Policy *PolicySettings `json:"policy,omitempty"`
}

// PolicySettings is what a gateway needs of a group's policy: the first part
// of it is the source's, the rest the standby's.
type PolicySettings struct {
	CrashInterval time.Duration `json:"crashInterval"`
	AppInterval   time.Duration `json:"appInterval"`
	Compression   string        `json:"compression"`
	Bandwidth     dr.Bandwidth  `json:"bandwidth,omitempty"`

	RedoWindow time.Duration `json:"redoWindow"`
	Retention  time.Duration `json:"retention"`
}
