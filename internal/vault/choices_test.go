package vault_test

import (
	"slices"
	"strings"
	"testing"

	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/site"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

func (l *lab) choices(op lifecycle.Operation) rest.Choices {
	l.t.Helper()
	c, err := l.c.Choices(l.t.Context(), client.GroupTarget("app"), op)
	if err != nil {
		l.t.Fatal(err)
	}
	return c
}

func choiceOf(t *testing.T, c rest.Choices, sel dr.PointSelector, perMachine bool) rest.Choice {
	t.Helper()
	i := slices.IndexFunc(c.Choices, func(x rest.Choice) bool { return x.Selector == sel && x.PerMachine == perMachine })
	if i < 0 {
		t.Fatalf("no choice %s (per machine: %v) in %+v", sel, perMachine, c.Choices)
	}
	return c.Choices[i]
}

// TestChoicesSayWhatIsLost is S9 to S12, S16, S18 and S52 before anything is
// confirmed: direction, recommended default, the moment of each choice and its loss.
func TestChoicesSayWhatIsLost(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	none := choiceOf(t, l.choices(""), dr.LatestApp, false)
	if none.Problem == nil || none.Problem.Code != problem.NoRecoveryPoint || none.Moment != nil {
		t.Errorf("an application-consistent choice without any such point: %+v", none)
	}
	l.operate(lifecycle.CreatePoint, rest.OperationRequest{Name: "app-1", AppConsistent: true})
	for range 3 {
		l.home.Write("vm1")
	}
	c := l.choices("")
	if c.Operation != lifecycle.Failover || c.From != "home" || c.To != "cloud" || c.Recommended != dr.Latest || c.Points == 0 {
		t.Errorf("choices of %s from %s to %s, recommended %s, %d points", c.Operation, c.From, c.To, c.Recommended, c.Points)
	}
	latest := choiceOf(t, c, dr.Latest, false)
	if !latest.Recommended || latest.Consistency != dr.CrashConsistent || latest.Moment == nil || latest.Moment.LostBytes != 0 || !latest.Group || latest.NotReceivedSeconds == nil {
		t.Errorf("latest: %+v", latest)
	}
	app := choiceOf(t, c, dr.LatestApp, false)
	if app.Recommended || app.Consistency != dr.AppConsistent || app.Moment == nil || app.Moment.LostBytes != 3*4096 || app.Moment.LostSeconds <= 0 ||
		!strings.Contains(strings.Join(app.Warnings, "\n"), "older than latest") {
		t.Errorf("application-consistent: %+v", app)
	}
	for _, sel := range []dr.PointSelector{dr.LatestProcessed, dr.LatestMultiVM, dr.LatestMultiVMApp} {
		if x := choiceOf(t, c, sel, false); x.Moment == nil || x.Problem != nil {
			t.Errorf("%s: %+v", sel, x)
		}
	}
	if x := choiceOf(t, c, "custom", false); x.Problem != nil || x.Moment != nil {
		t.Errorf("custom: %+v", x)
	}
	if alone := choiceOf(t, c, dr.Latest, true); alone.Group || len(alone.Moment.Members) != 2 || len(alone.Warnings) == 0 {
		t.Errorf("per machine: %+v", alone)
	}
	if test := l.choices(lifecycle.TestFailover); test.Recommended != dr.LatestProcessed {
		t.Errorf("a test failover recommends %s", test.Recommended)
	}
	// A machine alone has nothing to choose between its members, and a lone
	// member of a group nothing at all.
	_, err := l.c.Choices(t.Context(), client.ItemTarget("vm1"), "")
	wantCode(t, err, problem.GroupMemberAlone)
	_, err = l.c.Choices(t.Context(), client.GroupTarget("app"), lifecycle.Commit)
	wantCode(t, err, problem.InvalidRequest)
}

// TestNoAppConsistentPoint is S18: the answer is an error with a code, nothing
// has begun.
func TestNoAppConsistentPoint(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	before, err := l.c.Group(t.Context(), "app")
	if err != nil {
		t.Fatal(err)
	}
	effects := len(l.world.Effects())
	for _, sel := range []dr.PointSelector{dr.LatestApp, dr.LatestMultiVMApp} {
		for _, op := range []lifecycle.Operation{lifecycle.Failover, lifecycle.TestFailover} {
			req := rest.OperationRequest{Point: sel}
			if op == lifecycle.TestFailover {
				req.Network = "n"
			}
			_, err := l.c.Operate(t.Context(), client.GroupTarget("app"), op, req)
			wantCode(t, err, problem.NoRecoveryPoint)
			_, err = l.c.DryRun(t.Context(), client.GroupTarget("app"), op, req)
			wantCode(t, err, problem.NoRecoveryPoint)
		}
	}
	after, err := l.c.Group(t.Context(), "app")
	if err != nil || after.LastJob != before.LastJob || len(l.world.Effects()) != effects {
		t.Errorf("the refusals left the job %s, %v, and %d effects", after.LastJob, err, len(l.world.Effects())-effects)
	}
	_, err = l.c.Operate(t.Context(), client.GroupTarget("app"), lifecycle.Failover, rest.OperationRequest{Point: "no-such-point"})
	wantCode(t, err, problem.UnknownPoint)
}

// TestPerMachine is S13: each member at its own newest moment, with a warning
// in the choice, the dry run and the job; latest stays the group's common one.
func TestPerMachine(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	l.home.Write("vm1")
	l.home.Write("vm2")
	l.home.WriteUnconfirmed("vm1")
	l.home.WriteUnconfirmed("vm2")
	l.home.Lose()
	ask := rest.OperationRequest{Mode: "unplanned", PerMachine: true, ShutdownSource: "skip"}
	dry, err := l.c.DryRun(t.Context(), client.GroupTarget("app"), lifecycle.Failover, ask)
	if err != nil || len(dry.Recovered.Members) != 2 || dry.Recovered.Members[0].Position == dry.Recovered.Members[1].Position || !strings.Contains(strings.Join(dry.Warnings, "\n"), "own newest moment") {
		t.Fatalf("dry run: %+v, %v", dry, err)
	}
	// The default: the group's newest common moment.
	job := l.operate(lifecycle.Failover, rest.OperationRequest{Mode: "unplanned", ShutdownSource: "skip"}, rest.JobWarning)
	l.wantRunning(l.cloud, "vm1", 1)
	l.wantRunning(l.cloud, "vm2", 1)
	if strings.Contains(strings.Join(job.Warnings, "\n"), "own newest moment") {
		t.Errorf("warnings %v", job.Warnings)
	}
	job = l.operate(lifecycle.ChangePoint, rest.OperationRequest{PerMachine: true}, rest.JobWarning)
	if !strings.Contains(strings.Join(job.Warnings, "\n"), "own newest moment") {
		t.Errorf("warnings %v", job.Warnings)
	}
	l.wantRunning(l.cloud, "vm1", 2)
	l.wantRunning(l.cloud, "vm2", 2)
	g := l.untilState("app", lifecycle.CommitPending)
	if g.Recovered == nil || len(g.Recovered.Members) != 2 || g.Recovered.Position != g.Recovered.At("vm1") {
		t.Errorf("recovered %+v", g.Recovered)
	}
	l.operate(lifecycle.Commit, rest.OperationRequest{})
	l.wantRunning(l.cloud, "vm1", 2)
	for _, bad := range []rest.OperationRequest{
		{PerMachine: true, Point: dr.LatestProcessed}, {PerMachine: true, Mode: "planned"},
	} {
		_, err := l.c.Operate(t.Context(), client.GroupTarget("app"), lifecycle.Failover, bad)
		wantCode(t, err, problem.InvalidRequest)
	}
}

// TestLoneMemberOfAGroup: no operation works on one member alone.
func TestLoneMemberOfAGroup(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	for _, row := range lifecycle.Table() {
		if row.Operation == lifecycle.Protect || !slices.Contains(row.From, lifecycle.Protected) {
			continue
		}
		_, err := l.c.Operate(t.Context(), client.ItemTarget("vm1"), row.Operation, requests()[row.Operation])
		wantCode(t, err, problem.GroupMemberAlone)
		_, err = l.c.DryRun(t.Context(), client.ItemTarget("vm1"), row.Operation, requests()[row.Operation])
		wantCode(t, err, problem.GroupMemberAlone)
	}
	item, err := l.c.Item(t.Context(), "vm1")
	if err != nil {
		t.Fatal(err)
	}
	for _, op := range item.AllowedOperations {
		if op.Allowed {
			t.Errorf("%s is allowed on one member", op.Name)
		}
	}
	if _, state, _ := l.cloud.Content("vm1"); state != site.Off {
		t.Errorf("vm1 is %s at the standby", state)
	}
}

// TestDryRunsChangeNothing asks what every operation would do, wherever it is
// allowed: each says its tasks, and what it loses and deletes, and does nothing.
func TestDryRunsChangeNothing(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	seen := map[lifecycle.Operation]rest.DryRun{}
	try := func() {
		t.Helper()
		before, err := l.c.Group(t.Context(), "app")
		if err != nil {
			t.Fatal(err)
		}
		effects := 0
		for _, e := range l.world.Effects() {
			if !strings.HasSuffix(e.What, " dry") {
				effects++
			}
		}
		for _, op := range before.AllowedOperations {
			if !op.Allowed {
				continue
			}
			d, err := l.c.DryRun(t.Context(), client.GroupTarget("app"), op.Name, requests()[op.Name])
			if err != nil || len(d.Tasks) == 0 || d.Operation != op.Name {
				t.Errorf("dry run of %s in %s: %+v, %v", op.Name, before.State, d, err)
			}
			if (len(d.Deletes)+len(d.Loses) > 0) != (d.Confirm != nil) {
				t.Errorf("dry run of %s in %s: deletes %v, loses %v, confirm %+v", op.Name, before.State, d.Deletes, d.Loses, d.Confirm)
			}
			seen[op.Name] = d
		}
		for _, e := range l.world.Effects() {
			if !strings.HasSuffix(e.What, " dry") {
				effects--
			}
		}
		after, err := l.c.Group(t.Context(), "app")
		if err != nil || after.State != before.State || after.LastJob != before.LastJob || after.Generation != before.Generation || effects != 0 {
			t.Errorf("dry runs in %s left it %s (%d effects, %v)", before.State, after.State, -effects, err)
		}
	}
	try()
	l.operate(lifecycle.TestFailover, rest.OperationRequest{Network: "n"})
	try()
	l.operate(lifecycle.TestCleanup, rest.OperationRequest{})
	l.operate(lifecycle.Pause, rest.OperationRequest{})
	try()
	l.operate(lifecycle.Resume, rest.OperationRequest{})
	l.untilState("app", lifecycle.Protected)
	l.operate(lifecycle.Failover, rest.OperationRequest{Mode: "planned"})
	try()
	l.operate(lifecycle.Commit, rest.OperationRequest{})
	l.until("reprotect allowed", func() bool { return l.allowed(lifecycle.Reprotect) })
	try()
	l.reprotect(dr.Back)
	l.until("failback allowed", func() bool { return l.allowed(lifecycle.Failback) })
	try()
	for _, row := range lifecycle.Table() {
		if _, ok := seen[row.Operation]; !ok && row.Operation != lifecycle.Protect {
			t.Errorf("%s was never tried", row.Operation)
		}
	}
	if d := seen[lifecycle.Disable]; !strings.Contains(strings.Join(d.Loses, "\n"), "no failback") {
		t.Errorf("the dry run of a disable while failed over does not say that the failback is lost: %+v", d)
	}
	if d := seen[lifecycle.TestCleanup]; len(d.Deletes) != 2 || !strings.Contains(d.Deletes[0], "vm1-test") {
		t.Errorf("the dry run of a clean-up deletes %v", d.Deletes)
	}
	if d := seen[lifecycle.Undo]; len(d.Loses) != 2 || len(d.Creates) != 2 {
		t.Errorf("the dry run of an undo: %+v", d)
	}
}
