package api

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"rebound/internal/problem"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

func (s *Server) adminRoutes(api huma.API) {
	add(api, route("GET", "/status", "status", "Show the vault's overview"), s.status)
	s.policyRoutes(api)
	s.tokenRoutes(api)
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
		err := s.view(ctx, func(tx *store.Tx) (err error) { out, err = tx.Audit(store.AuditFilter{After: in.After, Limit: in.limit()}); return err })
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
