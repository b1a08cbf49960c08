package orchestrator

import (
	"context"

	"rebound/internal/dr"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// JobsWhere lists jobs, newest first unless asked otherwise.
func (o *Orchestrator) JobsWhere(ctx context.Context, f store.JobFilter) ([]rest.Job, error) {
	var rows []store.Job
	var out []rest.Job
	err := o.store.View(ctx, func(tx *store.Tx) (err error) {
		if rows, err = tx.JobsWhere(f); err != nil {
			return err
		}
		out = make([]rest.Job, len(rows))
		for i, j := range rows {
			if out[i], err = o.presentPlan(tx, j); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// Progressing reports whether a running task of a job has said how far it is.
func (o *Orchestrator) Progressing(id dr.JobID) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for k := range o.progress {
		if k.job == id {
			return true
		}
	}
	return false
}
