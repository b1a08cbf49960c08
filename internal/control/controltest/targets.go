package controltest

import (
	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/site"
)

// The most that a site of these gateways gives to one machine.
const (
	MaxCPUs      = 64
	MaxMemoryMiB = 1 << 20
)

// SetNetworks replaces the networks of the gateway's site.
func (g *Gateway) SetNetworks(names ...string) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	g.networks = nil
	for _, n := range names {
		g.networks = append(g.networks, site.Network{Name: n, Kind: "bridge"})
	}
}

// targeted is the machine's definition of the journal, with the target settings
// of the request; the world's lock is held.
func (g *Gateway) targeted(def dr.Definition, r control.StartRecoveredRequest) (dr.Definition, []string, error) {
	return r.Target.Apply(def, site.TargetOf{Site: g.site, Networks: g.networks, Fallback: r.Network, Test: r.Test})
}
