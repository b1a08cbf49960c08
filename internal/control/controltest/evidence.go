package controltest

import (
	"context"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/site"
)

// SetGuestAgent says whether the guests of a gateway's site answer through a
// guest agent; they do by default.
func (g *Gateway) SetGuestAgent(answers bool) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	g.mute = !answers
}

// SetProbe lets the probes of that text (dr.Probe.String) pass; all others fail.
func (g *Gateway) SetProbe(text string) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	g.probe = text
}

// SetPower changes a machine's power as somebody at the site would.
func (g *Gateway) SetPower(name dr.MachineName, state site.PowerState) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	g.machines[name].m.State = state
}

// Remove deletes a machine as somebody at the site would, by hand.
func (g *Gateway) Remove(name dr.MachineName) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	delete(g.machines, name)
}

// MachineEvidence implements control.Commands.
func (g *Gateway) MachineEvidence(ctx context.Context, r control.EvidenceRequest) (control.Evidence, error) {
	if _, err := g.strike(ctx, "MachineEvidence", string(r.Machine)); err != nil {
		return control.Evidence{}, err
	}
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	m, err := g.find(r.Machine)
	if err != nil {
		return control.Evidence{}, err
	}
	out := control.Evidence{State: m.m.State, BootedAt: m.booted, GuestAgent: !g.mute && m.m.State == site.Running}
	if !out.GuestAgent {
		out.GuestAgentSays = "the guest does not answer"
	}
	for _, p := range r.Probes {
		if text := p.For(r.Machine).String(); text == g.probe {
			out.Passed = append(out.Passed, text)
		} else {
			out.Failed = append(out.Failed, text+": refused")
		}
	}
	return out, nil
}
