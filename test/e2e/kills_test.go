package e2e

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/lab/demo"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// captureProcess is the name of the captures in a strike; the others are the
// world's names.
const captureProcess = "capture"

// strike is one SIGKILL: of whom, how long after the operation's request, and
// how long the process stays away. A capture is started again by its gateway.
type strike struct {
	victim      string
	after, down time.Duration
}

// killer counts what was killed where.
type killer struct {
	r *rig
	// counts by step, then by process.
	counts   map[string]map[string]int
	restarts int
}

// spans is about how long each operation takes from its request until the
// machinery rests again; a strike falls somewhere in it.
var spans = map[lifecycle.Operation]time.Duration{
	lifecycle.Protect: 4 * time.Second, lifecycle.Failover: 7 * time.Second, lifecycle.Failback: 7 * time.Second,
	lifecycle.ChangePoint: 7 * time.Second, lifecycle.Commit: 2 * time.Second, lifecycle.Reprotect: 5 * time.Second,
}

// draw chooses a strike against one of the victims; nil without victims.
func (k *killer) draw(op lifecycle.Operation, victims []string) *strike {
	if len(victims) == 0 {
		return nil
	}
	rng := k.r.rng
	early := rng.Float64() // most steps are short and come first
	return &strike{
		victim: victims[rng.IntN(len(victims))],
		after:  time.Duration(early * early * float64(spans[op])),
		down:   time.Duration(rng.IntN(1500)) * time.Millisecond,
	}
}

// launch carries the strike out beside the operation; the result is nil when
// the process is back.
func (k *killer) launch(op lifecycle.Operation, s *strike) <-chan error {
	done := make(chan error, 1)
	if s == nil {
		done <- nil
		return done
	}
	k.r.t.Logf("%s: %s is killed after %v and stays away for %v", op, s.victim, s.after.Round(time.Millisecond), s.down)
	go func() {
		k.r.pause(s.after)
		done <- k.execute(string(op), s)
	}()
	return done
}

func (k *killer) execute(step string, s *strike) error {
	if k.counts[step] == nil {
		k.counts[step] = map[string]int{}
	}
	if s.victim == captureProcess {
		pids := append(k.r.w.Captures(demo.HomeSite), k.r.w.Captures(demo.CloudSite)...)
		if len(pids) == 0 {
			k.counts[step]["no capture was there"]++
			return nil
		}
		k.counts[step][s.victim] += len(pids)
		return demo.KillAll(pids...)
	}
	if err := k.r.w.Kill(s.victim); err != nil {
		return err
	}
	k.counts[step][s.victim]++
	k.r.pause(s.down)
	return k.r.w.Restart(k.r.ctx, s.victim)
}

// operate runs an operation to its end while a process is killed. Nothing is
// mended by hand: a request that got no answer is sent again, a job that
// failed is restarted through the API.
func (k *killer) operate(op lifecycle.Operation, req rest.OperationRequest, s *strike) {
	k.r.t.Helper()
	struck := k.launch(op, s)
	if err := k.finish(op, req); err != nil {
		k.r.t.Errorf("%s: %v", op, err)
	}
	if err := <-struck; err != nil {
		k.r.t.Errorf("%s: strike: %v", op, err)
	}
	if k.r.t.Failed() {
		k.r.t.FailNow()
	}
}

// finish sends the request until there is a job and follows it to success.
func (k *killer) finish(op lifecycle.Operation, req rest.OperationRequest) error {
	var id dr.JobID
	if err := k.r.within(patience, func() error {
		job, err := k.request(op, req)
		if err == nil {
			id = job.ID
			return nil
		}
		// The first answer may have been lost: then the job is the group's.
		if problem.HasCode(err, problem.OperationNotAllowed) || problem.HasCode(err, problem.AlreadyProtected) || problem.HasCode(err, problem.OperationRunning) {
			if found, ok := k.jobOf(op); ok {
				id = found
				return nil
			}
		}
		return err
	}); err != nil {
		return err
	}
	for range 6 {
		job, err := k.r.w.Client.WaitJob(k.r.ctx, id, nil)
		if err != nil {
			return err
		}
		if job.State == rest.JobSucceeded || job.State == rest.JobWarning {
			return nil
		}
		k.restarts++
		k.r.t.Logf("%s ended %s: %v; it is restarted", op, job.State, job.Errors)
		if err := k.r.within(patience, func() error {
			job, err := k.r.w.Client.JobAction(k.r.ctx, id, "restart")
			if err == nil {
				id = job.ID
			}
			return err
		}); err != nil {
			return fmt.Errorf("restart after %v: %w", job.Errors, err)
		}
	}
	return fmt.Errorf("job %s fails again and again", id)
}

func (k *killer) request(op lifecycle.Operation, req rest.OperationRequest) (rest.Job, error) {
	if op == lifecycle.Protect {
		return k.r.w.Client.Protect(k.r.ctx, k.r.protectRequest())
	}
	return k.r.w.Client.Operate(k.r.ctx, client.GroupTarget(group), op, req)
}

// jobOf finds the newest job of an operation on the group.
func (k *killer) jobOf(op lifecycle.Operation) (dr.JobID, bool) {
	jobs, err := k.r.w.Client.Jobs(k.r.ctx, group)
	if err != nil || len(jobs) == 0 || jobs[0].Operation != op {
		return "", false
	}
	return jobs[0].ID, true
}

// report prints the counts.
func (k *killer) report() {
	total := map[string]int{}
	for _, step := range slices.Sorted(func(yield func(string) bool) {
		for s := range k.counts {
			if !yield(s) {
				return
			}
		}
	}) {
		var parts []string
		for p, n := range k.counts[step] {
			parts = append(parts, fmt.Sprintf("%s %d", p, n))
			total[p] += n
		}
		slices.Sort(parts)
		k.r.t.Logf("kills in %s: %s", step, strings.Join(parts, ", "))
	}
	k.r.t.Logf("kills in all: %v; jobs restarted through the API: %d", total, k.restarts)
}

// TestRandomKills plays the trip while its processes are killed at random
// moments: once around, or for REBOUND_E2E_SECONDS.
func TestRandomKills(t *testing.T) {
	limit := 6 * time.Minute
	long := time.Duration(0)
	if s := os.Getenv("REBOUND_E2E_SECONDS"); s != "" {
		n, err := strconv.Atoi(s)
		must(t, err)
		long = time.Duration(n) * time.Second
		limit = long + 8*time.Minute
	}
	began := time.Now()
	r := newRig(t, options{guests: []string{"web", "db"}, limit: limit})
	r.start()
	k := &killer{r: r, counts: map[string]map[string]int{}}
	defer k.report()
	if long == 0 {
		r.protect()
	} else {
		k.operate(lifecycle.Protect, rest.OperationRequest{}, k.draw(lifecycle.Protect, everybody))
		r.untilState(lifecycle.Protected)
	}
	trips := 0
	for trips == 0 || time.Since(began) < long {
		k.trip(trips, long > 0)
		trips++
	}
	t.Logf("%d trips", trips)
}

var everybody = []string{demo.VaultProcess, string(demo.HomeGW), string(demo.CloudGW), captureProcess}

// trip goes there and back again. The long form changes the point too.
func (k *killer) trip(n int, long bool) {
	r := k.r
	if k.r.rng.IntN(2) == 0 {
		k.planned(lifecycle.Failover)
	} else {
		k.unplanned()
	}
	if long {
		k.changePoint()
	}
	k.commit()
	k.reprotect(demo.CloudSite)
	k.planned(lifecycle.Failback)
	k.commit()
	k.reprotect(demo.HomeSite)
	r.verify()
	r.t.Logf("trip %d is complete", n+1)
}

// planned loses nothing, whoever is killed.
func (k *killer) planned(op lifecycle.Operation) {
	at := time.Now()
	k.operate(op, rest.OperationRequest{Mode: "planned", Point: dr.Latest}, k.draw(op, everybody))
	k.r.judge("planned "+string(op), at, time.Now(), -1)
	k.r.untilState(lifecycle.CommitPending)
}

// unplanned loses the home site first, at once.
func (k *killer) unplanned() {
	r := k.r
	rpo := r.shownRPO()
	cut := time.Now()
	must(r.t, demo.KillAll(append(append(r.w.Guests(demo.HomeSite), r.w.Captures(demo.HomeSite)...), r.w.PID(string(demo.HomeGW)))...))
	r.w.Collector.NewWorld()
	k.operate(lifecycle.Failover, rest.OperationRequest{Mode: "unplanned", Point: dr.Latest, ShutdownSource: "skip"},
		k.draw(lifecycle.Failover, []string{demo.VaultProcess, string(demo.CloudGW)}))
	r.judge("unplanned failover", cut, cut, rpo)
	must(r.t, r.w.Restart(r.ctx, string(demo.HomeGW)))
	r.untilState(lifecycle.CommitPending)
}

// changePoint goes to the newest point again: what the recovered machines
// wrote meanwhile is gone, what the source had written is not.
func (k *killer) changePoint() {
	r := k.r
	before := r.ledgersOf()
	r.w.Collector.NewWorld()
	at := time.Now()
	k.operate(lifecycle.ChangePoint, rest.OperationRequest{Point: dr.Latest}, k.draw(lifecycle.ChangePoint, everybody[:3]))
	r.newBoots(at)
	found := r.ledgersOf()
	for name, l := range found {
		if l.State.Count != before[name].State.Count || !l.State.Sound() {
			r.t.Errorf("after change-point %s has %d records, after the failover it had %d: %s", name, l.State.Count, before[name].State.Count, l.State.Problem)
		}
	}
	r.judgeOrder("change-point", found)
	r.working()
	r.untilState(lifecycle.CommitPending)
}

// commit must leave the guests running as they are.
func (k *killer) commit() {
	k.operate(lifecycle.Commit, rest.OperationRequest{}, k.draw(lifecycle.Commit, everybody[:3]))
	k.r.untilState(lifecycle.Committed)
	k.r.working()
}

// reprotect ends protected, with the guests running as they are.
func (k *killer) reprotect(active dr.SiteID) {
	k.operate(lifecycle.Reprotect, rest.OperationRequest{}, k.draw(lifecycle.Reprotect, everybody))
	g := k.r.untilState(lifecycle.Protected)
	if g.ActiveSite != active {
		k.r.t.Errorf("after the reprotect %s is active, want %s", g.ActiveSite, active)
	}
	k.r.working()
}
