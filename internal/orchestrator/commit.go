package orchestrator

import (
	"context"
	"slices"

	"rebound/internal/control"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/site"
	"rebound/internal/vault/store"
)

// proveCommit demands, where the direction's rules say so, that the recovered
// machines run and the others are off. It asks the sites, not the vault's rows.
func proveCommit(ctx context.Context, r *run) error {
	if r.group.Recovered == nil {
		return problem.New(problem.CommitNotProven, "no machine was recovered")
	}
	if !lifecycle.RulesFor(r.job.Direction).CommitNeedsProof {
		return nil
	}
	_, here, err := r.inventory(ctx, r.standby())
	if err != nil {
		return err
	}
	_, old, err := r.inventory(ctx, r.source())
	if err != nil {
		return err
	}
	for _, m := range r.group.Members {
		if s := here[m.Machine].State; s != site.Running {
			return problem.New(problem.CommitNotProven, "machine %s at %s is %q, not running", m.Machine, r.group.StandbySite(), s)
		}
		if !m.Booted {
			if err := r.lateBoot(ctx, m); err != nil {
				return err
			}
		}
		if other, ok := old[m.Machine]; ok && other.State != site.Off {
			return problem.New(problem.CommitNotProven, "machine %s at %s is %q, not off", m.Machine, r.group.SourceSite(), other.State)
		}
	}
	r.set("proof", "every recovered machine runs, every other one is off")
	return nil
}

// lateBoot looks for a boot that came after the failover had stopped waiting.
func (r *run) lateBoot(ctx context.Context, m store.Member) error {
	boot, err := r.lastBoot(ctx, m.Machine)
	if err != nil {
		return err
	}
	if m.BootBefore != "" && boot == m.BootBefore {
		return problem.New(problem.CommitNotProven, "the agent of %s has not registered since it was started", m.Machine)
	}
	r.changeMember(m.Machine, func(row *store.Member) { row.Booted = true })
	return nil
}

func (r *run) deletion(m store.Member, dry bool) control.DeleteRequest {
	return control.DeleteRequest{Machine: m.Machine, KeepDisks: !r.policy.DropSeed, DryRun: dry}
}

// listDeletions keeps, with the job, the names of all that will be deleted.
func listDeletions(ctx context.Context, r *run) error {
	var removed, kept []string
	for _, m := range r.group.Members {
		d, err := r.source().DeleteMachine(ctx, r.origin(string(m.Machine)), r.deletion(m, true))
		if problem.HasCode(err, problem.UnknownMachine) {
			continue // deleted by an earlier attempt
		}
		if err != nil {
			return err
		}
		removed, kept = append(removed, d.Removed...), append(kept, d.Kept...)
	}
	r.set("deletes", slices.Clip(removed))
	r.set("keeps", slices.Clip(kept))
	return nil
}

// commitMachines makes the recovered machines ordinary machines of their site.
func commitMachines(ctx context.Context, r *run) error {
	if r.group.Recovered == nil {
		return problem.New(problem.CommitNotProven, "no machine was recovered")
	}
	res, err := r.standby().CommitRecovered(r.long(ctx), r.origin(""), control.CommitRequest{Group: r.group.ID, Position: r.group.Recovered.Position})
	if problem.HasCode(err, problem.UnknownGroup) && lifecycle.State(r.job.FromState) == lifecycle.Committing {
		r.set("alreadyCommitted", true) // an earlier commit ended the journal and failed after that
		return nil
	}
	if err != nil {
		return err
	}
	r.set("rollbackBytes", res.RollbackBytes)
	return nil
}

// swapDirection is the last act of a commit: the recovered machines are the
// source of whatever comes next.
func swapDirection(_ context.Context, r *run) error {
	r.then(func(_ *store.Tx, g *store.Group) error {
		if g.Direction != r.job.Direction {
			return nil
		}
		g.Direction, g.Recovered = g.Direction.Opposite(), nil
		for i := range g.Members {
			g.Members[i].Started, g.Members[i].Booted = false, false
		}
		return nil
	})
	return nil
}

// deleteSource deletes the machines at the site that was left.
func deleteSource(ctx context.Context, r *run) error {
	if _, err := r.source().StopReplication(ctx, r.origin("forget"), control.StopReplicationRequest{Group: r.group.ID, Forget: true}); err != nil && !problem.HasCode(err, problem.UnknownGroup) {
		return err
	}
	return r.each(ctx, func(ctx context.Context, m store.Member) error {
		d, err := r.source().DeleteMachine(ctx, r.origin(string(m.Machine)), r.deletion(m, false))
		if problem.HasCode(err, problem.UnknownMachine) {
			return nil
		}
		if err == nil {
			r.set(string(m.Machine), d)
		}
		return err
	})
}
