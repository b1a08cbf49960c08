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

// jobList is what templates/jobs.html shows.
type jobList struct {
	*logList[rest.Job]
	Groups []rest.Group
}

// States are what the list can be filtered by.
func (l jobList) States() []rest.JobState {
	return []rest.JobState{rest.JobRunning, rest.JobWaiting, rest.JobFailed, rest.JobWarning, rest.JobSucceeded, rest.JobCancelled}
}

func (p *Portal) jobs(rq *Request) error {
	list := &logList[rest.Job]{Path: "/jobs", query: rq.filters("state", "group")}
	wrong, err := list.load(rq.Context(), rq.API.JobsPage)
	if err != nil {
		return err
	}
	groups, err := rq.API.Groups(rq.Context())
	if err != nil {
		return err
	}
	return rq.Render("jobs", Page{
		Title: "Jobs", Nav: "/jobs", Problem: wrong, Live: []string{rest.ChangeJob}, Data: jobList{list, groups},
	})
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
