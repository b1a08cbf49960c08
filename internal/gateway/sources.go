package gateway

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/extent"
	"rebound/internal/gateway/source"
	"rebound/internal/problem"
)

func (g *Gateway) sourceConfig(group dr.GroupID) source.Config {
	return source.Config{
		Group: group, Dir: filepath.Join(g.cfg.Dir, "sources", string(group)), RunDir: g.cfg.RunDir,
		Gateway: g.cfg.Name, Driver: g.driver, Identity: g.cfg.Identity, CaptureArgv: g.cfg.CaptureArgv,
		SpoolDir: g.cfg.SpoolDir, SpoolLimits: g.cfg.SpoolLimits, Keys: g.cfg.Keys,
		Log: g.log.With("group", group), Event: g.events.add, Changed: g.Poke,
		Committed: func() (dr.Position, map[dr.GroupDisk]*extent.Set, bool) { return g.standby.Committed(group) },
	}
}

// openSources goes on with the sources of an earlier process. One that cannot
// be read is told of and left alone; the others go on.
func (g *Gateway) openSources(ctx context.Context) error {
	entries, err := os.ReadDir(filepath.Join(g.cfg.Dir, "sources"))
	if err != nil {
		return fmt.Errorf("list sources: %w", err)
	}
	for _, e := range entries {
		s, err := source.Open(ctx, g.sourceConfig(dr.GroupID(e.Name())))
		if err != nil {
			g.log.Error("open source", "group", e.Name(), "error", err)
			g.events.add(control.Event{
				Code: "SourceDamaged", Severity: "critical", Group: dr.GroupID(e.Name()),
				Text: fmt.Sprintf("the settings of group %s at its source cannot be used; it is not replicated: %v", e.Name(), err),
			})
			continue
		}
		g.mu.Lock()
		g.sources[dr.GroupID(e.Name())] = s
		g.mu.Unlock()
	}
	return nil
}

// makeSource returns the group's source, made if there is none.
func (g *Gateway) makeSource(group dr.GroupID) (*source.Group, error) {
	g.admin.Lock()
	defer g.admin.Unlock()
	if s, err := g.source(group); err == nil {
		return s, nil
	}
	if err := dr.ValidName(string(group)); err != nil {
		return nil, problem.Wrap(err, problem.InvalidName, "group %q", group)
	}
	s, err := source.Open(g.ctx, g.sourceConfig(group))
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sources[group] = s
	return s, nil
}

// dropSource forgets a source that has been stopped.
func (g *Gateway) dropSource(ctx context.Context, group dr.GroupID) error {
	g.admin.Lock()
	defer g.admin.Unlock()
	g.mu.Lock()
	s := g.sources[group]
	g.mu.Unlock()
	if s == nil {
		return nil
	}
	if err := g.keepSeed(group, s.Seed()); err != nil {
		return err
	}
	if err := s.Forget(ctx); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.sources, group)
	return nil
}
