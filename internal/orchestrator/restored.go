package orchestrator

import (
	"context"
	"fmt"
	"time"

	"rebound/internal/problem"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// SettleRestored is what the first start of a vault that was restored from a
// backup does before jobs go on: what ran when the backup was made is ended,
// visibly, because nobody knows how far it came since; and no group is trusted
// until its gateways have said how it stands.
func SettleRestored(ctx context.Context, s *store.Store, now time.Time) error {
	err := s.Update(ctx, func(tx *store.Tx) error {
		r, err := tx.Restored()
		if err != nil || r == nil || r.Settled {
			return err
		}
		jobs, err := tx.OpenJobs()
		if err != nil {
			return err
		}
		for _, j := range jobs {
			if err := endRestored(tx, j, *r, now); err != nil {
				return err
			}
		}
		groups, err := tx.Groups()
		if err != nil {
			return err
		}
		for _, g := range groups {
			g.Running, g.Beyond = "", false
			g.Unconfirmed = "the vault was restored from a backup of " + r.BackupAt.UTC().Format(time.RFC3339)
			if err := tx.PutGroup(&g); err != nil {
				return err
			}
		}
		r.Settled = true
		e := rest.Event{
			Time: now.UTC(), Code: "VaultRestored", Severity: "critical",
			Text: fmt.Sprintf("the vault was restored from a backup of %s: what was done since then is learned from the gateways; revocations, users, tokens and settings made since are lost", r.BackupAt.UTC().Format(time.RFC3339)),
		}
		if err := tx.InsertEvent(e); err != nil {
			return err
		}
		return tx.SetRestored(*r)
	})
	if err != nil {
		return fmt.Errorf("settle a restored vault: %w", err)
	}
	return nil
}

// endRestored ends a job of the time of the backup.
func endRestored(tx *store.Tx, j store.Job, r store.Restored, now time.Time) error {
	full, err := tx.Job(j.ID)
	if err != nil {
		return err
	}
	p := problem.New(problem.StateUnconfirmed, "%s of %s was running when the backup of %s was made; how far it came since is not known to this vault", j.Operation, j.Group, r.BackupAt.UTC().Format(time.RFC3339))
	for i, t := range full.Tasks {
		switch t.State {
		case rest.JobRunning:
			t.State, t.Ended, t.Problem = rest.JobFailed, now.UTC(), p.Plain()
		case rest.JobPending:
			t.State = rest.JobSkipped
		default:
			continue
		}
		if err := tx.PutTask(j.ID, i, t); err != nil {
			return err
		}
	}
	full.State, full.Ended, full.Errors = rest.JobFailed, now.UTC(), []problem.Problem{*p.Plain()}
	if err := tx.PutJob(full); err != nil {
		return err
	}
	return tx.InsertEvent(endEvent(full, now.UTC()))
}
