package api

import (
	"context"
	"errors"

	"github.com/danielgtaylor/huma/v2"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/orchestrator"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// PolicyIn is a policy in the path; huma reads embedded structs only when exported.
type PolicyIn struct {
	Policy dr.PolicyID `path:"policy"`
}

func (s *Server) policyRoutes(api huma.API) {
	add(api, route("GET", "/policies", "list-policies", "List the policies"), func(ctx context.Context, in *ListIn) (*listReply[rest.Policy], error) {
		return pageRead(ctx, s, *in, (*store.Tx).Policies, func(p rest.Policy) string { return string(p.ID) }, order[rest.Policy]{
			"id":                  func(p rest.Policy) any { return p.ID },
			"rpoThresholdSeconds": func(p rest.Policy) any { return p.RPOThreshold },
			"redoWindowSeconds":   func(p rest.Policy) any { return p.RedoWindow },
			"retentionSeconds":    func(p rest.Policy) any { return p.Retention },
		})
	})
	add(api, route("GET", "/policies/{policy}", "show-policy", "Show a policy"), func(ctx context.Context, in *PolicyIn) (*reply[rest.Policy], error) {
		var out rest.Policy
		err := s.view(ctx, func(tx *store.Tx) (err error) { out, err = tx.Policy(in.Policy); return err })
		return &reply[rest.Policy]{out}, unknownPolicy(err, in.Policy)
	})
	add(api, route("PUT", "/policies/{policy}", "put-policy", "Make or replace a policy"), s.putPolicy)
	add(api, route("DELETE", "/policies/{policy}", "delete-policy", "Delete a policy that no group uses"), s.deletePolicy)
}

type putPolicyIn struct {
	PolicyIn
	Body rest.Policy
}

// putPolicy keeps a policy; the gateways take it over with their next report.
func (s *Server) putPolicy(ctx context.Context, in *putPolicyIn) (*reply[rest.Policy], error) {
	p := in.Body
	if p.ID != in.Policy {
		return nil, problem.New(problem.InvalidRequest, "the body names policy %q, the path %q", p.ID, in.Policy)
	}
	if err := dr.ValidName(string(in.Policy)); err != nil {
		return nil, problem.Wrap(err, problem.InvalidName, "%v", err)
	}
	err := s.Store.Update(ctx, func(tx *store.Tx) error {
		if p.Failback == nil {
			old, err := tx.Policy(p.ID)
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
			if p.Failback = old.Failback; p.Failback == nil {
				f := rest.NewFailbackPolicy(p)
				p.Failback = &f
			}
		}
		if err := checkPolicy(p); err != nil {
			return err
		}
		return tx.PutPolicy(p)
	})
	return &reply[rest.Policy]{p}, err
}

// checkPolicy refuses values that do not fit together (what one value alone may
// be is in the fields' tags).
func checkPolicy(p rest.Policy) error {
	for _, side := range []struct {
		name string
		p    rest.Policy
	}{{"", p}, {"failback.", p.For(dr.Back)}} {
		keep := side.p.Retention
		if keep == 0 {
			keep = side.p.RedoWindow
		}
		if _, err := side.p.Bandwidth.Parse(); err != nil {
			return problem.New(problem.InvalidRequest, "%s%v", side.name, err)
		}
		switch {
		case keep < side.p.RedoWindow:
			return problem.New(problem.InvalidRequest, "%sretentionSeconds is %d, but every moment of %d s is to be kept (%sredoWindowSeconds)", side.name, keep, side.p.RedoWindow, side.name)
		case side.p.AppInterval > 0 && side.p.AppInterval >= keep:
			return problem.New(problem.InvalidRequest, "%sappIntervalSeconds is %d: it must be below the retention of %d s", side.name, side.p.AppInterval, keep)
		}
	}
	return nil
}

func (s *Server) deletePolicy(ctx context.Context, in *PolicyIn) (*struct{}, error) {
	return nil, s.Store.Update(ctx, func(tx *store.Tx) error {
		groups, err := tx.Groups()
		if err != nil {
			return err
		}
		for _, g := range groups {
			if g.Policy == in.Policy {
				return problem.New(problem.OperationNotAllowed, "group %s uses policy %s", g.ID, in.Policy)
			}
		}
		return unknownPolicy(tx.DeletePolicy(in.Policy), in.Policy)
	})
}

// policySettings reads what the gateway is to know of its groups' policies.
func policySettings(tx *store.Tx, gw dr.GatewayID, groups []store.Group, out map[dr.GroupID]*control.PolicySettings) error {
	for _, g := range groups {
		if gw != g.HomeGateway && gw != g.RecoveryGateway {
			continue
		}
		p, err := tx.PolicyOf(&g)
		if err != nil {
			return err
		}
		settings := orchestrator.PolicySettings(p)
		out[g.ID] = &settings
	}
	return nil
}
