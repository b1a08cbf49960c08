package qemu

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/qga/qgatest"
)

// guardEnv makes a test binary the guard process of a freeze.
const guardEnv = "REBOUND_TEST_THAW_GUARD"

// TestGuardProcess is the guard that TestGuard starts; by itself it does nothing.
func TestGuardProcess(t *testing.T) {
	if os.Getenv(guardEnv) == "" {
		return
	}
	flags := flag.NewFlagSet("guard", flag.ContinueOnError)
	socket := flags.String("socket", "", "")
	within := flags.Duration("within", 0, "")
	must(t, flags.Parse(flag.Args()))
	must(t, GuardThaw(t.Context(), os.Stdin, *socket, *within))
}

// agentMachine is a machine of a driver whose agent is the test's.
func agentMachine(t *testing.T, change func(*Config)) (*Driver, *qgatest.Guest) {
	t.Helper()
	needQEMU(t)
	dir, err := os.MkdirTemp("", "rbfrz")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	cfg := Config{Dir: filepath.Join(dir, "s"), Accel: "tcg"}
	if change != nil {
		change(&cfg)
	}
	d, err := New(cfg)
	must(t, err)
	t.Cleanup(func() { _ = d.Close() })
	must(t, d.Create(testContext(t), tiny("web", 1)))
	return d, qgatest.Serve(t, filepath.Join(d.MachineDir("web"), agentSocket))
}

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func isFrozen(g *qgatest.Guest) bool {
	now, _ := g.Frozen()
	return now
}

// over reports whether nothing thaws the guest any more.
func over(d *Driver) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.freezes["web"] == nil
}

func TestFreeze(t *testing.T) {
	d, guest := agentMachine(t, nil)
	ctx := testContext(t)
	must(t, d.Freeze(ctx, "web", time.Minute))
	if is, err := d.Frozen(ctx, "web"); err != nil || !is || !isFrozen(guest) {
		t.Fatalf("frozen: %v, %v", is, err)
	}
	if err := d.Freeze(ctx, "web", time.Minute); !problem.HasCode(err, problem.GuestNotFrozen) {
		t.Errorf("frozen twice: %v", err)
	}
	if n, err := d.Thaw(ctx, "web"); err != nil || n != 2 {
		t.Fatalf("thawed %d, %v", n, err)
	}
	must(t, d.Freeze(ctx, "web", time.Minute))
	guest.ThawByItself()
	if n, err := d.Thaw(ctx, "web"); err != nil || n != 0 {
		t.Errorf("thawed a guest that had thawed by itself: %d, %v", n, err)
	}
	guest.Lock()
	guest.Refuse = "the hook failed"
	guest.Unlock()
	if err := d.Freeze(ctx, "web", time.Minute); !problem.HasCode(err, problem.GuestNotFrozen) || !strings.Contains(err.Error(), "the hook failed") {
		t.Errorf("refused freeze: %v", err)
	}
	until(t, "a refused freeze is over", func() bool { return over(d) })
	guest.Lock()
	guest.Refuse, guest.FileSystems = "", 0
	guest.Unlock()
	if err := d.Freeze(ctx, "web", time.Minute); !problem.HasCode(err, problem.GuestNotFrozen) {
		t.Errorf("freeze of nothing: %v", err)
	}
	if err := d.Freeze(ctx, "nobody", time.Minute); !problem.HasCode(err, problem.UnknownMachine) {
		t.Errorf("unknown machine: %v", err)
	}
}

// TestFreezeEnds: the caller forgets; the driver does not.
func TestFreezeEnds(t *testing.T) {
	d, guest := agentMachine(t, nil)
	must(t, d.Freeze(testContext(t), "web", 50*time.Millisecond))
	until(t, "the guest is thawed when its time is over", func() bool { return !isFrozen(guest) })
}

// TestLateFreeze: a freeze that comes when nobody waits for it any more (a hook
// took its time) is thawed at once.
func TestLateFreeze(t *testing.T) {
	d, guest := agentMachine(t, nil)
	hook := make(chan struct{})
	thaws := make(chan struct{}, 100)
	guest.Lock()
	guest.OnFreeze = func() { <-hook }
	guest.OnThaw = func() { thaws <- struct{}{} }
	guest.Unlock()
	begun := time.Now()
	if err := d.Freeze(testContext(t), "web", 100*time.Millisecond); !problem.HasCode(err, problem.GuestNotFrozen) {
		t.Fatalf("late freeze: %v", err)
	}
	if took := time.Since(begun); took > thawTime {
		t.Errorf("a hanging agent held its caller up for %s", took)
	}
	close(hook)
	<-thaws
	until(t, "the late freeze is thawed", func() bool {
		now, times := guest.Frozen()
		return times == 1 && !now
	})
}

// TestGuard: what thaws a guest whose gateway dies is another process.
func TestGuard(t *testing.T) {
	t.Setenv(guardEnv, "1")
	d, guest := agentMachine(t, func(c *Config) {
		c.ThawGuard = []string{os.Args[0], "-test.run=^TestGuardProcess$", "--"}
	})
	ctx := testContext(t)
	must(t, d.Freeze(ctx, "web", time.Hour))
	f := d.freezes[dr.MachineName("web")]
	must(t, f.alive.Close()) // the kernel does so when a process dies
	until(t, "the guard thaws the guest", func() bool { return !isFrozen(guest) })
	must(t, f.guard.Wait())
	d.endFreeze("web", f)

	thaws := 0
	guest.Lock()
	guest.OnThaw = func() { thaws++ }
	guest.Unlock()
	must(t, d.Freeze(ctx, "web", time.Hour))
	f = d.freezes[dr.MachineName("web")]
	if n, err := d.Thaw(ctx, "web"); err != nil || n != 2 {
		t.Fatalf("thawed %d, %v", n, err)
	}
	until(t, "the guard goes", func() bool { return f.guard.Process.Signal(syscall.Signal(0)) != nil })
	guest.Lock()
	defer guest.Unlock()
	if thaws != 1 {
		t.Errorf("thawed %d times", thaws)
	}
}

func TestGuardDeadline(t *testing.T) {
	d, guest := agentMachine(t, nil)
	must(t, d.Freeze(testContext(t), "web", time.Hour))
	r, w, err := os.Pipe()
	must(t, err)
	defer w.Close()
	defer r.Close()
	must(t, GuardThaw(context.Background(), r, filepath.Join(d.MachineDir("web"), agentSocket), 20*time.Millisecond))
	if isFrozen(guest) {
		t.Error("frozen after the guard's deadline")
	}
}
