package standby

import (
	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/problem"
)

// Holdings returns what is kept of each group.
func (h *Host) Holdings() []control.Holding {
	var out []control.Holding
	for _, g := range h.all() {
		out = append(out, control.Holding{Group: g.id, Generation: g.generation(), Standby: g.holding()})
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, err := range h.broken {
		out = append(out, control.Holding{Group: id, Problem: err.Error()})
	}
	return out
}

func (g *group) holding() *control.StandbyHolding {
	points := g.report().Points
	set := g.settings()
	out := &control.StandbyHolding{
		Request: set.Request, Seeded: set.Result.Seeded, Points: points, Commit: set.Commit,
		Committing: set.Phase == phaseCommitting, Committed: set.Phase == phaseCommitted,
	}
	for _, r := range set.Recovered {
		out.Recovered = append(out.Recovered, control.RecoveredHolding{
			Machine: r.Machine, Test: r.Test, Position: r.Position, Network: r.Network, Started: r.Started,
		})
	}
	return out
}

// Keep keeps what the vault says of a group; one that has no journal here is
// left alone.
func (h *Host) Keep(id dr.GroupID, k control.Keep) error {
	g, err := h.find(id)
	if problem.HasCode(err, problem.UnknownGroup) {
		return nil
	}
	if err != nil {
		return err
	}
	if string(g.settings().Request.Keep) == string(k) {
		return nil
	}
	return g.save(func(s *settings) { s.Request.Keep = k })
}
