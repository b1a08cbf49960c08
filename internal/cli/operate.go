package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// target finds what a name means: a group, else an item, else a recovery plan.
// A name that is both is a group of one (or is said with a prefix, group/NAME,
// item/NAME or plan/NAME).
func target(ctx context.Context, c *client.Client, name string) (client.Target, string, error) {
	if id, ok := strings.CutPrefix(name, "group/"); ok {
		return client.GroupTarget(dr.GroupID(id)), id, nil
	}
	if id, ok := strings.CutPrefix(name, "item/"); ok {
		return client.ItemTarget(dr.ItemID(id)), id, nil
	}
	if id, ok := strings.CutPrefix(name, "plan/"); ok {
		return client.PlanTarget(dr.PlanID(id)), id, nil
	}
	_, err := c.Group(ctx, dr.GroupID(name))
	if err == nil {
		return client.GroupTarget(dr.GroupID(name)), name, nil
	}
	if !problem.HasCode(err, problem.UnknownGroup) {
		return client.Target{}, "", err
	}
	if _, err := c.Item(ctx, dr.ItemID(name)); err != nil {
		if _, planErr := c.Plan(ctx, dr.PlanID(name)); planErr == nil {
			return client.PlanTarget(dr.PlanID(name)), name, nil
		}
		if problem.HasCode(err, problem.UnknownItem) {
			err = problem.New(problem.UnknownItem, "there is no group, no item and no plan %q", name)
		}
		return client.Target{}, "", err
	}
	return client.ItemTarget(dr.ItemID(name)), name, nil
}

// operation is one of the commands that work on a group or an item.
type operation struct {
	op          lifecycle.Operation
	use         string // without the argument
	short, long string
	example     string
	ask         bool // it loses or deletes something: ask first
	flags       func(*cobra.Command, *rest.OperationRequest)
	check       func(*rest.OperationRequest) error // of the flags; may be nil
}

func (a *app) newOperation(o operation) *cobra.Command {
	var req rest.OperationRequest
	cmd := &cobra.Command{
		Use: o.use + " NAME", Short: o.short, Long: o.long, Example: o.example,
		Annotations:       map[string]string{dryRunKey: "yes"},
		Args:              exactly("NAME (a group, an item or a plan)"),
		ValidArgsFunction: a.completeTargets,
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.check != nil {
				if err := o.check(&req); err != nil {
					return err
				}
			}
			return a.operate(cmd.Context(), o, args[0], req)
		},
	}
	if o.flags != nil {
		o.flags(cmd, &req)
	}
	return cmd
}

// operate asks for an operation, after a dry run and a question where it loses
// or deletes something, and follows its job.
func (a *app) operate(ctx context.Context, o operation, name string, req rest.OperationRequest) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	defer c.Close()
	on, id, err := target(ctx, c, name)
	if err != nil {
		return err
	}
	if a.dryRun {
		d, err := c.DryRun(ctx, on, o.op, req)
		if err != nil {
			return err
		}
		return a.print(d, func(t *table) { dryRunRows(t, d) })
	}
	if o.ask {
		err := a.confirm(ctx, string(o.op), id, func(w io.Writer) error {
			d, err := c.DryRun(ctx, on, o.op, req)
			if err != nil {
				return err
			}
			return writeDryRun(w, d)
		})
		if err != nil {
			return err
		}
	}
	job, err := c.Operate(ctx, on, o.op, req)
	if err != nil {
		return err
	}
	return a.follow(ctx, c, job)
}

// follow waits for a job (unless --no-wait), tells how it goes on, prints it
// and turns its end into the command's.
func (a *app) follow(ctx context.Context, c *client.Client, job rest.Job) error {
	if a.noWait {
		return a.printJob(job)
	}
	job, err := a.waitJob(ctx, c, job)
	if err != nil {
		return err
	}
	if err := a.printJob(job); err != nil {
		return err
	}
	return jobOutcome(job)
}

// waitJob waits until the job ends or a person is needed.
func (a *app) waitJob(ctx context.Context, c *client.Client, job rest.Job) (rest.Job, error) {
	wait, cancel := context.WithCancel(ctx)
	if a.timeout > 0 {
		wait, cancel = context.WithTimeout(ctx, a.timeout)
	}
	defer cancel()
	progress := a.newJobProgress()
	defer progress.clear()
	last := job
	end, err := c.WaitJob(wait, job.ID, func(j rest.Job) {
		last = j
		progress.show(j)
		if needsPerson(j) {
			cancel()
		}
	})
	switch {
	case err == nil:
		return end, nil
	case needsPerson(last):
		return last, nil
	case errors.Is(wait.Err(), context.DeadlineExceeded):
		return last, stillRunning(last, fmt.Sprintf("it has not ended within %v", a.timeout))
	case ctx.Err() != nil:
		return last, stillRunning(last, "interrupted")
	}
	return last, err
}

func stillRunning(j rest.Job, why string) error {
	return jobError{exitFailed, fmt.Sprintf("%s: job %s goes on; follow it with 'rebound job watch %s'", why, j.ID, j.ID), nil}
}

// needsPerson reports whether nothing more happens until somebody acts: an
// approval is asked for, or the job was cancelled and can be resumed.
func needsPerson(j rest.Job) bool {
	return j.State == rest.JobWaiting || j.State == rest.JobCancelled && slices.Contains(j.AllowedActions, "resume")
}

// answers are what a waiting job can be told, without cancel.
func answers(j rest.Job) []string {
	return slices.DeleteFunc(slices.Clone(j.AllowedActions), func(s string) bool { return s == "cancel" })
}

// jobOutcome is nil for a job that did what it should.
func jobOutcome(j rest.Job) error {
	of := string(j.Operation)
	if j.Group != "" {
		of += " of " + string(j.Group)
	} else if j.Plan != "" {
		of += " of plan " + string(j.Plan)
	}
	switch {
	case j.Waiting != nil:
		return jobError{exitWaiting, fmt.Sprintf("%s waits for a person (%s): %s\nAnswer with 'rebound job %s %s'", of, j.Waiting.Kind, j.Waiting.Text, strings.Join(answers(j), "|"), j.ID), nil}
	case needsPerson(j):
		return jobError{exitWaiting, fmt.Sprintf("%s waits for a person: job %s is %s; 'rebound job resume %s' goes on", of, j.ID, j.State, j.ID), nil}
	case j.State == rest.JobSucceeded, j.State == rest.JobWarning:
		return nil
	}
	first := problem.New(problem.JobFailed, "%s: job %s is %s", of, j.ID, j.State)
	if len(j.Errors) > 0 {
		first = &j.Errors[0]
	}
	return jobError{exitFailed, fmt.Sprintf("%s %s (job %s): %v", of, j.State, j.ID, first), first}
}
