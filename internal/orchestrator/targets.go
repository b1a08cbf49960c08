package orchestrator

import (
	"context"
	"errors"
	"fmt"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// Forecast says what a recovery at the group's standby would make of its
// machines as they are now: the warnings, or the first thing that is refused.
// fallback is the network of the request.
func Forecast(tx *store.Tx, g *store.Group, policy rest.Policy, test bool, fallback string) (warnings []string, err error) {
	at, err := tx.Site(g.StandbySite())
	if err != nil {
		return nil, err
	}
	for _, m := range g.Members {
		row, err := tx.Machine(g.SourceSite(), m.Machine)
		if errors.Is(err, store.ErrNotFound) {
			continue // the journal has its definition; it is judged there
		}
		if err != nil {
			return nil, err
		}
		target, err := tx.TargetOf(g, m, policy)
		if err != nil {
			return nil, err
		}
		out, more, err := target.Apply(row.Definition, site.TargetOf{Site: at.ID, Networks: at.Networks, Fallback: fallback, Test: test})
		if err == nil {
			err = CheckTarget(tx, g, at, out)
		}
		if err != nil {
			return nil, err
		}
		warnings = append(warnings, more...)
	}
	return warnings, nil
}

// CheckTarget refuses a definition that a site cannot run: more than it has, a
// network that it lacks, or a name that another machine there has.
func CheckTarget(tx *store.Tx, g *store.Group, at store.Site, def dr.Definition) error {
	if limit := at.Capabilities.MaxCPUs; limit > 0 && def.CPUs > limit {
		return problem.New(problem.TargetNotPossible, "machine %s is to have %d processors at %s, which gives at most %d (cpus)", def.Name, def.CPUs, at.ID, limit)
	}
	if limit := at.Capabilities.MaxMemoryMiB; limit > 0 && def.MemoryMiB > limit {
		return problem.New(problem.TargetNotPossible, "machine %s is to have %d MiB of memory at %s, which gives at most %d (memoryMiB)", def.Name, def.MemoryMiB, at.ID, limit)
	}
	if def.Label == "" {
		return nil
	}
	others, err := tx.Machines(at.ID)
	if err != nil {
		return err
	}
	for _, o := range others {
		if o.Definition.Name == def.Name || o.Definition.Name == def.Name+"-test" {
			continue // itself, and its copy in a test, which the inventory may show for a moment after it is gone
		}
		if string(o.Definition.Name) == def.Label || o.Definition.Label == def.Label {
			return problem.New(problem.NameTaken, "machine %s is to be called %q at %s, and so is %s (name)", def.Name, def.Label, at.ID, o.Definition.Name)
		}
	}
	return nil
}

// checkTargets finds out, before anything is changed, whether the machines can
// be made as they are to be.
func (r *run) checkTargets(ctx context.Context, test bool) error {
	err := r.o.store.View(ctx, func(tx *store.Tx) error {
		_, err := Forecast(tx, &r.group, r.policy, test, r.request().Network)
		return err // the task that starts a machine gives its warnings
	})
	if err != nil {
		return fmt.Errorf("check target settings: %w", err)
	}
	return nil
}

// foreseeTargets adds to a dry run what of the machines' target settings and
// networks could not be kept to.
func (r *run) foreseeTargets(ctx context.Context, test bool, out *rest.DryRun) error {
	return r.o.store.View(ctx, func(tx *store.Tx) error {
		warnings, err := Forecast(tx, &r.group, r.policy, test, r.request().Network)
		out.Warnings = append(out.Warnings, warnings...)
		return err
	})
}

// recoverMachine starts one member from the journal, as its target settings
// say.
func (r *run) recoverMachine(ctx context.Context, m store.Member, from *rest.Recovered, test bool) (control.Recovered, error) {
	req := control.StartRecoveredRequest{Group: r.group.ID, Machine: m.Machine, Position: from.At(m.Machine), Alone: len(from.Members) > 0, Test: test, Network: r.request().Network}
	err := r.o.store.View(ctx, func(tx *store.Tx) (err error) {
		req.Target, err = tx.TargetOf(&r.group, m, r.policy)
		return err
	})
	if err != nil {
		return control.Recovered{}, fmt.Errorf("read target settings: %w", err)
	}
	res, err := r.standby().StartRecovered(ctx, r.origin(string(m.Machine)), req)
	for _, w := range res.Warnings {
		r.warn("%s", w)
	}
	return res, err
}
