package vault_test

import (
	"testing"

	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// TestPower stops and starts a machine by hand; a standby cannot be started.
func TestPower(t *testing.T) {
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

// TestNoFalseLabel: a point that froze nothing is not called app-consistent.
func TestNoFalseLabel(t *testing.T) {
	l := newLab(t)
	l.protected()
	_, err := l.c.Operate(t.Context(), client.GroupTarget("app"), lifecycle.CreatePoint, rest.OperationRequest{Name: "x", AppConsistent: true})
	wantCode(t, err, problem.InvalidRequest)
}
