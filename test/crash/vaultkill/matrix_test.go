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

// matrix takes two worlds on each trip, one undisturbed and one whose vault is
// killed, and demands that nobody could tell them apart.
func matrix(t *testing.T, trips []trip, tb *table) {
	cells := allCells()
	for _, tr := range trips {
		t.Run(tr.name, func(t *testing.T) {
			t.Parallel()
			calm, rough := newLab(t, 0), newLab(t, 0)
			for _, l := range []*lab{calm, rough} {
				l.addMachines()
			}
			for i, g := range tr.legs {
				want, _, _ := calm.travel(g, false)
				got, jobs, dir := rough.travel(g, true)
				if len(want.Effects) == 0 && !g.cancel && g.reject == "" {
					t.Errorf("leg %d, %s: no effect was counted", i, g.op)
				}
				if got.String() != want.String() {
					t.Errorf("leg %d, %s: undisturbed\n%s\nkilled at each task\n%s", i, g.op, want, got)
				}
				places := rough.places()
				if len(g.kill) > 0 && len(places) == 0 {
					t.Errorf("leg %d, %s: the vault never died", i, g.op)
				}
				tb.add(cells, g, dir, jobs, places)
			}
		})
	}
}

// TestVaultKilledAtEveryTask is the short run: the main operations, at each task
// that they have there.
func TestVaultKilledAtEveryTask(t *testing.T) {
	t.Parallel()
	tb := newTable()
	done := t.Run("trips", func(t *testing.T) { matrix(t, mainTrips(), tb) })
	if empty := tb.print(t, func(c orchestrator.Cell) bool { return tb.met[c] }); done && len(empty) > 0 {
		t.Errorf("empty cells:\n%s", strings.Join(empty, "\n"))
	}
}

// TestVaultKilledAtEveryTaskOfAll is every task of every operation in every
// state; "make soak" runs it.
func TestVaultKilledAtEveryTaskOfAll(t *testing.T) {
	if os.Getenv("REBOUND_SOAK") == "" {
		t.Skip("the long run: REBOUND_SOAK=1, or make soak")
	}
	t.Parallel()
	tb := newTable()
	done := t.Run("trips", func(t *testing.T) { matrix(t, trips(), tb) })
	if empty := tb.print(t, func(orchestrator.Cell) bool { return true }); done && len(empty) > 0 {
		t.Errorf("empty cells:\n%s", strings.Join(empty, "\n"))
	}
}

// result is what an operation did.
type result struct {
	State      lifecycle.State
	Jobs       []string
	Generation dr.Generation
	Direction  dr.Direction
	Home       map[dr.MachineName]view
	Cloud      map[dr.MachineName]view
	Effects    []string
}

// String prints a result, one line a fact, so that two can be told apart.
func (r result) String() string {
	return fmt.Sprintf("state %s, generation %d, %s\njobs\n  %s\nhome  %v\ncloud %v\neffects\n  %s",
		r.State, r.Generation, r.Direction, strings.Join(r.Jobs, "\n  "), r.Home, r.Cloud, strings.Join(r.Effects, "\n  "))
}

// travel runs one leg. With kill, the vault dies before, inside and after each
// task that the leg names; each time the other binary takes over. It returns
// what the leg did, its jobs, and the direction before.
func (l *lab) travel(g leg, kill bool) (result, []rest.Job, dr.Direction) {
	l.t.Helper()
	l.must(os.RemoveAll(filepath.Join(l.dir, killedFile)))
	if g.start {
		for _, m := range members {
			l.must(l.c.StartMachine(l.t.Context(), "home", m))
		}
	}
	if g.op == lifecycle.Protect {
		l.listed(g.protection().Site)
	}
	if g.plan {
		l.havePlan()
	}
	l.ready(g)
	l.effects() // what the leg before left running
	before := l.lastJob(g)
	direction := dr.Forward
	if gr, err := l.group(); err == nil {
		direction = gr.Direction
	}
	if g.fails != "" {
		l.side(g.at).do(order{Do: "fail", Method: g.fails})
	}
	var places []string
	if kill {
		places = g.kill
	}
	if g.cancel {
		l.arm("hold plan after")
	} else {
		l.arm(places...)
	}
	// An answer that the death of the vault took away is found by the
	// newest job.
	_ = l.ask(g)
	if g.cancel {
		l.cancelHeld(g, before)
		l.arm(places...)
	}
	jobs := l.through(g, before, kill)
	l.arm()
	if g.fails != "" {
		l.side(g.at).do(order{Do: "fail"})
	}
	return l.outcome(g, jobs), jobs, direction
}

// places are where the vault has died on this leg.
func (l *lab) places() []string {
	return strings.FieldsFunc(string(mustRead(filepath.Join(l.dir, killedFile))), func(r rune) bool { return r == '\n' })
}

// ready waits until the leg's operation may begin.
func (l *lab) ready(g leg) {
	l.t.Helper()
	l.until(string(g.op)+" is allowed", func() bool {
		switch {
		case g.plan:
			return l.planAllowed(g.op)
		case g.op == lifecycle.Protect:
			_, err := l.group()
			return err != nil
		}
		return l.allowed(g.op)
	})
}

// ask requests the operation.
func (l *lab) ask(g leg) error {
	var err error
	switch {
	case g.plan:
		_, err = l.c.Operate(l.t.Context(), client.PlanTarget(l.doc.ID), g.op, g.req)
	case g.op == lifecycle.Protect:
		_, err = l.c.Protect(l.t.Context(), g.protection())
	default:
		_, err = l.c.Operate(l.t.Context(), client.GroupTarget(app), g.op, g.req)
	}
	return err
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

// lastJob is the newest job of the leg's group or plan, "" when there is none
// or the vault does not answer.
func (l *lab) lastJob(g leg) dr.JobID {
	if g.plan {
		p, _ := l.c.Plan(l.t.Context(), l.doc.ID)
		return p.LastJob
	}
	jobs, err := l.c.Jobs(l.t.Context(), app)
	if err != nil || len(jobs) == 0 {
		return ""
	}
	return jobs[0].ID
}

// through starts the vault again after each death until the jobs have ended and
// the vault survived their end.
func (l *lab) through(g leg, before dr.JobID, kill bool) []rest.Job {
	l.t.Helper()
	deadline := time.Now().Add(3 * time.Minute)
	for {
		if time.Now().After(deadline) {
			l.t.Fatalf("%s does not end; the vault died at\n%s\nand said\n%s", g.op, strings.Join(l.places(), "\n"), lastLines(l.vault.log.String(), 60))
		}
		select {
		case end := <-l.vault.done:
			if !kill || !killed(end) {
				l.t.Fatalf("vault process ended: %v\n%s", end, l.vault.log)
			}
			l.startVault()
			continue
		case <-time.After(15 * time.Millisecond):
		}
		id := l.lastJob(g)
		if id == "" {
			continue
		}
		if id == before {
			_ = l.ask(g) // the vault may have died before it wrote the job down
			continue
		}
		if jobs := l.jobsOf(id); len(jobs) > 0 && l.over(g, jobs, kill) {
			return jobs
		}
	}
}

// jobsOf are a job and those of its plan's groups; nil while the vault is away.
func (l *lab) jobsOf(id dr.JobID) []rest.Job {
	j, err := l.c.Job(l.t.Context(), id)
	if err != nil {
		return nil
	}
	jobs := []rest.Job{j}
	if j.Plan == "" {
		return jobs
	}
	parts, err := l.c.Jobs(l.t.Context(), app)
	if err != nil {
		return nil
	}
	for _, p := range parts {
		if p.Parent == id {
			if p, err = l.c.Job(l.t.Context(), p.ID); err != nil {
				return nil
			}
			jobs = append(jobs, p)
		}
	}
	return jobs
}

// over answers what the jobs wait for, and reports whether all have ended and
// the vault has died at the last place of each.
func (l *lab) over(g leg, jobs []rest.Job, kill bool) bool {
	l.t.Helper()
	if jobs[0].State == rest.JobWaiting {
		l.answer(g, jobs[0], kill)
		return false
	}
	died := mustRead(filepath.Join(l.dir, killedFile))
	for _, j := range jobs {
		if !j.State.Ended() {
			return false
		}
		if kill && g.dies("end") && !bytes.Contains(died, []byte(string(j.ID)+" end after\n")) {
			return false
		}
	}
	return true
}

func mustRead(path string) []byte {
	b, _ := os.ReadFile(path)
	return b
}

// outcome waits for the state after a leg and looks at everything.
func (l *lab) outcome(g leg, jobs []rest.Job) result {
	l.t.Helper()
	want := g.want
	if want == "" {
		want = rest.JobSucceeded
	}
	if job := jobs[0]; job.State != want && !(want == rest.JobSucceeded && job.State == rest.JobWarning) {
		l.t.Fatalf("%s is %s: %+v %+v", g.op, job.State, job.Errors, job.Tasks)
	}
	var r result
	for _, j := range jobs {
		r.Jobs = append(r.Jobs, fmt.Sprintf("%s %s", kindOf(j), j.State))
		for _, t := range j.Tasks {
			r.Jobs = append(r.Jobs, fmt.Sprintf("  %s %s %d", t.Name, t.State, len(t.Decisions)))
		}
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

// effects returns what the sites did, which commands the gateways ran and what
// the plan's script wrote since the last call, in no order of time.
func (l *lab) effects() []string {
	var all []string
	for _, s := range []*place{l.home, l.cloud} {
		for _, e := range s.do(order{Do: "effects"}).Effects {
			all = append(all, string(s.name)+": "+e)
		}
	}
	lines := strings.TrimSpace(string(mustRead(l.lines())))
	if lines != "" {
		l.must(os.Remove(l.lines()))
		for line := range strings.Lines(lines) {
			all = append(all, "script: "+strings.TrimSpace(line))
		}
	}
	slices.Sort(all)
	return all
}
