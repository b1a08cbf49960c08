package api

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// PolicyIn is a policy in the path; huma reads embedded structs only when exported.
type PolicyIn struct {
	Policy dr.PolicyID `path:"policy"`
}

func (s *Server) adminRoutes(api huma.API) {
	add(api, route("GET", "/status", "status", "Show the vault's overview"), s.status)
	add(api, route("GET", "/policies", "list-policies", "List the policies"), func(ctx context.Context, _ *struct{}) (*reply[rest.List[rest.Policy]], error) {
		var out []rest.Policy
		err := s.view(ctx, func(tx *store.Tx) (err error) { out, err = tx.Policies(); return err })
		return listOf(out), err
	})
	add(api, route("GET", "/policies/{policy}", "show-policy", "Show a policy"), func(ctx context.Context, in *PolicyIn) (*reply[rest.Policy], error) {
		var out rest.Policy
		err := s.view(ctx, func(tx *store.Tx) (err error) { out, err = tx.Policy(in.Policy); return err })
		return &reply[rest.Policy]{out}, unknownPolicy(err, in.Policy)
	})
	add(api, route("PUT", "/policies/{policy}", "put-policy", "Make or replace a policy"), func(ctx context.Context, in *struct {
		PolicyIn
		Body rest.Policy
	},
	) (*reply[rest.Policy], error) {
		if in.Body.ID != in.Policy {
			return nil, problem.New(problem.InvalidRequest, "the body names policy %q, the path %q", in.Body.ID, in.Policy)
		}
		if err := dr.ValidName(string(in.Policy)); err != nil {
			return nil, problem.Wrap(err, problem.InvalidName, "%v", err)
		}
		err := s.Store.Update(ctx, func(tx *store.Tx) error { return tx.PutPolicy(in.Body) })
		return &reply[rest.Policy]{in.Body}, err
	})
	add(api, route("DELETE", "/policies/{policy}", "delete-policy", "Delete a policy that no group uses"), s.deletePolicy)
	s.tokenRoutes(api)
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

func (s *Server) tokenRoutes(api huma.API) {
	add(api, route("GET", "/tokens", "list-tokens", "List the API tokens"), func(ctx context.Context, _ *struct{}) (*reply[rest.List[rest.Token]], error) {
		var out []rest.Token
		err := s.view(ctx, func(tx *store.Tx) (err error) { out, err = tx.Tokens(); return err })
		return listOf(out), err
	})
	create := route("POST", "/tokens", "create-token", "Make an API token; its secret is shown once")
	create.DefaultStatus = 201
	add(api, create, func(ctx context.Context, in *struct{ Body rest.NewToken }) (*reply[rest.TokenSecret], error) {
		out := NewToken(in.Body, s.Now())
		err := s.Store.Update(ctx, func(tx *store.Tx) error { return tx.InsertToken(out.Token, out.Secret) })
		return &reply[rest.TokenSecret]{out}, err
	})
	add(api, route("DELETE", "/tokens/{token}", "delete-token", "End an API token"), func(ctx context.Context, in *struct {
		Token string `path:"token"`
	},
	) (*struct{}, error) {
		err := s.Store.Update(ctx, func(tx *store.Tx) error { return tx.DeleteToken(in.Token) })
		return nil, notFound(err, problem.InvalidRequest, "there is no token %q", in.Token)
	})
	add(api, route("GET", "/audit", "list-audit", "List who did what from where"), func(ctx context.Context, in *pageIn) (*reply[rest.List[rest.AuditRow]], error) {
		var out []rest.AuditRow
		err := s.view(ctx, func(tx *store.Tx) (err error) { out, err = tx.Audit(in.After, in.limit()); return err })
		return listOf(out), err
	})
}

// NewToken makes a token with 130 random bits as its secret.
func NewToken(n rest.NewToken, now time.Time) rest.TokenSecret {
	t := rest.TokenSecret{Secret: "rbt_" + rand.Text()}
	t.Token = rest.Token{ID: uuid.NewString(), Name: n.Name, Role: n.Role, Created: now.UTC()}
	if n.Days > 0 {
		t.Expires = now.Add(time.Duration(n.Days) * 24 * time.Hour).UTC()
	}
	return t
}
