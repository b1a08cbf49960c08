package api

import (
	"context"

	"github.com/danielgtaylor/huma/v2"

	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
)

type choicesIn struct {
	IDIn
	Operation lifecycle.Operation `query:"operation" doc:"failover, failback, change-point or test-failover; the one that fits now when left out"`
}

// choiceRoutes tell, for items and groups, which moments an operation can start
// from and what each would lose.
func (s *Server) choiceRoutes(api huma.API) {
	for kind, find := range map[string]finder{"items": findItem, "groups": findGroup} {
		one := kind[:len(kind)-1]
		add(api, route("GET", "/"+kind+"/{id}/choices", one+"-choices", "List the moments to start from, with what each would lose"), func(ctx context.Context, in *choicesIn) (*reply[rest.Choices], error) {
			g, err := s.group(ctx, in.ID, find)
			if err != nil {
				return nil, err
			}
			if kind == "items" && len(g.Members) > 1 {
				p := problem.New(problem.GroupMemberAlone, "item %s is one of %d members of the group %s", in.ID, len(g.Members), g.ID)
				p.RecommendedAction = "Ask for the choices of the group " + string(g.ID) + "."
				return nil, p
			}
			out, err := s.Jobs.ChoicesFor(ctx, g.ID, in.Operation)
			return &reply[rest.Choices]{out}, err
		})
	}
}
