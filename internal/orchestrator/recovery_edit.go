package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/vault/auth"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// The limits of plans are Azure Site Recovery's: 7 groups, 100 machines.
const (
	maxBootGroups = 7
	maxActions    = 50 // before or after one boot group
)

// PutPlan makes a plan (create) or replaces one. What is not valid is refused
// with InvalidPlan; a plan whose job is at work stays as it is.
func (o *Orchestrator) PutPlan(ctx context.Context, doc rest.Plan, create bool) (rest.PlanView, error) {
	if err := checkPlan(doc); err != nil {
		return rest.PlanView{}, err
	}
	var out rest.PlanView
	err := o.store.Update(ctx, func(tx *store.Tx) error {
		if _, err := o.specOf(tx, doc); err != nil {
			return err
		}
		row, err := tx.Plan(doc.ID)
		now := o.now().UTC()
		switch {
		case create && err == nil:
			return problem.New(problem.NameTaken, "there is a plan %q already", doc.ID)
		case errors.Is(err, store.ErrNotFound):
			row = store.Plan{Plan: doc, Created: now, ChangedAt: now}
			err = tx.InsertPlan(row)
		case err != nil:
			return err
		case row.Running != "":
			return problem.New(problem.OperationRunning, "job %s is at work on plan %s", row.Running, doc.ID)
		default:
			row.Plan, row.ChangedAt = doc, now
			err = tx.PutPlan(row)
		}
		if err != nil {
			return err
		}
		out, err = o.PlanView(tx, row)
		return err
	})
	return out, err
}

// DeletePlan removes a plan; its history stays.
func (o *Orchestrator) DeletePlan(ctx context.Context, id dr.PlanID) error {
	return o.store.Update(ctx, func(tx *store.Tx) error {
		p, err := tx.Plan(id)
		if errors.Is(err, store.ErrNotFound) {
			return problem.New(problem.UnknownPlan, "there is no plan %q", id)
		}
		if err != nil {
			return err
		}
		if p.Running != "" {
			return problem.New(problem.OperationRunning, "job %s is at work on plan %s", p.Running, id)
		}
		return tx.DeletePlan(id)
	})
}

// PlanView is a plan as the API shows it.
func (o *Orchestrator) PlanView(tx *store.Tx, p store.Plan) (rest.PlanView, error) {
	out := rest.PlanView{
		Plan: p.Plan, RunningJob: p.Running, LastJob: p.LastJob, LastRun: p.LastRun, Created: p.Created, ChangedAt: p.ChangedAt,
		States: map[lifecycle.State]int{},
	}
	spec, err := o.specOf(tx, p.Plan)
	if bad, ok := errors.AsType[*problem.Problem](err); ok {
		out.Problems = append(out.Problems, bad.Detail)
	} else if err != nil {
		return out, err
	} else {
		for i, m := range spec.Members {
			g, err := tx.Group(m.Group)
			if err != nil {
				return out, err
			}
			if i == 0 {
				out.Home, out.Recovery, out.Direction = g.Home, g.Recovery, g.Direction
			}
			out.States[g.State]++
			out.Machines++
		}
	}
	out.AllowedOperations, err = o.PlanAllowed(tx, p)
	return out, err
}

// checkPlan refuses a document that makes no sense whatever the inventory is.
func checkPlan(p rest.Plan) error {
	if err := dr.ValidName(string(p.ID)); err != nil {
		return problem.Wrap(err, problem.InvalidName, "%v", err)
	}
	if n := len(p.Groups); n == 0 || n > maxBootGroups {
		return problem.New(problem.InvalidPlan, "a plan has 1 to %d boot groups, not %d", maxBootGroups, n)
	}
	if err := checkActions("plan", p.Before, p.After); err != nil {
		return err
	}
	for i, g := range p.Groups {
		where := groupName(p, i+1)
		if !slices.Contains([]string{"", rest.OnFailureStop, rest.OnFailureContinue}, g.OnUnhealthy) {
			return problem.New(problem.InvalidPlan, "%s: onUnhealthy is stop or continue, not %q", where, g.OnUnhealthy)
		}
		if err := checkActions(where, g.Before, g.After); err != nil {
			return err
		}
	}
	return nil
}

func checkActions(where string, lists ...[]rest.PlanAction) error {
	for _, list := range lists {
		if len(list) > maxActions {
			return problem.New(problem.InvalidPlan, "%s: at most %d actions, not %d", where, maxActions, len(list))
		}
		for _, a := range list {
			if err := checkAction(a); err != nil {
				return problem.New(problem.InvalidPlan, "%s, action %q: %v", where, a.Name, err)
			}
		}
	}
	return nil
}

func checkAction(a rest.PlanAction) error {
	kinds := 0
	for _, set := range []bool{a.Script != nil, a.HTTP != nil, a.Manual != nil, a.Approval != nil} {
		if set {
			kinds++
		}
	}
	switch {
	case strings.TrimSpace(a.Name) == "":
		return errors.New("it has no name")
	case kinds != 1:
		return errors.New("it is exactly one of script, http, manual and approval")
	case !slices.Contains([]string{"", rest.OnFailureStop, rest.OnFailureContinue}, a.OnFailure):
		return fmt.Errorf("onFailure is stop or continue, not %q", a.OnFailure)
	}
	for _, w := range a.When {
		if !slices.Contains([]rest.PlanWhen{rest.WhenForward, rest.WhenBack, rest.WhenTest}, w) {
			return fmt.Errorf("when is forward, back or test, not %q", w)
		}
	}
	switch {
	case a.Script != nil:
		return checkScript(*a.Script)
	case a.HTTP != nil:
		return checkHTTP(*a.HTTP)
	case a.Manual != nil && strings.TrimSpace(a.Manual.Text) == "":
		return errors.New("a manual action says what is to be done")
	case a.Approval != nil && a.Approval.Role != "" && !auth.Role(a.Approval.Role).Allows(auth.Operator):
		return fmt.Errorf("the role of an approval is operator, contributor or owner, not %q", a.Approval.Role)
	}
	return nil
}

func checkScript(s rest.PlanScript) error {
	switch {
	case (s.Text == "") == (s.Path == ""):
		return errors.New("a script has either a text or a path")
	case s.TimeoutSeconds < 0 || s.TimeoutSeconds > 86400:
		return errors.New("timeoutSeconds is 1 to 86400")
	}
	for k := range s.Env {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.HasPrefix(k, "REBOUND_") {
			return fmt.Errorf("%q cannot name a variable", k)
		}
	}
	return checkPlace(s.At, false)
}

func checkHTTP(h rest.PlanHTTP) error {
	if h.URL == "" {
		return errors.New("an HTTP call has a url")
	}
	for what, text := range map[string]string{"url": h.URL, "body": h.Body} {
		if _, err := parse(what, text); err != nil {
			return err
		}
	}
	for k, v := range h.Headers {
		if _, err := parse("header "+k, v); err != nil {
			return err
		}
	}
	switch {
	case h.Retries < 0 || h.Retries > 100:
		return errors.New("retries is 0 to 100")
	case h.TimeoutSeconds < 0 || h.TimeoutSeconds > 3600:
		return errors.New("timeoutSeconds is 1 to 3600")
	}
	return checkPlace(h.At, true)
}

func checkPlace(p rest.Place, vaultToo bool) error {
	switch {
	case p == "" || p == rest.AtTarget || p == rest.AtSource || p == rest.AtVault && vaultToo:
		return nil
	case strings.HasPrefix(string(p), "gateway/") && dr.ValidName(string(p[len("gateway/"):])) == nil:
		return nil
	}
	return fmt.Errorf("at is target, source, gateway/NAME%s, not %q", map[bool]string{true: " or vault"}[vaultToo], p)
}
