package vault_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/site"
	"rebound/internal/vault"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

const (
	childDir  = "REBOUND_TEST_VAULT_DIR"
	childAddr = "REBOUND_TEST_VAULT_ADDR"
	childKill = "REBOUND_TEST_VAULT_KILL"
)

// TestMain lets the test binary be a vault process of its own, which kills
// itself, as kill -9 does, at every moment of childKill that it meets first.
func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		os.Exit(childVault(dir))
	}
	os.Exit(m.Run())
}

func childVault(dir string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	moments := strings.Split(os.Getenv(childKill), ",")
	err := vault.Serve(ctx, vault.Config{
		Dir: dir, Listen: os.Getenv(childAddr), Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), Version: "child",
		Ready: func(net.Addr) { fmt.Println("ready") },
		Hook: func(_ dr.JobID, task, moment string) {
			for _, m := range moments {
				if m == moment {
					killOnce(dir, task+" "+moment)
				}
			}
		},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// killOnce kills this process unless it did so here before.
func killOnce(dir, where string) {
	path := filepath.Join(dir, "killed")
	seen, _ := os.ReadFile(path)
	if bytes.Contains(seen, []byte(where+"\n")) {
		return
	}
	if err := os.WriteFile(path, append(seen, []byte(where+"\n")...), 0o600); err != nil {
		panic(err)
	}
	syscall.Kill(os.Getpid(), syscall.SIGKILL) //nolint:errcheck // there is no after
	select {}
}

// child is one life of a vault process.
type child struct {
	cmd  *exec.Cmd
	done chan error
}

// otherBinary copies the test binary and adds a byte, so that its hash is
// another one: a newer release that finishes what an older one began.
func otherBinary(t *testing.T, n int) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), fmt.Sprintf("vault-%d", n))
	if err := os.WriteFile(path, append(b, byte(n)), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func (l *lab) spawn(binary, moments string) *child {
	l.t.Helper()
	cmd := exec.Command(binary)
	cmd.Env = append(os.Environ(), childDir+"="+l.dir, childAddr+"="+l.addr, childKill+"="+moments)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	c := &child{cmd: cmd, done: make(chan error, 1)}
	ready := make(chan bool, 1)
	go func() {
		buf := make([]byte, 64)
		n, _ := out.Read(buf)
		ready <- bytes.Contains(buf[:n], []byte("ready"))
		c.done <- cmd.Wait()
	}()
	// A process that kills itself before it is ready has done its part.
	if !<-ready {
		if err := <-c.done; !killed(err) {
			l.t.Fatalf("vault process: %v\n%s", err, errs.String())
		}
		c.done <- syscall.ESRCH
	}
	return c
}

func killed(err error) bool {
	ee, ok := err.(*exec.ExitError)
	if !ok {
		return err == syscall.ESRCH
	}
	ws, ok := ee.Sys().(syscall.WaitStatus)
	return ok && ws.Signaled() && ws.Signal() == syscall.SIGKILL
}

// throughKills starts an operation and starts the vault again, each time as
// the other binary, until the job has ended. It returns how often it died.
func (l *lab) throughKills(op lifecycle.Operation, req rest.OperationRequest, bins [2]string, moments string) int {
	l.t.Helper()
	if err := os.RemoveAll(filepath.Join(l.dir, "killed")); err != nil {
		l.t.Fatal(err)
	}
	c := l.spawn(bins[0], moments)
	l.until(string(op)+" allowed", func() bool {
		g, err := l.c.Group(l.t.Context(), "app")
		if err != nil {
			return false
		}
		for _, s := range g.AllowedOperations {
			if s.Name == op {
				return s.Allowed
			}
		}
		return false
	})
	var id dr.JobID
	if job, err := l.c.Operate(l.t.Context(), client.GroupTarget("app"), op, req); err == nil {
		id = job.ID
	}
	deaths := 0
	for deadline := time.Now().Add(60 * time.Second); ; {
		if time.Now().After(deadline) {
			l.t.Fatalf("%s does not end, %d deaths", op, deaths)
		}
		select {
		case err := <-c.done:
			if !killed(err) {
				l.t.Fatalf("vault process ended: %v", err)
			}
			deaths++
			c = l.spawn(bins[deaths%2], moments)
			continue
		case <-time.After(20 * time.Millisecond):
		}
		if id == "" { // it died while it answered
			if g, err := l.c.Group(l.t.Context(), "app"); err == nil {
				id = g.LastJob
			}
			continue
		}
		job, err := l.c.Job(l.t.Context(), id)
		if err != nil || !job.State.Ended() {
			continue
		}
		if job.Operation != op || job.State != rest.JobSucceeded && job.State != rest.JobWarning {
			l.t.Fatalf("job %s is %s: %+v", job.Operation, job.State, job.Errors)
		}
		c.cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have died
		<-c.done
		return deaths
	}
}

// TestKillInsideEveryTask kills a real vault process, as kill -9 does, before,
// inside (after the effect, before it is recorded) and after each task of a
// failover, and inside each of a commit and a reprotect; two binaries with different hashes take turns. Each
// job ends as if nothing had happened, and nothing is done twice.
func TestKillInsideEveryTask(t *testing.T) {
	l := newLab(t)
	l.protected()
	l.home.Write("vm1")
	l.until("content at the standby", func() bool { return l.allowed(lifecycle.Failover) })
	l.stop()
	bins := [2]string{otherBinary(t, 1), otherBinary(t, 2)}
	count := func(what, who string, want int) {
		t.Helper()
		if n := l.world.Count(what, who); n != want {
			t.Errorf("%s of %s happened %d times, want %d", what, who, n, want)
		}
	}

	deaths := l.throughKills(lifecycle.Failover, rest.OperationRequest{Mode: "planned"}, bins, "before,inside,after")
	t.Logf("failover: %d deaths", deaths)
	if deaths != 30 {
		t.Errorf("the vault died %d times, want before, inside and after each of 10 tasks", deaths)
	}
	for _, vm := range []string{"vm1", "vm2"} {
		count("StopMachine", vm, 1)
		count("StartRecovered", vm, 1)
	}
	count("Seal", "app", 1)
	l.wantRunning(l.cloud, "vm1", 1)

	deaths = l.throughKills(lifecycle.Commit, rest.OperationRequest{}, bins, "inside")
	t.Logf("commit: %d deaths", deaths)
	count("CommitRecovered", "app", 1)

	deaths = l.throughKills(lifecycle.Reprotect, rest.OperationRequest{}, bins, "inside")
	t.Logf("reprotect: %d deaths", deaths)
	count("CreateJournal", "app", 2)

	l.startVault()
	g := l.untilState("app", lifecycle.Protected)
	if g.Generation != 2 || g.Direction != dr.Back {
		t.Errorf("generation %d, %s", g.Generation, g.Direction)
	}
	if _, state, _ := l.home.Content("vm1"); state != site.Off {
		t.Errorf("the home machine is %q", state)
	}
}

// TestRestartWhileACommandRuns stops and starts the vault in order, in this process,
// while a command runs at a gateway: the command is joined.
func TestRestartWhileACommandRuns(t *testing.T) {
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
