package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// groupPrefix names a replication group where an item is expected.
const groupPrefix = "group/"

// PlanOperations are the operations that a recovery plan has.
func PlanOperations() []lifecycle.Operation {
	return []lifecycle.Operation{
		lifecycle.Failover, lifecycle.Failback, lifecycle.ChangePoint, lifecycle.Undo, lifecycle.Commit,
		lifecycle.Reprotect, lifecycle.TestFailover, lifecycle.TestCleanup,
	}
}

// PlanRequest asks for an operation on a plan.
type PlanRequest struct {
	Operation lifecycle.Operation
	Plan      dr.PlanID
	Request   rest.OperationRequest
	By        string
}

// fate is what an operation does to one replication group of a plan.
type fate struct {
	group   store.Group
	request rest.OperationRequest
	// skipped says why nothing has to be done.
	skipped string
}

// specOf resolves a plan's document to machines and groups. Errors are
// InvalidPlan and name what is wrong.
func (o *Orchestrator) specOf(tx *store.Tx, doc rest.Plan) (*store.PlanSpec, error) {
	spec := &store.PlanSpec{Document: doc}
	seen := map[dr.ItemID]int{}
	var home, recovery dr.SiteID
	for i, pg := range doc.Groups {
		for _, name := range pg.Items {
			g, items, err := itemsNamed(tx, name)
			if err != nil {
				return nil, err
			}
			if home == "" {
				home, recovery = g.Home, g.Recovery
			}
			if g.Home != home || g.Recovery != recovery {
				return nil, problem.New(problem.InvalidPlan, "%s goes from %s to %s, others of the plan from %s to %s: a plan has one pair of sites", name, g.Home, g.Recovery, home, recovery)
			}
			for _, m := range g.Members {
				if !slices.Contains(items, m.Item) {
					continue
				}
				if at := seen[m.Item]; at > 0 {
					return nil, problem.New(problem.InvalidPlan, "%s is in boot group %d and in boot group %d", m.Item, at, i+1)
				}
				seen[m.Item] = i + 1
				spec.Members = append(spec.Members, store.PlanMember{Item: m.Item, Machine: m.Machine, Group: g.ID, Boot: i + 1})
			}
		}
	}
	if n := len(spec.Members); n == 0 || n > 100 {
		return nil, problem.New(problem.InvalidPlan, "a plan has 1 to 100 machines, not %d", n)
	}
	return spec, wholeGroups(tx, spec, seen)
}

func itemsNamed(tx *store.Tx, name string) (store.Group, []dr.ItemID, error) {
	if id, ok := strings.CutPrefix(name, groupPrefix); ok {
		g, err := tx.Group(dr.GroupID(id))
		if errors.Is(err, store.ErrNotFound) {
			return g, nil, problem.New(problem.InvalidPlan, "there is no replication group %q", id)
		}
		return g, g.Items(), err
	}
	g, err := tx.GroupOfItem(dr.ItemID(name))
	if errors.Is(err, store.ErrNotFound) {
		return g, nil, problem.New(problem.InvalidPlan, "there is no replicated item %q", name)
	}
	return g, []dr.ItemID{dr.ItemID(name)}, err
}

// wholeGroups demands all members of each replication group: they share one
// order of writes and are failed over together.
func wholeGroups(tx *store.Tx, spec *store.PlanSpec, seen map[dr.ItemID]int) error {
	for _, id := range spec.Groups() {
		g, err := tx.Group(id)
		if err != nil {
			return err
		}
		for _, m := range g.Members {
			if seen[m.Item] == 0 {
				return problem.New(problem.InvalidPlan, "%s belongs to the replication group %s, which is failed over as a whole: add it to a boot group", m.Item, id)
			}
		}
	}
	return nil
}

// fates decides for every group of a plan what an operation does, or refuses
// the whole operation and names each group that stands in its way.
func (o *Orchestrator) fates(tx *store.Tx, spec *store.PlanSpec, op lifecycle.Operation, req rest.OperationRequest) ([]fate, error) {
	var out []fate
	var refusals []*problem.Problem
	left := 0
	for _, id := range spec.Groups() {
		f := fate{}
		var err error
		if f.group, err = tx.Group(id); err != nil {
			return nil, err
		}
		if f.request, err = childRequest(req, spec, id); err != nil {
			return nil, err
		}
		if f.skipped = alreadyThere(op, &f.group); f.skipped == "" {
			left++
			s := StartRequest{Operation: op, Group: id, Request: f.request}
			facts, err := o.factsFor(tx, &f.group, s)
			if err != nil {
				return nil, err
			}
			err = errors.Join(checkRequest(s), o.rules.Check(op, facts))
			if p, ok := errors.AsType[*problem.Problem](err); ok {
				refusals = append(refusals, named(p, &f.group))
			}
		}
		out = append(out, f)
	}
	if len(refusals) > 0 {
		return nil, together(refusals)
	}
	if left == 0 {
		p := problem.New(problem.OperationNotAllowed, "%s: nothing is left to do: %s", op, out[0].skipped)
		p.RecommendedAction = "Look at the plan: 'rebound plan show'."
		return nil, p
	}
	return out, nil
}

// named says which machines a refusal is about.
func named(p *problem.Problem, g *store.Group) *problem.Problem {
	c := *p.Plain()
	items := make([]string, len(g.Members))
	for i, m := range g.Members {
		items[i] = string(m.Item)
	}
	c.Detail = fmt.Sprintf("%s: %s", strings.Join(items, ", "), c.Detail)
	return &c
}

// together is one refusal made of several.
func together(list []*problem.Problem) *problem.Problem {
	first := *list[0]
	text := make([]string, len(list))
	for i, p := range list {
		text[i] = p.Detail
	}
	first.Detail = strings.Join(text, "; ")
	return &first
}

// alreadyThere says why an operation has nothing to do with a group: its
// machines are where the plan wants them.
func alreadyThere(op lifecycle.Operation, g *store.Group) string {
	if g.Running != "" {
		return ""
	}
	replicating := []lifecycle.State{
		lifecycle.InitialSync, lifecycle.WaitingForFirstPoint, lifecycle.Protected, lifecycle.Tracking, lifecycle.Resynchronising, lifecycle.Paused,
	}
	up := g.State != lifecycle.FailoverFailed
	switch op {
	case lifecycle.Failover:
		if up && g.Active == g.Recovery {
			return fmt.Sprintf("its machines run at %s already", g.Recovery)
		}
	case lifecycle.Failback:
		if up && g.Active == g.Home {
			return fmt.Sprintf("its machines run at %s already", g.Home)
		}
	case lifecycle.Commit, lifecycle.Undo:
		if slices.Contains(replicating, g.State) || g.State == lifecycle.Committed {
			return fmt.Sprintf("no failover of it waits for a commit: it is %s", g.State)
		}
	case lifecycle.Reprotect:
		if slices.Contains(replicating, g.State) {
			return fmt.Sprintf("it is %s already", g.State)
		}
	case lifecycle.TestFailover:
		if g.Test == lifecycle.CleanupPending {
			return "its test machines run already"
		}
	case lifecycle.TestCleanup:
		if g.Test == lifecycle.NoTest {
			return "it has no test machines"
		}
	}
	return ""
}

// checkPlanRequest refuses what a plan cannot be asked.
func checkPlanRequest(spec *store.PlanSpec, op lifecycle.Operation, req rest.OperationRequest) error {
	if op == lifecycle.ChangePoint {
		p := problem.New(problem.OperationNotAllowed, "change-point: a plan has no point of its own")
		p.RecommendedAction = "Change the point of single items or groups: 'rebound change-point NAME --point P'."
		return p
	}
	if !slices.Contains(PlanOperations(), op) {
		return problem.New(problem.InvalidRequest, "a plan has no operation %q", op)
	}
	counts := map[dr.GroupID]int{}
	known := map[string]bool{}
	for _, m := range spec.Members {
		counts[m.Group]++
		known[string(m.Item)], known[groupPrefix+string(m.Group)] = true, true
	}
	points := []dr.PointSelector{req.Point}
	for k, v := range req.Values {
		if !known[k] {
			return problem.New(problem.InvalidRequest, "values are given for %q, which is not in the plan", k)
		}
		points = append(points, v.Point)
	}
	for _, p := range points {
		if err := checkPlanPoint(p, counts); err != nil {
			return err
		}
	}
	return nil
}

func checkPlanPoint(p dr.PointSelector, members map[dr.GroupID]int) error {
	switch p {
	case "", dr.Latest, dr.LatestProcessed, dr.LatestApp:
		return nil
	case dr.LatestMultiVM, dr.LatestMultiVMApp:
		for _, n := range members {
			if n > 1 {
				return nil
			}
		}
		return problem.New(problem.PlanPointNotAllowed, "%q is for plans with a replication group of several machines, and this plan has none", p)
	}
	return problem.New(problem.PlanPointNotAllowed, "%q", p)
}

// StartPlan begins an operation on a plan and returns its job; when the same
// one is at work already, that job, and joined is true. What is refused changes
// nothing.
func (o *Orchestrator) StartPlan(ctx context.Context, s PlanRequest) (job rest.Job, joined bool, err error) {
	var j store.Job
	err = o.store.Update(ctx, func(tx *store.Tx) error {
		p, err := tx.Plan(s.Plan)
		if errors.Is(err, store.ErrNotFound) {
			return problem.New(problem.UnknownPlan, "there is no plan %q", s.Plan)
		}
		if err != nil {
			return err
		}
		if p.Running != "" {
			if j, err = tx.Job(p.Running); err != nil {
				return err
			}
			if joined = j.Operation == s.Operation; joined {
				return nil
			}
			return problem.New(problem.OperationRunning, "job %s (%s) is at work on plan %s", j.ID, j.Operation, p.ID)
		}
		spec, fates, err := o.planFates(tx, p.Plan, s.Operation, s.Request)
		if err != nil {
			return err
		}
		j, err = o.insertPlanJob(tx, p, spec, fates, s)
		return err
	})
	if err != nil {
		return rest.Job{}, false, err
	}
	if joined {
		job, err = o.Job(ctx, j.ID)
		return job, true, err
	}
	return o.submitted(ctx, j)
}

// planFates checks an operation on a plan against everything that is known.
func (o *Orchestrator) planFates(tx *store.Tx, doc rest.Plan, op lifecycle.Operation, req rest.OperationRequest) (*store.PlanSpec, []fate, error) {
	spec, err := o.specOf(tx, doc)
	if err != nil {
		return nil, nil, err
	}
	if err := checkPlanRequest(spec, op, req); err != nil {
		return nil, nil, err
	}
	fates, err := o.fates(tx, spec, op, req)
	return spec, fates, err
}

// planJob makes the job of a plan without its rows.
func (o *Orchestrator) planJob(p store.Plan, spec *store.PlanSpec, fates []fate, s PlanRequest) store.Job {
	j := store.Job{Job: rest.Job{
		ID: dr.JobID(uuid.NewString()), Operation: s.Operation, Plan: p.ID, State: rest.JobPending, Attempt: 1,
		By: s.By, Created: o.now().UTC(), Request: &s.Request,
	}, Spec: spec}
	for _, m := range spec.Members {
		j.Items = append(j.Items, m.Item)
	}
	i := slices.IndexFunc(fates, func(f fate) bool { return f.skipped == "" })
	j.Direction = fates[max(0, i)].group.Direction
	return j
}

func (o *Orchestrator) insertPlanJob(tx *store.Tx, p store.Plan, spec *store.PlanSpec, fates []fate, s PlanRequest) (store.Job, error) {
	j := o.planJob(p, spec, fates, s)
	var err error
	if j.Run, err = tx.NextRun(p.ID); err != nil {
		return j, err
	}
	if err := tx.InsertJob(j); err != nil {
		return j, err
	}
	if err := o.insertTasks(tx, j); err != nil {
		return j, err
	}
	p.Running, p.LastJob, p.LastRun = j.ID, j.ID, j.Run
	if err := tx.PutPlan(p); err != nil {
		return j, err
	}
	run, err := runOf(tx, j)
	if err != nil {
		return j, err
	}
	return j, tx.PutRun(run)
}

func (o *Orchestrator) insertTasks(tx *store.Tx, j store.Job) error {
	p, err := planFor(j)
	if err != nil {
		return err
	}
	for i, t := range p.tasks {
		if err := tx.PutTask(j.ID, i, rest.Task{Name: t.name, Title: t.title, State: rest.JobPending}); err != nil {
			return err
		}
	}
	return nil
}

// PlanDryRun says what an operation on a plan would do, lose and delete.
func (o *Orchestrator) PlanDryRun(ctx context.Context, s PlanRequest) (rest.DryRun, error) {
	out := rest.DryRun{Operation: s.Operation, Target: string(s.Plan), Warnings: []string{}, Deletes: []string{}, Keeps: []string{}}
	var fates []fate
	err := o.store.View(ctx, func(tx *store.Tx) error {
		p, err := tx.Plan(s.Plan)
		if errors.Is(err, store.ErrNotFound) {
			return problem.New(problem.UnknownPlan, "there is no plan %q", s.Plan)
		}
		if err != nil {
			return err
		}
		if p.Running != "" {
			return problem.New(problem.OperationRunning, "job %s is at work on plan %s", p.Running, p.ID)
		}
		var spec *store.PlanSpec
		if spec, fates, err = o.planFates(tx, p.Plan, s.Operation, s.Request); err != nil {
			return err
		}
		return o.titles(o.planJob(p, spec, fates, s), &out)
	})
	if err != nil {
		return out, err
	}
	for _, f := range fates {
		if f.skipped != "" {
			out.Warnings = append(out.Warnings, fmt.Sprintf("%s is left alone: %s", f.group.ID, f.skipped))
			continue
		}
		d, err := o.DryRun(ctx, StartRequest{Operation: s.Operation, Group: f.group.ID, Request: f.request, By: s.By})
		if err != nil {
			return out, err
		}
		out.Parts = append(out.Parts, d)
		out.Deletes, out.Keeps = append(out.Deletes, d.Deletes...), append(out.Keeps, d.Keeps...)
		for _, w := range d.Warnings {
			out.Warnings = append(out.Warnings, fmt.Sprintf("%s: %s", f.group.ID, w))
		}
	}
	return out, nil
}

// PlanAllowed says of each operation whether the plan may be asked for it now.
func (o *Orchestrator) PlanAllowed(tx *store.Tx, p store.Plan) ([]lifecycle.OperationStatus, error) {
	var out []lifecycle.OperationStatus
	for _, op := range PlanOperations() {
		s := lifecycle.OperationStatus{Name: op, Allowed: true}
		_, _, err := o.planFates(tx, p.Plan, op, rest.OperationRequest{})
		if err == nil && p.Running != "" {
			err = problem.New(problem.OperationRunning, "Job %s is at work on the plan.", p.Running)
		}
		if err != nil {
			pr, ok := errors.AsType[*problem.Problem](err)
			if !ok {
				return nil, err
			}
			s.Allowed, s.Code, s.Reason, s.Remedy = false, pr.Code, pr.Detail, pr.RecommendedAction
		}
		out = append(out, s)
	}
	return out, nil
}

// reopenPlan opens the ended job of a plan for another attempt: what succeeded
// stays done, and only what failed or was not reached is done.
func (o *Orchestrator) reopenPlan(tx *store.Tx, j *store.Job, want rest.JobState, verb string) error {
	if j.State != want {
		return problem.New(problem.OperationNotAllowed, "%s means nothing to job %s, which is %s", verb, j.ID, j.State)
	}
	p, err := tx.Plan(j.Plan)
	if errors.Is(err, store.ErrNotFound) {
		return problem.New(problem.UnknownPlan, "plan %s of the job is gone", j.Plan)
	}
	if err != nil {
		return err
	}
	if p.LastJob != j.ID {
		return problem.New(problem.OperationNotAllowed, "job %s has worked on plan %s since; start the operation anew", p.LastJob, p.ID)
	}
	j.Attempt++
	j.CancelRequested = false
	taken := !slices.ContainsFunc(j.Tasks, func(t rest.Task) bool { return t.Name == planFailOver && begun(t) })
	for i, t := range j.Tasks {
		done := t.State == rest.JobSucceeded || t.State == rest.JobWarning
		// What a stopped plan had shut down was started again.
		if t.Name == compensation || done && !(taken && base(t.Name) == planShutDown) {
			continue
		}
		if err := tx.PutTask(j.ID, i, rest.Task{Name: t.Name, Title: t.Title, State: rest.JobPending, Decisions: t.Decisions}); err != nil {
			return err
		}
	}
	j.State, j.Errors, j.Warnings = rest.JobPending, nil, nil
	j.Ended = time.Time{}
	p.Running = j.ID
	if err := tx.PutPlan(p); err != nil {
		return err
	}
	return tx.PutJob(*j)
}

// childAlone refuses to run the job of a group again while its plan's job is at
// work: that one does it.
func (o *Orchestrator) childAlone(tx *store.Tx, j store.Job) error {
	if j.Part == nil {
		return nil
	}
	p, err := tx.Job(j.Part.Job)
	if err != nil {
		return err
	}
	q := problem.New(problem.OperationNotAllowed, "job %s is a part of job %s of plan %s", j.ID, p.ID, p.Plan)
	q.RecommendedAction = fmt.Sprintf("Restart the plan's job: 'rebound job restart %s'; only what failed is done again.", p.ID)
	return q
}

// movePlan records the end of a plan's job with the plan and in its history.
func (o *Orchestrator) movePlan(tx *store.Tx, job store.Job) error {
	run, err := runOf(tx, job)
	if err != nil {
		return err
	}
	if err := tx.PutRun(run); err != nil {
		return err
	}
	p, err := tx.Plan(job.Plan)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	p.Running = ""
	return tx.PutPlan(p)
}
