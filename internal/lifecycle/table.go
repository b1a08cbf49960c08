package lifecycle

import (
	"maps"
	"slices"
	"sync"
)

// Row is one operation: where it may begin and what it does to the state.
type Row struct {
	Operation Operation
	// From lists the resting states in which the operation may begin.
	From []State
	// During is the state while its job runs; empty leaves the state as it
	// is (operations beside replication).
	During State
	// Then is the state after success; empty returns to where it began.
	Then State
	// FailedBefore is the state after a failure before the job passed its
	// point of no return; empty returns to where it began. FailedAfter is
	// the state after a failure beyond it.
	FailedBefore, FailedAfter State
	// Guards are checked in order; the first that refuses is the answer.
	Guards []GuardName
	// Ask is what a person should do who wants the operation and is in
	// another state, by state; Otherwise is for the states not named.
	Ask       map[State]string
	Otherwise string
}

const (
	waitJob          = "Wait until the running job has ended."
	waitFirst        = "Wait for the first recovery point; 'rebound item watch' shows the progress."
	protectFirst     = "Protect the machine first."
	commitFirst      = "Commit the failover first, or undo it."
	reprotectNow     = "Reprotect first: nothing is replicated after a commit."
	nothingToDo      = "Nothing is failed over."
	resumeFirst      = "Resume replication first."
	failoverFirst    = "Fail over first."
	undoOrAgain      = "The failover did not end: fail over again, or undo it."
	commitAgain      = "A commit did not end: commit again, which finishes it."
	protectedAlready = "It is protected already."
	waitProtected    = "Wait until the item is protected."
	pendingChoice    = "Change the recovery point, commit, or undo."
)

// asks is what a person should do who wants something that a resting state does
// not have; own replaces and adds lines.
func asks(own map[State]string) map[State]string {
	m := map[State]string{
		Unprotected: protectFirst, InitialSync: waitFirst, WaitingForFirstPoint: waitFirst, Paused: resumeFirst,
		FailoverFailed: undoOrAgain, CommitPending: commitFirst, Committing: commitAgain, Committed: reprotectNow,
	}
	maps.Copy(m, own)
	return m
}

// notFailedOver is asks for what needs a failover that is not committed.
func notFailedOver(own map[State]string) map[State]string {
	m := asks(map[State]string{
		Unprotected: nothingToDo, InitialSync: nothingToDo, WaitingForFirstPoint: nothingToDo, Protected: nothingToDo,
		Paused: nothingToDo, Tracking: nothingToDo, Resynchronising: nothingToDo,
	})
	maps.Copy(m, own)
	return m
}

// withPoints are the resting states in which recovery points can be used,
// whether or not replication is healthy at the moment: a disaster does not
// wait for a synchronisation. (Azure offers failover in Protected only.)
var withPoints = []State{Protected, Paused, Tracking, Resynchronising}

// Table returns a row an operation. It is built anew at each call, so that
// nobody can change it for others.
func Table() []Row {
	return []Row{
		{
			Operation: Protect, From: []State{Unprotected}, During: Enabling, Then: InitialSync,
			FailedBefore: Unprotected, FailedAfter: Unprotected,
			Guards: []GuardName{NoOtherJob, BothGatewaysUp}, Otherwise: "The machine is protected already.",
		},
		{
			Operation: Failover, From: append(slices.Clone(withPoints), FailoverFailed), During: FailingOver, Then: CommitPending, FailedAfter: FailoverFailed,
			Guards:    []GuardName{NoOtherJob, WholeGroup, RightDirection, NoTestRunning, StandbyGatewayUp, HasPoint, SiteAnswers},
			Ask:       asks(map[State]string{CommitPending: pendingChoice}),
			Otherwise: waitJob,
		},
		{
			Operation: Failback, From: append(slices.Clone(withPoints), FailoverFailed), During: FailingOver, Then: CommitPending, FailedAfter: FailoverFailed,
			Guards:    []GuardName{NoOtherJob, WholeGroup, RightDirection, NoTestRunning, StandbyGatewayUp, HasPoint, SiteAnswers},
			Ask:       asks(map[State]string{CommitPending: pendingChoice}),
			Otherwise: waitJob,
		},
		{
			Operation: ChangePoint, From: []State{CommitPending}, During: ChangingPoint, Then: CommitPending, FailedAfter: FailoverFailed,
			Guards:    []GuardName{NoOtherJob, WholeGroup, StandbyGatewayUp, HasPoint},
			Ask:       asks(map[State]string{Committed: "A commit is final: the other points are gone.", Protected: failoverFirst, Paused: failoverFirst, Tracking: failoverFirst, Resynchronising: failoverFirst}),
			Otherwise: waitJob,
		},
		{
			Operation: Undo, From: []State{CommitPending, FailoverFailed}, During: Undoing, Then: Resynchronising, FailedAfter: FailoverFailed,
			Guards:    []GuardName{NoOtherJob, WholeGroup, BothGatewaysUp, SourceExists},
			Ask:       notFailedOver(map[State]string{Committed: "A commit is final; fail over in the other direction after a reprotect."}),
			Otherwise: waitJob,
		},
		{
			// A commit that failed half-way is finished by committing again.
			Operation: Commit, From: []State{CommitPending, Committing}, During: Committing, Then: Committed, FailedAfter: Committing,
			Guards:    []GuardName{NoOtherJob, WholeGroup, NoTestRunning, StandbyGatewayUp, RecoveredRuns, SourceOff},
			Ask:       notFailedOver(map[State]string{Committed: "It is committed already."}),
			Otherwise: waitJob,
		},
		{
			Operation: Reprotect, From: []State{Committed}, During: Reprotecting, Then: InitialSync, FailedBefore: Committed, FailedAfter: Committed,
			Guards: []GuardName{NoOtherJob, WholeGroup, OneMasterTarget, ProcessServerFits, MasterTargetFits, BothGatewaysUp, SourceExists, ActiveRuns, AgentRegistered, SiteAnswers, NoSnapshots, DisksReturn, IdentityFree, DisksFit, RetentionFits, DatastoreFits, PathOpen},
			Ask: asks(map[State]string{
				InitialSync: protectedAlready, WaitingForFirstPoint: protectedAlready, Protected: protectedAlready,
				Paused: protectedAlready, Tracking: protectedAlready, Resynchronising: protectedAlready,
			}),
			Otherwise: waitJob,
		},
		{
			Operation: TestFailover, From: withPoints,
			Guards:    []GuardName{NoOtherJob, WholeGroup, NoTestRunning, StandbyGatewayUp, HasPoint},
			Ask:       asks(nil),
			Otherwise: waitJob,
		},
		{
			Operation: TestCleanup, From: append(slices.Clone(withPoints), InitialSync, WaitingForFirstPoint),
			Guards:    []GuardName{NoOtherJob, WholeGroup, TestToClean, StandbyGatewayUp},
			Otherwise: "There is no test failover to clean up.",
		},
		{
			Operation: Pause, From: []State{Protected, Tracking, Resynchronising, InitialSync}, Then: Paused,
			Guards: []GuardName{NoOtherJob, WholeGroup, SourceGatewayUp},
			Ask:    asks(map[State]string{Paused: "It is paused already."}), Otherwise: waitJob,
		},
		{
			Operation: Resume, From: []State{Paused}, Then: Resynchronising,
			Guards: []GuardName{NoOtherJob, WholeGroup, BothGatewaysUp, SourceExists}, Otherwise: "Replication is not paused.",
		},
		{
			Operation: Resync, From: []State{Protected, Tracking, Resynchronising}, Then: Resynchronising,
			Guards:    []GuardName{NoOtherJob, WholeGroup, BothGatewaysUp},
			Ask:       asks(nil),
			Otherwise: waitJob,
		},
		{
			Operation: Verify, From: []State{Protected},
			Guards:    []GuardName{NoOtherJob, WholeGroup, BothGatewaysUp},
			Ask:       asks(map[State]string{Tracking: waitProtected, Resynchronising: waitProtected}),
			Otherwise: waitJob,
		},
		{
			Operation: CreatePoint, From: []State{Protected},
			Guards:    []GuardName{NoOtherJob, WholeGroup, BothGatewaysUp},
			Ask:       asks(map[State]string{Tracking: waitProtected, Resynchronising: waitProtected}),
			Otherwise: waitJob,
		},
		{
			Operation: Disable, From: []State{InitialSync, WaitingForFirstPoint, Protected, Paused, Tracking, Resynchronising, CommitPending, Committed, FailoverFailed},
			During: Disabling, Then: Unprotected,
			Guards: []GuardName{NoOtherJob, WholeGroup, NoTestRunning, RecoveredAnswers, BothGatewaysUpOrForce},
			Ask:    map[State]string{Committing: commitAgain, Unprotected: "It is not protected."}, Otherwise: waitJob,
		},
		{
			// It is a commit until the machines are their own; from then on
			// it can only be finished, as a migration or as a commit.
			Operation: CompleteMigration, From: []State{CommitPending, Committing}, During: Committing, Then: Unprotected, FailedAfter: Committing,
			Guards:    []GuardName{NoOtherJob, WholeGroup, AwayFromHome, NoTestRunning, RecoveredAnswers, BothGatewaysUpOrForce, RecoveredRuns},
			Ask:       notFailedOver(map[State]string{Committed: "It is committed: disable the item, which ends replication for good."}),
			Otherwise: waitJob,
		},
	}
}

// rows is the table, built once: it is asked for thousands of times a list.
var rows = sync.OnceValue(Table)

// byOperation finds a row of it.
var byOperation = sync.OnceValue(func() map[Operation]Row {
	m := map[Operation]Row{}
	for _, row := range rows() {
		m[row.Operation] = row
	}
	return m
})

// RowOf returns the row of an operation. It must not be changed.
func RowOf(op Operation) (Row, bool) {
	row, ok := byOperation()[op]
	return row, ok
}
