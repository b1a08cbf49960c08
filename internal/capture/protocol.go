package capture

import (
	"encoding/json"
	"path/filepath"
	"strconv"
	"time"

	"rebound/internal/dr"
	"rebound/internal/extent"
	"rebound/internal/identity"
	"rebound/internal/problem"
	"rebound/internal/resync"
)

// ProtocolVersion is the version of the control protocol. Both ends name
// theirs in hello; a gateway that finds another one replaces the process.
//
//	1: the first.
//	2: thawed.
const ProtocolVersion = 2

// The files of a group's runtime directory. Unix socket paths hold at most 107
// bytes, so the directory's path must be short.
const (
	controlSocketName = "control.sock"
	nbdSocketName     = "nbd.sock"
)

// ControlSocket returns the path of the control socket in a runtime directory.
func ControlSocket(dir string) string { return filepath.Join(dir, controlSocketName) }

// NBDSocket returns the path of the socket with the disks' exports.
func NBDSocket(dir string) string { return filepath.Join(dir, nbdSocketName) }

// ExportName returns the name of the export of the disk with an index in the
// group's disk table: "disk-3".
func ExportName(index int) string { return "disk-" + strconv.Itoa(index) }

// Request is one line from the gateway: a method and its parameters.
type Request struct {
	ID     uint64          `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params,omitempty"`
}

// reply is one line from the capture process: the answer to the request with
// its ID, or, with ID 0, an event.
type reply struct {
	ID     uint64           `json:"id,omitempty"`
	Result any              `json:"result,omitempty"`
	Error  *problem.Problem `json:"error,omitempty"`
	Event  *Event           `json:"event,omitempty"`
}

// The methods.
const (
	methodHello      = "hello"
	methodHeartbeat  = "heartbeat"
	methodStatus     = "status"
	methodConfigure  = "configure"
	methodOpen       = "open"
	methodSync       = "sync"
	methodCancelSync = "cancel-sync"
	methodProbe      = "probe"
	methodConfirm    = "confirm"
	methodMarker     = "marker"
	methodThawed     = "thawed"
	methodDefinition = "definition"
	methodSeal       = "seal"
	methodDrain      = "drain"
	methodLeaveSpool = "leave-spool"
	methodGoDirect   = "go-direct"
	methodShutdown   = "shutdown"
)

// GroupConfig is what a capture process needs to know of its group.
type GroupConfig struct {
	Group      dr.GroupID    `json:"group"`
	Generation dr.Generation `json:"generation"`
	// Disks is the group's disk table: all replicated disks of all members.
	Disks []dr.GroupDisk `json:"disks"`
	// Gateway is the name of this site's gateway, for people.
	Gateway dr.GatewayID `json:"gateway"`
	// Standby is the gateway that receives, StandbyAddr its host:port.
	Standby     dr.GatewayID `json:"standby"`
	StandbyAddr string       `json:"standbyAddr"`
	// Identity is this site's gateway's.
	Identity identity.Bundle `json:"identity"`
	// Revoked are the certificates that are not to be accepted.
	Revoked []identity.Revocation `json:"revoked,omitempty"`
	// Compression is "none" or "s2"; empty is "none".
	Compression string `json:"compression,omitempty"`
	// Bandwidth limits the stream to the standby.
	Bandwidth dr.Bandwidth `json:"bandwidth,omitempty"`
	// Spool is the socket of the gateway's spool; empty if there is none.
	Spool  string `json:"spool,omitempty"`
	Limits Limits `json:"limits"`
}

// OpenResult is what the standby said to a new epoch.
type OpenResult struct {
	Epoch dr.Epoch `json:"epoch"`
	// PreviousDurable is the newest durable position of the epochs before.
	PreviousDurable dr.Position `json:"previousDurable"`
	// Fresh means that the standby's disks are empty: copy, do not compare.
	Fresh bool `json:"fresh"`
	// LinkVersion is the version of the link's protocol that both ends speak.
	LinkVersion uint16 `json:"linkVersion"`
}

// SyncRequest starts a synchronisation in the open epoch.
type SyncRequest struct {
	Mode resync.Mode `json:"mode"`
	// Verify compares without sending; Mode is resync.ModeCompare then.
	Verify bool `json:"verify,omitempty"`
	// Disks lists what to look at. A disk that is missing is left alone.
	Disks []SyncDisk `json:"disks"`
}

// SyncDisk says where the present content of one disk can be read.
type SyncDisk struct {
	Index uint16 `json:"index"`
	// Socket and Export name an NBD server of the hypervisor's.
	Socket string `json:"socket"`
	Export string `json:"export"`
	// Ranges limits the work, unless All.
	All    bool           `json:"all"`
	Ranges []extent.Range `json:"ranges,omitempty"`
}

// SyncStatus is how far a synchronisation is. Bytes.
type SyncStatus struct {
	Running bool        `json:"running"`
	Mode    resync.Mode `json:"mode,omitempty"`
	Verify  bool        `json:"verify,omitempty"`
	Total   int64       `json:"total"`
	Done    int64       `json:"done"`
	Sent    int64       `json:"sent"`
	// Ended is the sync-end entry's number in Epoch; 0 until it is there.
	Epoch dr.Epoch `json:"epoch"`
	Ended dr.Seq   `json:"ended"`
	// Differing and Unsettled are what a verification found.
	Differing int64 `json:"differing,omitempty"`
	Unsettled int64 `json:"unsettled,omitempty"`
	// Error is why the last one ended early.
	Error *problem.Problem `json:"error,omitempty"`
}

// LinkStatus is the state of the connection to the standby.
type LinkStatus struct {
	Connected bool `json:"connected"`
	// Error is why it is not; Permanent means that repeating is pointless
	// without a change made elsewhere (a newer generation, for example).
	Error     *problem.Problem `json:"error,omitempty"`
	Permanent bool             `json:"permanent,omitempty"`
}

// DiskStatus is one disk as capture sees it.
type DiskStatus struct {
	Export string `json:"export"`
	Conns  int    `json:"conns"`
}

// Status is everything that a capture process knows of itself.
type Status struct {
	Version int       `json:"version"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	// Configured is false until the first configure; Group and what follows
	// are zero until then.
	Configured  bool          `json:"configured"`
	Group       dr.GroupID    `json:"group,omitempty"`
	Generation  dr.Generation `json:"generation,omitempty"`
	Standby     dr.GatewayID  `json:"standby,omitempty"`
	StandbyAddr string        `json:"standbyAddr,omitempty"`
	NBDSocket   string        `json:"nbdSocket,omitempty"`
	Disks       []DiskStatus  `json:"disks,omitempty"`
	State       State         `json:"state"`
	// Head is the newest entry, Durable the newest one that has left the
	// ring: the standby has it safe, or, while Route is not RouteDirect, the
	// spool. Confirmed is the N of the newest beacon.
	Head      dr.Position `json:"head"`
	Durable   dr.Seq      `json:"durable"`
	Confirmed dr.Seq      `json:"confirmed"`
	// Reason is why the epoch was sealed.
	Reason   string     `json:"reason,omitempty"`
	Opened   OpenResult `json:"opened"`
	Link     LinkStatus `json:"link"`
	Route    Route      `json:"route,omitempty"`
	Sync     SyncStatus `json:"sync"`
	Counters Counters   `json:"counters"`
}

// EventKind names what an Event tells.
type EventKind string

// The kinds of events.
const (
	// EventSealed: the epoch ended; Position is the break entry's, Text why.
	EventSealed EventKind = "sealed"
	// EventLink: the connection to the standby came or went; see Link.
	EventLink EventKind = "link"
	// EventSync: a synchronisation moved on or ended; see Sync.
	EventSync EventKind = "sync"
	// EventClock: the machine's clock was stepped, by By.
	EventClock EventKind = "clock"
	// EventRoute: entries take another way; Text is the Route.
	EventRoute EventKind = "route"
)

// Event is pushed to every control connection. Events may be lost when a
// gateway does not read; Status always has the present state.
type Event struct {
	Kind     EventKind     `json:"kind"`
	Time     time.Time     `json:"time"`
	Position dr.Position   `json:"position"`
	Text     string        `json:"text,omitempty"`
	Link     *LinkStatus   `json:"link,omitempty"`
	Sync     *SyncStatus   `json:"sync,omitempty"`
	By       time.Duration `json:"by,omitempty"`
}

// markerParams are the parameters of marker.
type markerParams struct {
	ID   dr.PointID   `json:"id"`
	Kind dr.PointKind `json:"kind"`
	Name string       `json:"name"`
}

// thawedParams are the parameters of thawed.
type thawedParams struct {
	Point dr.Point `json:"point"`
}

// sealParams are the parameters of seal.
type sealParams struct {
	Reason string `json:"reason"`
}

// positionResult is the answer of methods that give a position.
type positionResult struct {
	Position dr.Position `json:"position"`
}
