package gateway

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"rebound/internal/dr"
	"rebound/internal/gateway/source"
)

func (g *Gateway) sourceConfig(group dr.GroupID) source.Config {
	return source.Config{
		Group: group, Dir: filepath.Join(g.cfg.Dir, "sources", string(group)), RunDir: g.cfg.RunDir,
		Gateway: g.cfg.Name, Driver: g.driver, Identity: g.cfg.Identity, CaptureArgv: g.cfg.CaptureArgv,
		Log: g.log.With("group", group), Event: g.events.add, Changed: g.Poke,
	}
}

// openSources goes on with the sources of an earlier process.
func (g *Gateway) openSources(ctx context.Context) error {
	entries, err := os.ReadDir(filepath.Join(g.cfg.Dir, "sources"))
	if err != nil {
		return fmt.Errorf("list sources: %w", err)
	}
	for _, e := range entries {
		s, err := source.Open(ctx, g.sourceConfig(dr.GroupID(e.Name())))
		if err != nil {
			return err
		}
		g.mu.Lock()
		g.sources[dr.GroupID(e.Name())] = s
		g.mu.Unlock()
	}
	return nil
}

// makeSource returns the group's source, made if there is none.
func (g *Gateway) makeSource(group dr.GroupID) (*source.Group, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s := g.sources[group]; s != nil {
		return s, nil
	}
	s, err := source.Open(g.ctx, g.sourceConfig(group))
	if err != nil {
		return nil, err
	}
	g.sources[group] = s
	return s, nil
}

// dropSource forgets a source that has been stopped.
func (g *Gateway) dropSource(group dr.GroupID) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.sources[group]
	if s == nil {
		return nil
	}
	if err := s.Forget(); err != nil {
		return err
	}
	delete(g.sources, group)
	return nil
}
