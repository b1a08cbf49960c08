package lifecycle

import (
	"slices"
	"strings"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/problem"
)

// good are facts with which every operation allowed in a state is allowed.
func good(s State) Facts {
	return Facts{
		State: s, Direction: dr.Forward, ActiveUp: true, StandbyUp: true, ActiveGateway: "gw-home", StandbyGateway: "gw-cloud",
		Points: 3, RecoveredRunning: true, SourceOff: true, ActiveRunning: true,
	}
}

// TestAllowedByState is the table of Azure Site Recovery's states (and
// Rebound's additions), written out by hand.
func TestAllowedByState(t *testing.T) {
	replicating := []Operation{Failover, TestFailover, Pause, Resync, Disable}
	want := map[State][]Operation{
		Unprotected: {}, Enabling: {}, FailingOver: {}, ChangingPoint: {}, Undoing: {}, Committing: {Commit, CompleteMigration}, Reprotecting: {}, Disabling: {},
		InitialSync:          {Pause, Disable},
		WaitingForFirstPoint: {Disable},
		Protected:            append(slices.Clone(replicating), Verify, CreatePoint),
		Tracking:             replicating,
		Resynchronising:      replicating,
		Paused:               {Failover, TestFailover, Resume, Disable},
		FailoverFailed:       {Failover, Undo, Disable},
		CommitPending:        {ChangePoint, Undo, Commit, CompleteMigration, Disable},
		Committed:            {Reprotect, Disable},
	}
	for _, s := range States() {
		ops, ok := want[s]
		if !ok {
			t.Errorf("no expectation for %s", s)
		}
		for _, line := range Allowed(good(s)) {
			if line.Allowed != slices.Contains(ops, line.Name) {
				t.Errorf("%s in %s: allowed %v (%s)", line.Name, s, line.Allowed, line.Reason)
			}
			if !line.Allowed && (line.Reason == "" || line.Remedy == "" || line.Code == "") {
				t.Errorf("%s in %s: refused without reason, remedy or code: %+v", line.Name, s, line)
			}
			// Nobody is told to wait for a job that is not there.
			if !s.Moving() && s != Committing && line.Remedy == waitJob {
				t.Errorf("%s in %s: %+v", line.Name, s, line)
			}
		}
	}
}

// TestEveryGuardMatters removes each guard in turn: some case must then be
// allowed that was refused.
func TestEveryGuardMatters(t *testing.T) {
	bad := func(s State, change func(*Facts)) Facts {
		f := good(s)
		change(&f)
		return f
	}
	cases := []struct {
		guard GuardName
		op    Operation
		facts Facts
		code  problem.Code
	}{
		{NoOtherJob, Failover, bad(Protected, func(f *Facts) { f.RunningJob = "j1" }), problem.OperationRunning},
		{WholeGroup, Failover, bad(Protected, func(f *Facts) { f.LoneMember = true }), problem.GroupMemberAlone},
		{RightDirection, Failback, good(Protected), problem.OperationNotAllowed},
		{NoTestRunning, Failover, bad(Protected, func(f *Facts) { f.Test = CleanupPending }), problem.OperationNotAllowed},
		{TestToClean, TestCleanup, good(Protected), problem.OperationNotAllowed},
		{HasPoint, Failover, bad(Protected, func(f *Facts) { f.Points = 0 }), problem.NoRecoveryPoint},
		{HasPoint, Failover, bad(Protected, func(f *Facts) { f.Lacking = []dr.MachineName{"vm2"} }), problem.NoRecoveryPoint},
		{StandbyGatewayUp, Failover, bad(Protected, func(f *Facts) { f.StandbyUp = false }), problem.GatewayUnreachable},
		{SourceGatewayUp, Pause, bad(Protected, func(f *Facts) { f.ActiveUp = false }), problem.GatewayUnreachable},
		{BothGatewaysUp, Reprotect, bad(Committed, func(f *Facts) { f.StandbyUp = false }), problem.GatewayUnreachable},
		{BothGatewaysUpOrForce, Disable, bad(Protected, func(f *Facts) { f.ActiveUp = false }), problem.GatewayUnreachable},
		{RecoveredRuns, Commit, bad(CommitPending, func(f *Facts) { f.Direction = dr.Back; f.RecoveredRunning = false }), problem.CommitNotProven},
		{SourceOff, Commit, bad(CommitPending, func(f *Facts) { f.Direction = dr.Back; f.SourceOff = false }), problem.CommitNotProven},
		{RecoveredRuns, Commit, bad(CommitPending, func(f *Facts) { f.RecoveredRunning = false }), problem.CommitNotProven},
		{RecoveredAnswers, Disable, bad(CommitPending, func(f *Facts) { f.StandbyUp, f.Force = false, true }), problem.GatewayUnreachable},
		{RecoveredAnswers, CompleteMigration, bad(Committing, func(f *Facts) { f.StandbyUp, f.Force = false, true }), problem.GatewayUnreachable},
		{SourceExists, Undo, bad(CommitPending, func(f *Facts) { f.SourceGone = []dr.MachineName{"vm1"} }), problem.UnknownMachine},
		{SourceExists, Reprotect, bad(Committed, func(f *Facts) { f.SourceGone = []dr.MachineName{"vm1"} }), problem.UnknownMachine},
		{SourceExists, Resume, bad(Paused, func(f *Facts) { f.SourceGone = []dr.MachineName{"vm1"} }), problem.UnknownMachine},
		{AwayFromHome, CompleteMigration, bad(CommitPending, func(f *Facts) { f.Direction = dr.Back }), problem.OperationNotAllowed},
		{ActiveRuns, Reprotect, bad(Committed, func(f *Facts) { f.ActiveRunning = false }), problem.MachineNotRunning},
		{AgentRegistered, Reprotect, bad(Committed, func(f *Facts) { f.AgentRequired = true; f.AgentPending = []dr.MachineName{"vm1"} }), problem.AgentNotInstalled},
	}
	cases = append(cases, endCases()...)
	covered := map[GuardName]bool{}
	for _, c := range cases {
		covered[c.guard] = true
		r := Decide(c.op, c.facts)
		if r == nil || r.Code != c.code {
			t.Errorf("%s with %s broken: %+v, want %s", c.op, c.guard, r, c.code)
		}
		fewer := Guards()
		delete(fewer, c.guard)
		if r := decide(c.op, c.facts, fewer); r != nil {
			t.Errorf("%s without %s: still refused: %+v", c.op, c.guard, r)
		}
	}
	for name := range Guards() {
		if !covered[name] {
			t.Errorf("guard %s has no case", name)
		}
	}
}

func TestRowsUseKnownNames(t *testing.T) {
	guards := Guards()
	for _, row := range Table() {
		for _, g := range row.Guards {
			if guards[g] == nil {
				t.Errorf("%s: unknown guard %s", row.Operation, g)
			}
		}
		for _, s := range append(slices.Clone(row.From), row.During, row.Then, row.FailedBefore, row.FailedAfter) {
			if s != "" && !slices.Contains(States(), s) {
				t.Errorf("%s: unknown state %s", row.Operation, s)
			}
		}
	}
}

// TestRoundTrip walks the whole circle by the table alone.
func TestRoundTrip(t *testing.T) {
	s, dir := Unprotected, dr.Forward
	step := func(op Operation, want State) {
		t.Helper()
		f := good(s)
		f.Direction = dir
		if err := Check(op, f); err != nil {
			t.Fatalf("%s in %s: %v", op, s, err)
		}
		if s = Succeeded(op, s); s != want {
			t.Fatalf("after %s: %s, want %s", op, s, want)
		}
	}
	observe := func() {
		t.Helper()
		if s = Observe(s, true, 1, false, false); s != Protected {
			t.Fatalf("observed %s, want Protected", s)
		}
	}
	step(Protect, InitialSync)
	observe()
	step(TestFailover, Protected)
	step(Failover, CommitPending)
	step(ChangePoint, CommitPending)
	step(Undo, Resynchronising)
	observe()
	step(Failover, CommitPending)
	step(Commit, Committed)
	step(Reprotect, InitialSync)
	dir = dir.Opposite()
	observe()
	step(Failback, CommitPending)
	step(Commit, Committed)
	step(Reprotect, InitialSync)
	dir = dir.Opposite()
	observe()
	step(Failover, CommitPending)
}

// TestForceOpensNoOtherDoor: force lets a disable pass a site that is away, and
// nothing else.
func TestForceOpensNoOtherDoor(t *testing.T) {
	f := good(Protected)
	f.ActiveUp, f.Force = false, true
	if r := Decide(Disable, f); r != nil {
		t.Errorf("forced disable: %+v", r)
	}
	f = good(Committed)
	f.StandbyUp, f.Force = false, true
	if r := Decide(Reprotect, f); r == nil || r.Code != problem.GatewayUnreachable {
		t.Errorf("reprotect with force: %+v", r)
	}
}

func TestMigrationEndsTheLife(t *testing.T) {
	if s := Succeeded(CompleteMigration, CommitPending); s != Unprotected {
		t.Errorf("after a migration: %s", s)
	}
	if s := Failed(CompleteMigration, CommitPending, true); s != Committing || Decide(Commit, good(s)) != nil {
		t.Errorf("a migration that failed half-way is %s and cannot be committed", s)
	}
}

func TestFailedStates(t *testing.T) {
	for _, c := range []struct {
		op     Operation
		from   State
		beyond bool
		want   State
	}{
		{Failover, Protected, false, Protected},
		{Failover, Protected, true, FailoverFailed},
		{Failover, Tracking, false, Tracking},
		{Reprotect, Committed, true, Committed},
		{Protect, Unprotected, true, Unprotected},
		{Commit, CommitPending, false, CommitPending},
		{Commit, CommitPending, true, Committing},
		{Pause, Protected, true, Protected},
	} {
		if got := Failed(c.op, c.from, c.beyond); got != c.want {
			t.Errorf("Failed(%s, %s, %v) = %s, want %s", c.op, c.from, c.beyond, got, c.want)
		}
	}
}

func TestObserve(t *testing.T) {
	for _, c := range []struct {
		s               State
		synced          bool
		points          int
		broken, syncing bool
		want            State
	}{
		{InitialSync, false, 0, false, true, InitialSync},
		{InitialSync, true, 0, false, false, WaitingForFirstPoint},
		{WaitingForFirstPoint, true, 1, false, false, Protected},
		{Protected, true, 5, true, false, Tracking},
		{Tracking, false, 5, false, true, Resynchronising},
		{Resynchronising, true, 5, false, false, Protected},
		{Resynchronising, true, 0, false, false, WaitingForFirstPoint},
		{Tracking, true, 0, false, false, WaitingForFirstPoint},
		{WaitingForFirstPoint, true, 0, false, false, WaitingForFirstPoint},
		{CommitPending, true, 5, true, false, CommitPending},
		{Paused, true, 5, true, false, Paused},
	} {
		if got := Observe(c.s, c.synced, c.points, c.broken, c.syncing); got != c.want {
			t.Errorf("Observe(%+v) = %s, want %s", c, got, c.want)
		}
	}
}

func TestAgentRefusalSaysSinceWhen(t *testing.T) {
	f := good(Committed)
	f.AgentRequired, f.AgentPending, f.PendingSince = true, []dr.MachineName{"vm1"}, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := Decide(Reprotect, f)
	if r == nil || !strings.Contains(r.Reason, "2026-01-02T03:04:05Z") || !strings.Contains(r.Reason, "15 minutes") {
		t.Errorf("refusal %+v", r)
	}
}
