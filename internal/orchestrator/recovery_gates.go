package orchestrator

import (
	"context"
	"fmt"
	"slices"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// awaitGate waits until the plan that a job is part of lets a task begin.
// refused is how the task fails when the plan ended before that.
func (o *Orchestrator) awaitGate(ctx context.Context, id dr.JobID, t task) (refused, err error) {
	gate := gateOf(t)
	if gate == "" {
		return nil, nil
	}
	for {
		open, plan, err := o.gate(ctx, id, t, gate)
		if err != nil || plan == "" {
			return nil, err
		}
		if open != gateClosed {
			if open == gateRefused {
				refused = problem.New(problem.PlanStopped, "the plan's job %s ended before it", plan)
			}
			return refused, nil
		}
		watch := o.watchJob(plan)
		if open, _, err = o.gate(ctx, id, t, gate); err != nil || open != gateClosed {
			continue // it moved before we watched
		}
		select {
		case <-watch:
		case <-o.cancelled(id):
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

type gateState int

const (
	gateClosed gateState = iota
	gateOpen
	gateRefused
)

// gate looks at a gate; plan is empty for jobs that are part of none.
func (o *Orchestrator) gate(ctx context.Context, id dr.JobID, t task, gate string) (state gateState, plan dr.JobID, err error) {
	err = o.store.View(ctx, func(tx *store.Tx) error {
		j, err := tx.Job(id)
		if err != nil || j.Part == nil {
			return err
		}
		plan = j.Part.Job
		if j.CancelRequested || slices.ContainsFunc(j.Tasks, func(row rest.Task) bool {
			return row.Name == t.name && begun(row) && row.Attempt == j.Attempt
		}) {
			state = gateOpen // a task that had begun when the vault died goes on
			return nil
		}
		p, err := tx.Job(plan)
		if err != nil {
			return err
		}
		state = gateOpen
		for _, row := range p.Tasks {
			if row.Name == gate && !begun(row) {
				state = gateClosed
			}
		}
		if state == gateOpen {
			return nil
		}
		stopping := slices.ContainsFunc(p.Tasks, func(row rest.Task) bool { return row.Name == compensation && row.Attempt == p.Attempt })
		if p.State.Ended() || stopping {
			state = gateRefused
		}
		return nil
	})
	if err != nil {
		return gateClosed, plan, fmt.Errorf("look at the plan of job %s: %w", id, err)
	}
	return state, plan, nil
}
