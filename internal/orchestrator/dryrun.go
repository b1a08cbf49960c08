package orchestrator

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// errDry rolls a transaction back that was only tried.
var errDry = errors.New("dry run")

// ProtectDryRun checks a protection and changes nothing.
func (o *Orchestrator) ProtectDryRun(ctx context.Context, req rest.ProtectRequest) (rest.DryRun, error) {
	out := rest.DryRun{Operation: lifecycle.Protect, Warnings: []string{}, Deletes: []string{}, Keeps: []string{}}
	err := o.store.Update(ctx, func(tx *store.Tx) error {
		if err := completeProtect(tx, &req); err != nil {
			return err
		}
		g, err := o.insertProtected(tx, req)
		if err != nil {
			return err
		}
		out.Target = string(g.ID)
		if err := o.titles(newJob(lifecycle.Protect, g, "", o), &out); err != nil {
			return err
		}
		return errDry
	})
	if errors.Is(err, errDry) {
		err = nil
	}
	return out, err
}

func (o *Orchestrator) titles(j store.Job, out *rest.DryRun) error {
	p, err := planFor(j)
	if err != nil {
		return err
	}
	for _, t := range p.tasks {
		out.Tasks = append(out.Tasks, t.title)
	}
	return nil
}

// DryRun says what an operation would do, lose and delete. A refusal is the
// error that Start would return.
func (o *Orchestrator) DryRun(ctx context.Context, s StartRequest) (rest.DryRun, error) {
	out := rest.DryRun{Operation: s.Operation, Target: string(s.Group), Warnings: []string{}, Deletes: []string{}, Keeps: []string{}}
	if err := checkRequest(s); err != nil {
		return out, err
	}
	r := &run{o: o, attempt: 1}
	err := o.store.View(ctx, func(tx *store.Tx) error {
		var err error
		if r.group, err = tx.Group(s.Group); errors.Is(err, store.ErrNotFound) {
			return problem.New(problem.UnknownGroup, "there is no group %q", s.Group)
		} else if err != nil {
			return err
		}
		if r.policy, err = tx.PolicyOf(&r.group); err != nil {
			return err
		}
		f, err := o.factsFor(tx, &r.group, s)
		if err != nil {
			return err
		}
		return lifecycle.Check(s.Operation, f)
	})
	if err != nil {
		return out, err
	}
	r.job = newJob(s.Operation, &r.group, "", o)
	r.job.ID = dr.JobID("dry-run-" + uuid.NewString())
	r.job.Request = &s.Request
	if err := o.titles(r.job, &out); err != nil {
		return out, err
	}
	return out, r.foresee(ctx, &out)
}

// foresee asks the gateways what the operation would use and delete.
func (r *run) foresee(ctx context.Context, out *rest.DryRun) error {
	switch op := r.job.Operation; op {
	case lifecycle.Failover, lifecycle.Failback, lifecycle.ChangePoint, lifecycle.TestFailover:
		if err := r.foreseeTargets(ctx, op == lifecycle.TestFailover, out); err != nil {
			return err
		}
		sel := r.selector()
		if op == lifecycle.TestFailover && r.request().Point == "" {
			sel = dr.LatestProcessed
		}
		res, err := r.resolve(ctx, sel)
		out.Recovered = res
		if err == nil && op == lifecycle.ChangePoint {
			out.Warnings = append(out.Warnings, "everything that the recovered machines wrote since their start is discarded")
		}
		return err
	case lifecycle.Undo:
		out.Warnings = append(out.Warnings, "everything that the recovered machines wrote since their start is discarded")
		return nil
	case lifecycle.Commit:
		out.Warnings = append(out.Warnings, "a commit is final: all other recovery points are deleted")
		if !lifecycle.RulesFor(r.group.Direction).CommitDeletesSource {
			return nil
		}
		return r.foreseeDeletions(ctx, r.source(), !r.policy.DropSeed, out)
	case lifecycle.Disable:
		out.Warnings = append(out.Warnings, "all recovery points are deleted")
		if keepStandby(&r.group) || len(tasksNamed(r.job, "delete-journal")) == 0 {
			return nil
		}
		return r.foreseeDeletions(ctx, r.standby(), false, out)
	}
	return nil
}

func (r *run) foreseeDeletions(ctx context.Context, c control.Commands, keepDisks bool, out *rest.DryRun) error {
	for _, m := range r.group.Members {
		d, err := c.DeleteMachine(ctx, r.origin(string(m.Machine)), control.DeleteRequest{Machine: m.Machine, KeepDisks: keepDisks, DryRun: true})
		if problem.HasCode(err, problem.UnknownMachine) {
			continue
		}
		if err != nil {
			return err
		}
		out.Deletes, out.Keeps = append(out.Deletes, d.Removed...), append(out.Keeps, d.Kept...)
	}
	return nil
}

func tasksNamed(j store.Job, name string) []string {
	names, _ := tasksOf(j)
	var out []string
	for _, n := range names {
		if n == name {
			out = append(out, n)
		}
	}
	return out
}
