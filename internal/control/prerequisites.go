package control

import (
	"context"

	"rebound/internal/dr"
	"rebound/internal/site"
)

// Role is a part that a gateway plays in a stream.
type Role string

// The roles. The process server takes the writes of its site's machines and
// sends them; the master target keeps the journal.
const (
	ProcessServer Role = "process-server"
	MasterTarget  Role = "master-target"
)

// Roles lists both.
func Roles() []Role { return []Role{ProcessServer, MasterTarget} }

// DefaultDiskLimit is how many disks a master target takes; Azure Site
// Recovery's number.
const DefaultDiskLimit = 60

// DefaultVolume is the name of the retention volume in the gateway's own
// directory.
const DefaultVolume = "default"

// PrerequisiteCommands look, on the gateway and at the moment they are asked,
// whether it can play its part. They change nothing that lasts.
type PrerequisiteCommands interface {
	// Prerequisites tells what the gateway is and has. Retention volumes
	// are tried by writing a file to them, datastores by asking the site. A
	// site that does not answer is no error but a SiteProblem.
	Prerequisites(ctx context.Context, r PrerequisitesRequest) (Prerequisites, error)
	// ProbePath opens a data connection to another gateway, with both ends'
	// certificates, as the stream will. A path that is not there, or at
	// whose end somebody else answers, is PathClosed.
	ProbePath(ctx context.Context, r ProbeRequest) (ProbeResult, error)
}

// PrerequisitesRequest names what is to be looked at.
type PrerequisitesRequest struct {
	// Group is left out of DisksInUse: its disks are those that come.
	Group dr.GroupID `json:"group,omitempty"`
	// Machines are looked for at the site, with all that stands in their way.
	Machines []dr.Definition `json:"machines,omitempty"`
}

// Prerequisites is what a gateway is and has. Sizes in bytes.
type Prerequisites struct {
	Gateway dr.GatewayID `json:"gateway"`
	Site    dr.SiteID    `json:"site"`
	Roles   []Role       `json:"roles"`
	// DataAddr is where the gateway accepts streams: host:port.
	DataAddr string `json:"dataAddr"`
	// Hypervisor is its name and version.
	Hypervisor string `json:"hypervisor,omitempty"`
	// SiteProblem says why the site (its hypervisor, its datastore) does not
	// answer the gateway; Datastores and Machines are empty then.
	SiteProblem string `json:"siteProblem,omitempty"`
	// DisksInUse are the disks of the journals kept here, at most DiskLimit.
	DisksInUse int `json:"disksInUse"`
	DiskLimit  int `json:"diskLimit"`
	// Volumes are all retention volumes, the default one first. Datastores
	// are those that can be written to.
	Volumes    []RetentionVolume `json:"volumes"`
	Datastores []site.Datastore  `json:"datastores"`
	Machines   []site.Finding    `json:"machines,omitempty"`
}

// RetentionVolume is a place for journals, as a try just now found it.
type RetentionVolume struct {
	Name string `json:"name"`
	Path string `json:"path"`
	// Trouble says why no journal can be kept there; empty when one can.
	Trouble string `json:"trouble,omitempty"`
	// FileSystem is the kind: ext4, xfs, tmpfs, vfat or a number.
	FileSystem string `json:"fileSystem,omitempty"`
	FreeBytes  int64  `json:"freeBytes"`
	TotalBytes int64  `json:"totalBytes"`
}

// ProbeRequest names the other end of a path.
type ProbeRequest struct {
	Gateway dr.GatewayID `json:"gateway"`
	Addr    string       `json:"addr"` // host:port
}

// ProbeResult is who answered.
type ProbeResult struct {
	// Seconds is how long the connection took, handshake included.
	Seconds float64 `json:"seconds"`
}

// Prerequisites implements Commands.
func (c *Client) Prerequisites(ctx context.Context, r PrerequisitesRequest) (Prerequisites, error) {
	return call[Prerequisites](ctx, c, "Prerequisites", nil, r)
}

// ProbePath implements Commands.
func (c *Client) ProbePath(ctx context.Context, r ProbeRequest) (ProbeResult, error) {
	return call[ProbeResult](ctx, c, "ProbePath", nil, r)
}
