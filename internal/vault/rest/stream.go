package rest

import (
	"encoding/json"

	"rebound/internal/control"
	"rebound/internal/dr"
)

// The kinds of changes that the stream of changes tells of. Tables of other
// subjects have kinds of their own, named in Change.Type by the same rule.
const (
	ChangeJob     = "job"
	ChangeTask    = "task"
	ChangeItem    = "item"
	ChangeGroup   = "group"
	ChangeGateway = "gateway"
	ChangeMachine = "machine"
	ChangeEvent   = "event"
	ChangeHealth  = "health"
	ChangePlan    = "plan"
	ChangePolicy  = "policy"
	ChangeSite    = "site"
	// ChangeReady begins each stream; Seq is where it begins.
	ChangeReady = "ready"
	// ChangeLive is what a group's gateways report, at most once a second a
	// group; it has no place in the order and is not repeated on a resume.
	ChangeLive = "live"
	// ChangeReset: changes were missed that cannot be told any more (the
	// client was away too long). Read everything anew.
	ChangeReset = "reset"
	// ChangeDropped is the last thing that a client is told that reads too
	// slowly: connect again, with Last-Event-ID.
	ChangeDropped = "dropped"
	// ChangeEnd: the token or session is not valid any more.
	ChangeEnd = "end"
)

// Change is one thing that changed.
type Change struct {
	// Seq orders changes; 0 for those without a place in the order. Sent
	// back as Last-Event-ID, the stream goes on after it.
	Seq  int64  `json:"seq,omitempty"`
	Type string `json:"type"`
	// ID of the object; "JOB/TASK" for tasks, "SITE/MACHINE" for machines.
	ID string `json:"id,omitempty"`
	// Gone: the object was removed.
	Gone bool `json:"gone,omitempty"`
	// Object is the new state: a Job, Task, Event, Item, Group or Gateway,
	// a Live for ChangeLive; absent for other types and what is gone.
	Object json.RawMessage `json:"object,omitempty"`
}

// Live is what the gateways said last of a group.
type Live struct {
	Group        dr.GroupID       `json:"group"`
	Items        []dr.ItemID      `json:"items"`
	Health       string           `json:"health"`
	Problem      string           `json:"problem,omitempty"`
	SourcePhase  control.Phase    `json:"sourcePhase,omitempty"`
	Sync         control.Progress `json:"sync"`
	RPO          RPO              `json:"rpo"`
	Points       int              `json:"points"`
	JournalBytes int64            `json:"journalBytes"`
}
