package store

import (
	"fmt"

	"rebound/internal/dr"
	"rebound/internal/vault/rest"
)

// Job is one operation; its tasks are rows of their own. Spec is what a
// protect needs to know, Request what the person asked.
type Job struct {
	rest.Job
	Protect *rest.ProtectRequest `json:"protect,omitempty"`
	// Facts of the start that decide which tasks a job has: they must not
	// change when the group does.
	Direction dr.Direction `json:"direction,omitempty"`
	FromState string       `json:"fromState,omitempty"`
	// Spec makes it the job of a recovery plan, Part the job of a group
	// within one.
	Spec *PlanSpec `json:"planSpec,omitempty"`
	Part *PlanPart `json:"planPart,omitempty"`
}

// InsertJob adds a job.
func (t *Tx) InsertJob(j Job) error {
	j.Tasks = nil
	doc, err := docOf(j)
	if err != nil {
		return err
	}
	_, err = t.exec("INSERT INTO jobs(id, grp, ended, created, doc) VALUES(?, ?, 0, ?, ?)", j.ID, j.Group, stamp(j.Created), doc)
	if err != nil {
		return err
	}
	return t.ClaimJob(j.ID)
}

// PutJob replaces a job; its tasks are left alone.
func (t *Tx) PutJob(j Job) error {
	j.Tasks = nil
	doc, err := docOf(j)
	if err != nil {
		return err
	}
	ended := 0
	if j.State.Ended() {
		ended = 1
	}
	return t.must1(t.exec("UPDATE jobs SET ended = ?, doc = ? WHERE id = ?", ended, doc, j.ID))
}

// Job reads a job with its tasks.
func (t *Tx) Job(id dr.JobID) (Job, error) {
	j, err := readDoc[Job](t, "SELECT doc FROM jobs WHERE id = ?", id)
	if err != nil {
		return j, err
	}
	j.Tasks, err = readDocs[rest.Task](t, "SELECT doc FROM tasks WHERE job = ? ORDER BY seq", id)
	return j, err
}

// OpenJobs lists the jobs that have not ended, oldest first, without tasks.
func (t *Tx) OpenJobs() ([]Job, error) {
	return readDocs[Job](t, "SELECT doc FROM jobs WHERE ended = 0 ORDER BY created")
}

// PutTask adds or replaces a task; seq orders tasks within the job.
func (t *Tx) PutTask(job dr.JobID, seq int, task rest.Task) error {
	doc, err := docOf(task)
	if err != nil {
		return err
	}
	_, err = t.exec("INSERT INTO tasks(job, seq, name, doc) VALUES(?, ?, ?, ?) ON CONFLICT(job, name) DO UPDATE SET doc = excluded.doc, seq = excluded.seq", job, seq, task.Name, doc)
	return err
}

// Task reads one task.
func (t *Tx) Task(job dr.JobID, name string) (rest.Task, error) {
	return readDoc[rest.Task](t, "SELECT doc FROM tasks WHERE job = ? AND name = ?", job, name)
}

// InsertEvent adds an event, and puts it into the outbox of the webhooks that want
// it.
func (t *Tx) InsertEvent(e rest.Event) error {
	doc, err := docOf(e)
	if err != nil {
		return err
	}
	if err := t.tx.QueryRowContext(t.ctx, "INSERT INTO events(time, doc) VALUES(?, ?) RETURNING seq", stamp(e.Time), doc).Scan(&e.Seq); err != nil {
		return fmt.Errorf("insert event: %w", err)
	}
	return t.queue(e)
}
