package api

import (
	"context"
	"math"
	"slices"
	"strings"
	"time"

	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/site"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// pageIn is a limit as the query gives it; 0 means the usual one.
type pageIn struct{ Limit int }

func (p pageIn) limit() int { return limitOf(p.Limit) }

func (s *Server) listJobs(ctx context.Context, in *struct {
	Group     dr.GroupID          `query:"group"`
	Operation lifecycle.Operation `query:"operation"`
	State     rest.JobState       `query:"state" enum:"pending,running,waiting,succeeded,warning,failed,cancelled,skipped"`
	By        string              `query:"by" doc:"only those that this user or service token started"`
	From      time.Time           `query:"from"`
	To        time.Time           `query:"to"`
	ListIn
},
) (*listReply[rest.Job], error) {
	f := store.JobFilter{
		Group: in.Group, Operation: in.Operation, State: in.State, By: in.By, From: in.From, To: in.To,
		OldestFirst: in.Sort == "created", Limit: limitOf(in.Limit) + 1,
	}
	if in.Sort != "" && in.Sort != "created" && in.Sort != "-created" {
		return nil, problem.New(problem.InvalidRequest, "cannot sort by %q: want created or -created", in.Sort)
	}
	if at, id, ok := strings.Cut(in.After, "_"); in.After != "" {
		t, err := time.Parse(time.RFC3339Nano, at)
		if err != nil || !ok {
			return nil, problem.New(problem.InvalidRequest, "'after' is not the 'next' of a page of this list")
		}
		f.Created, f.ID = t, dr.JobID(id)
	}
	jobs, err := s.Jobs.JobsWhere(ctx, f)
	if err != nil {
		return nil, err
	}
	out := &listReply[rest.Job]{}
	if n := limitOf(in.Limit); len(jobs) > n {
		jobs = jobs[:n]
		last := jobs[n-1]
		out.next(ctx, last.Created.UTC().Format(time.RFC3339Nano)+"_"+string(last.ID))
	}
	out.Body.Items = jobs
	return out, nil
}

func (s *Server) listEvents(ctx context.Context, in *struct {
	LogIn
	Code     string         `query:"code"`
	Severity string         `query:"severity" enum:"info,warning,critical"`
	Site     dr.SiteID      `query:"site"`
	Gateway  dr.GatewayID   `query:"gateway"`
	Group    dr.GroupID     `query:"group"`
	Machine  dr.MachineName `query:"machine"`
	Job      dr.JobID       `query:"job"`
	From     time.Time      `query:"from"`
	To       time.Time      `query:"to"`
},
) (*listReply[rest.Event], error) {
	newest, err := in.newestFirst()
	if err != nil {
		return nil, err
	}
	f := store.EventFilter{
		Limit: in.limit() + 1, NewestFirst: newest, Code: in.Code, Severity: in.Severity, Site: in.Site, Gateway: in.Gateway,
		Group: in.Group, Machine: in.Machine, Job: in.Job, From: in.From, To: in.To,
	}
	if newest {
		f.Before = in.After
	} else {
		f.After = in.After
	}
	var rows []rest.Event
	if err := s.view(ctx, func(tx *store.Tx) (err error) { rows, err = tx.Events(f); return err }); err != nil {
		return nil, err
	}
	return logPage(ctx, rows, in.limit(), func(e rest.Event) int64 { return e.Seq }), nil
}

// ReplicationIn filters items and groups; exported because huma reads embedded
// structs only when they are.
type ReplicationIn struct {
	State      lifecycle.State `query:"state"`
	Health     string          `query:"health" enum:"ok,warning,critical"`
	Site       dr.SiteID       `query:"site" doc:"only those of which this is one of the two sites"`
	ActiveSite dr.SiteID       `query:"activeSite" doc:"only those that run there"`
	Policy     dr.PolicyID     `query:"policy"`
	Search     string          `query:"q" doc:"only those whose name, machine or group contains this"`
}

// group lets a group's row pass by what is stored; the rest is looked at when
// the view has been made.
func (in ReplicationIn) group(g *store.Group) bool {
	return wants(in.State, g.State) && wants(in.ActiveSite, g.Active) && wants(in.Policy, g.Policy) &&
		(in.Site == "" || in.Site == g.Home || in.Site == g.Recovery)
}

func (in ReplicationIn) names(names ...string) bool {
	return in.Search == "" || slices.ContainsFunc(names, func(n string) bool {
		return strings.Contains(strings.ToLower(n), strings.ToLower(in.Search))
	})
}

// rpoOf sorts those without an RPO last.
func rpoOf(r rest.RPO) float64 {
	if r.Seconds == nil {
		return math.MaxInt64
	}
	return *r.Seconds
}

// severityRank sorts the worst last.
func severityRank(health string) int {
	return slices.Index([]string{"ok", "warning", "critical"}, health)
}

func replicationOrder[T any](of func(T) rest.Replication) order[T] {
	return order[T]{
		"state": func(t T) any { return of(t).State }, "health": func(t T) any { return severityRank(string(of(t).Health)) },
		"rpo": func(t T) any { return rpoOf(of(t).RPO) }, "policy": func(t T) any { return of(t).Policy },
		"activeSite": func(t T) any { return of(t).ActiveSite },
	}
}

func (s *Server) listItems(ctx context.Context, in *struct {
	ListIn
	ReplicationIn
	Group dr.GroupID `query:"group"`
},
) (out *listReply[rest.Item], err error) {
	by := replicationOrder(func(i rest.Item) rest.Replication { return i.Replication })
	by["id"] = func(i rest.Item) any { return i.ID }
	by["group"] = func(i rest.Item) any { return i.Group }
	pass := func(g *store.Group) bool { return in.ReplicationIn.group(g) && wants(in.Group, g.ID) }
	err = s.view(ctx, func(tx *store.Tx) error {
		var all []rest.Item
		err := s.eachGroup(tx, pass, func(g rest.Group) {
			for _, m := range g.Members {
				item := itemOf(g, m)
				if wants(in.Health, string(item.Health)) && in.names(string(m.Item), string(m.Machine), string(g.ID)) {
					all = append(all, item)
				}
			}
		})
		if err != nil {
			return err
		}
		if out, err = pageOf(ctx, in.ListIn, all, func(i rest.Item) string { return string(i.ID) }, by); err != nil {
			return err
		}
		for i := range out.Body.Items {
			item := &out.Body.Items[i]
			g, lone, err := findItem(tx, string(item.ID))
			if err != nil {
				return err
			}
			if item.AllowedOperations, err = s.allowed(tx, &g, lone); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

func (s *Server) listGroups(ctx context.Context, in *struct {
	ListIn
	ReplicationIn
},
) (out *listReply[rest.Group], err error) {
	by := replicationOrder(func(g rest.Group) rest.Replication { return g.Replication })
	by["id"] = func(g rest.Group) any { return g.ID }
	err = s.view(ctx, func(tx *store.Tx) error {
		var all []rest.Group
		err := s.eachGroup(tx, in.ReplicationIn.group, func(g rest.Group) {
			names := []string{string(g.ID)}
			for _, m := range g.Members {
				names = append(names, string(m.Item), string(m.Machine))
			}
			if wants(in.Health, string(g.Health)) && in.names(names...) {
				all = append(all, g)
			}
		})
		if err != nil {
			return err
		}
		if out, err = pageOf(ctx, in.ListIn, all, func(g rest.Group) string { return string(g.ID) }, by); err != nil {
			return err
		}
		for i := range out.Body.Items {
			v := &out.Body.Items[i]
			g, err := tx.Group(v.ID)
			if err != nil {
				return err
			}
			if v.AllowedOperations, err = s.allowed(tx, &g, false); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

func (s *Server) listMachines(ctx context.Context, in *struct {
	ListIn
	Site      dr.SiteID       `query:"site"`
	State     site.PowerState `query:"state"`
	Protected string          `query:"protected" enum:"true,false" doc:"only those that are items' machines, or only the others"`
	Search    string          `query:"q" doc:"only those whose name contains this"`
},
) (*listReply[rest.Machine], error) {
	var all []rest.Machine
	err := s.view(ctx, func(tx *store.Tx) error {
		if err := tx.Preload(); err != nil {
			return err
		}
		rows, err := tx.Machines(in.Site)
		if err != nil {
			return err
		}
		for _, m := range rows {
			if !wants(in.State, m.State) || !strings.Contains(strings.ToLower(string(m.Definition.Name)), strings.ToLower(in.Search)) {
				continue
			}
			v, err := s.machineView(tx, m)
			if err != nil {
				return err
			}
			if in.Protected == "" || (in.Protected == "true") == (v.Item != "") {
				all = append(all, v)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	id := func(m rest.Machine) string { return string(m.Definition.Name) + "/" + string(m.Site) }
	return pageOf(ctx, in.ListIn, all, id, order[rest.Machine]{
		"name": func(m rest.Machine) any { return m.Definition.Name }, "site": func(m rest.Machine) any { return m.Site },
		"state": func(m rest.Machine) any { return m.State },
	})
}
