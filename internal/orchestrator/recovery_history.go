package orchestrator

import (
	"context"
	"errors"
	"slices"
	"time"

	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// The keys of a task's result that history reads; the machine's name follows.
const (
	startedKey = "startedAt/"
	healthyKey = "healthyAt/"
	proofKey   = "proof/"
)

// runOf makes the history's row of a plan's job from the jobs of its groups.
func runOf(tx *store.Tx, j store.Job) (rest.PlanRun, error) {
	out := rest.PlanRun{
		Plan: j.Plan, Run: j.Run, Job: j.ID, Operation: j.Operation, Direction: j.Direction, Mode: modeOf(j), By: j.By,
		State: j.State, Started: j.Created, Ended: j.Ended, WaitedSeconds: waited(j), Machines: []rest.PlanRunMachine{},
	}
	children := map[dr.GroupID]store.Job{}
	skipped := map[dr.GroupID]bool{}
	for _, c := range j.Spec.Children {
		if c.Job == "" {
			skipped[c.Group] = true
			continue
		}
		child, err := tx.Job(c.Job)
		if err != nil {
			return out, err
		}
		children[c.Group] = child
	}
	for _, m := range j.Spec.Members {
		row := rest.PlanRunMachine{Item: m.Item, Group: m.Group, BootGroup: m.Boot, State: "pending"}
		child, ok := children[m.Group]
		switch {
		case ok:
			machineRun(&row, j, child, m.Machine)
		case skipped[m.Group]:
			row.State = "skipped"
		}
		out.Machines = append(out.Machines, row)
	}
	if out.Mode != "" {
		out.RTOSeconds, out.RPOSeconds = worst(out.Machines)
	}
	return out, nil
}

// waited is how long a job waited for people.
func waited(j store.Job) float64 {
	var sum time.Duration
	for _, t := range j.Tasks {
		if base(t.Name) != planAct || len(t.Decisions) == 0 || t.Started.IsZero() {
			continue
		}
		if last := t.Decisions[len(t.Decisions)-1]; last.At.After(t.Started) {
			sum += last.At.Sub(t.Started)
		}
	}
	return sum.Seconds()
}

// machineRun reads what became of one machine from its group's job.
func machineRun(row *rest.PlanRunMachine, plan, child store.Job, name dr.MachineName) {
	for _, t := range child.Tasks {
		if s := timeIn(t, startedKey+string(name)); !s.IsZero() {
			row.Started, row.State = s, "started"
		}
		if s := timeIn(t, healthyKey+string(name)); !s.IsZero() {
			row.Healthy, row.State = s, "healthy"
			rto := s.Sub(plan.Created).Seconds()
			row.RTOSeconds = &rto
			row.Proof, _ = t.Result[proofKey+string(name)].(string)
		}
		if b := base(t.Name); b == "resolve-point" || b == "resolve-test" {
			lossOf(row, plan, child, t)
		}
	}
	if !child.State.Ended() {
		return
	}
	switch {
	case child.State == rest.JobSucceeded || child.State == rest.JobWarning:
		if modeOf(plan) == "" {
			row.State = "done"
		}
	case row.State != "healthy":
		row.State, row.Problem = "failed", firstProblem(child)
	}
}

func timeIn(t rest.Task, key string) time.Time {
	text, _ := t.Result[key].(string)
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return time.Time{}
	}
	return at
}

// lossOf is what a machine lost: what lies after its point in the received
// stream, and where the source was not drained also what it wrote between the
// newest received moment and the start of the run.
func lossOf(row *rest.PlanRunMachine, plan, child store.Job, t rest.Task) {
	text, _ := t.Result["time"].(string)
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return
	}
	row.Point = at
	row.Position, _ = t.Result["position"].(string)
	lost, _ := t.Result["lostSeconds"].(float64)
	drained := slices.ContainsFunc(child.Tasks, func(t rest.Task) bool {
		_, ok := t.Result["durable"]
		return t.Name == "drain" && ok
	})
	if !drained {
		lost = max(lost, plan.Created.Sub(at).Seconds(), 0)
	}
	row.LostSeconds = &lost
}

// worst is the longest time and the greatest loss; the time is nil while a
// machine is not proven to run.
func worst(list []rest.PlanRunMachine) (rto, rpo *float64) {
	all := true
	for _, m := range list {
		if m.State == "skipped" {
			continue
		}
		if m.RTOSeconds == nil {
			all = false
		} else if rto == nil || *m.RTOSeconds > *rto {
			rto = m.RTOSeconds
		}
		if m.LostSeconds != nil && (rpo == nil || *m.LostSeconds > *rpo) {
			rpo = m.LostSeconds
		}
	}
	if !all {
		rto = nil
	}
	return rto, rpo
}

// PlanRuns is the history of a plan, newest first.
func (o *Orchestrator) PlanRuns(ctx context.Context, id dr.PlanID) ([]rest.PlanRun, error) {
	var out []rest.PlanRun
	err := o.store.View(ctx, func(tx *store.Tx) error {
		runs, err := tx.Runs(id)
		if err != nil {
			return err
		}
		if len(runs) == 0 {
			if _, err := tx.Plan(id); errors.Is(err, store.ErrNotFound) {
				return problem.New(problem.UnknownPlan, "there is no plan %q", id)
			}
		}
		for _, r := range runs {
			if r, err = freshRun(tx, r); err != nil {
				return err
			}
			out = append(out, r)
		}
		return nil
	})
	return out, err
}

// freshRun brings the row of a run that goes on up to date.
func freshRun(tx *store.Tx, r rest.PlanRun) (rest.PlanRun, error) {
	if r.State.Ended() && !r.Ended.IsZero() {
		return r, nil
	}
	j, err := tx.Job(r.Job)
	if err != nil {
		return r, err
	}
	return runOf(tx, j)
}

// PlanReport is everything about one run of a plan; run 0 means the newest.
func (o *Orchestrator) PlanReport(ctx context.Context, id dr.PlanID, run int) (rest.PlanReport, error) {
	out := rest.PlanReport{Made: o.now().UTC(), Jobs: []rest.Job{}}
	err := o.store.View(ctx, func(tx *store.Tx) error {
		runs, err := tx.Runs(id)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(runs, func(r rest.PlanRun) bool { return run == 0 || r.Run == run })
		if i < 0 {
			return problem.New(problem.UnknownPlan, "plan %q has no run %d", id, run)
		}
		j, err := tx.Job(runs[i].Job)
		if err != nil {
			return err
		}
		if out.Run, err = runOf(tx, j); err != nil {
			return err
		}
		out.Document = j.Spec.Document
		if out.Job, err = o.presentPlan(tx, j); err != nil {
			return err
		}
		for _, c := range j.Spec.Children {
			if c.Job == "" {
				continue
			}
			child, err := tx.Job(c.Job)
			if err != nil {
				return err
			}
			out.Jobs = append(out.Jobs, o.present(child))
		}
		return nil
	})
	return out, err
}

// presentPlan is present, with the steps of the groups' jobs below the plan's
// tasks.
func (o *Orchestrator) presentPlan(tx *store.Tx, j store.Job) (rest.Job, error) {
	if j.Spec == nil {
		return o.present(j), nil
	}
	for _, c := range j.Spec.Children {
		if c.Job == "" {
			continue
		}
		child, err := tx.Job(c.Job)
		if err != nil {
			return rest.Job{}, err
		}
		for _, t := range child.Tasks {
			i := slices.IndexFunc(j.Tasks, func(p rest.Task) bool { return p.Name == placeOf(j, t) })
			if i < 0 {
				i = len(j.Tasks) - 1
			}
			j.Tasks[i].Steps = append(j.Tasks[i].Steps, rest.Step{
				Job: child.ID, Group: child.Group, Task: t.Name, Title: t.Title, State: t.State, Started: t.Started, Ended: t.Ended, Problem: t.Problem,
			})
		}
	}
	return o.present(j), nil
}

// placeOf is the task of a plan below which a step of a group's job is shown.
func placeOf(plan store.Job, t rest.Task) string {
	known, _ := taskNamed(catalogue(), t.Name)
	switch base(t.Name) {
	case shutDownTask:
		return at(planShutDown, known.part)
	case "start-machines", "watch-boot", "start-test", "watch-test":
		return at(planBoot, known.part)
	case "prerequisites", "check-point", "resolve-test":
		return "plan-begin"
	}
	if plan.Operation == lifecycle.Failover || plan.Operation == lifecycle.Failback {
		return planFailOver
	}
	return "plan-end"
}

// moveTarget puts what a job worked on into the state in which it leaves it.
func (o *Orchestrator) moveTarget(tx *store.Tx, job store.Job, outcome string, now time.Time) error {
	if job.Spec != nil {
		return o.movePlan(tx, job)
	}
	return o.moveGroup(tx, job, outcome, now)
}

// loadGroup reads the group that a task works on; the job of a plan has none.
func (r *run) loadGroup(tx *store.Tx) error {
	if r.job.Spec != nil {
		return nil
	}
	var err error
	if r.group, err = tx.Group(r.job.Group); err != nil {
		return err
	}
	r.policy, err = tx.PolicyOf(&r.group)
	return err
}
