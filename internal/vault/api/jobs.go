package api

import (
	"context"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/vault/health"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

func (s *Server) jobRoutes(api huma.API) {
	add(api, route("GET", "/jobs", "list-jobs", "List the jobs, newest first"), s.listJobs)
	add(api, route("GET", "/jobs/{job}", "show-job", "Show a job; with waitSeconds wait until it ends or waits for a person"), s.showJob)
	act := route("POST", "/jobs/{job}/{action}", "act-on-job", "Cancel, restart or resume a job, or answer one that waits for a person")
	act.DefaultStatus = 202
	add(api, act, s.actOnJob)
	add(api, route("GET", "/events", "list-events", "List events, oldest first"), s.listEvents)
}

func (s *Server) showJob(ctx context.Context, in *struct {
	Job  dr.JobID `path:"job"`
	Wait int      `query:"waitSeconds" minimum:"0" maximum:"60"`
},
) (*reply[rest.Job], error) {
	deadline := time.NewTimer(time.Duration(in.Wait) * time.Second)
	defer deadline.Stop()
	for {
		changed := s.Jobs.Changed()
		job, err := s.Jobs.Job(ctx, in.Job)
		if err != nil || job.State.Ended() || job.State == rest.JobWaiting || in.Wait == 0 {
			return &reply[rest.Job]{job}, err
		}
		select {
		case <-changed:
		case <-deadline.C:
			return &reply[rest.Job]{job}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *Server) status(ctx context.Context, _ *struct{}) (*reply[rest.Status], error) {
	open, _ := s.Health.Conditions()
	out := rest.Status{
		Vault: s.CA.Vault(), Version: s.Version, Time: s.Now().UTC(), Items: map[lifecycle.State]int{},
		Unhealthy: []dr.ItemID{}, RunningJobs: []dr.JobID{}, Health: health.Grade(open.All()),
	}
	n := count(open.All())
	out.Critical, out.Warning = n.Critical, n.Warning
	err := s.view(ctx, func(tx *store.Tx) error {
		if err := tx.Preload(); err != nil {
			return err
		}
		groups, err := tx.Groups()
		if err != nil {
			return err
		}
		for i := range groups {
			g := &groups[i]
			out.Items[g.State] += len(g.Members)
			if health.Grade(open.OfGroup(whereOf(g))) != rest.HealthOK {
				out.Unhealthy = append(out.Unhealthy, g.Items()...)
			}
		}
		return s.countInfrastructure(tx, &out)
	})
	return &reply[rest.Status]{out}, err
}

func (s *Server) countInfrastructure(tx *store.Tx, out *rest.Status) error {
	sites, err := tx.Sites()
	if err != nil {
		return err
	}
	machines, err := tx.Machines("")
	if err != nil {
		return err
	}
	out.Sites, out.Machines = len(sites), len(machines)
	gateways, err := tx.Gateways("")
	if err != nil {
		return err
	}
	for _, g := range gateways {
		if g.State != "revoked" {
			out.Gateways++
		}
		if s.Hub.Connected(g.ID) {
			out.GatewaysConnected++
		}
	}
	jobs, err := tx.OpenJobs()
	for _, j := range jobs {
		out.RunningJobs = append(out.RunningJobs, j.ID)
	}
	return err
}

func unknownPolicy(err error, id dr.PolicyID) error {
	return notFound(err, problem.UnknownPolicy, "there is no policy %q", id)
}
