package api

import (
	"context"
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

type consoleIn struct {
	IDIn
	Machine string `query:"machine" enum:"active,test" doc:"the machine of the active site, or that of the test failover; left out: that of the test where there is one"`
	Accept  string `header:"Accept" doc:"application/json (the default), image/png or text/plain"`
}

func (s *Server) consoleRoute(api huma.API) {
	op := route("GET", "/items/{id}/console", "item-console", "Show what the display and the serial console of an item's machine show now")
	op.Responses = map[string]*huma.Response{"200": {Description: "What the machine shows", Content: map[string]*huma.MediaType{
		"application/json": {Schema: api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[rest.Console](), true, "Console")},
		"image/png":        {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}},
		"text/plain":       {Schema: &huma.Schema{Type: huma.TypeString}},
	}}}
	add(api, op, func(ctx context.Context, in *consoleIn) (*huma.StreamResponse, error) {
		v, err := s.console(ctx, in)
		if err != nil {
			return nil, err
		}
		kind := wanted(in.Accept)
		if kind == "image/png" && v.Picture == nil || kind == "text/plain" && !v.HasText {
			return nil, problem.New(problem.ConsoleUnavailable, "machine %s at site %s shows nothing of the kind %s. %s", v.Machine, v.Site, kind, v.PictureProblem)
		}
		return &huma.StreamResponse{Body: func(c huma.Context) {
			c.SetHeader("Content-Type", kind)
			switch kind {
			case "image/png":
				_, err = c.BodyWriter().Write(v.Picture)
			case "text/plain":
				c.SetHeader("Content-Type", "text/plain; charset=utf-8")
				_, err = c.BodyWriter().Write([]byte(v.Text))
			default:
				err = api.Marshal(c.BodyWriter(), kind, v)
			}
			if err != nil {
				s.Log.Debug("send a console", "error", err)
			}
		}}, nil
	})
}

// wanted is the first of our kinds that an Accept header names.
func wanted(accept string) string {
	for part := range strings.SplitSeq(accept, ",") {
		kind, _, _ := strings.Cut(part, ";")
		switch kind = strings.TrimSpace(kind); kind {
		case "image/png", "text/plain":
			return kind
		case "application/json", "*/*":
			return "application/json"
		}
	}
	return "application/json"
}

func (s *Server) console(ctx context.Context, in *consoleIn) (rest.Console, error) {
	g, err := s.group(ctx, in.ID, findItem)
	if err != nil {
		return rest.Console{}, err
	}
	out := rest.Console{Item: dr.ItemID(in.ID), Site: g.Active, Test: in.Machine != rest.ActiveMachine && g.Test != lifecycle.NoTest}
	if in.Machine == rest.TestMachine && !out.Test {
		return out, problem.New(problem.MachineNotRunning, "no test failover of item %s is running", in.ID)
	}
	name := machineOf(&g, out.Item)
	gw := g.HomeGateway
	if out.Test {
		out.Site, name = g.StandbySite(), name+"-test"
	}
	if out.Site == g.Recovery {
		gw = g.RecoveryGateway
	}
	out.ConsoleView, err = s.Hub.Commands(gw).Console(control.WithPatience(ctx, 0), control.ConsoleRequest{Machine: name})
	return out, err
}

func machineOf(g *store.Group, item dr.ItemID) dr.MachineName {
	for _, m := range g.Members {
		if m.Item == item {
			return m.Machine
		}
	}
	return ""
}
