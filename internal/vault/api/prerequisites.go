package api

import (
	"cmp"
	"context"
	"time"

	"rebound/internal/control"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// askPatience is how long a question to a gateway waits for its connection.
const askPatience = 2 * time.Second

// gatewayPrerequisites asks one gateway what it has, and lets it try the data
// path to every gateway of the other sites.
func (s *Server) gatewayPrerequisites(ctx context.Context, in *gatewayIn) (*reply[rest.Prerequisites], error) {
	var own store.Gateway
	var all []store.Gateway
	err := s.view(ctx, func(tx *store.Tx) error {
		var err error
		if own, err = tx.Gateway(in.Gateway); err != nil {
			return notFound(err, problem.UnknownGateway, "there is no gateway %q", in.Gateway)
		}
		all, err = tx.Gateways("")
		return err
	})
	if err != nil {
		return nil, err
	}
	c := s.Hub.Commands(own.ID)
	ctx = control.WithPatience(ctx, askPatience)
	said, err := c.Prerequisites(ctx, control.PrerequisitesRequest{})
	if err != nil {
		return nil, err
	}
	out := rest.Prerequisites{Prerequisites: said, Paths: []rest.Path{}}
	for _, g := range all {
		if g.Site == own.Site || g.State != "enrolled" || g.DataAddr == "" {
			continue
		}
		p := rest.Path{From: own.ID, To: g.ID, Addr: g.DataAddr}
		res, err := c.ProbePath(ctx, control.ProbeRequest{Gateway: g.ID, Addr: g.DataAddr})
		if err != nil {
			p.Trouble = cmp.Or(problem.From(err).Detail, err.Error())
		}
		p.Seconds = res.Seconds
		out.Paths = append(out.Paths, p)
	}
	return &reply[rest.Prerequisites]{out}, nil
}
