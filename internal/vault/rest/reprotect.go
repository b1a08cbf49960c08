package rest

import (
	"rebound/internal/control"
	"rebound/internal/dr"
)

// ReprotectTarget says through which gateways a reprotect goes and where its
// data is kept; whatever is left out is chosen.
type ReprotectTarget struct {
	// ProcessServer is a gateway of the site where the machines run now.
	ProcessServer dr.GatewayID `json:"processServer,omitempty"`
	// MasterTarget is a gateway of the site that becomes the standby.
	MasterTarget dr.GatewayID `json:"masterTarget,omitempty"`
	// Datastore is where disks are made that the standby site lacks; disks
	// that exist stay where they are.
	Datastore string `json:"datastore,omitempty"`
	// RetentionVolume is the master target's volume for the journal.
	RetentionVolume string `json:"retentionVolume,omitempty"`
}

// IsZero reports whether nothing is said.
func (t ReprotectTarget) IsZero() bool { return t == ReprotectTarget{} }

// ReprotectRequest is the reprotect part of an OperationRequest.
type ReprotectRequest struct {
	ReprotectTarget
	// Machines holds values of single machines. Gateways and retention
	// volume must be the same for all machines of a group, which share one
	// journal; datastores may differ.
	Machines map[dr.MachineName]ReprotectTarget `json:"machines,omitempty"`
}

// ByteRange is an amount that lies between two numbers, both possible.
type ByteRange struct {
	Min int64 `json:"min"`
	Max int64 `json:"max"`
}

// Prerequisites is what a gateway found when it was asked just now, with what
// the vault knows of its part.
type Prerequisites struct {
	control.Prerequisites
	// Paths are the data connections from this gateway to the master targets
	// of other sites, one tried now for each.
	Paths []Path `json:"paths"`
}

// Path is one data connection that was tried.
type Path struct {
	From dr.GatewayID `json:"from"`
	To   dr.GatewayID `json:"to"`
	Addr string       `json:"addr"`
	// Trouble says why it is closed; empty when it is open.
	Trouble string  `json:"trouble,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
}
