package vault_test

import (
	"testing"

	"rebound/internal/lifecycle"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// TestRestartWhileACommandRuns stops and starts the vault in order, in this process,
// while a command runs at a gateway: the command is joined.
func TestRestartWhileACommandRuns(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	l.home.Write("vm1")
	release := make(chan struct{})
	f := l.world.Plan(faultUntil("gw-cloud", "Seal", release))
	job, err := l.c.Operate(t.Context(), client.GroupTarget("app"), lifecycle.Failover, rest.OperationRequest{Mode: "unplanned"})
	if err != nil {
		t.Fatal(err)
	}
	l.until("the seal runs", func() bool { return l.world.Struck(f) == 1 })
	l.stop()
	l.startVault()
	close(release)
	l.finish(job, nil)
	if n := l.world.Struck(f); n != 1 {
		t.Errorf("the command was begun %d times", n)
	}
	l.wantRunning(l.cloud, "vm1", 1)
}
