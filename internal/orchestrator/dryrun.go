package orchestrator

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

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
	out := newDryRun(lifecycle.Protect, "")
	err := o.store.Update(ctx, func(tx *store.Tx) error {
		if err := completeProtect(tx, &req); err != nil {
			return err
		}
		g, err := o.insertProtected(tx, req)
		if err != nil {
			return err
		}
		out.Target = string(g.ID)
		if err := foreseeProtect(tx, g, &out); err != nil {
			return err
		}
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

func newDryRun(op lifecycle.Operation, target string) rest.DryRun {
	return rest.DryRun{Operation: op, Target: target, Warnings: []string{}, Deletes: []string{}, Keeps: []string{}, Loses: []string{}, Creates: []string{}}
}

// foreseeProtect says what a protection makes, and what it would write over.
func foreseeProtect(tx *store.Tx, g *store.Group, out *rest.DryRun) error {
	for _, m := range g.Members {
		out.Keeps = append(out.Keeps, fmt.Sprintf("machine %s at %s, which goes on running", m.Machine, g.Home))
		_, there, err := machineAt(tx, g.Recovery, m.Machine)
		if err != nil {
			return err
		}
		if there {
			out.Warnings = append(out.Warnings, fmt.Sprintf("machine %s exists at %s: it is powered off, and its disks are compared and written over", m.Machine, g.Recovery))
			out.Loses = append(out.Loses, fmt.Sprintf("what the disks of %s hold at %s and not at %s; it stays readable as a point named diverged-… until the next commit", m.Machine, g.Recovery, g.Home))
			continue
		}
		var n int64
		for _, d := range g.Disks {
			if d.Machine == m.Machine {
				n += d.SizeBytes
			}
		}
		out.Creates = append(out.Creates, fmt.Sprintf("machine %s at %s, off, with disks of %d bytes", m.Machine, g.Recovery, n))
	}
	out.Confirm = confirmation(*out)
	return nil
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
	out := newDryRun(s.Operation, string(s.Group))
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
		if err := checkTarget(&r.group, s); err != nil {
			return err
		}
		f, err := o.factsFor(tx, &r.group, s)
		if err != nil {
			return err
		}
		return o.rules.Check(s.Operation, f)
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
