package store

import (
	"strings"
	"time"

	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/vault/rest"
)

// EventFilter selects events; zero values do not filter.
type EventFilter struct {
	After int64
	// NewestFirst turns the order round; Before then limits from above.
	NewestFirst bool
	Before      int64
	Limit       int
	Code        string
	Severity    string
	Site        dr.SiteID
	Gateway     dr.GatewayID
	Group       dr.GroupID
	Machine     dr.MachineName
	Job         dr.JobID
	From, To    time.Time
}

// where collects conditions of a query.
type where struct {
	conds []string
	args  []any
}

func (w *where) add(cond string, arg any) {
	w.conds, w.args = append(w.conds, cond), append(w.args, arg)
}

// field compares a field of the document, unless nothing is asked for.
func (w *where) field(name, want string) {
	if want != "" {
		w.add("doc ->> '$."+name+"' = ?", want)
	}
}

// times limits a column of stamps.
func (w *where) times(column string, from, to time.Time) {
	if !from.IsZero() {
		w.add(column+" >= ?", stamp(from))
	}
	if !to.IsZero() {
		w.add(column+" <= ?", stamp(to))
	}
}

func (w *where) String() string { return strings.Join(w.conds, " AND ") }

// Events lists events, oldest first unless asked otherwise.
func (t *Tx) Events(f EventFilter) ([]rest.Event, error) {
	var w where
	w.add("seq > ?", f.After)
	for name, want := range map[string]string{
		"code": f.Code, "severity": f.Severity, "site": string(f.Site), "gateway": string(f.Gateway),
		"group": string(f.Group), "machine": string(f.Machine), "job": string(f.Job),
	} {
		w.field(name, want)
	}
	w.times("time", f.From, f.To)
	order := "ASC"
	if f.NewestFirst {
		order = "DESC"
		if f.Before > 0 {
			w.add("seq < ?", f.Before)
		}
	}
	return readDocs[rest.Event](t, "SELECT json_set(doc, '$.seq', seq) FROM events WHERE "+w.String()+" ORDER BY seq "+order+" LIMIT ?", append(w.args, f.Limit)...)
}

// JobFilter selects jobs; zero values do not filter.
type JobFilter struct {
	Group     dr.GroupID
	Operation lifecycle.Operation
	State     rest.JobState
	By        string
	From, To  time.Time
	// OldestFirst turns the order round. Created and ID are those of the
	// last job that was read before.
	OldestFirst bool
	Created     time.Time
	ID          dr.JobID
	Limit       int
}

// JobsWhere lists jobs with their tasks, newest first unless asked otherwise.
func (t *Tx) JobsWhere(f JobFilter) ([]Job, error) {
	w := where{conds: []string{"1 = 1"}}
	if f.Group != "" {
		w.add("grp = ?", f.Group)
	}
	w.field("operation", string(f.Operation))
	w.field("state", string(f.State))
	w.field("by", f.By)
	w.times("created", f.From, f.To)
	order, than := "DESC", "<"
	if f.OldestFirst {
		order, than = "ASC", ">"
	}
	if f.ID != "" {
		w.conds = append(w.conds, "(created, id) "+than+" (?, ?)")
		w.args = append(w.args, stamp(f.Created), f.ID)
	}
	jobs, err := readDocs[Job](t, "SELECT doc FROM jobs WHERE "+w.String()+" ORDER BY created "+order+", id "+order+" LIMIT ?", append(w.args, f.Limit)...)
	if err != nil {
		return nil, err
	}
	for i := range jobs {
		jobs[i].Tasks, err = readDocs[rest.Task](t, "SELECT doc FROM tasks WHERE job = ? ORDER BY seq", jobs[i].ID)
		if err != nil {
			return nil, err
		}
	}
	return jobs, nil
}
