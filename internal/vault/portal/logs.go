package portal

import (
	"net/url"

	"rebound/internal/problem"
	"rebound/internal/vault/rest"
)

// logRoutes registers the events and the audit log, newest first.
func (p *Portal) logRoutes() {
	p.page("GET /events", p.events)
	p.page("GET /audit", p.audit)
}

// logList is what templates/events.html and templates/audit.html show.
type logList[T any] struct {
	rest.List[T]
	Path  string
	query url.Values
}

// Get is the value of a filter.
func (l logList[T]) Get(name string) string { return l.query.Get(name) }

// NextPage is the address of the following page; empty on the last one.
func (l logList[T]) NextPage() string { return following(l.Path, l.query, l.Next) }

// Filtered reports whether a filter hides rows.
func (l logList[T]) Filtered() bool {
	for name := range l.query {
		if name != "sort" && name != "after" && name != "limit" {
			return true
		}
	}
	return false
}

func (p *Portal) events(rq *Request) error {
	out := logList[rest.Event]{Path: "/events", query: rq.filters("code", "severity", "site", "gateway", "group", "machine")}
	out.query.Set("sort", "-seq")
	pg := Page{Title: "Events", Nav: "/events", Live: []string{rest.ChangeEvent}}
	var err error
	if out.List, err = rq.API.EventsPage(rq.Context(), out.query); problem.HasCode(err, problem.InvalidRequest) {
		pg.Problem = problem.From(err)
	} else if err != nil {
		return err
	}
	pg.Data = out
	return rq.Render("events", pg)
}

func (p *Portal) audit(rq *Request) error {
	out := logList[rest.AuditRow]{Path: "/audit", query: rq.filters("who", "object", "operation", "outcome", "channel")}
	out.query.Set("sort", "-seq")
	pg := Page{Title: "Audit log", Nav: "/audit"}
	var err error
	if out.List, err = rq.API.AuditPage(rq.Context(), out.query); problem.HasCode(err, problem.InvalidRequest) {
		pg.Problem = problem.From(err)
	} else if err != nil {
		return err
	}
	pg.Data = out
	return rq.Render("audit", pg)
}
