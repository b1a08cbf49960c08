package dr

import "time"

// PointKind says how a recovery point came to be.
type PointKind string

// The kinds of recovery points.
const (
	// CrashConsistent is the state of the disks at a power cut.
	CrashConsistent PointKind = "crash"
	// AppConsistent was taken with the guests' file systems frozen.
	AppConsistent PointKind = "app"
	// Bookmark was made and named by a person.
	Bookmark PointKind = "bookmark"
	// Diverged holds what a lost primary had written that never left it,
	// as found when its site became the standby.
	Diverged PointKind = "diverged"
)

// Point is a named moment of a group that machines can be started from.
type Point struct {
	ID       PointID   `json:"id"`
	Kind     PointKind `json:"kind"`
	Name     string    `json:"name,omitempty"`
	Position Position  `json:"position"`
	// Time is the source's clock, UTC.
	Time time.Time `json:"time"`
}

// MemberMoment is the moment of one member of a group, where each member is
// recovered at its own.
type MemberMoment struct {
	Machine  MachineName `json:"machine"`
	Position Position    `json:"position"`
	// Time is the source's clock at the newest boundary that is not after
	// the position.
	Time time.Time `json:"time"`
	// LostSeconds and LostBytes are what of the member's received writes
	// lies after it.
	LostSeconds float64 `json:"lostSeconds"`
	LostBytes   int64   `json:"lostBytes"`
}

// PointSelector says which moment a person asked for. It is one of the words
// below, the ID of a point, "@" and a Position, or an RFC 3339 time.
type PointSelector string

// The selectors of asr-style failover choices.
const (
	// Latest processes everything received and takes the newest confirmed
	// position of the group.
	Latest PointSelector = "latest"
	// LatestProcessed takes the newest point already durable when asked.
	LatestProcessed PointSelector = "latest-processed"
	// LatestApp takes the newest application-consistent point.
	LatestApp PointSelector = "latest-app"
	// LatestMultiVM and LatestMultiVMApp are the same two over a group.
	LatestMultiVM    PointSelector = "latest-multi-vm"
	LatestMultiVMApp PointSelector = "latest-multi-vm-app"
)
