package vault_test

import (
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/site"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// failedBack brings the group home, with the commit pending.
func (l *lab) failedBack() {
	l.t.Helper()
	l.protected()
	l.operate(lifecycle.Failover, rest.OperationRequest{Mode: "planned"})
	l.operate(lifecycle.Commit, rest.OperationRequest{})
	l.reprotect(dr.Back)
	l.until("failback allowed", func() bool { return l.allowed(lifecycle.Failback) })
	l.operate(lifecycle.Failback, rest.OperationRequest{})
	l.until("commit allowed", func() bool { return l.allowed(lifecycle.Commit) })
}

// proofs reads what a commit's job kept.
func proofs(t *testing.T, job rest.Job) map[dr.MachineName]string {
	t.Helper()
	out := map[dr.MachineName]string{}
	for _, task := range job.Tasks {
		if task.Name != "prove" {
			continue
		}
		b, err := json.Marshal(task.Result["proof"])
		if err != nil {
			t.Fatal(err)
		}
		var list []rest.Proof
		if err := json.Unmarshal(b, &list); err != nil {
			t.Fatalf("%v: %s", err, b)
		}
		for _, p := range list {
			if p.Detail == "" {
				t.Errorf("a proof without words: %+v", p)
			}
			out[p.Machine] += p.Evidence + ";"
		}
	}
	return out
}

// TestCommitNeedsEvidence: power alone proves nothing. What does is kept in the
// job; a probe that fails refuses whatever else there is.
func TestCommitNeedsEvidence(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.failedBack()
	l.home.SetGuestAgent(false)
	refused := func(req rest.OperationRequest, words string) {
		t.Helper()
		job := l.operate(lifecycle.Commit, req, rest.JobFailed)
		if len(job.Errors) != 1 || job.Errors[0].Code != problem.CommitNotProven || !strings.Contains(job.Errors[0].Detail, words) {
			t.Errorf("errors %+v, want %q", job.Errors, words)
		}
		if g := l.untilState("app", lifecycle.CommitPending); g.Recovered == nil {
			t.Error("the refused commit changed the group")
		}
		if _, state, ok := l.cloud.Content("vm1"); !ok || state != site.Off {
			t.Errorf("the cloud machine is %s, %v", state, ok)
		}
	}
	refused(rest.OperationRequest{}, "nothing proves that its guest runs")
	refused(rest.OperationRequest{Probes: []dr.Probe{{Machine: "vm1", TCP: "vm1:22"}}}, "vm1:22: refused")
	l.home.SetProbe("tcp vm1:22")
	refused(rest.OperationRequest{Probes: []dr.Probe{{TCP: "{machine}:22"}}}, "tcp vm2:22: refused")
	// One of them is proven by a probe, the other by its agent.
	one := l.agent("vm2")
	one("a-new-boot")
	job := l.operate(lifecycle.Commit, rest.OperationRequest{Probes: []dr.Probe{{Machine: "vm1", TCP: "{machine}:22"}}})
	got := proofs(t, job)
	if got["vm1"] != "probe;" || got["vm2"] != "agent;" {
		t.Errorf("proofs %v", got)
	}
	if all := strings.Join(job.Deletes, "; "); len(job.Deletes) != 3 || !strings.Contains(all, "vm1") || !strings.Contains(all, "recovery point") {
		t.Errorf("the job deletes %v", job.Deletes)
	}
	if _, _, ok := l.cloud.Content("vm1"); ok {
		t.Error("the cloud machine is still there")
	}
}

// TestCommitOnTheHypervisorsWord is written down with who accepted it.
func TestCommitOnTheHypervisorsWord(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.failedBack()
	l.home.SetGuestAgent(false)
	job := l.operate(lifecycle.Commit, rest.OperationRequest{AcceptRunning: true})
	if got := proofs(t, job); got["vm1"] != "accepted;" || got["vm2"] != "accepted;" {
		t.Errorf("proofs %v", got)
	}
}

// TestProbeOfThePolicy counts without being named in the request.
func TestProbeOfThePolicy(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	p, err := l.c.Policy(t.Context(), "default")
	if err != nil {
		t.Fatal(err)
	}
	p.Probes = []dr.Probe{{HTTP: "http://app.example/health"}}
	if _, err := l.c.PutPolicy(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	l.failedBack()
	l.operate(lifecycle.Commit, rest.OperationRequest{}, rest.JobFailed)
	l.home.SetProbe("http http://app.example/health")
	job := l.operate(lifecycle.Commit, rest.OperationRequest{})
	if got := proofs(t, job); got["vm1"] != "probe;guest-agent;" {
		t.Errorf("proofs %v", got)
	}
}

func TestBadProbes(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.failedBack()
	for _, p := range []dr.Probe{
		{}, {TCP: "nowhere"}, {HTTP: "ftp://x"}, {Command: "../../bin/sh"}, {TCP: "a:1", HTTP: "http://a"}, {Machine: "stranger", TCP: "a:1"}, {TCP: "a:1", Seconds: 301},
	} {
		_, err := l.c.Operate(t.Context(), client.GroupTarget("app"), lifecycle.Commit, rest.OperationRequest{Probes: []dr.Probe{p}})
		wantCode(t, err, problem.InvalidRequest)
	}
	_, err := l.c.Operate(t.Context(), client.GroupTarget("app"), lifecycle.Undo, rest.OperationRequest{AcceptRunning: true})
	wantCode(t, err, problem.InvalidRequest)
}

// TestCommitWhileTheCloudMachineRuns is refused before anything, and also when
// somebody starts it after the proof, right before it would be deleted.
func TestCommitWhileTheCloudMachineRuns(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.failedBack()
	l.cloud.Stick("vm1", true) // its gateway would power it off
	l.cloud.SetPower("vm1", site.Running)
	l.until("the vault sees it", func() bool { return !l.allowed(lifecycle.Commit) })
	_, err := l.c.Operate(t.Context(), client.GroupTarget("app"), lifecycle.Commit, rest.OperationRequest{})
	wantCode(t, err, problem.CommitNotProven)
	l.cloud.SetPower("vm1", site.Off)
	l.until("commit allowed", func() bool { return l.allowed(lifecycle.Commit) })

	var once sync.Once
	l.hook = func(_ dr.JobID, task, moment string) {
		if task == "commit-machines" && moment == "after" {
			once.Do(func() { l.cloud.SetPower("vm1", site.Running) })
		}
	}
	job := l.operate(lifecycle.Commit, rest.OperationRequest{}, rest.JobFailed)
	if len(job.Errors) != 1 || job.Errors[0].Code != problem.CommitNotProven || !strings.Contains(job.Errors[0].Detail, "vm1") {
		t.Errorf("errors %+v", job.Errors)
	}
	if n := l.world.Count("DeleteMachine", ""); n != 0 {
		t.Errorf("%d machines were deleted", n)
	}
	l.untilState("app", lifecycle.Committing)
	// Else its report could still come, after that of its end.
	l.until("the vault sees it again", func() bool { return !l.allowed(lifecycle.Commit) })
	l.cloud.SetPower("vm1", site.Off)
	l.until("commit allowed", func() bool { return l.allowed(lifecycle.Commit) })
	l.operate(lifecycle.Commit, rest.OperationRequest{})
	l.untilState("app", lifecycle.Committed)
}

// TestMachinesDeletedByHand: the one that a commit would delete is no loss; the
// one that it would keep, and the one that an undo would go back to, are.
func TestMachinesDeletedByHand(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.failedBack()
	l.cloud.Remove("vm1")
	job := l.operate(lifecycle.Commit, rest.OperationRequest{})
	for _, task := range job.Tasks {
		if task.Name == "list-deletions" && task.Result["goneBefore"] == nil {
			t.Errorf("the job does not say that vm1 was gone: %v", task.Result)
		}
	}
	l.untilState("app", lifecycle.Committed)
	l.reprotect(dr.Forward) // vm1 is made anew there
	if _, state, ok := l.cloud.Content("vm1"); !ok || state != site.Off {
		t.Errorf("vm1 at the standby: %s, %v", state, ok)
	}

	// The recovered machine is gone before the commit.
	l.operate(lifecycle.Failover, rest.OperationRequest{Mode: "planned"})
	l.home.Remove("vm2")
	l.home.Stop()
	l.startGateway(l.home)
	l.until("the vault misses it", func() bool { return !l.allowed(lifecycle.Undo) })
	_, err := l.c.Operate(t.Context(), client.GroupTarget("app"), lifecycle.Undo, rest.OperationRequest{})
	wantCode(t, err, problem.UnknownMachine)
	l.wantRunning(l.cloud, "vm1", 0)
	l.operate(lifecycle.Commit, rest.OperationRequest{})
	l.until("reprotect allowed", func() bool { return l.allowed(lifecycle.Reprotect) })
	l.cloud.Remove("vm1")
	l.cloud.Stop()
	l.startGateway(l.cloud)
	l.until("the vault misses it", func() bool { return !l.allowed(lifecycle.Reprotect) })
	_, err = l.c.Operate(t.Context(), client.GroupTarget("app"), lifecycle.Reprotect, rest.OperationRequest{})
	wantCode(t, err, problem.UnknownMachine)
	l.operate(lifecycle.Disable, rest.OperationRequest{})
}

// TestForwardCommitOfAMachineThatIsOff changes nothing, so that it can still be
// undone.
func TestForwardCommitOfAMachineThatIsOff(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	l.operate(lifecycle.Failover, rest.OperationRequest{Mode: "planned"})
	l.cloud.SetPower("vm1", site.Off)
	job, err := l.c.Operate(t.Context(), client.GroupTarget("app"), lifecycle.Commit, rest.OperationRequest{})
	if err == nil {
		job = l.finish(job, nil, rest.JobFailed)
		err = &job.Errors[0]
	}
	wantCode(t, err, problem.CommitNotProven)
	l.untilState("app", lifecycle.CommitPending)
	l.operate(lifecycle.Undo, rest.OperationRequest{})
	l.untilState("app", lifecycle.Protected)
}

// TestCompleteMigration ends the item where it is.
func TestCompleteMigration(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	l.home.Write("vm1")
	_, err := l.c.Operate(t.Context(), client.GroupTarget("app"), lifecycle.CompleteMigration, rest.OperationRequest{})
	wantCode(t, err, problem.OperationNotAllowed)
	l.operate(lifecycle.Failover, rest.OperationRequest{Mode: "planned"})
	dry, err := l.c.DryRun(t.Context(), client.GroupTarget("app"), lifecycle.CompleteMigration, rest.OperationRequest{})
	if err != nil || dry.Confirm == nil || !strings.Contains(strings.Join(dry.Loses, "\n"), "no failback") {
		t.Errorf("dry run %+v, %v", dry, err)
	}
	l.operate(lifecycle.CompleteMigration, rest.OperationRequest{})
	_, err = l.c.Group(t.Context(), "app")
	wantCode(t, err, problem.UnknownGroup)
	l.wantRunning(l.cloud, "vm1", 1)
	if _, state, ok := l.home.Content("vm1"); !ok || state != site.Off {
		t.Errorf("at home vm1 is %s, %v", state, ok)
	}
}

// TestUndoAfterTheLossOfASite: while the lost site is away an undo is refused
// and costs nothing; when it returns it is fenced, and can be gone back to, with
// what it had written and never sent.
func TestUndoAfterTheLossOfASite(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	l.home.Write("vm1")
	l.home.Stop()
	l.home.Write("vm1") // it goes on without its gateway
	l.operate(lifecycle.Failover, rest.OperationRequest{Mode: "unplanned"}, rest.JobWarning)
	l.cloud.Write("vm1")
	_, err := l.c.Operate(t.Context(), client.GroupTarget("app"), lifecycle.Undo, rest.OperationRequest{})
	wantCode(t, err, problem.GatewayUnreachable)
	l.wantRunning(l.cloud, "vm1", 2)
	l.startGateway(l.home)
	l.until("the old primary fences itself", func() bool {
		_, state, _ := l.home.Content("vm1")
		return state == site.Off
	})
	l.until("undo allowed", func() bool { return l.allowed(lifecycle.Undo) })
	dry, err := l.c.DryRun(t.Context(), client.GroupTarget("app"), lifecycle.Undo, rest.OperationRequest{})
	if err != nil || len(dry.Loses) != 2 {
		t.Errorf("dry run %+v, %v", dry, err)
	}
	l.operate(lifecycle.Undo, rest.OperationRequest{})
	g := l.untilState("app", lifecycle.Protected)
	if g.Generation != 3 || g.ActiveSite != "home" {
		t.Errorf("generation %d, active %s", g.Generation, g.ActiveSite)
	}
	l.wantRunning(l.home, "vm1", 2)
}

// TestCancelPastThePointOfNoReturn is S53: refused, with the way on.
func TestCancelPastThePointOfNoReturn(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	release := make(chan struct{})
	f := l.world.Plan(faultUntil("gw-cloud", "StartRecovered", release))
	job, err := l.c.Operate(t.Context(), client.GroupTarget("app"), lifecycle.Failover, rest.OperationRequest{})
	if err != nil {
		t.Fatal(err)
	}
	l.until("the machines are being started", func() bool { return l.world.Struck(f) > 0 })
	if now, err := l.c.Job(t.Context(), job.ID); err != nil || len(now.AllowedActions) != 0 {
		t.Errorf("allowed %v, %v", now.AllowedActions, err)
	}
	_, err = l.c.JobAction(t.Context(), job.ID, "cancel")
	wantCode(t, err, problem.OperationNotAllowed)
	if p := problem.From(err); !strings.Contains(p.RecommendedAction, "undo") {
		t.Errorf("it recommends %q", p.RecommendedAction)
	}
	close(release)
	l.finish(job, nil)
	l.operate(lifecycle.Undo, rest.OperationRequest{})
	l.untilState("app", lifecycle.Protected)
}

// TestForcedDisableCannotStrandMachines: machines that run on a journal need its
// gateway, whatever is forced.
func TestForcedDisableCannotStrandMachines(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	l.operate(lifecycle.Failover, rest.OperationRequest{Mode: "planned"})
	l.cloud.Stop()
	l.until("the gateway is missed", func() bool { return !l.allowed(lifecycle.ChangePoint) })
	_, err := l.c.Operate(t.Context(), client.GroupTarget("app"), lifecycle.Disable, rest.OperationRequest{Force: true})
	wantCode(t, err, problem.GatewayUnreachable)
	l.startGateway(l.cloud)
	l.home.Stop()
	l.until("the gateway is missed", func() bool { return !l.allowed(lifecycle.Undo) })
	_, err = l.c.Operate(t.Context(), client.GroupTarget("app"), lifecycle.Disable, rest.OperationRequest{})
	wantCode(t, err, problem.GatewayUnreachable)
	dry, err := l.c.DryRun(t.Context(), client.GroupTarget("app"), lifecycle.Disable, rest.OperationRequest{Force: true})
	if err != nil || !strings.Contains(strings.Join(dry.Loses, "\n"), "no failback") || !strings.Contains(strings.Join(dry.Warnings, "\n"), "forced") {
		t.Errorf("dry run %+v, %v", dry, err)
	}
	l.operate(lifecycle.Disable, rest.OperationRequest{Force: true}, rest.JobSucceeded, rest.JobWarning)
	l.wantRunning(l.cloud, "vm1", 0)
}

// TestVerifyIsShownBeforeAFailover: the choices and the dry run say when the
// standby was last compared.
func TestVerifyIsShownBeforeAFailover(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	ask := func() (rest.Choices, string) {
		t.Helper()
		d, err := l.c.DryRun(t.Context(), client.GroupTarget("app"), lifecycle.Failover, rest.OperationRequest{Mode: "planned"})
		if err != nil {
			t.Fatal(err)
		}
		return l.choices(lifecycle.Failover), strings.Join(d.Warnings, "\n")
	}
	if c, text := ask(); c.Verified != nil || !strings.Contains(text, "never compared") {
		t.Errorf("before: %+v, %s", c.Verified, text)
	}
	job := l.operate(lifecycle.Verify, rest.OperationRequest{})
	if c, text := ask(); c.Verified == nil || c.Verified.Job != job.ID || strings.Contains(text, "never compared") {
		t.Errorf("after: %+v, %s", c.Verified, text)
	}
	l.operate(lifecycle.Failover, rest.OperationRequest{Mode: "planned"})
	l.operate(lifecycle.Commit, rest.OperationRequest{})
	l.reprotect(dr.Back)
	if c := l.choices(lifecycle.Failback); c.Verified != nil {
		t.Errorf("in the other direction: %+v", c.Verified)
	}
}
