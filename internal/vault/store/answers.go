package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"rebound/internal/dr"
)

// Claim is one use of an idempotency key. It travels in the context of the
// request, so that the transaction which adds a job also notes whose it is.
type Claim struct {
	// Caller is the credential that was used, Key what the caller chose.
	Caller, Key string
	// Sum is the SHA-256 of what was asked.
	Sum []byte
	At  time.Time
}

type claimKey struct{}

// WithClaim returns a context whose first job belongs to a claim.
func WithClaim(ctx context.Context, c Claim) context.Context {
	return context.WithValue(ctx, claimKey{}, c)
}

// Answer is what became of a claim.
type Answer struct {
	Sum []byte
	// Job that was started; empty for none.
	Job dr.JobID
	// Answer is what the caller was told; nil when the vault died between
	// the job's row and the answer.
	Answer []byte
}

// ClaimJob notes the job of the context's claim, in the transaction that adds
// or joins the job: a repeated request finds it, however the vault ended in
// between. Without a claim it does nothing.
func (t *Tx) ClaimJob(job dr.JobID) error {
	c, ok := t.ctx.Value(claimKey{}).(Claim)
	if !ok {
		return nil
	}
	_, err := t.exec("INSERT INTO answers(caller, key, sum, created, job) VALUES(?, ?, ?, ?, ?) ON CONFLICT(caller, key) DO UPDATE SET sum = excluded.sum, created = excluded.created, job = excluded.job, answer = NULL WHERE created < excluded.created", c.Caller, c.Key, c.Sum, stamp(c.At), job)
	return err
}

// PutAnswer keeps the answer to a claim.
func (t *Tx) PutAnswer(c Claim, answer []byte) error {
	_, err := t.exec("INSERT INTO answers(caller, key, sum, created, answer) VALUES(?, ?, ?, ?, ?) ON CONFLICT(caller, key) DO UPDATE SET sum = excluded.sum, created = excluded.created, answer = excluded.answer", c.Caller, c.Key, c.Sum, stamp(c.At), answer)
	return err
}

// Answer reads what became of a claim that is not older than since.
func (t *Tx) Answer(caller, key string, since time.Time) (Answer, error) {
	var a Answer
	err := t.tx.QueryRowContext(t.ctx, "SELECT sum, job, answer FROM answers WHERE caller = ? AND key = ? AND created >= ?", caller, key, stamp(since)).Scan(&a.Sum, &a.Job, &a.Answer)
	if errors.Is(err, sql.ErrNoRows) {
		return a, ErrNotFound
	}
	if err != nil {
		return a, fmt.Errorf("read answer: %w", err)
	}
	return a, nil
}

// PruneAnswers forgets the claims from before a time.
func (t *Tx) PruneAnswers(before time.Time) error {
	_, err := t.exec("DELETE FROM answers WHERE created < ?", stamp(before))
	return err
}
