package vaultkill

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/orchestrator"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// leg is one operation of a trip.
type leg struct {
	op  lifecycle.Operation
	req rest.OperationRequest
	// fails: from this call of a site on the job fails; it is taken back.
	at    string // home or cloud
	fails string
	want  rest.JobState // default: succeeded
	// state is where the group is afterwards.
	state lifecycle.State
	// to is the target of a protection; default: cloud. start: the machines
	// at home were left off and are started first.
	to    dr.SiteID
	start bool
	// main legs are those of the short run.
	main bool
}

// trip is a way through every operation. Where an operation has tasks that only
// some states have, it comes more than once.
func trip() []leg {
	unplanned := rest.OperationRequest{Mode: "unplanned", ShutdownSource: "try"}
	return []leg{
		{op: lifecycle.Protect, state: lifecycle.Protected},
		{op: lifecycle.TestFailover, req: rest.OperationRequest{Network: "lab"}, state: lifecycle.Protected, main: true},
		{op: lifecycle.TestCleanup, req: rest.OperationRequest{Notes: "fine"}, state: lifecycle.Protected, main: true},
		{op: lifecycle.Failover, req: unplanned, state: lifecycle.CommitPending, main: true},
		{op: lifecycle.ChangePoint, req: rest.OperationRequest{Point: dr.Latest}, state: lifecycle.CommitPending, main: true},
		{op: lifecycle.Undo, state: lifecycle.Protected, main: true},
		{op: lifecycle.Failover, req: rest.OperationRequest{Mode: "planned"}, state: lifecycle.CommitPending},
		{op: lifecycle.Commit, state: lifecycle.Committed, main: true},
		{op: lifecycle.Reprotect, state: lifecycle.Protected, main: true},
		{op: lifecycle.Failback, req: rest.OperationRequest{Mode: "planned"}, state: lifecycle.CommitPending, main: true},
		{op: lifecycle.Commit, state: lifecycle.Committed, main: true},
		{op: lifecycle.Reprotect, state: lifecycle.Protected},
		{op: lifecycle.Pause, state: lifecycle.Paused},
		{op: lifecycle.Resume, state: lifecycle.Protected},
		{op: lifecycle.Resync, state: lifecycle.Protected},
		{op: lifecycle.Verify, state: lifecycle.Protected},
		{op: lifecycle.CreatePoint, req: rest.OperationRequest{Name: "before-the-release"}, state: lifecycle.Protected},
		// Failovers that fail before and after the generation is raised.
		{op: lifecycle.Failover, req: rest.OperationRequest{Mode: "planned"}, at: "home", fails: "Quiesce", want: rest.JobFailed, state: lifecycle.Protected},
		{op: lifecycle.Failover, req: unplanned, at: "cloud", fails: "StartRecovered", want: rest.JobFailed, state: lifecycle.FailoverFailed},
		{op: lifecycle.Failover, req: unplanned, state: lifecycle.CommitPending},
		{op: lifecycle.Commit, state: lifecycle.Committed},
		{op: lifecycle.Reprotect, at: "home", fails: "SetStandby", want: rest.JobFailed, state: lifecycle.Committed},
		{op: lifecycle.Reprotect, state: lifecycle.Protected},
		{op: lifecycle.Failback, req: rest.OperationRequest{Mode: "planned"}, at: "cloud", fails: "Quiesce", want: rest.JobFailed, state: lifecycle.Protected},
		{op: lifecycle.Failback, req: unplanned, at: "home", fails: "StartRecovered", want: rest.JobFailed, state: lifecycle.FailoverFailed},
		{op: lifecycle.Failback, req: unplanned, state: lifecycle.CommitPending},
		{op: lifecycle.Commit, state: lifecycle.Committed},
		{op: lifecycle.Reprotect, state: lifecycle.Protected},
		// The ends of protection, from each state that has tasks of its own.
		{op: lifecycle.Disable, state: lifecycle.Unprotected},
		{op: lifecycle.Protect, at: "cloud", fails: "SetStandby", want: rest.JobFailed, state: lifecycle.Unprotected},
		{op: lifecycle.Protect, state: lifecycle.Protected},
		{op: lifecycle.Failover, req: unplanned, at: "cloud", fails: "StartRecovered", want: rest.JobFailed, state: lifecycle.FailoverFailed},
		{op: lifecycle.Disable, state: lifecycle.Unprotected},
		{op: lifecycle.Protect, start: true, state: lifecycle.Protected},
		{op: lifecycle.Failover, req: unplanned, state: lifecycle.CommitPending},
		{op: lifecycle.CompleteMigration, state: lifecycle.Unprotected},
		{op: lifecycle.Protect, to: "home", state: lifecycle.Protected},
		{op: lifecycle.Failover, req: unplanned, state: lifecycle.CommitPending},
		{op: lifecycle.Disable, state: lifecycle.Unprotected},
	}
}

// result is what an operation did.
type result struct {
	State      lifecycle.State
	Job        rest.JobState
	Tasks      []string
	Generation dr.Generation
	Direction  dr.Direction
	Home       map[dr.MachineName]view
	Cloud      map[dr.MachineName]view
	Effects    []string
}

// String prints a result, one line a fact, so that two can be told apart.
func (r result) String() string {
	return fmt.Sprintf("state %s, job %s, generation %d, %s\ntasks %v\nhome  %v\ncloud %v\neffects\n  %s",
		r.State, r.Job, r.Generation, r.Direction, r.Tasks, r.Home, r.Cloud, strings.Join(r.Effects, "\n  "))
}

// table counts deaths by cell and moment.
type table map[orchestrator.Cell]map[string]int

func (tb table) add(op lifecycle.Operation, d dr.Direction, places []string) {
	for _, p := range places {
		task, moment, _ := strings.Cut(p, " ")
		c := orchestrator.Cell{Operation: op, Direction: d, Task: task}
		if !slices.Contains(orchestrator.Cells(), c) {
			c.Direction = ""
		}
		if tb[c] == nil {
			tb[c] = map[string]int{}
		}
		tb[c][moment]++
	}
}

// print prints the table and returns the cells that are empty among those of
// the wanted operations.
func (tb table) print(t *testing.T, ops []string) (empty []string) {
	t.Helper()
	var out strings.Builder
	deaths := 0
	fmt.Fprintf(&out, "%-30s %-24s %7s %7s %7s\n", "operation", "task", "before", "inside", "after")
	for _, c := range orchestrator.Cells() {
		op := opName(c.Operation, c.Direction)
		if !slices.Contains(ops, op) {
			continue
		}
		fmt.Fprintf(&out, "%-30s %-24s", op, c.Task)
		for _, m := range orchestrator.Moments() {
			n := tb[c][m]
			deaths += n
			fmt.Fprintf(&out, " %7d", n)
			if n == 0 {
				empty = append(empty, op+" "+c.Task+" "+m)
			}
		}
		out.WriteString("\n")
	}
	t.Logf("kill -9 of the vault, %d deaths:\n%s", deaths, out.String())
	return empty
}

func opName(op lifecycle.Operation, d dr.Direction) string {
	if d == "" {
		return string(op)
	}
	return string(op) + " (" + string(d) + ")"
}

// begin asks for the operation, as often as the vault dies over it.
func (l *lab) begin(g leg) {
	l.t.Helper()
	l.until(string(g.op)+" is allowed", func() bool {
		if g.op == lifecycle.Protect {
			_, err := l.group()
			return err != nil
		}
		return l.allowed(g.op)
	})
	if g.fails != "" {
		l.side(g.at).do(order{Do: "fail", Method: g.fails})
	}
	// An answer that the death of the vault took away is found by the
	// group's running job.
	if g.op == lifecycle.Protect {
		_, _ = l.c.Protect(l.t.Context(), g.protection())
		return
	}
	_, _ = l.c.Operate(l.t.Context(), client.GroupTarget(app), g.op, g.req)
}

// protection is the request of a leg that protects.
func (g leg) protection() rest.ProtectRequest {
	r := rest.ProtectRequest{Machines: members, Site: "home", To: "cloud", Group: app}
	if g.to == "home" {
		r.Site, r.To = "cloud", "home"
	}
	return r
}

func (l *lab) side(name string) *place {
	if name == "home" {
		return l.home
	}
	return l.cloud
}

// lastJob is the newest job, "" when there is none that is newer than before.
func (l *lab) lastJob(before dr.JobID) (rest.Job, bool) {
	jobs, err := l.c.Jobs(l.t.Context(), app)
	if err != nil || len(jobs) == 0 || jobs[0].ID == before {
		return rest.Job{}, false
	}
	return jobs[0], true
}

// travel runs one leg. With kill, the vault dies before, inside and after each
// task; each time the other binary takes over. It returns what the leg did and
// where the vault died.
func (l *lab) travel(g leg, kill bool) (result, []string, dr.Direction) {
	l.t.Helper()
	l.must(removeKilled(l.dir))
	l.restart("")
	l.connected()
	if g.start {
		for _, m := range members {
			l.must(l.c.StartMachine(l.t.Context(), "home", m))
		}
	}
	if g.op == lifecycle.Protect {
		l.listed(g.protection().Site)
	}
	l.effects() // what the leg before left running
	var before dr.JobID
	if j, ok := l.lastJob(""); ok {
		before = j.ID
	}
	direction := dr.Forward
	if gr, err := l.group(); err == nil {
		direction = gr.Direction
	}
	if kill {
		l.restart("*")
		l.connected()
	}
	l.begin(g)
	job := l.through(g, before, kill)
	if g.fails != "" {
		l.side(g.at).do(order{Do: "fail"})
	}
	r := l.outcome(g, job)
	places, err := os.ReadFile(filepath.Join(l.dir, killedFile))
	if err != nil && kill {
		l.t.Errorf("%s: the vault never died", g.op)
	}
	return r, strings.Split(strings.TrimSpace(string(places)), "\n"), direction
}

func removeKilled(dir string) error {
	err := os.Remove(filepath.Join(dir, killedFile))
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// restart ends the vault in order and starts the next one.
func (l *lab) restart(kill string) {
	l.t.Helper()
	l.stopVault()
	l.startVault(kill)
}

// through starts the vault again after each death until the job has ended and
// the vault survived its end.
func (l *lab) through(g leg, before dr.JobID, kill bool) rest.Job {
	l.t.Helper()
	deadline := time.Now().Add(90 * time.Second)
	for {
		if time.Now().After(deadline) {
			l.t.Fatalf("%s does not end; the vault died at\n%s\nand said\n%s", g.op, mustRead(filepath.Join(l.dir, killedFile)), lastLines(l.vault.log.String(), 60))
		}
		select {
		case end := <-l.vault.done:
			if !kill || !killed(end) {
				l.t.Fatalf("vault process ended: %v\n%s", end, l.vault.log)
			}
			l.startVault("*")
			continue
		case <-time.After(5 * time.Millisecond):
		}
		job, ok := l.lastJob(before)
		if !ok {
			// It may have died before it wrote the job down.
			if kill && len(l.vault.done) == 0 {
				l.askAgain(g)
			}
			continue
		}
		if job.State.Ended() && (!kill || bytes.Contains(mustRead(filepath.Join(l.dir, killedFile)), []byte("end after\n"))) {
			return job
		}
	}
}

// askAgain repeats a request whose answer got lost, once the vault answers.
func (l *lab) askAgain(g leg) {
	if g.op == lifecycle.Protect {
		_, _ = l.c.Protect(l.t.Context(), g.protection())
	} else if l.allowed(g.op) {
		_, _ = l.c.Operate(l.t.Context(), client.GroupTarget(app), g.op, g.req)
	}
}

func mustRead(path string) []byte {
	b, _ := os.ReadFile(path)
	return b
}

// outcome waits for the state after a leg and looks at everything.
func (l *lab) outcome(g leg, job rest.Job) result {
	l.t.Helper()
	want := g.want
	if want == "" {
		want = rest.JobSucceeded
	}
	if job.State != want && !(want == rest.JobSucceeded && job.State == rest.JobWarning) {
		l.t.Fatalf("%s is %s: %+v %+v", g.op, job.State, job.Errors, job.Tasks)
	}
	r := result{Job: job.State}
	for _, t := range job.Tasks {
		r.Tasks = append(r.Tasks, t.Name+" "+string(t.State))
	}
	if g.state == lifecycle.Unprotected {
		l.until("the group is gone", func() bool { _, err := l.group(); return err != nil })
		r.State = g.state
	} else {
		gr := l.untilState(g.state)
		r.State, r.Generation, r.Direction = gr.State, gr.Generation, gr.Direction
	}
	r.Effects = l.effects()
	r.Home, r.Cloud = l.home.machines(), l.cloud.machines()
	return r
}

// effects returns what the sites did and which commands the gateways ran since
// the last call, in no order of time.
func (l *lab) effects() []string {
	var all []string
	for _, s := range []*place{l.home, l.cloud} {
		for _, e := range s.do(order{Do: "effects"}).Effects {
			all = append(all, string(s.name)+": "+e)
		}
	}
	slices.Sort(all)
	return all
}

// matrix takes two worlds on the same trip, one undisturbed and one whose vault
// is killed, and demands that nobody could tell them apart.
func matrix(t *testing.T, all bool) {
	calm, rough := newLab(t, 0), newLab(t, 0)
	calm.addMachines()
	rough.addMachines()
	deaths := table{}
	var ops []string
	for i, g := range trip() {
		if !all && i > lastMain() {
			break
		}
		kill := all || g.main
		want, _, _ := calm.travel(g, false)
		got, places, dir := rough.travel(g, kill)
		if len(want.Effects) == 0 {
			t.Errorf("leg %d, %s: no effect was counted", i, g.op)
		}
		if got.String() != want.String() {
			t.Errorf("leg %d, %s: undisturbed\n%s\nkilled at each task\n%s", i, g.op, want, got)
		}
		if !kill {
			continue
		}
		deaths.add(g.op, dir, places)
		for _, d := range []dr.Direction{"", dir} {
			if name := opName(g.op, d); !slices.Contains(ops, name) {
				ops = append(ops, name)
			}
		}
	}
	if all {
		ops = nil
		for _, c := range orchestrator.Cells() {
			ops = append(ops, opName(c.Operation, c.Direction))
		}
	}
	empty := deaths.print(t, ops)
	if !all {
		// What only some states need is in the long run.
		empty = slices.DeleteFunc(empty, func(c string) bool {
			return strings.Contains(c, " clean-up ") || strings.HasPrefix(c, "failover discard-machines ") || strings.HasPrefix(c, "failback discard-machines ")
		})
	}
	if len(empty) > 0 {
		t.Errorf("empty cells:\n%s", strings.Join(empty, "\n"))
	}
}

func lastMain() int {
	last := 0
	for i, g := range trip() {
		if g.main {
			last = i
		}
	}
	return last
}

// TestVaultKilledAtEveryTask is the short run: the main operations.
func TestVaultKilledAtEveryTask(t *testing.T) { matrix(t, false) }

// TestVaultKilledAtEveryTaskOfAll is every operation; "make soak" runs it.
func TestVaultKilledAtEveryTaskOfAll(t *testing.T) {
	if os.Getenv("REBOUND_SOAK") == "" {
		t.Skip("the long run: REBOUND_SOAK=1, or make soak")
	}
	matrix(t, true)
}
