package api

import (
	"context"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site"
	"rebound/internal/vault/rest"
)

// defaultStopTimeout is how long a guest may take to power off.
const defaultStopTimeout = time.Minute

type machinePath struct {
	Site    dr.SiteID      `path:"site"`
	Machine dr.MachineName `path:"machine"`
}

// powerRoutes start and stop a machine by hand, for example after its host was
// started anew. A standby machine is refused by its gateway.
func (s *Server) powerRoutes(api huma.API) {
	add(api, route("POST", "/sites/{site}/machines/{machine}/start", "start-machine", "Start a machine"),
		func(ctx context.Context, in *struct {
			Site    dr.SiteID      `path:"site"`
			Machine dr.MachineName `path:"machine"`
		},
		) (*struct{}, error) {
			return nil, s.startMachine(ctx, machinePath(*in))
		})
	add(api, route("POST", "/sites/{site}/machines/{machine}/stop", "stop-machine", "Stop a machine"),
		func(ctx context.Context, in *struct {
			Site    dr.SiteID      `path:"site"`
			Machine dr.MachineName `path:"machine"`
			Body    rest.StopMachine
		},
		) (*struct{}, error) {
			return nil, s.stopMachine(ctx, machinePath{in.Site, in.Machine}, in.Body)
		})
}

func (s *Server) startMachine(ctx context.Context, m machinePath) error {
	gw, err := s.gatewayAt(ctx, m.Site)
	if err != nil {
		return err
	}
	return s.Hub.Commands(gw).StartMachine(ctx, s.origin("start"), control.MachineRequest{Machine: m.Machine})
}

func (s *Server) stopMachine(ctx context.Context, m machinePath, r rest.StopMachine) error {
	mode := site.Graceful
	switch r.Mode {
	case "", string(site.Graceful):
	case string(site.Hard), string(site.GracefulThenHard):
		mode = site.StopMode(r.Mode)
	default:
		return problem.New(problem.InvalidRequest, "mode %q: want graceful, hard or graceful-then-hard", r.Mode)
	}
	timeout := time.Duration(r.TimeoutSeconds) * time.Second
	if timeout <= 0 {
		timeout = defaultStopTimeout
	}
	gw, err := s.gatewayAt(ctx, m.Site)
	if err != nil {
		return err
	}
	return s.Hub.Commands(gw).StopMachine(ctx, s.origin("stop"), control.StopRequest{Machine: m.Machine, Mode: mode, Timeout: timeout})
}
