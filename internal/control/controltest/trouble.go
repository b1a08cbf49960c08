package controltest

import (
	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/site"
)

// SetReport lets f change every report before it is sent; nil ends that.
func (g *Gateway) SetReport(f func(*control.Report)) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	g.edit = f
}

// Forget takes a machine out of the site's inventory, as if somebody had deleted it;
// Remember puts it back.
func (g *Gateway) Forget(name dr.MachineName) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	if g.hidden == nil {
		g.hidden = map[dr.MachineName]*machine{}
	}
	g.hidden[name] = g.machines[name]
	delete(g.machines, name)
}

// Remember undoes Forget.
func (g *Gateway) Remember(name dr.MachineName) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	g.machines[name] = g.hidden[name]
}

// Power sets a machine's power, as somebody does by hand.
func (g *Gateway) Power(name dr.MachineName, state site.PowerState) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	g.machines[name].m.State = state
}

// Stick makes a machine one that its gateway cannot stop, or ends that.
func (g *Gateway) Stick(name dr.MachineName, on bool) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	if g.stuck == nil {
		g.stuck = map[dr.MachineName]bool{}
	}
	g.stuck[name] = on
}
