package cli

import (
	"context"
	"strings"
	"testing"

	"rebound/internal/control/controltest"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
)

// TestProgressInPlainLines: no terminal, so each task is a line of its own, in
// order, with its time, on the error stream; the job on the output stream.
func TestProgressInPlainLines(t *testing.T) {
	newLab(t).protected()
	dry := read[rest.DryRun](t, "failover", "shop", "--planned", "--dry-run")
	r := want(t, exitOK, "failover", "shop", "--planned", "--yes")
	if strings.ContainsAny(r.err, "\r\x1b") {
		t.Errorf("control characters without a terminal: %q", r.err)
	}
	at := 0
	for _, title := range dry.Tasks {
		i := strings.Index(r.err[at:], title)
		if i < 0 {
			t.Fatalf("task %q is missing or out of order in:\n%s", title, r.err)
		}
		at += i
	}
	if n := strings.Count(r.err, "  done "); n != len(dry.Tasks) {
		t.Errorf("%d tasks done, want %d:\n%s", n, len(dry.Tasks), r.err)
	}
	contains(t, r.out, "Operation", "failover", "succeeded")
	if q := want(t, exitOK, "commit", "shop", "--yes", "-o", "json"); q.err != "" {
		t.Errorf("progress beside JSON: %q", q.err)
	}
}

// TestFailedJob: exit 1, with the problem of the task that failed; a restart
// goes on from there.
func TestFailedJob(t *testing.T) {
	l := newLab(t).protected()
	fault := l.world.Plan(&controltest.Fault{Gateway: "gw-home", Command: "CreatePoint", Times: 1, Err: problem.New(problem.NoRoom, "the volume is full")})
	f := refused(t, exitFailed, "NoRoom", "point", "create", "shop", "--name", "n")
	contains(t, f.Error.Detail, "the volume is full")
	if l.world.Struck(fault) != 1 {
		t.Error("the fault did not strike")
	}
	job := read[[]rest.Job](t, "job", "list")[0]
	if job.State != rest.JobFailed {
		t.Fatalf("job: %+v", job)
	}
	id := string(job.ID)
	r := want(t, exitFailed, "job", "watch", id)
	contains(t, r.err, "NoRoom", "Try: ", "create-point of shop failed", id)
	contains(t, r.out, "Allowed", "restart")
	refused(t, exitRefused, "OperationNotAllowed", "job", "resume", id)
	if again := read[rest.Job](t, "job", "restart", id); again.State != rest.JobSucceeded || again.Attempt != 2 {
		t.Errorf("restarted: %+v", again)
	}
}

// TestCancelledJobWaitsForAPerson: exit 6 for who waits for the job, 0 for who
// asked for the cancellation; resume goes on.
func TestCancelledJobWaitsForAPerson(t *testing.T) {
	l := newLab(t).protected()
	gate := make(chan struct{})
	l.world.Plan(&controltest.Fault{Gateway: "gw-home", Command: "StopMachine", Until: gate})
	job := read[rest.Job](t, "failover", "shop", "--unplanned", "--yes", "--no-wait")
	id := string(job.ID)
	l.until("the shutdown", func() bool {
		j := read[rest.Job](t, "job", "show", id)
		return len(j.Tasks) > 0 && j.Tasks[len(j.Tasks)-1].State != rest.JobSucceeded && j.State == rest.JobRunning
	})
	if j := read[rest.Job](t, "job", "cancel", id, "--wait=false"); !j.CancelRequested {
		t.Errorf("job: %+v", j)
	}
	close(gate)
	l.world.Clear()
	contains(t, want(t, exitWaiting, "job", "watch", id).err, "waits for a person", "rebound job resume "+id)
	l.state("Protected")
	if j := read[rest.Job](t, "job", "resume", id); j.State != rest.JobSucceeded {
		t.Errorf("resumed: %+v", j)
	}
	l.state("CommitPending")
	want(t, exitRefused, "job", "cancel", id)
}

// held starts an operation whose job cannot end before release is called.
func (l *lab) held() (id string, release func()) {
	l.t.Helper()
	gate := make(chan struct{})
	l.world.Plan(&controltest.Fault{Gateway: "gw-home", Command: "Verify", Until: gate})
	j := read[rest.Job](l.t, "verify", "shop", "--no-wait")
	if j.State.Ended() {
		l.t.Fatalf("the job has ended: %+v", j)
	}
	return string(j.ID), func() { close(gate) }
}

func TestNoWaitTimeoutAndWatch(t *testing.T) {
	l := newLab(t).protected()
	id, release := l.held()
	r := want(t, exitFailed, "job", "watch", id, "--timeout", "50ms")
	contains(t, r.err, "goes on", "rebound job watch "+id)
	ctx, cancel := context.WithCancel(t.Context())
	var out, errOut lockedBuffer
	done := make(chan int)
	go func() {
		done <- Run(ctx, []string{"job", "watch", id}, Streams{In: strings.NewReader(""), Out: &out, Err: &errOut})
	}()
	l.until("a line of progress", func() bool { return strings.Contains(errOut.String(), "running") })
	cancel()
	if code := <-done; code != exitFailed {
		t.Errorf("interrupted: exit %d", code)
	}
	contains(t, errOut.String(), "goes on")
	release()
	want(t, exitOK, "job", "watch", id)
}
