package orchestrator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// childNamespace makes the ids of children from those of their plan's jobs, so
// that a step that is run again means the same jobs.
const childNamespace = "6ba7b811-9dad-11d1-80b4-00c04fd430c8"

func childID(plan dr.JobID, group dr.GroupID) dr.JobID {
	return dr.JobID(uuid.NewSHA1(uuid.MustParse(childNamespace), []byte(string(plan)+"/"+string(group))).String())
}

// beginChildren makes the jobs of the plan's groups, all or none, in one
// transaction; a restart of the plan opens those that failed again.
func beginChildren(ctx context.Context, r *run) error {
	if err := r.awaitGateways(ctx); err != nil {
		return err
	}
	var open []jobInput
	var skipped map[string]string
	err := r.o.store.Update(ctx, func(tx *store.Tx) error {
		open, skipped = nil, map[string]string{}
		job, err := tx.Job(r.job.ID)
		if err != nil {
			return err
		}
		if len(job.Spec.Children) == 0 {
			if err := r.o.insertChildren(tx, &job); err != nil {
				return err
			}
		} else if err := r.reopenChildren(tx, &job); err != nil {
			return err
		}
		for _, c := range job.Spec.Children {
			if c.Job == "" {
				skipped[string(c.Group)] = c.Skipped
				continue
			}
			child, err := tx.Job(c.Job)
			if err != nil {
				return err
			}
			if !child.State.Ended() {
				open = append(open, jobInput{child.ID, child.Attempt})
			}
		}
		r.job = job
		return tx.PutJob(job)
	})
	if err != nil {
		return err
	}
	for _, g := range slices.Sorted(maps.Keys(skipped)) {
		r.set(g, "skipped: "+skipped[g])
	}
	for _, in := range open {
		if err := r.o.engine.submit(in, r.o.lease.epoch); err != nil {
			return err
		}
	}
	return nil
}

// awaitGateways gives the gateways of the plan's groups time to dial a vault
// that has just started.
func (r *run) awaitGateways(ctx context.Context) error {
	var all []dr.GatewayID
	err := r.o.store.View(ctx, func(tx *store.Tx) error {
		all = nil
		for _, id := range r.job.Spec.Groups() {
			g, err := tx.Group(id)
			if err != nil {
				return err
			}
			all = append(all, g.HomeGateway, g.RecoveryGateway)
		}
		return nil
	})
	slices.Sort(all)
	for _, gw := range slices.Compact(all) {
		r.o.reachable(ctx, gw)
	}
	return err
}

// insertChildren checks every group and makes its job.
func (o *Orchestrator) insertChildren(tx *store.Tx, job *store.Job) error {
	fates, err := o.fates(tx, job.Spec, job.Operation, *job.Request)
	if err != nil {
		return err
	}
	for _, f := range fates {
		if f.skipped != "" {
			job.Spec.Children = append(job.Spec.Children, store.PlanChild{Group: f.group.ID, Skipped: f.skipped})
			continue
		}
		child := newJob(job.Operation, &f.group, job.By, o)
		child.ID, child.Parent, child.Plan, child.Run = childID(job.ID, f.group.ID), job.ID, job.Plan, job.Run
		child.Request, child.Part = &f.request, partOf(job.Spec, job.ID, f.group.ID)
		if err := o.insertJob(tx, child, &f.group); err != nil {
			return err
		}
		job.Spec.Children = append(job.Spec.Children, store.PlanChild{Group: f.group.ID, Job: child.ID})
	}
	return nil
}

func partOf(spec *store.PlanSpec, plan dr.JobID, group dr.GroupID) *store.PlanPart {
	p := &store.PlanPart{Job: plan, Boot: map[dr.MachineName]int{}, Attempt: 1}
	for _, m := range spec.Members {
		if m.Group != group {
			continue
		}
		p.Boot[m.Machine] = m.Boot
		if !slices.Contains(p.Parts, m.Boot) {
			p.Parts = append(p.Parts, m.Boot)
		}
	}
	slices.Sort(p.Parts)
	return p
}

// reopenChildren opens those children again that did not succeed. One that is
// refused now does not stop the others.
func (r *run) reopenChildren(tx *store.Tx, job *store.Job) error {
	for _, c := range job.Spec.Children {
		if c.Job == "" {
			continue
		}
		child, err := tx.Job(c.Job)
		if err != nil {
			return err
		}
		if child.State != rest.JobFailed && child.State != rest.JobCancelled || child.Part.Attempt >= r.attempt {
			continue
		}
		g, err := r.o.groupAgain(tx, child)
		if err == nil {
			err = r.o.mayBegin(tx, g, child)
		}
		if _, ok := errors.AsType[*problem.Problem](err); ok {
			r.warn("%s: %s", c.Group, problem.Text(err))
			continue
		}
		if err != nil {
			return err
		}
		child.Part.Attempt = r.attempt
		if err := r.o.reopen(tx, &child, g); err != nil {
			return err
		}
	}
	return nil
}

// mayBegin asks the life cycle whether a job may run again.
func (o *Orchestrator) mayBegin(tx *store.Tx, g *store.Group, j store.Job) error {
	req := StartRequest{Operation: j.Operation, Group: j.Group}
	if j.Request != nil {
		req.Request = *j.Request
	}
	f, err := o.factsFor(tx, g, req)
	if err != nil {
		return err
	}
	return o.rules.Check(j.Operation, f)
}

// childRequest is what one group of a plan is asked: the plan's request, with
// the values of the group and of its machines over it.
func childRequest(req rest.OperationRequest, spec *store.PlanSpec, group dr.GroupID) (rest.OperationRequest, error) {
	values := req.Values
	req.Values = nil
	// A copy of its own: what is merged into it must not reach other groups.
	b, err := json.Marshal(req)
	if err == nil {
		req = rest.OperationRequest{}
		err = json.Unmarshal(b, &req)
	}
	if err != nil {
		return req, fmt.Errorf("copy the request: %w", err)
	}
	var members []store.PlanMember
	for _, m := range spec.Members {
		if m.Group == group {
			members = append(members, m)
		}
	}
	if len(members) == 1 { // it shares its order of writes with nobody
		switch req.Point {
		case dr.LatestMultiVM:
			req.Point = dr.LatestProcessed
		case dr.LatestMultiVMApp:
			req.Point = dr.LatestApp
		}
	}
	if req.Reprotect != nil {
		maps.DeleteFunc(req.Reprotect.Machines, func(name dr.MachineName, _ rest.ReprotectTarget) bool {
			return !slices.ContainsFunc(members, func(m store.PlanMember) bool { return m.Machine == name })
		})
	}
	keys := []string{groupPrefix + string(group)}
	for _, m := range members {
		keys = append(keys, string(m.Item))
	}
	for _, k := range keys {
		v, ok := values[k]
		if !ok {
			continue
		}
		if k != keys[0] && len(members) > 1 {
			for _, other := range members {
				if !sameValues(values[string(other.Item)], v) {
					return req, problem.New(problem.InvalidRequest, "%s and %s are members of the replication group %s and are worked on together: give both the same values, or name the group as %s", k, other.Item, group, keys[0])
				}
			}
		}
		b, err := json.Marshal(v)
		if err == nil {
			err = json.Unmarshal(b, &req)
		}
		if err != nil {
			return req, fmt.Errorf("merge values of %s: %w", k, err)
		}
	}
	return req, nil
}

func sameValues(a, b rest.OperationRequest) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && string(x) == string(y)
}

// childState is how far one child is with the tasks that a plan's task waits for.
type childState struct {
	child   store.PlanChild
	ended   bool
	problem *problem.Problem
	// unproven are warnings of the tasks that watch the boot.
	unproven []string
}

// await waits until every child is through with the named tasks, or has ended.
func (r *run) await(ctx context.Context, tasks ...string) ([]childState, error) {
	ctx, cancel := r.untilCancelled(ctx)
	defer cancel()
	for {
		moved := r.o.jobsMoved()
		states, err := r.childStates(ctx, tasks)
		if err != nil {
			return nil, err
		}
		n := 0
		for _, s := range states {
			if s.ended {
				n++
			}
		}
		if n == len(states) {
			return states, nil
		}
		k := taskKey{r.job.ID, r.task.name}
		r.o.setProgress(k, control.Progress{Done: int64(n), Total: int64(len(states)), Unit: "groups"})
		select {
		case <-moved:
		case <-ctx.Done():
			return states, context.Cause(ctx)
		}
	}
}

func (r *run) childStates(ctx context.Context, tasks []string) ([]childState, error) {
	var out []childState
	err := r.o.store.View(context.WithoutCancel(ctx), func(tx *store.Tx) error {
		job, err := tx.Job(r.job.ID)
		if err != nil {
			return err
		}
		for _, c := range job.Spec.Children {
			if c.Job == "" {
				continue
			}
			child, err := tx.Job(c.Job)
			if err != nil {
				return err
			}
			if s, concerned := stateOf(child, tasks); concerned {
				s.child = c
				out = append(out, s)
			}
		}
		return nil
	})
	return out, err
}

// stateOf reads a child's job. A child that has none of the tasks is not
// concerned; without tasks, the end of the job is what counts.
func stateOf(j store.Job, tasks []string) (s childState, concerned bool) {
	s.ended = true
	for _, t := range j.Tasks {
		if !slices.Contains(tasks, t.Name) {
			continue
		}
		concerned = true
		s.ended = s.ended && t.State.Ended()
		switch {
		case t.State == rest.JobFailed:
			s.problem = t.Problem
		case t.State != rest.JobSucceeded && t.State != rest.JobWarning && j.State.Ended() && s.problem == nil:
			s.problem = firstProblem(j)
		}
		s.unproven = append(s.unproven, t.Warnings...)
	}
	if len(tasks) == 0 {
		concerned = true
		if s.ended = j.State.Ended(); j.State == rest.JobFailed || j.State == rest.JobCancelled {
			s.problem = firstProblem(j)
		}
	}
	s.ended = s.ended || j.State.Ended()
	return s, concerned
}

func firstProblem(j store.Job) *problem.Problem {
	for _, t := range j.Tasks {
		if t.Problem != nil && t.Problem.Code != problem.PlanStopped {
			return t.Problem
		}
	}
	return problem.New(problem.PlanStopped, "job %s is %s", j.ID, j.State)
}

// tell turns what failed in the children into the error of the plan's task;
// the plan goes on with its other tasks, and a restart tries only this again.
func (r *run) tell(states []childState) error {
	var text []string
	var first *problem.Problem
	for _, s := range states {
		if s.problem == nil {
			continue
		}
		if first == nil {
			first = s.problem
		}
		text = append(text, fmt.Sprintf("%s: %s", s.child.Group, problem.Text(s.problem)))
	}
	if first == nil {
		return nil
	}
	r.goOn = true
	return problem.New(first.Code, "%s", strings.Join(text, "; "))
}

func awaitShutDown(ctx context.Context, r *run) error {
	states, err := r.await(ctx, at(shutDownTask, r.task.part))
	if err != nil {
		return err
	}
	return r.tell(states)
}

func awaitFailOver(ctx context.Context, r *run) error {
	states, err := r.await(ctx, "resolve-point")
	if err != nil {
		return err
	}
	return r.tell(states)
}

// awaitBootGroup lets the machines of a boot group start and waits until each
// has proven that it boots, or failed.
func awaitBootGroup(ctx context.Context, r *run) error {
	n := r.task.part
	states, err := r.await(ctx, at("start-machines", n), at("watch-boot", n), at("start-test", n), at("watch-test", n))
	if err != nil {
		return err
	}
	unproven := 0
	for _, s := range states {
		unproven += len(s.unproven)
		for _, w := range s.unproven {
			r.warn("%s", w)
		}
	}
	stop := r.job.Spec.Document.Groups[n-1].OnUnhealthy == rest.OnFailureStop
	err = r.tell(states)
	if stop {
		r.goOn = false
		if err == nil && unproven > 0 {
			err = problem.New(problem.MachineNotRunning, "not every machine of %s is proven to have booted, and the plan says to stop then", groupName(r.job.Spec.Document, n))
		}
	}
	return err
}

// awaitEnd waits for the children's ends.
func awaitEnd(ctx context.Context, r *run) error {
	states, err := r.await(ctx)
	if err != nil {
		return err
	}
	return r.tell(states)
}

// endChildren is how a plan ends that was stopped or cancelled: what has not
// reached its point of no return is taken back, what has ends at its next gate;
// a restart goes on from there.
func endChildren(ctx context.Context, r *run) error {
	if len(r.job.Spec.Children) == 0 {
		return nil
	}
	for _, c := range r.job.Spec.Children {
		if c.Job == "" {
			continue
		}
		if _, err := r.o.Cancel(ctx, c.Job); err != nil {
			if _, ok := errors.AsType[*problem.Problem](err); !ok {
				return err
			}
		}
	}
	for {
		moved := r.o.jobsMoved()
		states, err := r.childStates(ctx, nil)
		if err != nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		if !slices.ContainsFunc(states, func(s childState) bool { return !s.ended }) {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// watchTest waits until the test machines of a boot group run. A test network
// is cut off, so that no agent can report: the hypervisor's word counts, and
// what the guest's own agent says is told.
func watchTest(ctx context.Context, r *run) error {
	limit, cancel := context.WithTimeout(ctx, seconds(r.policy.BootTimeout))
	defer cancel()
	return r.each(limit, func(ctx context.Context, m store.Member) error {
		name := m.Machine + "-test"
		ev, err := r.standby().MachineEvidence(control.WithPatience(ctx, prerequisitePatience), control.EvidenceRequest{Machine: name})
		if err != nil {
			return err
		}
		if ev.State != site.Running {
			return problem.New(problem.MachineNotRunning, "machine %s is %s after its start", name, ev.State)
		}
		r.set(healthyKey+string(m.Machine), stampOf(r.o.now()))
		proof := "running"
		if ev.GuestAgent {
			proof = "guest-agent"
		}
		r.set(proofKey+string(m.Machine), proof)
		return nil
	})
}

func stampOf(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
