package gateway

import (
	"rebound/internal/control"
)

// followPolicies takes over what the vault says of the policies of the groups
// that replicate from or to this site. It is told with every report, so that a
// gateway that was away learns of it when it is back, and it costs nothing as
// long as nothing changed.
func (g *Gateway) followPolicies(d control.Desired) {
	for _, want := range d.Groups {
		if want.Policy == nil {
			continue
		}
		g.mu.Lock()
		src := g.sources[want.Group]
		g.mu.Unlock()
		if src != nil && src.Generation() == want.Generation {
			if err := src.TakePolicy(*want.Policy); err != nil {
				g.log.Warn("take over policy", "group", want.Group, "error", err)
			}
		}
		if g.standby.Generation(want.Group) != want.Generation {
			continue // the vault's word is of another time
		}
		if err := g.standby.TakePolicy(want.Group, *want.Policy); err != nil {
			g.log.Warn("take over policy", "group", want.Group, "error", err)
		}
	}
}
