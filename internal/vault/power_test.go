package vault_test

import (
	"testing"

	"rebound/internal/control/controltest"
	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// TestPower stops and starts a machine by hand; a standby cannot be started.
func TestPower(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	ctx := t.Context()
	if err := l.c.StopMachine(ctx, "home", "vm1", rest.StopMachine{}); err != nil {
		t.Fatal(err)
	}
	if err := l.c.StartMachine(ctx, "home", "vm1"); err != nil {
		t.Fatal(err)
	}
	l.wantRunning(l.home, "vm1", 0)
	wantCode(t, l.c.StartMachine(ctx, "cloud", "vm1"), problem.MachineInUse)
	wantCode(t, l.c.StartMachine(ctx, "mars", "vm1"), problem.UnknownSite)
	wantCode(t, l.c.StartMachine(ctx, "home", "nobody"), problem.UnknownMachine)
	wantCode(t, l.c.StopMachine(ctx, "home", "vm1", rest.StopMachine{Mode: "gently"}), problem.InvalidRequest)
}

// TestAppConsistentPoint on request: the label is the gateway's to give, and the
// job fails when it was not given.
func TestAppConsistentPoint(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	want := rest.OperationRequest{Name: "x", AppConsistent: true}
	l.operate(lifecycle.CreatePoint, want)
	pts, err := l.c.Points(t.Context(), client.GroupTarget("app"), client.PointFilter{Kind: dr.AppConsistent})
	if err != nil || len(pts.Points) != 1 || pts.Points[0].Name != "x" {
		t.Errorf("points %+v, %v", pts, err)
	}
	l.world.Plan(&controltest.Fault{Gateway: "gw-home", Command: "CreatePoint", Err: problem.New(problem.GuestNotFrozen, "machine vm1: no agent answers"), Times: 1})
	job := l.operate(lifecycle.CreatePoint, want, rest.JobFailed)
	if len(job.Errors) == 0 || job.Errors[0].Code != problem.GuestNotFrozen {
		t.Errorf("job %+v", job)
	}
}
