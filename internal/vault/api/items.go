package api

import (
	"context"
	"errors"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/orchestrator"
	"rebound/internal/problem"
	"rebound/internal/site"
	"rebound/internal/vault/health"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// IDIn is an item or group in the path; huma reads embedded structs only when exported.
// IDIn and the others that are embedded below are exported because the API
// library reads fields of exported structs only.
type IDIn struct {
	ID string `path:"id"`
}

type operateIn struct {
	IDIn
	Operation lifecycle.Operation `path:"operation"`
	DryRun    bool                `query:"dryRun"`
	Body      *rest.OperationRequest
}

type pointsIn struct {
	IDIn
	From  time.Time    `query:"from"`
	To    time.Time    `query:"to"`
	Kind  dr.PointKind `query:"kind"`
	Limit int          `query:"limit" minimum:"0"`
}

type resolveIn struct {
	IDIn
	Point dr.PointSelector `query:"point" required:"true"`
}

// finder finds the group of a path's id; lone says that the id addresses one
// of several members.
type finder func(tx *store.Tx, id string) (g store.Group, lone bool, err error)

func (s *Server) itemRoutes(api huma.API) {
	add(api, route("GET", "/items", "list-items", "List the replicated items"), s.listItems)
	add(api, route("GET", "/groups", "list-groups", "List the replication groups"), s.listGroups)
	add(api, route("GET", "/items/{id}", "show-item", "Show a replicated item"), s.showItem)
	add(api, route("GET", "/groups/{id}", "show-group", "Show a replication group"), func(ctx context.Context, in *IDIn) (*reply[rest.Group], error) {
		g, err := s.groupView(ctx, in.ID, findGroup)
		return &reply[rest.Group]{g}, err
	})
	s.targetRoutes(api, "items", findItem)
	s.targetRoutes(api, "groups", findGroup)
}

func findGroup(tx *store.Tx, id string) (store.Group, bool, error) {
	g, err := tx.Group(dr.GroupID(id))
	return g, false, notFound(err, problem.UnknownGroup, "there is no group %q", id)
}

func findItem(tx *store.Tx, id string) (store.Group, bool, error) {
	g, err := tx.GroupOfItem(dr.ItemID(id))
	return g, len(g.Members) > 1, notFound(err, problem.UnknownItem, "there is no item %q", id)
}

// targetRoutes are those that items and groups have alike.
func (s *Server) targetRoutes(api huma.API, kind string, find finder) {
	one := kind[:len(kind)-1]
	add(api, route("GET", "/"+kind+"/{id}/rpo", one+"-rpo", "Read the RPO alone"), func(ctx context.Context, in *IDIn) (*reply[rest.RPO], error) {
		var out rest.RPO
		err := s.view(ctx, func(tx *store.Tx) error {
			g, _, err := find(tx, in.ID)
			if err != nil {
				return err
			}
			p, err := tx.PolicyOf(&g)
			out = s.Live.RPO(&g, p.RPOThreshold, s.Now())
			return err
		})
		return &reply[rest.RPO]{out}, err
	})
	add(api, route("GET", "/"+kind+"/{id}/points", one+"-points", "List the recovery points"), func(ctx context.Context, in *pointsIn) (*reply[rest.Points], error) {
		g, err := s.group(ctx, in.ID, find)
		if err != nil {
			return nil, err
		}
		res, err := s.Hub.Commands(g.Standby()).Points(control.WithPatience(ctx, 0), control.PointsRequest{Group: g.ID, From: in.From, To: in.To, Kind: in.Kind, Limit: in.Limit})
		out := rest.Points{Points: res.Points, Spans: res.Spans}
		if out.Points == nil {
			out.Points = []dr.Point{}
		}
		if out.Spans == nil {
			out.Spans = []control.Span{}
		}
		return &reply[rest.Points]{out}, err
	})
	add(api, route("GET", "/"+kind+"/{id}/resolve", one+"-resolve", "Say which moment a selector means now, and what would be lost"), func(ctx context.Context, in *resolveIn) (*reply[control.Resolved], error) {
		g, err := s.group(ctx, in.ID, find)
		if err != nil {
			return nil, err
		}
		res, err := s.Hub.Commands(g.Standby()).ResolvePoint(control.WithPatience(ctx, 0), control.ResolveRequest{Group: g.ID, Selector: in.Point})
		return &reply[control.Resolved]{res}, err
	})
	op := route("POST", "/"+kind+"/{id}/{operation}", "operate-"+one, "Start an operation; with dryRun say what it would do")
	op.DefaultStatus = 202
	add(api, op, func(ctx context.Context, in *operateIn) (*jobReply, error) { return s.operate(ctx, in, find) })
}

func (s *Server) group(ctx context.Context, id string, find finder) (store.Group, error) {
	var g store.Group
	err := s.view(ctx, func(tx *store.Tx) (err error) { g, _, err = find(tx, id); return err })
	return g, err
}

func (s *Server) operate(ctx context.Context, in *operateIn, find finder) (*jobReply, error) {
	if _, ok := lifecycle.RowOf(in.Operation); !ok || in.Operation == lifecycle.Protect {
		return nil, problem.New(problem.InvalidRequest, "there is no operation %q", in.Operation)
	}
	var g store.Group
	var lone bool
	err := s.view(ctx, func(tx *store.Tx) (err error) { g, lone, err = find(tx, in.ID); return err })
	if err != nil {
		return nil, err
	}
	req := orchestrator.StartRequest{Operation: in.Operation, Group: g.ID, LoneMember: lone, By: caller(ctx)}
	if in.Body != nil {
		req.Request = *in.Body
	}
	if in.DryRun {
		out, err := s.Jobs.DryRun(ctx, req)
		return &jobReply{Status: 200, Body: out}, err
	}
	job, _, err := s.Jobs.Start(ctx, req)
	return accepted(job), err
}

// eachGroup makes the views of the groups that pass, without what each allows:
// that is filled in for those that are shown.
func (s *Server) eachGroup(tx *store.Tx, pass func(*store.Group) bool, f func(rest.Group)) error {
	if err := tx.Preload(); err != nil {
		return err
	}
	rows, err := tx.Groups()
	if err != nil {
		return err
	}
	for i := range rows {
		if !pass(&rows[i]) {
			continue
		}
		v, err := s.outline(tx, &rows[i])
		if err != nil {
			return err
		}
		f(v)
	}
	return nil
}

func (s *Server) groupView(ctx context.Context, id string, find finder) (rest.Group, error) {
	var out rest.Group
	err := s.view(ctx, func(tx *store.Tx) error {
		g, lone, err := find(tx, id)
		if err != nil {
			return err
		}
		out, err = s.viewOf(tx, &g, lone)
		return err
	})
	return out, err
}

func (s *Server) showItem(ctx context.Context, in *IDIn) (*reply[rest.Item], error) {
	g, err := s.groupView(ctx, in.ID, findItem)
	if err != nil {
		return nil, err
	}
	for _, m := range g.Members {
		if string(m.Item) == in.ID {
			return &reply[rest.Item]{itemOf(g, m)}, nil
		}
	}
	return nil, problem.New(problem.UnknownItem, "there is no item %q", in.ID)
}

func itemOf(g rest.Group, m rest.Member) rest.Item {
	r := g.Replication
	grade(&r.Health, &r.Conditions, health.WithoutOthers(g.Conditions, m.Item))
	return rest.Item{ID: m.Item, Group: g.ID, Member: m, Replication: r}
}

// viewOf builds what the API shows of a group, allowed operations included. Lone
// says that they are those of one of several members.
func (s *Server) viewOf(tx *store.Tx, g *store.Group, lone bool) (rest.Group, error) {
	out, err := s.outline(tx, g)
	if err != nil {
		return out, err
	}
	out.AllowedOperations, err = s.allowed(tx, g, lone)
	return out, err
}

// allowed lists the operations and which of them may begin.
func (s *Server) allowed(tx *store.Tx, g *store.Group, lone bool) ([]lifecycle.OperationStatus, error) {
	f, err := s.Jobs.Facts(tx, g)
	f.LoneMember = lone
	return s.Jobs.Allowed(f), err
}

// outline is viewOf without the allowed operations.
func (s *Server) outline(tx *store.Tx, g *store.Group) (rest.Group, error) {
	policy, err := tx.PolicyOf(g)
	if err != nil {
		return rest.Group{}, err
	}
	out := rest.Group{ID: g.ID, Disks: g.Disks, Replication: rest.Replication{
		HomeSite: g.Home, RecoverySite: g.Recovery, ActiveSite: g.Active, Direction: g.Direction, Generation: g.Generation,
		Policy: g.Policy, State: g.State, Test: g.Test, RunningJob: g.Running, LastJob: g.LastJob, Recovered: g.Recovered,
		RPO: s.Live.RPO(g, policy.RPOThreshold, s.Now()),
	}}
	if src, ok := s.Live.Group(g.ID, g.Source()); ok {
		out.SourcePhase, out.Sync, out.Counters, out.Problem = src.Report.Phase, src.Report.Sync, src.Report.Counters, src.Report.Problem
	}
	if stb, ok := s.Live.Group(g.ID, g.Standby()); ok {
		out.Points, out.JournalBytes, out.Received = stb.Report.Points, stb.Report.JournalBytes, stb.Report.Counters
		if out.Problem == "" {
			out.Problem = stb.Report.Problem
		}
	}
	s.gradeGroup(g, &out.Replication)
	for _, m := range g.Members {
		v, err := s.memberView(tx, g, m)
		if err != nil {
			return out, err
		}
		out.Members = append(out.Members, v)
	}
	return out, nil
}

func (s *Server) memberView(tx *store.Tx, g *store.Group, m store.Member) (rest.Member, error) {
	v := rest.Member{Item: m.Item, Machine: m.Machine, Started: m.Started, Booted: m.Booted, Home: site.Unknown, Recovery: site.Unknown}
	for _, at := range []struct {
		id dr.SiteID
		to *site.PowerState
	}{{g.Home, &v.Home}, {g.Recovery, &v.Recovery}} {
		row, err := tx.Machine(at.id, m.Machine)
		if err == nil {
			*at.to = row.State
		} else if !errors.Is(err, store.ErrNotFound) {
			return v, err
		}
	}
	var err error
	v.Agent, err = s.agentView(tx, m.Machine)
	return v, err
}
