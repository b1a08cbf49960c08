package portal

import (
	"net/url"
	"slices"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
)

// jobRoutes registers the list of jobs, the page of one, and the answers to it.
func (p *Portal) jobRoutes() {
	p.page("GET /jobs", p.jobs)
	p.page("GET /jobs/{id}", func(rq *Request) error { return rq.jobPage(nil) })
	p.page("POST /jobs/{id}/{action}", p.answerJob)
}

// rowsOnPage is how many rows a page of a log has.
const rowsOnPage = "100"

// jobList is what templates/jobs.html shows.
type jobList struct {
	rest.List[rest.Job]
	Groups []rest.Group
	query  url.Values
}

// Get is the value of a filter.
func (l jobList) Get(name string) string { return l.query.Get(name) }

// States are what the list can be filtered by.
func (l jobList) States() []rest.JobState {
	return []rest.JobState{rest.JobRunning, rest.JobWaiting, rest.JobFailed, rest.JobWarning, rest.JobSucceeded, rest.JobCancelled}
}

// NextPage is the address of the following page; empty on the last one.
func (l jobList) NextPage() string { return following("/jobs", l.query, l.Next) }

// following is a list's address with the place at which its next page begins.
func following(path string, query url.Values, next string) string {
	if next == "" {
		return ""
	}
	q := url.Values{}
	for name, v := range query {
		if name != "limit" {
			q[name] = v
		}
	}
	q.Set("after", next)
	return path + "?" + q.Encode()
}

// filters reads a list's filters out of a page's address.
func (rq *Request) filters(names ...string) url.Values {
	q := url.Values{"limit": {rowsOnPage}}
	for _, name := range append(names, "after") {
		if v := rq.Field(name); v != "" {
			q.Set(name, v)
		}
	}
	return q
}

func (p *Portal) jobs(rq *Request) error {
	out := jobList{query: rq.filters("state", "group")}
	pg := Page{Title: "Jobs", Nav: "/jobs", Live: []string{rest.ChangeJob}}
	var err error
	if out.List, err = rq.API.JobsPage(rq.Context(), out.query); problem.HasCode(err, problem.InvalidRequest) {
		pg.Problem = problem.From(err)
	} else if err != nil {
		return err
	}
	if out.Groups, err = rq.API.Groups(rq.Context()); err != nil {
		return err
	}
	pg.Data = out
	return rq.Render("jobs", pg)
}

// jobPage is what templates/job.html shows.
type jobPage struct {
	rest.Job
	Events []rest.Event
	note   string
}

// Note is what was typed as a note.
func (j jobPage) Note() string { return j.note }

// May reports whether an answer is allowed now.
func (j jobPage) May(action string) bool { return slices.Contains(j.AllowedActions, action) }

// Target is what the job works on.
func (j jobPage) Target() string {
	switch {
	case j.Plan != "":
		return string(j.Plan)
	case len(j.Items) == 1:
		return string(j.Items[0])
	default:
		return string(j.Group)
	}
}

// TargetPage is the address of what the job works on.
func (j jobPage) TargetPage() string {
	switch {
	case j.Plan != "":
		return "/plans/" + url.PathEscape(string(j.Plan))
	case len(j.Items) == 1:
		return "/items/" + url.PathEscape(string(j.Items[0]))
	default:
		return "/groups/" + url.PathEscape(string(j.Group))
	}
}

// Done counts the tasks that have ended.
func (j jobPage) Done() int64 {
	n := int64(0)
	for _, t := range j.Tasks {
		if t.State.Ended() {
			n++
		}
	}
	return n
}

// Total counts the tasks.
func (j jobPage) Total() int64 { return int64(len(j.Tasks)) }

func (rq *Request) jobPage(failed *problem.Problem) error {
	id := dr.JobID(rq.PathValue("id"))
	job, err := rq.API.Job(rq.Context(), id)
	if err != nil {
		return err
	}
	events, err := rq.API.EventsPage(rq.Context(), url.Values{"job": {string(id)}, "limit": {rowsOnPage}})
	if err != nil {
		return err
	}
	out := jobPage{Job: job, Events: events.Items, note: rq.Field("note")}
	return rq.Render("job", Page{
		Title: operationWord(job.Operation) + " of " + out.Target(), Nav: "/jobs", Problem: failed, Data: out,
		Live: []string{rest.ChangeJob, rest.ChangeEvent},
	})
}

func (p *Portal) answerJob(rq *Request) error {
	id, action := dr.JobID(rq.PathValue("id")), rq.PathValue("action")
	if _, err := rq.API.AnswerJob(rq.Context(), id, action, rest.JobAnswer{Note: rq.Field("note"), Again: rq.Field("again") != ""}); err != nil {
		return again(err, rq.jobPage)
	}
	return rq.See("/jobs/" + url.PathEscape(string(id)))
}
