package controltest

import (
	"context"
	"maps"
	"slices"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/identity"
)

// Holdings implements control.Commands.
func (g *Gateway) Holdings(context.Context) (control.Holdings, error) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	out := control.Holdings{Gateway: g.id, Site: g.site, Groups: []control.Holding{}, Revoked: slices.Clone(g.revoked)}
	byGroup := map[dr.GroupID]control.Holding{}
	for id, j := range g.journals {
		s := &control.StandbyHolding{Request: j.request, Points: len(j.points)}
		for name := range j.defs {
			if m := g.machines[name]; m != nil && m.view != nil {
				s.Recovered = append(s.Recovered, control.RecoveredHolding{Machine: name, Position: *m.view, Started: m.booted})
			}
		}
		byGroup[id] = control.Holding{Group: id, Generation: j.generation, Standby: s}
	}
	for id, s := range g.streams {
		h := byGroup[id]
		h.Group, h.Generation = id, max(h.Generation, s.spec.Generation)
		h.Source = &control.SourceHolding{Spec: s.spec, Paused: s.phase == control.PhasePaused, Fenced: s.phase == control.PhaseFenced}
		byGroup[id] = h
	}
	for _, id := range slices.Sorted(maps.Keys(byGroup)) {
		out.Groups = append(out.Groups, byGroup[id])
	}
	return out, nil
}

// SetRevoked implements control.Commands.
func (g *Gateway) SetRevoked(_ context.Context, list []identity.Revocation) error {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	g.revoked = slices.Clone(list)
	return nil
}

// Revoked returns what SetRevoked said last.
func (g *Gateway) Revoked() []identity.Revocation {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	return slices.Clone(g.revoked)
}
