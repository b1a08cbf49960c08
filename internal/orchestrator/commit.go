package orchestrator

import (
	"context"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/vault/store"
)

func (r *run) deletion(m store.Member, dry bool) control.DeleteRequest {
	return control.DeleteRequest{Machine: m.Machine, KeepDisks: !r.policy.DropSeed, DryRun: dry}
}

// listDeletions keeps, with the job, the names of all that will be deleted.
func listDeletions(ctx context.Context, r *run) error {
	removed, kept := []string{}, []string{}
	var gone []dr.MachineName
	for _, m := range r.group.Members {
		d, err := r.source().DeleteMachine(ctx, r.origin(string(m.Machine)), r.deletion(m, true))
		if problem.HasCode(err, problem.UnknownMachine) {
			gone = append(gone, m.Machine) // by hand, or by an earlier attempt
			continue
		}
		if err != nil {
			return err
		}
		removed, kept = append(removed, d.Removed...), append(kept, d.Kept...)
	}
	r.set("deletes", removed)
	r.set("keeps", kept)
	if len(gone) > 0 {
		r.set("goneBefore", gone)
	}
	return nil
}

// commitMachines makes the recovered machines ordinary machines of their site.
func commitMachines(ctx context.Context, r *run) error {
	if r.group.Recovered == nil {
		return problem.New(problem.CommitNotProven, "no machine was recovered")
	}
	res, err := r.standby().CommitRecovered(r.long(ctx), r.origin(""), r.commitRequest())
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

func (r *run) commitRequest() control.CommitRequest {
	req := control.CommitRequest{Group: r.group.ID, Position: r.group.Recovered.Position}
	for _, m := range r.group.Recovered.Members {
		if req.Members == nil {
			req.Members = map[dr.MachineName]dr.Position{}
		}
		req.Members[m.Machine] = m.Position
	}
	return req
}

// swapDirection is the last act of a commit: the recovered machines are the
// source of whatever comes next.
func swapDirection(_ context.Context, r *run) error {
	r.then(func(_ *store.Tx, g *store.Group) error {
		if g.Direction != r.job.Direction {
			return nil
		}
		g.Direction, g.Recovered, g.Verified = g.Direction.Opposite(), nil, nil
		for i := range g.Members {
			g.Members[i].Started, g.Members[i].Booted = false, false
		}
		return nil
	})
	return nil
}

// deleteSource deletes the machines at the site that was left. Between the
// proof and now the bases were folded, which may take long: so it looks once
// more that the surviving machines run and the others do not.
func deleteSource(ctx context.Context, r *run) error {
	if err := r.recoveredRun(ctx); err != nil {
		return err
	}
	if err := r.sourceIsOff(ctx); err != nil {
		return err
	}
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
