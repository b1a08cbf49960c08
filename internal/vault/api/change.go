package api

import (
	"context"

	"github.com/danielgtaylor/huma/v2"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

type changeSiteIn struct {
	SiteIn
	Body rest.SiteChange
}

type changeGroupIn struct {
	IDIn
	Body rest.GroupChange
}

func (s *Server) changeRoutes(api huma.API) {
	add(api, route("POST", "/sites/{site}/validate", "validate-site", "Try everything that the site promises, on scratch machines"), s.validateSite)
	add(api, route("PUT", "/sites/{site}", "update-site", "Change a site's description"), func(ctx context.Context, in *changeSiteIn) (*reply[rest.Site], error) {
		err := s.Store.Update(ctx, func(tx *store.Tx) error {
			row, err := tx.Site(in.Site)
			if err != nil {
				return notFound(err, problem.UnknownSite, "there is no site %q", in.Site)
			}
			row.Description = in.Body.Description
			return tx.PutSite(row)
		})
		if err != nil {
			return nil, err
		}
		return s.showSite(ctx, &in.SiteIn)
	})
	add(api, route("PUT", "/groups/{id}", "update-group", "Give a group another policy"), func(ctx context.Context, in *changeGroupIn) (*reply[rest.Group], error) {
		err := s.Store.Update(ctx, func(tx *store.Tx) error {
			if _, err := tx.Policy(in.Body.Policy); err != nil {
				return unknownPolicy(err, in.Body.Policy)
			}
			if _, _, err := findGroup(tx, in.ID); err != nil {
				return err
			}
			return tx.ChangeGroup(dr.GroupID(in.ID), func(g *store.Group) error {
				g.Policy = in.Body.Policy
				return nil
			})
		})
		if err != nil {
			return nil, err
		}
		g, err := s.groupView(ctx, in.ID, findGroup)
		return &reply[rest.Group]{g}, err
	})
}

// validateSite answers when all was tried: that takes about a minute where
// machines start quickly.
func (s *Server) validateSite(ctx context.Context, in *SiteIn) (*reply[rest.SiteValidation], error) {
	gw, err := s.gatewayAt(ctx, in.Site)
	if err != nil {
		return nil, err
	}
	res, err := s.Hub.Commands(gw).ValidateSite(ctx, s.origin("validate-site"), control.ValidateRequest{})
	out := rest.SiteValidation{Site: in.Site, Gateway: gw, OK: true, Checks: res.Checks}
	for _, c := range res.Checks {
		out.OK = out.OK && c.Outcome != "failed"
	}
	return &reply[rest.SiteValidation]{out}, err
}
