package gateway

import (
	"context"
	"errors"
	"fmt"
	"time"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/problem"
)

// admitGeneration refuses work of a generation older than one this site knows
// to have gone elsewhere.
func (g *Gateway) admitGeneration(group dr.GroupID, gen dr.Generation) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if known := g.fences[group]; gen < known {
		return problem.New(problem.StaleGeneration, "group %s is at generation %d, the request is of %d", group, known, gen)
	}
	return nil
}

// Fence ends this site's part as the source of a group: capture stops, the
// members are powered off, whoever started them.
func (g *Gateway) Fence(ctx context.Context, _ control.Origin, r control.FenceRequest) error {
	return g.fence(ctx, r.Group, r.Generation, r.Machines)
}

func (g *Gateway) fence(ctx context.Context, group dr.GroupID, gen dr.Generation, members []dr.MachineName) error {
	g.mu.Lock()
	g.fences[group] = max(g.fences[group], gen)
	src := g.sources[group]
	g.mu.Unlock()
	if src != nil && src.Generation() < gen {
		if err := src.Fence(ctx, gen); err != nil {
			return fmt.Errorf("fence group %s: %w", group, err)
		}
	}
	var errs []error
	for _, m := range members {
		ran, err := g.powerOff(ctx, m)
		if err != nil {
			errs = append(errs, fmt.Errorf("power off %s: %w", m, err))
			continue
		}
		if ran {
			g.events.add(control.Event{
				Time: time.Now().UTC(), Code: "StalePrimaryPoweredOff", Severity: "critical", Group: group, Machine: m,
				Text: fmt.Sprintf("%s ran at site %s although its group was failed over (generation %d); it was powered off", m, g.cfg.Site, gen),
			})
		}
	}
	return errors.Join(errs...)
}

// endSource lets go of a source whose site becomes the standby.
func (g *Gateway) endSource(ctx context.Context, group dr.GroupID) error {
	g.mu.Lock()
	src := g.sources[group]
	g.mu.Unlock()
	if src == nil {
		return nil
	}
	if _, err := src.Stop(ctx, control.StopReplicationRequest{Group: group, Forget: true}); err != nil {
		return err
	}
	return g.dropSource(ctx, group)
}

// obey looks at what the vault says of the groups of this site: whatever went
// elsewhere is fenced, by a gateway that was away too.
func (g *Gateway) obey(ctx context.Context, d control.Desired) {
	for _, want := range d.Groups {
		if want.Active == g.cfg.Site {
			continue
		}
		if err := g.fenceIfActive(ctx, want); err != nil {
			g.log.Error("fence", "group", want.Group, "generation", want.Generation, "error", err)
		}
	}
}

// fenceIfActive fences a group only where something still runs here.
// Machines that run on views of the group's journal carry other names' state:
// a test failover's are named apart, and a failover makes this site active.
func (g *Gateway) fenceIfActive(ctx context.Context, want control.DesiredGroup) error {
	g.mu.Lock()
	src := g.sources[want.Group]
	known := g.fences[want.Group]
	g.mu.Unlock()
	stale := src != nil && src.Generation() < want.Generation
	if !stale && known >= want.Generation && !g.anyRunning(ctx, want.Machines) {
		return nil
	}
	return g.fence(ctx, want.Group, want.Generation, want.Machines)
}
