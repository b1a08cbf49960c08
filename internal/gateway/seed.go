package gateway

import (
	"context"
	"path/filepath"

	"rebound/internal/dr"
	"rebound/internal/gateway/source"
	"rebound/internal/gateway/statefile"
)

func (g *Gateway) seedPath(group dr.GroupID) string {
	return filepath.Join(g.cfg.Dir, "seeds", string(group)+".json")
}

// keepSeed keeps what is known of a former source's disks; the newest is the
// only one that counts.
func (g *Gateway) keepSeed(group dr.GroupID, s source.Seed) error {
	if s.Clean == nil {
		return statefile.Remove(g.seedPath(group))
	}
	return statefile.Save(g.seedPath(group), s)
}

// seedOf returns what tells, once the machines are reserved, which position
// the disks of a group's former source hold; zero when that is not known. A
// record that cannot be read is none: then everything is compared.
func (g *Gateway) seedOf(group dr.GroupID) func(context.Context) dr.Position {
	g.mu.Lock()
	live := g.sources[group]
	g.mu.Unlock()
	var s source.Seed
	if live != nil {
		s = live.Seed()
	} else if _, err := statefile.Load(g.seedPath(group), &s); err != nil {
		g.log.Warn("read seed", "group", group, "error", err)
		s = source.Seed{}
	}
	return func(ctx context.Context) dr.Position { return s.Position(ctx, g.driver) }
}
