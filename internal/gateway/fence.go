package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync"
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
	errs := make([]error, len(members))
	var wg sync.WaitGroup
	for i, m := range members {
		wg.Go(func() { errs[i] = g.powerOffStale(ctx, group, gen, m) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// powerOffStale stops a machine whose group's active site is elsewhere.
func (g *Gateway) powerOffStale(ctx context.Context, group dr.GroupID, gen dr.Generation, m dr.MachineName) error {
	ran, err := g.powerOff(ctx, m)
	if err != nil {
		return fmt.Errorf("power off %s: %w", m, err)
	}
	if ran {
		g.events.add(control.Event{
			Time: time.Now().UTC(), Code: "StalePrimaryPoweredOff", Severity: "critical", Group: group, Machine: m,
			Text: fmt.Sprintf("%s ran at site %s although its group was failed over (generation %d); it was powered off", m, g.cfg.Site, gen),
		})
	}
	return nil
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
// elsewhere is fenced, by a gateway that was away too. Reports go on meanwhile.
func (g *Gateway) obey(ctx context.Context, d control.Desired) {
	for _, want := range d.Groups {
		if want.Active == g.cfg.Site || !g.beginObeying(want.Group) {
			continue
		}
		g.obeying.Go(func() {
			defer g.endObeying(want.Group)
			if err := g.fenceIfActive(ctx, want); err != nil {
				g.log.Error("fence", "group", want.Group, "generation", want.Generation, "error", err)
			}
		})
	}
}

// beginObeying reports whether nobody is at work on the group.
func (g *Gateway) beginObeying(group dr.GroupID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.busy[group] {
		return false
	}
	g.busy[group] = true
	return true
}

func (g *Gateway) endObeying(group dr.GroupID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.busy, group)
}

// fenceIfActive fences a group only where something still runs here.
//
// The vault's word may be older than a command that came in between: a journal
// whose generation was raised here since, or a source that was started with a
// newer one, shows that it is, and then it is not obeyed. Without that look a
// machine that was just recovered here would be powered off.
func (g *Gateway) fenceIfActive(ctx context.Context, want control.DesiredGroup) error {
	g.mu.Lock()
	src := g.sources[want.Group]
	known := g.fences[want.Group]
	g.mu.Unlock()
	var mine dr.Generation
	if src != nil {
		mine = src.Generation()
	}
	if want.Generation < max(mine, known, g.standby.Generation(want.Group)) {
		return nil
	}
	g.mu.Lock()
	g.fences[want.Group] = max(g.fences[want.Group], want.Generation)
	g.mu.Unlock()
	stale := src != nil && mine < want.Generation
	if !stale && !g.anyRunning(ctx, want.Machines) {
		return nil
	}
	return g.fence(ctx, want.Group, want.Generation, want.Machines)
}
