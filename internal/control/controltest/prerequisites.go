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
	out := control.Prerequisites{
		Gateway: g.id, Site: g.site, Roles: control.Roles(), DataAddr: string(g.id) + ":9443", Hypervisor: "none",
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
	return out, nil
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
	if to == nil || to.down || to.closed || r.Addr != string(to.id)+":9443" {
		return control.ProbeResult{}, problem.New(problem.PathClosed, "from gateway %s at site %s to gateway %s at %s: connection refused", g.id, g.site, r.Gateway, r.Addr)
	}
	return control.ProbeResult{Seconds: 0.001}, nil
}
