package controltest

import (
	"rebound/internal/control"
	"rebound/internal/dr"
)

// takePolicy goes by what the vault says of a group's policy; the world's lock
// is held.
func (g *Gateway) takePolicy(want control.DesiredGroup) {
	p := want.Policy
	if p == nil {
		return
	}
	if s := g.streams[want.Group]; s != nil && s.spec.Generation == want.Generation {
		s.spec.CrashInterval, s.spec.AppInterval, s.spec.Compression = p.CrashInterval, p.AppInterval, p.Compression
	}
	if j := g.journals[want.Group]; j != nil && j.generation == want.Generation {
		j.redoWindow, j.retention = p.RedoWindow, p.Retention
	}
}

// Policy returns what the gateway goes by: of a stream that it sends the first
// three settings, of a journal that it keeps the others.
func (g *Gateway) Policy(group dr.GroupID) control.PolicySettings {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	var p control.PolicySettings
	if s := g.streams[group]; s != nil {
		p.CrashInterval, p.AppInterval, p.Compression = s.spec.CrashInterval, s.spec.AppInterval, s.spec.Compression
	}
	if j := g.journals[group]; j != nil {
		p.RedoWindow, p.Retention = j.redoWindow, j.retention
	}
	return p
}
