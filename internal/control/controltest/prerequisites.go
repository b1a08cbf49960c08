package controltest

import (
	"context"
	"maps"
	"slices"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site"
)

// Alter changes what the gateway says of itself and of its site, from now on;
// nil takes the change back.
func (g *Gateway) Alter(f func(*control.Prerequisites)) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	g.alter = f
}

// SetRoles changes the parts that the gateway may take; none means both.
func (g *Gateway) SetRoles(roles ...control.Role) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	g.roles = roles
}

// Close shuts the gateway's data port (or opens it again): it goes on reporting
// to the vault, and nobody reaches it.
func (g *Gateway) Close(closed bool) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	g.closed = closed
}

// StartByHand starts a machine as somebody at its site would who asks nobody.
func (g *Gateway) StartByHand(name dr.MachineName) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	if m := g.machines[name]; m != nil {
		m.m.State, m.booted = site.Running, g.world.now()
	}
}

// StopByHand pulls a machine's plug.
func (g *Gateway) StopByHand(name dr.MachineName) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	if m := g.machines[name]; m != nil {
		m.m.State = site.Off
	}
}

// Deaf makes the gateway ignore what the vault says of its groups (or heed it
// again), as one does whose answers get lost.
func (g *Gateway) Deaf(deaf bool) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	g.deaf = deaf
}

// DeleteByHand removes a machine as somebody at its site would.
func (g *Gateway) DeleteByHand(name dr.MachineName) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	delete(g.machines, name)
}

// Prerequisites implements control.Commands.
func (g *Gateway) Prerequisites(ctx context.Context, r control.PrerequisitesRequest) (control.Prerequisites, error) {
	if _, err := g.strike(ctx, "Prerequisites", string(r.Group)); err != nil {
		return control.Prerequisites{}, err
	}
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	return g.prerequisites(r), nil
}

// prerequisites is what the gateway says; the world's lock is held.
func (g *Gateway) prerequisites(r control.PrerequisitesRequest) control.Prerequisites {
	out := control.Prerequisites{
		Gateway: g.id, Site: g.site, Roles: control.Roles(), DataAddr: g.addr, Hypervisor: "none",
		DiskLimit:  control.DefaultDiskLimit,
		Volumes:    []control.RetentionVolume{{Name: control.DefaultVolume, Path: "/var", FileSystem: "ext4", FreeBytes: g.free, TotalBytes: 1 << 41}},
		Datastores: []site.Datastore{{Name: site.DefaultDatastore, Path: "/srv", FreeBytes: g.free, TotalBytes: 1 << 41}},
	}
	if len(g.roles) > 0 {
		out.Roles = g.roles
	}
	for id, j := range g.journals {
		if id == r.Group {
			continue
		}
		for _, def := range j.defs {
			out.DisksInUse += len(def.Disks)
		}
	}
	for _, def := range r.Machines {
		f := site.Finding{Machine: def.Name}
		for _, name := range slices.Sorted(maps.Keys(g.machines)) {
			if m := g.machines[name]; name == def.Name {
				f.Exists, f.State = true, m.m.State
			} else {
				f.Twins = append(f.Twins, site.Twins(def, name, m.m.Definition)...)
			}
		}
		out.Machines = append(out.Machines, f)
	}
	if g.alter != nil {
		g.alter(&out)
	}
	return out
}

// ProbePath implements control.Commands: the port of a gateway that is down or
// closed does not answer, nor does another gateway in its place.
func (g *Gateway) ProbePath(ctx context.Context, r control.ProbeRequest) (control.ProbeResult, error) {
	if _, err := g.strike(ctx, "ProbePath", string(r.Gateway)); err != nil {
		return control.ProbeResult{}, err
	}
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	to := g.world.gateways[r.Gateway]
	if to == nil || to.down || to.closed || r.Addr != to.addr {
		return control.ProbeResult{}, problem.New(problem.PathClosed, "from gateway %s at site %s to gateway %s at %s: connection refused", g.id, g.site, r.Gateway, r.Addr)
	}
	return control.ProbeResult{Seconds: 0.001}, nil
}

// SetAddr gives the gateway's data port another address.
func (g *Gateway) SetAddr(addr string) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	g.addr = addr
}

// Asked is the request with which the group's journal was made here last.
func (g *Gateway) Asked(id dr.GroupID) control.CreateJournalRequest {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	return g.asked[id]
}

// DropPoints loses the history of a group's journal.
func (g *Gateway) DropPoints(id dr.GroupID) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	if j := g.journals[id]; j != nil {
		j.moments, j.points = nil, nil
	}
}

// powerOffStale stops machines that somebody started by hand although their
// group's active site is another; what runs from a journal is not meant, nor
// the source of a newer generation.
func (g *Gateway) powerOffStale(want control.DesiredGroup) {
	s, j := g.streams[want.Group], g.journals[want.Group]
	if want.Active == g.site || want.Generation < g.newest[want.Group] || s != nil && s.spec.Generation >= want.Generation || j != nil && j.generation > want.Generation {
		return
	}
	for _, name := range want.Machines {
		if m := g.machines[name]; m != nil && !g.stuck[name] && m.view == nil && m.m.State != site.Off {
			m.m.State = site.Off
			g.events = append(g.events, control.Event{Time: g.world.now(), Code: "StalePrimaryPoweredOff", Severity: "critical", Group: want.Group, Machine: name, Text: "powered off: its group is active elsewhere"})
		}
	}
}
