package portal

import (
	"rebound/internal/vault/rest"
)

// logRoutes registers the events and the audit log, newest first.
func (p *Portal) logRoutes() {
	p.page("GET /events", p.events)
	p.page("GET /audit", p.audit)
}

func (p *Portal) events(rq *Request) error {
	out := &logList[rest.Event]{Path: "/events", query: rq.filters("code", "severity", "site", "gateway", "group", "machine")}
	out.query.Set("sort", "-seq")
	wrong, err := out.load(rq.Context(), rq.API.EventsPage)
	if err != nil {
		return err
	}
	return rq.Render("events", Page{Title: "Events", Nav: "/events", Problem: wrong, Live: []string{rest.ChangeEvent}, Data: out})
}

func (p *Portal) audit(rq *Request) error {
	out := &logList[rest.AuditRow]{Path: "/audit", query: rq.filters("who", "object", "operation", "outcome", "channel")}
	out.query.Set("sort", "-seq")
	wrong, err := out.load(rq.Context(), rq.API.AuditPage)
	if err != nil {
		return err
	}
	return rq.Render("audit", Page{Title: "Audit log", Nav: "/audit", Problem: wrong, Data: out})
}
