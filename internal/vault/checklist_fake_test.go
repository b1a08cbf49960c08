package vault_test

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// row is one row of the checklist in docs/behaviour.md, shown on gateways that
// live in memory. Its guards are those without which it must fail.
type row struct {
	name   string // "S02_MissingParts"
	guards []lifecycle.GuardName
	run    func(*lab)
}

func checklist() []row { return slices.Concat(preconditionRows(), negativeRows()) }

func TestChecklist(t *testing.T) {
	t.Parallel()
	for _, r := range checklist() {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			r.run(newLab(t))
		})
	}
}

// trial is a test that may fail: its failure is the answer, not the end.
type trial struct {
	testing.TB
	mu       sync.Mutex
	failed   bool
	text     string
	cleanups []func()
}

func (t *trial) fail(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failed = true; t.text == "" {
		t.text = text
	}
}

func (t *trial) Errorf(format string, args ...any) { t.fail(fmt.Sprintf(format, args...)) }
func (t *trial) Error(args ...any)                 { t.fail(fmt.Sprint(args...)) }
func (t *trial) Fail()                             { t.fail("") }
func (t *trial) Fatal(args ...any)                 { t.fail(fmt.Sprint(args...)); runtime.Goexit() }
func (t *trial) FailNow()                          { t.fail(""); runtime.Goexit() }
func (t *trial) Cleanup(f func())                  { t.cleanups = append(t.cleanups, f) }
func (t *trial) Failed() bool                      { t.mu.Lock(); defer t.mu.Unlock(); return t.failed }

func (t *trial) Fatalf(format string, args ...any) {
	t.fail(fmt.Sprintf(format, args...))
	runtime.Goexit()
}

// fails runs a row against a vault with other guards, and says how it failed.
func (r row) fails(t *testing.T, guards map[lifecycle.GuardName]lifecycle.Guard) (failed bool, how string) {
	t.Helper()
	tr := &trial{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.run(newLabWith(tr, guards))
	}()
	<-done
	for _, f := range slices.Backward(tr.cleanups) {
		f()
	}
	return tr.failed, tr.text
}

// TestChecklistNeedsEveryGuard takes each guard of the life cycle out of the
// vault in turn: some row of the checklist must fail then.
func TestChecklistNeedsEveryGuard(t *testing.T) {
	t.Parallel()
	for name := range lifecycle.Guards() {
		t.Run(string(name), func(t *testing.T) {
			t.Parallel()
			fewer := lifecycle.Guards()
			delete(fewer, name)
			tried := 0
			for _, r := range checklist() {
				if !slices.Contains(r.guards, name) {
					continue
				}
				tried++
				if failed, how := r.fails(t, fewer); failed {
					t.Logf("%s fails without it: %s", r.name, how)
					return
				}
			}
			t.Errorf("no row fails without guard %s (%d tried)", name, tried)
		})
	}
}

// refuses asks for an operation that must be refused, by the API at once or by
// the job's first tasks, and demands that nothing has changed: no effect at any
// gateway, no other state. It returns the refusal.
func (l *lab) refuses(op lifecycle.Operation, req rest.OperationRequest, code problem.Code, says ...string) *problem.Problem {
	l.t.Helper()
	return l.refusesOn(client.GroupTarget("app"), op, req, code, says...)
}

func (l *lab) refusesOn(on client.Target, op lifecycle.Operation, req rest.OperationRequest, code problem.Code, says ...string) *problem.Problem {
	l.t.Helper()
	before := l.group()
	effects := len(l.world.Effects())
	job, err := l.c.Operate(l.t.Context(), on, op, req)
	if err == nil && !foundByAsking(code) {
		l.t.Fatalf("%s was taken on as job %s, want %s at once", op, job.ID, code)
	}
	if err == nil {
		job = l.finish(job, nil, rest.JobFailed)
		err = &job.Errors[0]
	}
	p := problem.From(err)
	if p.Code != code {
		l.t.Fatalf("%s: %v, want %s", op, err, code)
	}
	// A closed data port is tried by the job only.
	if _, dry := l.c.DryRun(l.t.Context(), on, op, req); code != problem.PathClosed && !problem.HasCode(dry, code) {
		l.t.Errorf("dry run of %s: %v, want %s", op, dry, code)
	}
	if p.RecommendedAction == "" {
		l.t.Errorf("%s is refused without a remedy: %+v", op, p)
	}
	for _, s := range says {
		if !strings.Contains(p.Detail, s) && !strings.Contains(p.RecommendedAction, s) {
			l.t.Errorf("%s is refused with %q and the remedy %q, which do not name %q", op, p.Detail, p.RecommendedAction, s)
		}
	}
	after := l.group()
	if after.State != before.State || after.Generation != before.Generation || after.Direction != before.Direction || after.ActiveSite != before.ActiveSite || after.Test != before.Test {
		l.t.Errorf("the refusal of %s changed the group from %s/%d/%s to %s/%d/%s", op, before.State, before.Generation, before.Direction, after.State, after.Generation, after.Direction)
	}
	if list := l.world.Effects(); len(list) != effects {
		l.t.Errorf("the refusal of %s had effects: %v", op, list[effects:])
	}
	return p
}

// foundByAsking: what the gateways find when they are asked refuses in the job's
// first tasks; all else at once.
func foundByAsking(code problem.Code) bool {
	return slices.Contains([]problem.Code{
		problem.WrongGateway, problem.PathClosed, problem.SiteUnreachable, problem.MasterTargetFull, problem.RetentionUnusable,
		problem.DatastoreUnusable, problem.NoRoom, problem.SnapshotsPresent, problem.CannotComeHome, problem.IdentityClash,
	}, code)
}

func (l *lab) group() rest.Group {
	l.t.Helper()
	g, err := l.c.Group(l.t.Context(), "app")
	if err != nil {
		l.t.Fatal(err)
	}
	return g
}

// failedOver protects the group and fails it over, not committed.
func (l *lab) failedOver() {
	l.t.Helper()
	l.protected()
	l.operate(lifecycle.Failover, rest.OperationRequest{Mode: "planned"})
	l.untilState("app", lifecycle.CommitPending)
}

// inCloud brings the group to the state in which it lives at the recovery site
// and can be reprotected.
func (l *lab) inCloud() {
	l.t.Helper()
	l.failedOver()
	l.until("commit allowed", func() bool { return l.allowed(lifecycle.Commit) })
	l.operate(lifecycle.Commit, rest.OperationRequest{})
	l.untilState("app", lifecycle.Committed)
	l.until("the machines are known to run", func() bool { return l.powered("cloud", "running") })
}

// powered reports whether the vault knows both machines to be in a state at a
// site.
func (l *lab) powered(at dr.SiteID, state string) bool {
	for _, name := range []dr.MachineName{"vm1", "vm2"} {
		m, err := l.c.Machine(l.t.Context(), at, name)
		if err != nil || string(m.State) != state {
			return false
		}
	}
	return true
}

// reprotected demands that a reprotect goes through now, with nothing else done.
func (l *lab) reprotected(req rest.OperationRequest) {
	l.t.Helper()
	l.operate(lifecycle.Reprotect, req)
	l.untilState("app", lifecycle.Protected)
}

// backInCloud is inCloud and reprotected: ready to fail back.
func (l *lab) backInCloud() {
	l.t.Helper()
	l.inCloud()
	l.reprotected(rest.OperationRequest{})
	l.until("failback allowed", func() bool { return l.allowed(lifecycle.Failback) })
}

func with(t rest.ReprotectTarget) rest.OperationRequest {
	return rest.OperationRequest{Reprotect: &rest.ReprotectRequest{ReprotectTarget: t}}
}
