package rest

import (
	"time"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/site"
)

// Prefix is the path of every resource.
const Prefix = "/api/v1"

// Status is the overview of a vault.
type Status struct {
	Vault    string    `json:"vault"`
	Version  string    `json:"version"`
	Time     time.Time `json:"time"`
	Sites    int       `json:"sites"`
	Machines int       `json:"machines"`
	// Gateways and GatewaysConnected count the gateways that are not revoked.
	Gateways          int `json:"gateways"`
	GatewaysConnected int `json:"gatewaysConnected"`
	// Items counts replicated items by state.
	Items map[lifecycle.State]int `json:"items"`
	// Unhealthy names items whose health is not "ok".
	Unhealthy []dr.ItemID `json:"unhealthy"`
	// Health is the worst of all conditions; Critical and Warning count them.
	Health      string     `json:"health" enum:"ok,warning,critical"`
	Critical    int        `json:"critical"`
	Warning     int        `json:"warning"`
	RunningJobs []dr.JobID `json:"runningJobs"`
}

// Site is a place that runs machines.
type Site struct {
	ID          dr.SiteID         `json:"id"`
	Description string            `json:"description,omitempty"`
	Gateways    []dr.GatewayID    `json:"gateways"`
	Machines    int               `json:"machines"`
	Networks    []site.Network    `json:"networks"`
	FreeBytes   int64             `json:"freeBytes"`
	TotalBytes  int64             `json:"totalBytes"`
	Abilities   site.Capabilities `json:"capabilities"`
	Health      string            `json:"health" enum:"ok,warning,critical"`
	Conditions  []Condition       `json:"conditions"`
}

// NewSite creates a site.
type NewSite struct {
	ID          dr.SiteID `json:"id" doc:"1 to 63 letters, digits and hyphens"`
	Description string    `json:"description,omitempty"`
}

// Gateway is a data-plane process on a site.
type Gateway struct {
	ID   dr.GatewayID `json:"id"`
	Site dr.SiteID    `json:"site"`
	// State is announced (no certificate yet), enrolled or revoked.
	State     string    `json:"state" enum:"announced,enrolled,revoked"`
	Connected bool      `json:"connected"`
	LastSeen  time.Time `json:"lastSeen,omitzero"`
	DataAddr  string    `json:"dataAddr,omitempty"`
	// Roles that the gateway was given; none: it has told nothing yet.
	Roles []control.Role `json:"roles,omitempty"`
	// ClockOffsetSeconds is the vault's clock minus the gateway's.
	ClockOffsetSeconds float64   `json:"clockOffsetSeconds"`
	CertificateEnds    time.Time `json:"certificateEnds,omitzero"`
	// Host is what the gateway last said of its host.
	Host       control.HostReport `json:"host"`
	Health     string             `json:"health" enum:"ok,warning,critical"`
	Conditions []Condition        `json:"conditions"`
}

// NewGateway announces a gateway; it then enrols with the passphrase.
type NewGateway struct {
	ID   dr.GatewayID `json:"id"`
	Site dr.SiteID    `json:"site"`
}

// Enrollment is shown once: the passphrase works once, until ExpiresAt.
type Enrollment struct {
	Role       string    `json:"role" enum:"gateway,agent"`
	Name       string    `json:"name"`
	Passphrase string    `json:"passphrase"`
	ExpiresAt  time.Time `json:"expiresAt"`
	// CA is the vault's certificate (PEM) for the enrolling side to pin.
	CA string `json:"ca"`
}

// Machine is one machine at one site.
type Machine struct {
	site.Machine
	Site dr.SiteID `json:"site"`
	// Item is set when the machine is protected or is the standby of an item.
	Item     dr.ItemID `json:"item,omitempty"`
	BootedAt time.Time `json:"bootedAt,omitzero"`
	Agent    *Agent    `json:"agent,omitempty"`
}

// Agent is what the vault knows of a machine's agent.
type Agent struct {
	BootID        string    `json:"bootId,omitempty"`
	RegisteredAt  time.Time `json:"registeredAt,omitzero"`
	LastHeartbeat time.Time `json:"lastHeartbeat,omitzero"`
	Version       string    `json:"version,omitempty"`
	// CertificateEnds is when the agent's present certificate ends; it renews it
	// before.
	CertificateEnds time.Time `json:"certificateEnds,omitzero"`
}

// ImportMachine takes in a machine that somebody else started.
type ImportMachine struct {
	Site      dr.SiteID      `json:"site"`
	QMPSocket string         `json:"qmpSocket" doc:"path of a free QMP socket on the gateway's host"`
	Name      dr.MachineName `json:"name,omitempty"`
}

// StopMachine says how to stop a machine.
type StopMachine struct {
	// Mode is graceful (the default: asks the guest, and gives up after the
	// timeout), hard, or graceful-then-hard.
	Mode           string `json:"mode,omitempty"`
	TimeoutSeconds int64  `json:"timeoutSeconds,omitempty" minimum:"0" maximum:"3600"`
}

// ProtectRequest protects machines of one site as one group.
type ProtectRequest struct {
	Machines []dr.MachineName `json:"machines" minItems:"1" maxItems:"100"`
	Site     dr.SiteID        `json:"site,omitempty" doc:"where the machines are; may be left out when their names are at one site only"`
	To       dr.SiteID        `json:"to"`
	Policy   dr.PolicyID      `json:"policy,omitempty" doc:"the policy 'default' when left out"`
	// Group names the group; a machine alone is in a group of its own name.
	Group dr.GroupID `json:"group,omitempty"`
}

// RPO is how much would be lost now.
type RPO struct {
	// Seconds since the newest confirmed moment that is durable at the
	// standby, corrected by the clock offset; before Protected, since the
	// newest valid point. Null when there is neither.
	Seconds *float64 `json:"seconds"`
	// Basis says which: "stream", "point" or "none".
	Basis string `json:"basis" enum:"stream,point,none"`
	// NewestPointSeconds is the age of the newest valid point.
	NewestPointSeconds *float64    `json:"newestPointSeconds"`
	ConfirmedTime      time.Time   `json:"confirmedTime,omitzero" doc:"of the source's clock"`
	Confirmed          dr.Position `json:"confirmed,omitzero"`
	// AsOf is the vault's clock when it was computed; ReportAge how old the
	// standby's last report was then.
	AsOf             time.Time `json:"asOf"`
	ReportAge        float64   `json:"reportAgeSeconds"`
	ThresholdSeconds int64     `json:"thresholdSeconds"`
	Exceeded         bool      `json:"exceeded"`
}

// Replication is what items and groups have in common.
type Replication struct {
	HomeSite     dr.SiteID `json:"homeSite"`
	RecoverySite dr.SiteID `json:"recoverySite"`
	// ActiveSite is where the machines run (or are to run).
	ActiveSite  dr.SiteID           `json:"activeSite"`
	Direction   dr.Direction        `json:"direction"`
	Generation  dr.Generation       `json:"generation"`
	Policy      dr.PolicyID         `json:"policy"`
	State       lifecycle.State     `json:"state"`
	Test        lifecycle.TestState `json:"test,omitempty"`
	SourcePhase control.Phase       `json:"sourcePhase,omitempty"`
	// Health is ok, warning or critical; Problem says why, in the words of
	// the worst of Conditions.
	Health       string           `json:"health" enum:"ok,warning,critical"`
	Problem      string           `json:"problem,omitempty"`
	Conditions   []Condition      `json:"conditions"`
	Sync         control.Progress `json:"sync"`
	RPO          RPO              `json:"rpo"`
	Points       int              `json:"points"`
	JournalBytes int64            `json:"journalBytes"`
	Counters     control.Counters `json:"counters"`
	// Received are the standby's counters (stale frames refused).
	Received   control.Counters `json:"received"`
	RunningJob dr.JobID         `json:"runningJob,omitempty"`
	LastJob    dr.JobID         `json:"lastJob,omitempty"`
	// Recovered is set from a failover to its commit or undo.
	Recovered         *Recovered                  `json:"recovered,omitempty"`
	AllowedOperations []lifecycle.OperationStatus `json:"allowedOperations"`
}

// Recovered is the moment that the recovered machines started from.
type Recovered struct {
	Selector dr.PointSelector `json:"selector"`
	Position dr.Position      `json:"position"`
	Time     time.Time        `json:"time"`
	Point    *dr.Point        `json:"point,omitempty"`
	// LostSeconds and LostBytes of the received stream lie after it.
	LostSeconds float64 `json:"lostSeconds"`
	LostBytes   int64   `json:"lostBytes"`
	// Members is set when each member has a moment of its own; Position is
	// the lowest of theirs then, Time the oldest.
	Members []dr.MemberMoment `json:"members,omitempty"`
}

// At is the position of one member.
func (r Recovered) At(m dr.MachineName) dr.Position {
	for _, x := range r.Members {
		if x.Machine == m {
			return x.Position
		}
	}
	return r.Position
}

// Member is one machine of a group.
type Member struct {
	Item    dr.ItemID      `json:"item"`
	Machine dr.MachineName `json:"machine"`
	// Home and Recovery are the machine's power at the two sites; unknown
	// when it is not there.
	Home     site.PowerState `json:"home"`
	Recovery site.PowerState `json:"recovery"`
	// Started: the machine was started from the journal; Booted: it has
	// proven that it boots.
	Started bool   `json:"started"`
	Booted  bool   `json:"booted"`
	Agent   *Agent `json:"agent,omitempty"`
}

// Item is one replicated machine.
type Item struct {
	ID    dr.ItemID  `json:"id"`
	Group dr.GroupID `json:"group"`
	Member
	Replication
}

// Group is a replication group: machines with one order of writes.
type Group struct {
	ID      dr.GroupID     `json:"id"`
	Members []Member       `json:"members"`
	Disks   []dr.GroupDisk `json:"disks"`
	Replication
}

// OperationRequest is the body of POST /{items|groups}/{id}/{operation}; each
// operation reads its own fields and refuses those that mean nothing to it.
type OperationRequest struct {
	// Mode of a failover or failback: planned drains the source first.
	Mode string `json:"mode,omitempty" enum:"planned,unplanned"`
	// Point of failover, failback, change-point and test-failover.
	Point dr.PointSelector `json:"point,omitempty"`
	// PerMachine, of those with a point: each member of a group is recovered
	// at its own newest received position. What they wrote to each other is
	// not consistent then. It goes with no point, or the point latest.
	PerMachine bool `json:"perMachine,omitempty"`
	// ShutdownSource of a failover: try (default), require or skip.
	ShutdownSource string `json:"shutdownSource,omitempty" enum:"try,require,skip"`
	// Network of a test-failover, or for NICs whose network the site lacks.
	Network string `json:"network,omitempty"`
	// Notes of a test-failover-cleanup.
	Notes string `json:"notes,omitempty"`
	// Force of disable and complete-migration: do not wait for a site that is
	// away.
	Force bool `json:"force,omitempty"`
	// Probes of a commit: checks by which the machines prove that they serve,
	// beside those of the policy.
	Probes []dr.Probe `json:"probes,omitempty"`
	// AcceptRunning of a commit takes the hypervisor's word that a machine
	// runs for proof, where no agent and no probe says so.
	AcceptRunning bool `json:"acceptRunning,omitempty"`
	// Reprotect says where a reprotect goes.
	Reprotect *ReprotectRequest `json:"reprotect,omitempty"`
	// Name and AppConsistent of create-point.
	Name          string `json:"name,omitempty"`
	AppConsistent bool   `json:"appConsistent,omitempty"`
	// Values of an operation of a recovery plan: by item, or as "group/NAME"
	// by replication group, what differs from the fields above.
	Values map[string]OperationRequest `json:"values,omitempty"`
}

// DryRun is what an operation would do.
type DryRun struct {
	Operation lifecycle.Operation `json:"operation"`
	Target    string              `json:"target"`
	Tasks     []string            `json:"tasks"`
	Warnings  []string            `json:"warnings"`
	// Recovered is the moment that would be used, with the loss.
	Recovered *Recovered `json:"recovered,omitempty"`
	// Transfer is how much a reprotect may have to send: nobody can tell
	// before everything was compared.
	Transfer *ByteRange `json:"transfer,omitempty"`
	// Parts are the same for each replication group of a recovery plan.
	Parts []DryRun `json:"parts,omitempty"`
	// Deletes and Keeps name machines, disks and points.
	Deletes []string `json:"deletes"`
	Keeps   []string `json:"keeps"`
	// Creates names what is made or started, in words.
	Creates []string `json:"creates"`
	// Proofs of a commit are what proves the machines to run now.
	Proofs []Proof `json:"proofs,omitempty"`
	// Loses says what is lost for good, in words.
	Loses []string `json:"loses"`
	// NotReceivedSeconds is how old the newest received moment is: what the
	// source wrote since is lost in an unplanned failover.
	NotReceivedSeconds *float64 `json:"notReceivedSeconds,omitempty"`
	// Confirm is set when something is lost or deleted.
	Confirm *Confirmation `json:"confirm,omitempty"`
}

// JobState is where a job or a task is.
type JobState string

// The states; a task is Skipped when an earlier failure ended its job.
const (
	JobPending JobState = "pending"
	JobRunning JobState = "running"
	// JobWaiting: nothing happens until a person answers (Task.Waiting).
	JobWaiting   JobState = "waiting"
	JobSucceeded JobState = "succeeded"
	// JobWarning: done, with warnings.
	JobWarning   JobState = "warning"
	JobFailed    JobState = "failed"
	JobCancelled JobState = "cancelled"
	JobSkipped   JobState = "skipped"
)

// Ended reports whether nothing more happens in the state.
func (s JobState) Ended() bool {
	switch s {
	case JobSucceeded, JobWarning, JobFailed, JobCancelled, JobSkipped:
		return true
	default:
		return false
	}
}

// Job is one operation, running or ended.
type Job struct {
	ID        dr.JobID            `json:"id"`
	Operation lifecycle.Operation `json:"operation"`
	Group     dr.GroupID          `json:"group,omitempty"`
	// Plan and Run are set for the job of a recovery plan; Parent names that
	// job for those of its replication groups.
	Plan   dr.PlanID   `json:"plan,omitempty"`
	Run    int         `json:"run,omitempty"`
	Parent dr.JobID    `json:"parent,omitempty"`
	Items  []dr.ItemID `json:"items"`
	Site   dr.SiteID   `json:"site,omitempty"`
	State  JobState    `json:"state"`
	// Attempt counts restarts, from 1.
	Attempt         int               `json:"attempt"`
	CancelRequested bool              `json:"cancelRequested,omitempty"`
	By              string            `json:"by"`
	Created         time.Time         `json:"created"`
	Started         time.Time         `json:"started,omitzero"`
	Ended           time.Time         `json:"ended,omitzero"`
	Tasks           []Task            `json:"tasks"`
	Errors          []problem.Problem `json:"errors"`
	Warnings        []string          `json:"warnings"`
	AllowedActions  []string          `json:"allowedActions" doc:"cancel, restart, resume, approve, reject"`
	// Waiting is what a waiting job waits for.
	Waiting *Waiting          `json:"waiting,omitempty"`
	Request *OperationRequest `json:"request,omitempty"`
	// Deletes and Keeps name what the job deletes and what it leaves, as
	// they were known when it was asked for.
	Deletes []string `json:"deletes,omitempty"`
	Keeps   []string `json:"keeps,omitempty"`
}

// Task is one step of a job.
type Task struct {
	Name     string           `json:"name"`
	Title    string           `json:"title"`
	State    JobState         `json:"state"`
	Attempt  int              `json:"attempt,omitempty"`
	Started  time.Time        `json:"started,omitzero"`
	Ended    time.Time        `json:"ended,omitzero"`
	Progress control.Progress `json:"progress"`
	Problem  *problem.Problem `json:"problem,omitempty"`
	Warnings []string         `json:"warnings,omitempty"`
	// Result is what the task found or did, for people and programs.
	Result map[string]any `json:"result,omitempty"`
	// Waiting is set while a person is waited for, Decisions are the answers.
	Waiting   *Waiting   `json:"waiting,omitempty"`
	Decisions []Decision `json:"decisions,omitempty"`
	// Steps are the tasks of a plan's replication groups within this one.
	Steps []Step `json:"steps,omitempty"`
}

// Points is a page of recovery points and the spans in which any moment can
// be chosen.
type Points struct {
	Points []dr.Point     `json:"points"`
	Spans  []control.Span `json:"spans"`
}

// Event is something that happened.
type Event struct {
	Seq      int64          `json:"seq"`
	Time     time.Time      `json:"time"`
	Code     string         `json:"code"`
	Severity string         `json:"severity" enum:"info,warning,critical"`
	Site     dr.SiteID      `json:"site,omitempty"`
	Gateway  dr.GatewayID   `json:"gateway,omitempty"`
	Group    dr.GroupID     `json:"group,omitempty"`
	Machine  dr.MachineName `json:"machine,omitempty"`
	Job      dr.JobID       `json:"job,omitempty"`
	Text     string         `json:"text"`
	// Condition is the occurrence that began, changed or ended (then Ended).
	Condition int64 `json:"condition,omitempty"`
	Ended     bool  `json:"ended,omitempty"`
	// Muted events do not reach webhooks.
	Muted bool `json:"muted,omitempty"`
}

// AgentRegistration is sent by an agent after each boot.
type AgentRegistration struct {
	BootID  string    `json:"bootId" minLength:"1"`
	Booted  time.Time `json:"booted" doc:"of the machine's clock"`
	Version string    `json:"version,omitempty"`
}

// AgentHeartbeat is sent by an agent every few seconds.
type AgentHeartbeat struct {
	BootID string `json:"bootId" minLength:"1"`
}

// The paths that agents use, with their certificate and no token.
const (
	AgentRegisterPath  = "/agent/v1/register"
	AgentHeartbeatPath = "/agent/v1/heartbeat"
)

// List is the shape of every list: one page of it.
type List[T any] struct {
	Items []T `json:"items"`
	// Next is what 'after' must be for the next page; empty on the last one.
	// The Link header (rel="next") has the whole address.
	Next string `json:"next,omitempty"`
	// Total counts what the filters let through, on all pages; absent for
	// logs (events, audit, jobs).
	Total int `json:"total,omitempty"`
}
