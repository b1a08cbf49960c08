package api

import (
	"context"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"rebound/internal/problem"
	"rebound/internal/vault/auth"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// TokenIn is a token in the path; huma reads embedded structs only when exported.
type TokenIn struct {
	Token string `path:"token"`
}

func unknownToken(err error, id string) error {
	return notFound(err, problem.UnknownToken, "there is no token %q", id)
}

func (s *Server) tokenRoutes(api huma.API) {
	add(api, route("GET", "/tokens", "list-tokens", "List the API tokens; below owner, one's own"), s.listTokens)
	add(api, route("GET", "/tokens/{token}", "show-token", "Show an API token, without its secret"), func(ctx context.Context, in *TokenIn) (*reply[rest.Token], error) {
		var t rest.Token
		err := s.view(ctx, func(tx *store.Tx) (err error) { t, err = ownToken(ctx, tx, in.Token); return err })
		return &reply[rest.Token]{t}, err
	})
	create := route("POST", "/tokens", "create-token", "Make an API token; its secret is shown once")
	create.DefaultStatus = 201
	add(api, create, s.createToken)
	add(api, route("PATCH", "/tokens/{token}", "update-token", "Change an API token's name, role or end"), s.updateToken)
	add(api, route("DELETE", "/tokens/{token}", "delete-token", "End an API token"), s.deleteToken)
}

func (s *Server) listTokens(ctx context.Context, in *struct {
	ListIn
	User string `query:"user" doc:"only this user's"`
},
) (*listReply[rest.Token], error) {
	var all []rest.Token
	if err := s.view(ctx, func(tx *store.Tx) (err error) { all, err = tx.Tokens(); return err }); err != nil {
		return nil, err
	}
	who := callerOf(ctx)
	all = keepIf(all, func(t rest.Token) bool {
		mine := who.Role.Allows(auth.Owner) || who.User != "" && t.User == who.User
		return mine && (in.User == "" || t.User == in.User)
	})
	return pageOf(ctx, in.ListIn, all, func(t rest.Token) string { return t.ID }, order[rest.Token]{
		"name": func(t rest.Token) any { return t.Name }, "role": func(t rest.Token) any { return t.Role },
		"user": func(t rest.Token) any { return t.User }, "created": func(t rest.Token) any { return t.Created },
		"expires": func(t rest.Token) any { return t.Expires }, "lastUsed": func(t rest.Token) any { return t.LastUsed },
	})
}

// ownToken reads a token that the caller may see: an owner any, others theirs.
// Others' are not there for them.
func ownToken(ctx context.Context, tx *store.Tx, id string) (rest.Token, error) {
	t, err := tx.Token(id)
	if err != nil {
		return t, unknownToken(err, id)
	}
	if permitOwn(ctx, t.User) != nil {
		return rest.Token{}, unknownToken(store.ErrNotFound, id)
	}
	return t, nil
}

// NewToken makes a token with 130 random bits as its secret.
func NewToken(n rest.NewToken, now time.Time) rest.TokenSecret {
	t := rest.TokenSecret{Secret: auth.NewSecret("rbt_")}
	t.Token = rest.Token{ID: uuid.NewString(), Name: n.Name, User: n.User, Role: n.Role, Created: now.UTC()}
	if n.Days > 0 {
		t.Expires = now.Add(days(n.Days)).UTC()
	}
	return t
}

func days(n int) time.Duration { return time.Duration(n) * 24 * time.Hour }

func (s *Server) createToken(ctx context.Context, in *struct{ Body rest.NewToken }) (*reply[rest.TokenSecret], error) {
	who, n := callerOf(ctx), in.Body
	if n.User == "" && !who.Role.Allows(auth.Owner) {
		n.User = who.User
	}
	if err := permitOwn(ctx, n.User); err != nil {
		return nil, err
	}
	if !who.Role.Allows(auth.Role(n.Role)) {
		return nil, denied(who, "a token with the role "+n.Role, auth.Role(n.Role))
	}
	out := NewToken(n, s.Now())
	out.By = who.Name
	about(ctx, "token", out.ID)
	err := s.Store.Update(ctx, func(tx *store.Tx) error {
		if n.User == "" {
			if err := nameFree(tx, n.Name); err != nil {
				return err
			}
		} else if _, err := tx.User(n.User); err != nil {
			return unknownUser(err, n.User)
		}
		return tx.InsertToken(out.Token, out.Secret)
	})
	return &reply[rest.TokenSecret]{out}, err
}

func (s *Server) updateToken(ctx context.Context, in *struct {
	TokenIn
	Body rest.TokenChange
},
) (*reply[rest.Token], error) {
	who := callerOf(ctx)
	var t rest.Token
	err := s.Store.Update(ctx, func(tx *store.Tx) (err error) {
		if t, err = ownToken(ctx, tx, in.Token); err != nil {
			return err
		}
		was := isOwnerToken(t)
		if r := in.Body.Role; r != nil {
			if !who.Role.Allows(auth.Role(*r)) {
				return denied(who, "a token with the role "+*r, auth.Role(*r))
			}
			t.Role = *r
		}
		if name := in.Body.Name; name != nil && *name != t.Name {
			if t.User == "" {
				if err := nameFree(tx, *name); err != nil {
					return err
				}
			}
			t.Name = *name
		}
		if n := in.Body.Days; n != nil {
			t.Expires = time.Time{}
			if *n > 0 {
				t.Expires = s.Now().Add(days(*n)).UTC()
			}
		}
		if err := tx.PutToken(t); err != nil || !was {
			return err
		}
		return ownerLeft(tx, true)
	})
	return &reply[rest.Token]{t}, err
}

func (s *Server) deleteToken(ctx context.Context, in *TokenIn) (*struct{}, error) {
	return nil, s.Store.Update(ctx, func(tx *store.Tx) error {
		t, err := ownToken(ctx, tx, in.Token)
		if err != nil {
			return err
		}
		if err := tx.DeleteToken(in.Token); err != nil || !isOwnerToken(t) {
			return unknownToken(err, in.Token)
		}
		return ownerLeft(tx, true)
	})
}
