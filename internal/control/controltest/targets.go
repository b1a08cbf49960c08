package controltest

import (
	"context"

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

// ValidateSite implements control.Commands: one check passes, and one is skipped.
func (g *Gateway) ValidateSite(ctx context.Context, o control.Origin, _ control.ValidateRequest) (control.ValidateResult, error) {
	out := control.ValidateResult{Checks: []control.SiteCheck{{Name: "Power", Outcome: "passed"}, {Name: "Freeze", Outcome: "skipped", Text: "this site freezes no guests"}}}
	return out, g.do(ctx, "ValidateSite", string(g.site), o, func() error { return nil })
}
