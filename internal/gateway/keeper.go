package gateway

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/gateway/source"
	"rebound/internal/identity"
)

// Holdings lists what this gateway keeps of each group.
func (g *Gateway) Holdings(context.Context) (control.Holdings, error) {
	out := control.Holdings{Gateway: g.cfg.Name, Site: g.cfg.Site, Groups: []control.Holding{}, Lease: g.ledger.Lease(), Revoked: g.cfg.Identity.Revocations()}
	byGroup := map[dr.GroupID]control.Holding{}
	for _, h := range g.standby.Holdings() {
		byGroup[h.Group] = h
	}
	g.mu.Lock()
	fences, sources := maps.Clone(g.fences), maps.Clone(g.sources)
	g.mu.Unlock()
	for id, s := range sources {
		h := byGroup[id]
		h.Group, h.Source, h.Generation = id, s.Holding(), max(h.Generation, s.Generation())
		byGroup[id] = h
	}
	for id, gen := range fences {
		h := byGroup[id]
		h.Group, h.Generation = id, max(h.Generation, gen)
		byGroup[id] = h
	}
	for _, id := range slices.Sorted(maps.Keys(byGroup)) {
		out.Groups = append(out.Groups, byGroup[id])
	}
	return out, nil
}

// SetRevoked takes revocations in and ends the connections that they hit.
func (g *Gateway) SetRevoked(_ context.Context, list []identity.Revocation) error {
	fresh, err := g.cfg.Identity.Revoke(list, time.Now())
	if err != nil {
		return fmt.Errorf("take revocations: %w", err)
	}
	if fresh {
		g.log.Warn("certificates were revoked", "known", len(g.cfg.Identity.Revocations()))
		g.recheck()
	}
	return nil
}

// recheck ends the data connections whose certificate is not good any more, in
// both directions.
func (g *Gateway) recheck() {
	g.link.Recheck()
	for _, s := range g.allSources() {
		s.Renewed()
	}
}

func (g *Gateway) allSources() []*source.Group {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Collect(maps.Values(g.sources))
}

// keep takes over what the vault's answer to a report says to keep.
func (g *Gateway) keep(d control.Desired) {
	if d.Revoked != nil {
		if err := g.SetRevoked(g.ctx, *d.Revoked); err != nil {
			g.log.Error("take revocations", "error", err)
		}
	}
	for _, want := range d.Groups {
		if len(want.Keep) == 0 {
			continue
		}
		if err := g.keepGroup(want.Group, want.Keep); err != nil {
			g.log.Error("keep the vault's word on a group", "group", want.Group, "error", err)
		}
	}
}

func (g *Gateway) keepGroup(id dr.GroupID, k control.Keep) error {
	g.mu.Lock()
	src := g.sources[id]
	g.mu.Unlock()
	if src != nil {
		if err := src.Keep(k); err != nil {
			return err
		}
	}
	return g.standby.Keep(id, k)
}
