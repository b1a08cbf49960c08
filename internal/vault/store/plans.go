package store

import (
	"slices"
	"time"

	"rebound/internal/dr"
	"rebound/internal/vault/rest"
)

// Plan is a recovery plan.
type Plan struct {
	rest.Plan
	// Running is the job at work on the plan, LastJob the newest.
	Running   dr.JobID  `json:"running,omitempty"`
	LastJob   dr.JobID  `json:"lastJob,omitempty"`
	LastRun   int       `json:"lastRun,omitempty"`
	Created   time.Time `json:"created"`
	ChangedAt time.Time `json:"changedAt"`
}

// PlanSpec is what the job of a plan works by. All but Children never changes.
type PlanSpec struct {
	// Document is the plan as it was when the job was asked for.
	Document rest.Plan    `json:"document"`
	Members  []PlanMember `json:"members"`
	// Children are the jobs of the replication groups; they are known from
	// the task that begins them on.
	Children []PlanChild `json:"children,omitempty"`
}

// PlanMember is one machine of a plan.
type PlanMember struct {
	Item    dr.ItemID      `json:"item"`
	Machine dr.MachineName `json:"machine"`
	Group   dr.GroupID     `json:"group"`
	// Boot is the number of its boot group, from 1.
	Boot int `json:"boot"`
}

// PlanChild is one replication group of a plan's job.
type PlanChild struct {
	Group dr.GroupID `json:"group"`
	Job   dr.JobID   `json:"job,omitempty"`
	// Skipped says why the group has no job: it is there already.
	Skipped string `json:"skipped,omitempty"`
}

// Groups returns the replication groups, in the order of their first machine.
func (s *PlanSpec) Groups() []dr.GroupID {
	var out []dr.GroupID
	for _, m := range s.Members {
		if !slices.Contains(out, m.Group) {
			out = append(out, m.Group)
		}
	}
	return out
}

// PlanPart makes a group's job a part of a plan's job.
type PlanPart struct {
	Job dr.JobID `json:"job"`
	// Boot is the boot group of each machine, Parts the boot groups that
	// the group's machines are in, ascending.
	Boot  map[dr.MachineName]int `json:"boot"`
	Parts []int                  `json:"parts"`
	// Attempt of the plan's job that opened this job last.
	Attempt int `json:"attempt"`
}

// InsertPlan adds a plan; ErrExists when the name is taken.
func (t *Tx) InsertPlan(p Plan) error {
	doc, err := docOf(p)
	if err != nil {
		return err
	}
	return inserted(t.exec("INSERT INTO plans(id, doc) VALUES(?, ?) ON CONFLICT DO NOTHING", p.ID, doc))
}

// PutPlan replaces a plan; ErrNotFound when there is none.
func (t *Tx) PutPlan(p Plan) error {
	doc, err := docOf(p)
	if err != nil {
		return err
	}
	return t.must1(t.exec("UPDATE plans SET doc = ? WHERE id = ?", doc, p.ID))
}

// Plan reads a plan.
func (t *Tx) Plan(id dr.PlanID) (Plan, error) {
	return readDoc[Plan](t, "SELECT doc FROM plans WHERE id = ?", id)
}

// Plans lists the plans by name.
func (t *Tx) Plans() ([]Plan, error) {
	return readDocs[Plan](t, "SELECT doc FROM plans ORDER BY id")
}

// DeletePlan removes a plan; its runs stay.
func (t *Tx) DeletePlan(id dr.PlanID) error {
	return t.must1(t.exec("DELETE FROM plans WHERE id = ?", id))
}

// NextRun is the number of a plan's next run, one more than any before it.
func (t *Tx) NextRun(id dr.PlanID) (int, error) {
	var n int
	err := t.tx.QueryRowContext(t.ctx, "SELECT coalesce(max(run), 0) + 1 FROM plan_runs WHERE plan = ?", id).Scan(&n)
	return n, err
}

// PutRun adds or replaces a run.
func (t *Tx) PutRun(r rest.PlanRun) error {
	doc, err := docOf(r)
	if err != nil {
		return err
	}
	_, err = t.exec("INSERT INTO plan_runs(plan, run, job, doc) VALUES(?, ?, ?, ?) ON CONFLICT(plan, run) DO UPDATE SET doc = excluded.doc", r.Plan, r.Run, r.Job, doc)
	return err
}

// Run reads one run of a plan.
func (t *Tx) Run(id dr.PlanID, run int) (rest.PlanRun, error) {
	return readDoc[rest.PlanRun](t, "SELECT doc FROM plan_runs WHERE plan = ? AND run = ?", id, run)
}

// Runs lists the runs of a plan, newest first.
func (t *Tx) Runs(id dr.PlanID) ([]rest.PlanRun, error) {
	return readDocs[rest.PlanRun](t, "SELECT doc FROM plan_runs WHERE plan = ? ORDER BY run DESC", id)
}
