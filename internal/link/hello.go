package link

import (
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"time"

	"rebound/internal/dr"
	"rebound/internal/problem"
)

// Versions of the protocol, one line each; never change one that was released.
const (
	// Version1 is the first: handshake in JSON, cumulative credits,
	// compare requests with runs.
	Version1 uint16 = 1
	// Version2 may carry entries of kind segment.KindThawed.
	Version2 uint16 = 2
)

// versions are what this program speaks, worst first.
func versions() []uint16 { return []uint16{Version1, Version2} }

// best returns the best version that both ends speak; 0 when there is none.
func best(theirs []uint16) uint16 {
	var v uint16
	for _, ours := range versions() {
		if slices.Contains(theirs, ours) {
			v = ours
		}
	}
	return v
}

// Purpose says what a connection is for.
type Purpose string

// The purposes.
const (
	PurposeStream  Purpose = "stream"
	PurposeCompare Purpose = "compare"
	// PurposeProbe proves the path and nothing else; it names no group.
	PurposeProbe Purpose = "probe"
)

// maxDisks bounds a group's disk table in a handshake: disk indexes are
// 16 bits, and the Hello must fit into maxHandshake.
const maxDisks = 4096

// Hello is the first message of a connection, from the active site.
type Hello struct {
	// Versions the caller speaks; set by Dial.
	Versions   []uint16       `json:"versions"`
	Purpose    Purpose        `json:"purpose"` // set by Dial and DialCompare
	Group      dr.GroupID     `json:"group"`
	Generation dr.Generation  `json:"generation"`
	Disks      []dr.GroupDisk `json:"disks"`
	// Epoch of the stream to go on with; 0 asks for a new one.
	Epoch dr.Epoch `json:"epoch,omitempty"`
	// After says that the caller has no entries up to it any more: a
	// receiver that lacks some of them cannot go on.
	After dr.Seq `json:"after,omitempty"`
	// Gateway names the source gateway for people; who the caller is, its
	// certificate says.
	Gateway dr.GatewayID `json:"gateway,omitempty"`
	// SourceClock is the caller's wall clock; set by Dial.
	SourceClock time.Time `json:"sourceClock"`
}

// Validate checks what can be checked without knowing the group.
func (h *Hello) Validate() error {
	switch {
	case h.Purpose == PurposeProbe && len(h.Versions) > 0 && len(h.Versions) <= 64 && len(h.Disks) == 0:
		return nil
	case h.Purpose != PurposeStream && h.Purpose != PurposeCompare:
		return fmt.Errorf("hello: unknown purpose %q", h.Purpose)
	case h.Group == "":
		return fmt.Errorf("hello: no group")
	case h.Generation == 0:
		return fmt.Errorf("hello: no generation")
	case len(h.Disks) == 0 || len(h.Disks) > maxDisks:
		return fmt.Errorf("hello: %d disks, want 1 to %d", len(h.Disks), maxDisks)
	case len(h.Versions) == 0 || len(h.Versions) > 64:
		return fmt.Errorf("hello: %d versions, want 1 to 64", len(h.Versions))
	}
	for i, d := range h.Disks {
		if d.SizeBytes <= 0 || d.SizeBytes%512 != 0 {
			return fmt.Errorf("hello: disk %d of %d bytes, want a multiple of 512", i, d.SizeBytes)
		}
	}
	return nil
}

// Welcome is the standby's answer to a Hello that it accepts.
type Welcome struct {
	Version uint16 `json:"version"` // set by the Server
	// Epoch is the one asked for, or the new one.
	Epoch dr.Epoch `json:"epoch"`
	// Durable is the last seq of that epoch that is durable at the
	// standby: the stream goes on with the one after. 0 for a new epoch.
	Durable dr.Seq `json:"durable"`
	// PreviousDurable is the newest durable position of the epochs before
	// this one; a synchronisation starts from there. Zero: none.
	PreviousDurable dr.Position `json:"previousDurable"`
	// Fresh means that the standby's bases are empty: they read as zeroes
	// all over, so a copy needs no comparing.
	Fresh bool `json:"fresh,omitempty"`
	// CreditBytes and CreditFrames are how much may be sent before the
	// first grant; set by the Server.
	CreditBytes  uint64 `json:"creditBytes"`
	CreditFrames uint64 `json:"creditFrames"`
	// StandbyClock is the standby's wall clock; set by the Server.
	StandbyClock time.Time `json:"standbyClock"`
}

// Peer is the other end of an accepted connection. identity.PeerOf(State)
// says who it is.
type Peer struct {
	State  tls.ConnectionState
	Remote net.Addr
}

// refusalMsg is how either end says why it ends a connection.
type refusalMsg struct {
	Code   problem.Code `json:"code"`
	Detail string       `json:"detail"`
}

// RefusedError is a refusal of the peer. Its chain holds the problem.
type RefusedError struct{ Problem *problem.Problem }

// Error prints the problem.
func (e *RefusedError) Error() string { return "peer refused: " + e.Problem.Error() }

// Unwrap returns the problem.
func (e *RefusedError) Unwrap() error { return e.Problem }

// Permanent reports whether repeating what ended with err is pointless without
// a change made elsewhere: the peer refused with a problem that is neither
// transient by its registration nor one that passes by itself (no room, a
// journal that its last owner still holds, a defect or damage on the way).
func Permanent(err error) bool {
	p := problem.From(err)
	if p.Transient {
		return false
	}
	switch p.Code {
	case problem.InternalError, problem.ProtocolError, problem.NoRoom, problem.JournalInUse:
		return false
	}
	return true
}
