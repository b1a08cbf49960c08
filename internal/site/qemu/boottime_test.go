package qemu

import (
	"os/exec"
	"testing"
	"time"
)

// TestStartedAt looks at a process whose start is known.
func TestStartedAt(t *testing.T) {
	before := time.Now().Add(-2 * time.Second) // a tick, and the cut to the second
	cmd := exec.CommandContext(t.Context(), "sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	after := time.Now().Add(time.Second)
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	at, err := startedAt(cmd.Process.Pid)
	if err != nil || at.Before(before) || at.After(after) {
		t.Errorf("started at %v, %v; want within [%v, %v]", at, err, before, after)
	}
	if _, err := startedAt(1 << 30); err == nil {
		t.Error("a process that is not there has a start")
	}
}
