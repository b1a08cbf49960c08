package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"rebound/internal/lifecycle"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// endJob records the end of a job and moves the group, in one transaction.
func (o *Orchestrator) endJob(ctx context.Context, in jobInput, p plan, outcome string) error {
	var job store.Job
	err := o.insist(ctx, func(tx *store.Tx) error {
		var err error
		job, err = tx.Job(in.Job)
		if err != nil || job.State.Ended() {
			return err
		}
		now := o.now().UTC()
		job.Ended = now
		job.State = rest.JobSucceeded
		job.Errors, job.Warnings = nil, nil
		for _, t := range job.Tasks {
			if t.Problem != nil {
				job.Errors = append(job.Errors, *t.Problem)
			}
			job.Warnings = append(job.Warnings, t.Warnings...)
		}
		switch {
		case outcome == stepFailed:
			job.State = rest.JobFailed
		case outcome == stepCancelled:
			job.State = rest.JobCancelled
		case len(job.Warnings) > 0:
			job.State = rest.JobWarning
		}
		if err := o.skipRest(tx, job, p); err != nil {
			return err
		}
		if err := tx.PutJob(job); err != nil {
			return err
		}
		if err := o.moveTarget(tx, job, outcome, now); err != nil {
			return err
		}
		return tx.InsertEvent(endEvent(job, now))
	})
	if err != nil {
		return fmt.Errorf("end job %s: %w", in.Job, err)
	}
	o.mu.Lock()
	delete(o.cancels, in.Job)
	o.mu.Unlock()
	o.wakeJob(in.Job)
	if o.ended != nil {
		o.ended(job.Job)
	}
	return nil
}

func (o *Orchestrator) skipRest(tx *store.Tx, job store.Job, p plan) error {
	for i, t := range p.tasks {
		row, err := tx.Task(job.ID, t.name)
		if err != nil || row.State != rest.JobPending {
			continue
		}
		row.State = rest.JobSkipped
		if err := tx.PutTask(job.ID, i, row); err != nil {
			return err
		}
	}
	return nil
}

// moveGroup puts the group into the state in which the job leaves it.
func (o *Orchestrator) moveGroup(tx *store.Tx, job store.Job, outcome string, now time.Time) error {
	g, err := tx.Group(job.Group)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	to := lifecycle.Succeeded(job.Operation, g.From)
	if outcome != stepDone {
		to = lifecycle.Failed(job.Operation, g.From, g.Beyond)
	}
	if row, ok := lifecycle.RowOf(job.Operation); ok && row.During == "" && row.Then == "" {
		to = g.State // the operation ran beside replication, which went on moving it
	}
	if outcome != stepDone && to == g.From && !g.State.Moving() {
		to = g.State
	}
	settleTest(&g, job.Operation, outcome)
	if to == lifecycle.Unprotected {
		o.live.Forget(g.ID)
		return tx.DeleteGroup(g.ID)
	}
	if to != g.State {
		g.ChangedAt = now
	}
	g.State, g.Running, g.Beyond = to, "", false
	return tx.PutGroup(&g)
}

// settleTest ends the moving states of a test failover.
func settleTest(g *store.Group, op lifecycle.Operation, outcome string) {
	switch {
	case op == lifecycle.TestFailover && g.TestAt == nil:
		g.Test = lifecycle.NoTest // nothing was started
	case op == lifecycle.TestFailover:
		g.Test = lifecycle.CleanupPending
	case op == lifecycle.TestCleanup && outcome == stepDone:
		g.Test, g.TestAt = lifecycle.NoTest, nil
	case op == lifecycle.TestCleanup:
		g.Test = lifecycle.CleanupPending
	}
}

func endEvent(job store.Job, now time.Time) rest.Event {
	e := rest.Event{Time: now, Group: job.Group, Job: job.ID, Code: "JobSucceeded", Severity: "info", Text: fmt.Sprintf("%s of %s: %s", job.Operation, job.Group, job.State)}
	switch job.State {
	case rest.JobFailed:
		e.Code, e.Severity = "JobFailed", "critical"
		if len(job.Errors) > 0 {
			e.Text += ": " + job.Errors[0].Error()
		}
	case rest.JobCancelled:
		e.Code, e.Severity = "JobCancelled", "warning"
	case rest.JobWarning:
		e.Severity = "warning"
	}
	return e
}
