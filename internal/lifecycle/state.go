package lifecycle

import "rebound/internal/dr"

// State is where an item is in its life. Moving states belong to a running
// job; resting states wait for a person or for replication.
type State string

// The states.
const (
	Unprotected          State = "Unprotected"
	Enabling             State = "Enabling"
	InitialSync          State = "InitialSync"
	WaitingForFirstPoint State = "WaitingForFirstPoint"
	Protected            State = "Protected"
	// Paused: a person suspended replication; bitmaps remember.
	Paused State = "Paused"
	// Tracking: replication broke; bitmaps remember; older points stay valid.
	Tracking State = "Tracking"
	// Resynchronising: the standby is being made equal again; older points
	// stay valid.
	Resynchronising State = "Resynchronising"
	FailingOver     State = "FailingOver"
	// FailoverFailed: the generation was raised, so the old source is
	// fenced, but no machine runs at the standby. Failover again or undo.
	FailoverFailed State = "FailoverFailed"
	CommitPending  State = "CommitPending"
	ChangingPoint  State = "ChangingPoint"
	Undoing        State = "Undoing"
	Committing     State = "Committing"
	// Committed: the active site has swapped; nothing is replicated.
	Committed    State = "Committed"
	Reprotecting State = "Reprotecting"
	Disabling    State = "Disabling"
)

// States lists every state, in the order of a life.
func States() []State {
	return []State{
		Unprotected, Enabling, InitialSync, WaitingForFirstPoint, Protected, Paused, Tracking, Resynchronising,
		FailingOver, FailoverFailed, CommitPending, ChangingPoint, Undoing, Committing, Committed, Reprotecting, Disabling,
	}
}

// Moving reports whether the state belongs to a running job.
func (s State) Moving() bool {
	switch s {
	case Enabling, FailingOver, ChangingPoint, Undoing, Committing, Reprotecting, Disabling:
		return true
	default:
		return false
	}
}

// Replicating reports whether writes are meant to flow in the state.
func (s State) Replicating() bool {
	switch s {
	case InitialSync, WaitingForFirstPoint, Protected, Resynchronising, Tracking:
		return true
	default:
		return false
	}
}

// TestState is the state of a test failover, which runs beside replication.
type TestState string

// The states of a test failover.
const (
	NoTest         TestState = ""
	TestStarting   TestState = "starting"
	CleanupPending TestState = "cleanup-pending"
	TestCleaning   TestState = "cleaning"
)

// Operation is what a person can ask of an item or a group.
type Operation string

// The operations, by their names in the API.
const (
	Protect      Operation = "protect"
	Disable      Operation = "disable"
	Failover     Operation = "failover"
	Failback     Operation = "failback"
	ChangePoint  Operation = "change-point"
	Commit       Operation = "commit"
	Undo         Operation = "undo"
	Reprotect    Operation = "reprotect"
	TestFailover Operation = "test-failover"
	TestCleanup  Operation = "test-failover-cleanup"
	Pause        Operation = "pause"
	Resume       Operation = "resume"
	Resync       Operation = "resync"
	Verify       Operation = "verify"
	CreatePoint  Operation = "create-point"
	// CompleteMigration ends a failover for good: it commits and ends
	// replication, so that there is no way back.
	CompleteMigration Operation = "complete-migration"
)

// Rules are all that differs between the two directions. Direction is the way
// the item's writes flow (or flowed before a failover that is not committed).
type Rules struct {
	// Failover is the name of the failover in this direction.
	Failover Operation
	// CommitDeletesSource: the commit deletes the machines at the site that
	// was active before (the cloud machines, after a failback). Their disks
	// stay as the seed of the next synchronisation.
	CommitDeletesSource bool
	// CommitNeedsProof: the commit demands that the recovered machine is
	// proven to run and the other to be off.
	CommitNeedsProof bool
	// PlannedByDefault: a failover in this direction drains the source
	// unless told otherwise.
	PlannedByDefault bool
}

// RulesFor returns the rules of a direction.
func RulesFor(d dr.Direction) Rules {
	if d == dr.Back {
		return Rules{Failover: Failback, CommitDeletesSource: true, CommitNeedsProof: true, PlannedByDefault: true}
	}
	return Rules{Failover: Failover}
}
