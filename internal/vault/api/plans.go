package api

import (
	"bytes"
	"context"
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/orchestrator"
	"rebound/internal/problem"
	"rebound/internal/vault/planreport"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// PlanIn is a plan in the path; huma reads embedded structs only when exported.
type PlanIn struct {
	Plan dr.PlanID `path:"plan"`
}

type planOperateIn struct {
	PlanIn
	Operation lifecycle.Operation `path:"operation"`
	DryRun    bool                `query:"dryRun"`
	Body      *rest.OperationRequest
}

type reportIn struct {
	PlanIn
	Run    string `path:"run" doc:"the number of a run, or last"`
	Format string `query:"format" enum:"json,html"`
}

func (s *Server) planRoutes(api huma.API) {
	add(api, route("GET", "/plans", "list-plans", "List the recovery plans"), func(ctx context.Context, in *ListIn) (*listReply[rest.PlanView], error) {
		var out []rest.PlanView
		err := s.view(ctx, func(tx *store.Tx) error {
			rows, err := tx.Plans()
			if err != nil {
				return err
			}
			for _, p := range rows {
				v, err := s.Jobs.PlanView(tx, p)
				if err != nil {
					return err
				}
				out = append(out, v)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		return pageOf(ctx, *in, out, func(p rest.PlanView) string { return string(p.ID) }, order[rest.PlanView]{
			"id": func(p rest.PlanView) any { return string(p.ID) }, "machines": func(p rest.PlanView) any { return p.Machines },
		})
	})
	add(api, route("GET", "/plans/{plan}", "show-plan", "Show a recovery plan"), s.showPlan)
	create := route("POST", "/plans", "create-plan", "Make a recovery plan")
	create.DefaultStatus = http.StatusCreated
	add(api, create, func(ctx context.Context, in *struct{ Body rest.Plan }) (*reply[rest.PlanView], error) {
		about(ctx, "plan", string(in.Body.ID))
		out, err := s.Jobs.PutPlan(ctx, in.Body, true)
		return &reply[rest.PlanView]{out}, err
	})
	add(api, route("PUT", "/plans/{plan}", "put-plan", "Make or replace a recovery plan"), func(ctx context.Context, in *struct {
		PlanIn
		Body rest.Plan
	},
	) (*reply[rest.PlanView], error) {
		if in.Body.ID != in.Plan {
			return nil, problem.New(problem.InvalidRequest, "the body names plan %q, the path %q", in.Body.ID, in.Plan)
		}
		out, err := s.Jobs.PutPlan(ctx, in.Body, false)
		return &reply[rest.PlanView]{out}, err
	})
	add(api, route("DELETE", "/plans/{plan}", "delete-plan", "Delete a recovery plan; its history stays"), func(ctx context.Context, in *PlanIn) (*struct{}, error) {
		return nil, s.Jobs.DeletePlan(ctx, in.Plan)
	})
	add(api, route("GET", "/plans/{plan}/runs", "list-plan-runs", "List the runs of a plan, newest first, with their RTO and RPO"), func(ctx context.Context, in *PlanIn) (*reply[rest.List[rest.PlanRun]], error) {
		runs, err := s.Jobs.PlanRuns(ctx, in.Plan)
		if runs == nil {
			runs = []rest.PlanRun{}
		}
		return &reply[rest.List[rest.PlanRun]]{rest.List[rest.PlanRun]{Items: runs, Total: len(runs)}}, err
	})
	add(api, route("GET", "/plans/{plan}/runs/{run}/report", "plan-report", "Everything about one run, as JSON or as a page"), s.planReport)
	op := route("POST", "/plans/{plan}/{operation}", "operate-plan", "Start an operation of a plan; with dryRun say what it would do")
	op.DefaultStatus = http.StatusAccepted
	add(api, op, s.operatePlan)
}

func (s *Server) showPlan(ctx context.Context, in *PlanIn) (*reply[rest.PlanView], error) {
	var out rest.PlanView
	err := s.view(ctx, func(tx *store.Tx) error {
		p, err := tx.Plan(in.Plan)
		if err != nil {
			return notFound(err, problem.UnknownPlan, "there is no plan %q", in.Plan)
		}
		out, err = s.Jobs.PlanView(tx, p)
		return err
	})
	return &reply[rest.PlanView]{out}, err
}

func (s *Server) operatePlan(ctx context.Context, in *planOperateIn) (*jobReply, error) {
	req := orchestrator.PlanRequest{Operation: in.Operation, Plan: in.Plan, By: caller(ctx)}
	if in.Body != nil {
		req.Request = *in.Body
	}
	if in.DryRun {
		out, err := s.Jobs.PlanDryRun(ctx, req)
		return &jobReply{Status: http.StatusOK, Body: out}, err
	}
	job, _, err := s.Jobs.StartPlan(ctx, req)
	return accepted(job), err
}

// planReport answers with the report as JSON, or as a page that needs nothing
// else.
func (s *Server) planReport(ctx context.Context, in *reportIn) (*huma.StreamResponse, error) {
	run, err := strconv.Atoi(in.Run)
	if in.Run == "last" {
		run, err = 0, nil
	}
	if err != nil || run < 0 {
		return nil, problem.New(problem.InvalidRequest, "%q is no number of a run", in.Run)
	}
	rep, err := s.Jobs.PlanReport(ctx, in.Plan, run)
	if err != nil {
		return nil, err
	}
	rep.Vault = s.CA.Vault()
	var page bytes.Buffer
	kind := "application/json"
	if in.Format == "html" {
		kind = "text/html; charset=utf-8"
		err = planreport.HTML(&page, rep)
	} else {
		err = planreport.JSON(&page, rep)
	}
	if err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(c huma.Context) {
		c.SetHeader("Content-Type", kind)
		// The page has styles of its own, and no script.
		c.SetHeader("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		c.BodyWriter().Write(page.Bytes()) //nolint:errcheck // the caller is gone then
	}}, nil
}

// actOnJob cancels, restarts or resumes a job, or answers one that waits.
func (s *Server) actOnJob(ctx context.Context, in *jobActionIn) (*jobReply, error) {
	job, err := s.Jobs.Job(ctx, in.Job)
	if err != nil {
		return nil, err
	}
	if err := permitOperation(ctx, job.Operation); err != nil {
		return nil, err
	}
	switch waits := job.State == rest.JobWaiting; {
	case in.Action == "cancel":
		job, err = s.Jobs.Cancel(ctx, in.Job)
	case in.Action == "restart":
		job, err = s.Jobs.Restart(ctx, in.Job)
	case in.Action == "resume" && !waits:
		job, err = s.Jobs.Resume(ctx, in.Job)
	default:
		who := callerOf(ctx)
		a := orchestrator.Answer{Job: in.Job, Verdict: in.Action, By: who.Name, Role: who.Role}
		if in.Body != nil {
			a.JobAnswer = *in.Body
		}
		job, err = s.Jobs.Answer(ctx, a)
	}
	return accepted(job), err
}

type jobActionIn struct {
	Job    dr.JobID `path:"job"`
	Action string   `path:"action" enum:"cancel,restart,resume,approve,reject"`
	Body   *rest.JobAnswer
}
