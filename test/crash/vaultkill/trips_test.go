package vaultkill

import (
	"slices"

	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/vault/rest"
)

// leg is one operation of a trip.
type leg struct {
	op  lifecycle.Operation
	req rest.OperationRequest
	// plan: the operation is the plan's.
	plan bool
	// fails: from this call of a site on the job fails; it is taken back.
	at    string // home or cloud
	fails string
	// reject is the kind of question that is answered with no.
	reject string
	// cancel: the job is cancelled once it is written down.
	cancel bool
	want   rest.JobState // default: succeeded
	// state is where the group is afterwards.
	state lifecycle.State
	// to is the target of a protection; default: cloud. start: the machines
	// at home were left off and are started first.
	to    dr.SiteID
	start bool
	// kill are the tasks at which the vault dies, all or some by name; none:
	// the leg only leads to the next one. main legs are those of the short run.
	kill []string
	main bool
}

// trip is a way through the states of one group; trips run at the same time.
type trip struct {
	name string
	legs []leg
}

var (
	each      = []string{"*"}
	planned   = rest.OperationRequest{Mode: "planned"}
	unplanned = rest.OperationRequest{Mode: "unplanned", ShutdownSource: "try"}
	inLab     = rest.OperationRequest{Network: "lab"}
)

// trips go through every operation. Where an operation has tasks that only some
// states have, it comes more than once.
func trips() []trip {
	return []trip{
		{"away", []leg{
			{op: lifecycle.Protect, kill: each, state: lifecycle.Protected},
			{op: lifecycle.TestFailover, req: inLab, kill: each, state: lifecycle.Protected, main: true},
			{op: lifecycle.TestCleanup, req: rest.OperationRequest{Notes: "fine"}, kill: each, state: lifecycle.Protected, main: true},
			{op: lifecycle.Failover, req: unplanned, kill: each, state: lifecycle.CommitPending, main: true},
			{op: lifecycle.ChangePoint, req: rest.OperationRequest{Point: dr.Latest}, kill: each, state: lifecycle.CommitPending, main: true},
			{op: lifecycle.Undo, kill: each, state: lifecycle.Protected, main: true},
			{op: lifecycle.Pause, kill: each, state: lifecycle.Paused},
			{op: lifecycle.Resume, kill: each, state: lifecycle.Protected},
			{op: lifecycle.Resync, kill: each, state: lifecycle.Protected},
			{op: lifecycle.Verify, kill: each, state: lifecycle.Protected},
			{op: lifecycle.CreatePoint, req: rest.OperationRequest{Name: "before-the-release"}, kill: each, state: lifecycle.Protected},
		}},
		{"home", []leg{
			{op: lifecycle.Protect, state: lifecycle.Protected},
			{op: lifecycle.Failover, req: planned, state: lifecycle.CommitPending},
			{op: lifecycle.Commit, kill: each, state: lifecycle.Committed, main: true},
			{op: lifecycle.Reprotect, kill: each, state: lifecycle.Protected, main: true},
			{op: lifecycle.Failback, req: planned, kill: each, state: lifecycle.CommitPending, main: true},
			{op: lifecycle.Commit, kill: each, state: lifecycle.Committed, main: true},
			{op: lifecycle.Reprotect, state: lifecycle.Protected},
		}},
		{"what fails", []leg{ // before and after the generation is raised
			{op: lifecycle.Protect, state: lifecycle.Protected},
			{op: lifecycle.Failover, req: planned, at: "home", fails: "Quiesce", kill: []string{"clean-up", "end"}, want: rest.JobFailed, state: lifecycle.Protected},
			{op: lifecycle.Failover, req: unplanned, at: "cloud", fails: "StartRecovered", kill: []string{"start-machines", "end"}, want: rest.JobFailed, state: lifecycle.FailoverFailed},
			{op: lifecycle.Failover, req: unplanned, kill: each, state: lifecycle.CommitPending},
			{op: lifecycle.Commit, state: lifecycle.Committed},
			{op: lifecycle.Reprotect, at: "home", fails: "SetStandby", kill: []string{"clean-up", "end"}, want: rest.JobFailed, state: lifecycle.Committed},
			{op: lifecycle.Reprotect, state: lifecycle.Protected},
			{op: lifecycle.Failback, req: planned, at: "cloud", fails: "Quiesce", kill: []string{"clean-up", "end"}, want: rest.JobFailed, state: lifecycle.Protected},
			{op: lifecycle.Failback, req: unplanned, at: "home", fails: "StartRecovered", kill: []string{"start-machines", "end"}, want: rest.JobFailed, state: lifecycle.FailoverFailed},
			{op: lifecycle.Failback, req: unplanned, kill: each, state: lifecycle.CommitPending},
		}},
		{"the ends of protection", []leg{ // from each state that has tasks of its own
			{op: lifecycle.Protect, state: lifecycle.Protected},
			{op: lifecycle.Disable, kill: each, state: lifecycle.Unprotected},
			{op: lifecycle.Protect, at: "cloud", fails: "SetStandby", kill: []string{"clean-up", "end"}, want: rest.JobFailed, state: lifecycle.Unprotected},
			{op: lifecycle.Protect, state: lifecycle.Protected},
			{op: lifecycle.Failover, req: unplanned, at: "cloud", fails: "StartRecovered", want: rest.JobFailed, state: lifecycle.FailoverFailed},
			{op: lifecycle.Disable, kill: each, state: lifecycle.Unprotected},
			{op: lifecycle.Protect, start: true, state: lifecycle.Protected},
			{op: lifecycle.Failover, req: unplanned, state: lifecycle.CommitPending},
			{op: lifecycle.CompleteMigration, kill: each, state: lifecycle.Unprotected},
			{op: lifecycle.Protect, to: "home", state: lifecycle.Protected},
			{op: lifecycle.Failover, req: unplanned, state: lifecycle.CommitPending},
			{op: lifecycle.Disable, kill: each, state: lifecycle.Unprotected},
		}},
		{"a plan", []leg{
			{op: lifecycle.Protect, state: lifecycle.Protected},
			{plan: true, op: lifecycle.TestFailover, req: inLab, kill: each, state: lifecycle.Protected, main: true},
			{plan: true, op: lifecycle.TestCleanup, kill: each, state: lifecycle.Protected, main: true},
			{plan: true, op: lifecycle.Failover, req: planned, kill: each, state: lifecycle.CommitPending, main: true},
			{plan: true, op: lifecycle.Undo, cancel: true, kill: []string{"clean-up"}, want: rest.JobCancelled, state: lifecycle.CommitPending},
			{plan: true, op: lifecycle.Undo, kill: each, state: lifecycle.Protected},
			{plan: true, op: lifecycle.TestFailover, req: inLab, reject: "approval", kill: []string{"clean-up"}, want: rest.JobFailed, state: lifecycle.Protected},
		}},
		{"a plan home", []leg{
			{op: lifecycle.Protect, state: lifecycle.Protected},
			{plan: true, op: lifecycle.Failover, req: unplanned, state: lifecycle.CommitPending},
			{plan: true, op: lifecycle.Commit, kill: each, state: lifecycle.Committed, main: true},
			{plan: true, op: lifecycle.Reprotect, kill: each, state: lifecycle.Protected, main: true},
			{plan: true, op: lifecycle.Failback, req: planned, kill: each, state: lifecycle.CommitPending, main: true},
			{plan: true, op: lifecycle.Commit, cancel: true, kill: []string{"clean-up"}, want: rest.JobCancelled, state: lifecycle.CommitPending},
			{plan: true, op: lifecycle.Commit, kill: each, state: lifecycle.Committed},
			{plan: true, op: lifecycle.Reprotect, cancel: true, kill: []string{"clean-up"}, want: rest.JobCancelled, state: lifecycle.Committed},
			{plan: true, op: lifecycle.Reprotect, at: "cloud", fails: "SetStandby", kill: []string{"clean-up", "end"}, want: rest.JobFailed, state: lifecycle.Committed},
			{plan: true, op: lifecycle.Reprotect, state: lifecycle.Protected},
			{plan: true, op: lifecycle.TestFailover, req: inLab, state: lifecycle.Protected},
			{plan: true, op: lifecycle.TestCleanup, cancel: true, kill: []string{"clean-up"}, want: rest.JobCancelled, state: lifecycle.Protected},
		}},
		{"what fails of a plan", []leg{
			{op: lifecycle.Protect, state: lifecycle.Protected},
			{plan: true, op: lifecycle.Failover, req: planned, at: "home", fails: "Quiesce", kill: []string{"clean-up", "end"}, want: rest.JobFailed, state: lifecycle.Protected},
			{plan: true, op: lifecycle.Failover, req: unplanned, reject: "manual", kill: []string{"clean-up", "end"}, want: rest.JobFailed, state: lifecycle.FailoverFailed},
			{plan: true, op: lifecycle.Failover, req: unplanned, kill: []string{"discard-machines", "start-machines"}, state: lifecycle.CommitPending},
			{plan: true, op: lifecycle.Commit, state: lifecycle.Committed},
			{plan: true, op: lifecycle.Reprotect, state: lifecycle.Protected},
			{plan: true, op: lifecycle.Failback, req: planned, at: "cloud", fails: "Quiesce", kill: []string{"clean-up", "end"}, want: rest.JobFailed, state: lifecycle.Protected},
			{plan: true, op: lifecycle.Failback, req: unplanned, reject: "manual", kill: []string{"clean-up", "end"}, want: rest.JobFailed, state: lifecycle.FailoverFailed},
			{plan: true, op: lifecycle.Failback, req: unplanned, kill: []string{"discard-machines", "start-machines"}, state: lifecycle.CommitPending},
		}},
	}
}

// mainTrips are the trips of the short run, up to their last main leg; other
// legs are travelled without a death.
func mainTrips() []trip {
	var out []trip
	for _, tr := range trips() {
		last := -1
		for i := range tr.legs {
			if tr.legs[i].main {
				last = i
			} else {
				tr.legs[i].kill = nil
			}
		}
		if last >= 0 {
			out = append(out, trip{tr.name, tr.legs[:last+1]})
		}
	}
	return out
}

// office is the plan of the legs that are a plan's: two boot groups of one
// replication group, with an approval, a script and a manual action. The script
// leaves a line at each run.
func office(lines string) rest.Plan {
	return rest.Plan{
		ID: "office",
		Groups: []rest.PlanGroup{
			{Name: "data", Items: []string{"db"}, Before: []rest.PlanAction{{Name: "look", Manual: &rest.PlanManual{Text: "Is the room dark?"}}}},
			{Name: "front", Items: []string{"web"}, Before: []rest.PlanAction{{Name: "tell", Script: &rest.PlanScript{
				Text: "#!/bin/sh\necho \"$REBOUND_OPERATION $REBOUND_DIRECTION $REBOUND_GROUP_NAME\" >>\"$LINES\"\n", Env: map[string]string{"LINES": lines},
			}}}},
		},
		Before: []rest.PlanAction{{Name: "agree", Approval: &rest.PlanApproval{}}},
	}
}

// dies reports whether the vault has to die at a task.
func (g leg) dies(task string) bool {
	return slices.Contains(g.kill, "*") || slices.Contains(g.kill, task)
}
