package vault_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"rebound/internal/control"
	"rebound/internal/control/controltest"
	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/site"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

func (l *lab) wantRunning(g interface {
	Content(dr.MachineName) (int, site.PowerState, bool)
}, name dr.MachineName, content int,
) {
	l.t.Helper()
	got, state, ok := g.Content(name)
	if !ok || state != site.Running || got != content {
		l.t.Fatalf("%s: content %d, %q (there: %v), want %d, running", name, got, state, ok, content)
	}
}

// TestRoundTrip is the whole trip, over HTTPS, against a real vault.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	for range 5 {
		l.home.Write("vm1")
		l.home.Write("vm2")
	}
	l.testFailover()

	// Loss of the home site, with a moment in the middle to come back to.
	mid, err := l.c.Resolve(t.Context(), client.GroupTarget("app"), dr.Latest)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		l.home.Write("vm1")
	}
	l.home.Lose()
	job := l.operate(lifecycle.Failover, rest.OperationRequest{Mode: "unplanned"}, rest.JobWarning)
	if len(job.Warnings) == 0 {
		t.Error("a failover without its source gave no warning")
	}
	g := l.untilState("app", lifecycle.CommitPending)
	if g.Generation != 2 || g.ActiveSite != "cloud" || g.Recovered == nil {
		t.Fatalf("after failover: generation %d, active %s, recovered %v", g.Generation, g.ActiveSite, g.Recovered)
	}
	l.wantRunning(l.cloud, "vm1", 8)
	l.wantRunning(l.cloud, "vm2", 5)
	l.operate(lifecycle.ChangePoint, rest.OperationRequest{Point: dr.PointSelector("@" + mid.Position.String())})
	l.wantRunning(l.cloud, "vm1", 5)
	l.operate(lifecycle.ChangePoint, rest.OperationRequest{Point: dr.Latest})
	l.wantRunning(l.cloud, "vm1", 8)
	l.operate(lifecycle.Commit, rest.OperationRequest{})
	l.untilState("app", lifecycle.Committed)

	// The old home comes back with its machines running: it is fenced.
	l.home.AddMachine("vm1")
	l.startGateway(l.home)
	l.until("the old primary fences itself", func() bool {
		_, state, _ := l.home.Content("vm1")
		return state == site.Off
	})
	l.wantEvent("StalePrimary")

	l.reprotect(dr.Back)
	l.failback()
	l.reprotect(dr.Forward)
	if n := l.world.Count("StartRecovered", "vm1"); n != 4 {
		t.Errorf("vm1 was started from a journal %d times, want 4", n)
	}
}

func (l *lab) testFailover() {
	l.t.Helper()
	l.operate(lifecycle.TestFailover, rest.OperationRequest{Network: "isolated"})
	if _, state, ok := l.cloud.Content("vm1-test"); !ok || state != site.Running {
		l.t.Fatal("no test machine runs")
	}
	_, err := l.c.Operate(l.t.Context(), client.GroupTarget("app"), lifecycle.Failover, rest.OperationRequest{})
	wantCode(l.t, err, "OperationNotAllowed")
	l.operate(lifecycle.TestCleanup, rest.OperationRequest{Notes: "fine"})
	if _, _, ok := l.cloud.Content("vm1-test"); ok {
		l.t.Fatal("the test machine is still there")
	}
	l.untilState("app", lifecycle.Protected)
}

func (l *lab) reprotect(dir dr.Direction) {
	l.t.Helper()
	l.until("machines known to run", func() bool { return l.allowed(lifecycle.Reprotect) })
	l.operate(lifecycle.Reprotect, rest.OperationRequest{})
	g := l.untilState("app", lifecycle.Protected)
	if g.Direction != dir {
		l.t.Fatalf("direction %s, want %s", g.Direction, dir)
	}
}

func (l *lab) failback() {
	l.t.Helper()
	for range 4 {
		l.cloud.Write("vm1")
	}
	l.until("failback allowed", func() bool { return l.allowed(lifecycle.Failback) })
	l.operate(lifecycle.Failback, rest.OperationRequest{})
	l.wantRunning(l.home, "vm1", 12)
	l.wantRunning(l.home, "vm2", 5)
	if _, state, ok := l.cloud.Content("vm1"); !ok || state != site.Off {
		l.t.Fatalf("before the commit the cloud machine is %q (there: %v), want off", state, ok)
	}
	l.until("commit allowed", func() bool { return l.allowed(lifecycle.Commit) })
	dry, err := l.c.DryRun(l.t.Context(), client.GroupTarget("app"), lifecycle.Commit, rest.OperationRequest{})
	if err != nil || len(dry.Deletes) != 3 || !strings.Contains(dry.Deletes[1], "vm1") || dry.Confirm == nil || dry.Confirm.Type != "app" || len(dry.Proofs) != 2 {
		l.t.Fatalf("dry run of the commit: %+v, %v", dry, err)
	}
	job := l.operate(lifecycle.Commit, rest.OperationRequest{})
	i := slices.IndexFunc(job.Tasks, func(t rest.Task) bool { return t.Name == "list-deletions" })
	if i < 0 || job.Tasks[i].Result["deletes"] == nil {
		l.t.Error("the job does not record what it deleted")
	}
	if len(job.Deletes) != 3 {
		l.t.Errorf("the answer to the commit said that it deletes %v", job.Deletes)
	}
	if _, _, ok := l.cloud.Content("vm1"); ok {
		l.t.Fatal("the cloud machine is still there after the commit")
	}
	g := l.untilState("app", lifecycle.Committed)
	if g.Direction != dr.Forward || g.ActiveSite != "home" {
		l.t.Fatalf("after the failback: %s, active %s", g.Direction, g.ActiveSite)
	}
}

func (l *lab) allowed(op lifecycle.Operation) bool {
	g, err := l.c.Group(l.t.Context(), "app")
	if err != nil {
		l.t.Fatal(err)
	}
	i := slices.IndexFunc(g.AllowedOperations, func(s lifecycle.OperationStatus) bool { return s.Name == op })
	return i >= 0 && g.AllowedOperations[i].Allowed
}

func (l *lab) wantEvent(code string) {
	l.t.Helper()
	l.until("event "+code, func() bool {
		events, err := l.c.Events(l.t.Context(), 0, 1000)
		if err != nil {
			l.t.Fatal(err)
		}
		return slices.ContainsFunc(events, func(e rest.Event) bool { return e.Code == code })
	})
}

func TestUndo(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	l.home.Write("vm1")
	l.operate(lifecycle.Failover, rest.OperationRequest{Mode: "planned"})
	l.untilState("app", lifecycle.CommitPending)
	l.wantRunning(l.cloud, "vm1", 1)
	if _, state, _ := l.home.Content("vm1"); state != site.Off {
		t.Fatalf("the source is %q after a planned failover", state)
	}
	l.operate(lifecycle.Undo, rest.OperationRequest{})
	g := l.untilState("app", lifecycle.Protected)
	if g.Generation != 3 || g.ActiveSite != "home" || g.Direction != dr.Forward {
		t.Fatalf("after undo: generation %d, active %s, %s", g.Generation, g.ActiveSite, g.Direction)
	}
	l.wantRunning(l.home, "vm1", 1)
	if _, state, _ := l.cloud.Content("vm1"); state != site.Off {
		t.Fatalf("the discarded machine is %q", state)
	}
}

func TestBesideReplication(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	l.operate(lifecycle.Pause, rest.OperationRequest{})
	l.untilState("app", lifecycle.Paused)
	l.operate(lifecycle.Resume, rest.OperationRequest{})
	l.untilState("app", lifecycle.Protected)
	l.operate(lifecycle.Verify, rest.OperationRequest{})
	l.operate(lifecycle.CreatePoint, rest.OperationRequest{Name: "before-upgrade"})
	p, err := l.c.Points(t.Context(), client.GroupTarget("app"), client.PointFilter{Kind: dr.Bookmark})
	if err != nil || len(p.Points) != 1 || p.Points[0].Name != "before-upgrade" {
		t.Fatalf("bookmarks %+v, %v", p, err)
	}
	l.operate(lifecycle.Resync, rest.OperationRequest{})
	l.untilState("app", lifecycle.Protected)
	l.operate(lifecycle.Disable, rest.OperationRequest{})
	if _, err := l.c.Group(t.Context(), "app"); err == nil {
		t.Error("the group is still there")
	}
	if _, _, ok := l.cloud.Content("vm1"); ok {
		t.Error("the standby machine is still there")
	}
	l.wantRunning(l.home, "vm1", 0)
	// The name can be used again, above the generations that gateways know.
	l.finish(l.c.Protect(t.Context(), rest.ProtectRequest{Machines: []dr.MachineName{"vm1"}, To: "cloud", Group: "app"}))
	if g := l.untilState("app", lifecycle.Protected); g.Generation != 2 {
		t.Errorf("generation %d, want 2", g.Generation)
	}
}

// TestCommitThatFailedHalfWay is finished by committing again.
func TestCommitThatFailedHalfWay(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	l.operate(lifecycle.Failover, rest.OperationRequest{Mode: "planned"})
	l.operate(lifecycle.Commit, rest.OperationRequest{})
	l.reprotect(dr.Back)
	l.until("failback allowed", func() bool { return l.allowed(lifecycle.Failback) })
	l.operate(lifecycle.Failback, rest.OperationRequest{})
	f := l.world.Plan(&controltest.Fault{Gateway: "gw-cloud", Command: "DeleteMachine", Machine: "vm2", Times: 1, Err: problem.New(problem.HypervisorError, "busy")})
	l.until("commit allowed", func() bool { return l.allowed(lifecycle.Commit) })
	l.operate(lifecycle.Commit, rest.OperationRequest{}, rest.JobFailed)
	if g := l.untilState("app", lifecycle.Committing); g.Direction != dr.Back || l.world.Struck(f) != 1 {
		t.Fatalf("half-way: %s, the fault struck %d times", g.Direction, l.world.Struck(f))
	}
	l.operate(lifecycle.Commit, rest.OperationRequest{})
	if g := l.untilState("app", lifecycle.Committed); g.Direction != dr.Forward {
		t.Errorf("direction %s", g.Direction)
	}
	if _, _, ok := l.cloud.Content("vm2"); ok {
		t.Error("vm2 is still in the cloud")
	}
}

// TestCommitBeforeTheNextReport: the gateway of the source has not reported
// since it stopped the machines; the vault knows of it from the command.
func TestCommitBeforeTheNextReport(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	l.operate(lifecycle.Failover, rest.OperationRequest{})
	l.operate(lifecycle.Commit, rest.OperationRequest{})
	l.operate(lifecycle.Reprotect, rest.OperationRequest{})
	l.untilState("app", lifecycle.Protected)
	l.cloud.SetReport(func(r *control.Report) { r.Machines = nil })
	l.world.Plan(&controltest.Fault{Gateway: "gw-cloud", Command: "Inventory", Delay: 500 * time.Millisecond})
	l.operate(lifecycle.Failback, rest.OperationRequest{})
	l.operate(lifecycle.Commit, rest.OperationRequest{})
}
