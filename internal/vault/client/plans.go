package client

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"rebound/internal/dr"
	"rebound/internal/vault/rest"
)

// PlanTarget addresses a recovery plan.
func PlanTarget(id dr.PlanID) Target { return Target{"plans", string(id)} }

// Plans lists the recovery plans.
func (c *Client) Plans(ctx context.Context) ([]rest.PlanView, error) {
	return list[rest.PlanView](ctx, c, "/plans", nil)
}

// Plan reads one recovery plan.
func (c *Client) Plan(ctx context.Context, id dr.PlanID) (rest.PlanView, error) {
	return get[rest.PlanView](ctx, c, "/plans/"+seg(id), nil)
}

// CreatePlan makes a recovery plan; one of that name must not be there.
func (c *Client) CreatePlan(ctx context.Context, p rest.Plan) (rest.PlanView, error) {
	return post[rest.PlanView](ctx, c, "/plans", p)
}

// PutPlan makes or replaces a recovery plan.
func (c *Client) PutPlan(ctx context.Context, p rest.Plan) (rest.PlanView, error) {
	var out rest.PlanView
	_, err := c.do(ctx, http.MethodPut, "/plans/"+seg(p.ID), nil, p, &out)
	return out, err
}

// DeletePlan removes a recovery plan; its history stays.
func (c *Client) DeletePlan(ctx context.Context, id dr.PlanID) error {
	_, err := c.do(ctx, http.MethodDelete, "/plans/"+seg(id), nil, nil, nil)
	return err
}

// PlanRuns lists the runs of a plan, newest first.
func (c *Client) PlanRuns(ctx context.Context, id dr.PlanID) ([]rest.PlanRun, error) {
	return list[rest.PlanRun](ctx, c, "/plans/"+seg(id)+"/runs", nil)
}

// PlanReport reads everything about one run; run 0 is the newest.
func (c *Client) PlanReport(ctx context.Context, id dr.PlanID, run int) (rest.PlanReport, error) {
	return get[rest.PlanReport](ctx, c, reportPath(id, run), nil)
}

// PlanReportPage writes the report of one run as an HTML page.
func (c *Client) PlanReportPage(ctx context.Context, id dr.PlanID, run int, to io.Writer) error {
	return c.copy(ctx, rest.Prefix+reportPath(id, run)+"?format=html", to)
}

func reportPath(id dr.PlanID, run int) string {
	name := "last"
	if run > 0 {
		name = strconv.Itoa(run)
	}
	return "/plans/" + seg(id) + "/runs/" + name + "/report"
}

// AnswerJob answers a job that waits for a person: resume, approve or reject.
func (c *Client) AnswerJob(ctx context.Context, id dr.JobID, action string, a rest.JobAnswer) (rest.Job, error) {
	return post[rest.Job](ctx, c, "/jobs/"+seg(id)+"/"+url.PathEscape(action), a)
}
