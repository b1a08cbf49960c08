package portal

import (
	"bytes"
	"net/http"
	"strconv"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
)

// planRoutes registers the recovery plans, their history and their reports.
func (p *Portal) planRoutes() {
	p.page("GET /plans", p.plans)
	p.page("GET /plans/{id}", p.plan)
	p.page("GET /plans/{id}/operations", p.planOperations)
	p.page("GET /plans/{id}/runs/{run}", p.planReport)
}

func (p *Portal) plans(rq *Request) error {
	plans, err := rq.API.Plans(rq.Context())
	if err != nil {
		return err
	}
	return rq.Render("plans", Page{Title: "Recovery plans", Nav: "/plans", Live: []string{rest.ChangePlan, rest.ChangeJob}, Data: map[string]any{"Plans": plans}})
}

func (p *Portal) plan(rq *Request) error {
	plan, err := rq.API.Plan(rq.Context(), dr.PlanID(rq.PathValue("id")))
	if err != nil {
		return err
	}
	runs, err := rq.API.PlanRuns(rq.Context(), plan.ID)
	if err != nil {
		return err
	}
	return rq.Render("plan", Page{
		Title: string(plan.ID), Nav: "/plans", Live: []string{rest.ChangePlan, rest.ChangeJob, rest.ChangeItem},
		Data: map[string]any{"Plan": plan, "Runs": runs},
	})
}

func (p *Portal) planOperations(rq *Request) error {
	plan, err := rq.API.Plan(rq.Context(), dr.PlanID(rq.PathValue("id")))
	if err != nil {
		return err
	}
	out := operationList{Of: string(plan.ID), Target: "/plans/" + string(plan.ID), AllowedOperations: plan.AllowedOperations}
	return rq.Render("operations", Page{Title: "Operations of " + string(plan.ID), Nav: "/plans", Data: out})
}

// planReport is the report of a run: a page that stands alone and prints well.
// Its one style sheet is within it, which only this page's policy allows.
func (p *Portal) planReport(rq *Request) error {
	run, err := strconv.Atoi(rq.PathValue("run"))
	if err != nil {
		return problem.New(problem.InvalidRequest, "%q is not the number of a run", rq.PathValue("run"))
	}
	var page bytes.Buffer
	if err := rq.API.PlanReportPage(rq.Context(), dr.PlanID(rq.PathValue("id")), run, &page); err != nil {
		return err
	}
	h := rq.W.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("Content-Type", "text/html; charset=utf-8")
	rq.W.WriteHeader(http.StatusOK)
	rq.W.Write(page.Bytes()) //nolint:errcheck // the reader is gone then
	return nil
}
