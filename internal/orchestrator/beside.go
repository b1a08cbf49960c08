package orchestrator

import (
	"context"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// The operations that run beside replication, and the end of it.

func resolveTest(ctx context.Context, r *run) error {
	if err := r.checkTargets(ctx, true); err != nil {
		return err
	}
	res, err := r.resolve(ctx, r.selector())
	if err != nil {
		return err
	}
	r.set("time", res.Time)
	r.set("position", res.Position.String())
	r.then(func(_ *store.Tx, g *store.Group) error {
		g.TestAt = res
		return nil
	})
	return nil
}

func startTest(ctx context.Context, r *run) error {
	return r.each(r.long(ctx), func(ctx context.Context, m store.Member) error {
		res, err := r.recoverMachine(ctx, m, r.group.TestAt, true)
		if err == nil {
			r.set(string(m.Machine), string(res.Machine))
			r.set(startedKey+string(m.Machine), stampOf(r.o.now()))
		}
		return err
	})
}

func cleanTest(ctx context.Context, r *run) error {
	if n := r.request().Notes; n != "" {
		r.set("notes", n)
	}
	return r.each(ctx, func(ctx context.Context, m store.Member) error {
		return r.standby().DiscardRecovered(ctx, r.origin(string(m.Machine)), control.DiscardRecoveredRequest{Group: r.group.ID, Machine: m.Machine, Test: true})
	})
}

func pauseReplication(ctx context.Context, r *run) error {
	res, err := r.source().StopReplication(ctx, r.origin(""), control.StopReplicationRequest{Group: r.group.ID, Pause: true})
	if err == nil {
		r.set("durable", res.Durable.String())
	}
	return err
}

func resync(ctx context.Context, r *run) error {
	return r.source().Resync(r.long(ctx), r.origin(""), control.ResyncRequest{Group: r.group.ID, Mode: control.SyncCompare})
}

func verify(ctx context.Context, r *run) error {
	res, err := r.source().Verify(r.long(ctx), r.origin(""), r.group.ID)
	if err != nil {
		return err
	}
	r.set("bytes", res.Bytes)
	r.set("differing", res.Differing)
	done := rest.Verification{At: r.o.now().UTC(), Bytes: res.Bytes, Differing: res.Differing, Job: r.job.ID}
	r.then(func(_ *store.Tx, g *store.Group) error {
		g.Verified = &done
		return nil
	})
	if res.Differing > 0 {
		r.warn("%d bytes differ between source and standby; run 'resync'", res.Differing)
	}
	return nil
}

func createPoint(ctx context.Context, r *run) error {
	req := control.CreatePointRequest{Group: r.group.ID, Name: r.request().Name, Kind: dr.Bookmark}
	if r.request().AppConsistent {
		req.Kind = dr.AppConsistent
	}
	p, err := r.source().CreatePoint(ctx, r.origin(""), req)
	if err == nil {
		r.set("point", p)
	}
	return err
}

// tolerate turns a failure of a forced disable into a warning. That the
// gateway knows no such group is what was wanted.
func (r *run) tolerate(gw dr.GatewayID, err error) error {
	if err == nil || problem.HasCode(err, problem.UnknownGroup) {
		return nil
	}
	if r.request().Force {
		r.warn("not cleaned up at %s: %v", gw, err)
		return nil
	}
	return err
}

func (r *run) forcePatience(ctx context.Context) context.Context {
	if r.request().Force {
		return control.WithPatience(ctx, 0)
	}
	return ctx
}

func stopReplication(ctx context.Context, r *run) error {
	_, err := r.source().StopReplication(r.forcePatience(ctx), r.origin(""), control.StopReplicationRequest{Group: r.group.ID, Forget: true})
	return r.tolerate(r.group.Source(), err)
}

func deleteJournal(ctx context.Context, r *run) error {
	err := r.standby().DeleteJournal(r.forcePatience(ctx), r.origin(""), control.DeleteJournalRequest{Group: r.group.ID, KeepMachines: keepStandby(&r.group) || r.job.Operation == lifecycle.CompleteMigration})
	return r.tolerate(r.group.Standby(), err)
}

// keepStandby: the home machines, and disks that were there before the group,
// are not ours to delete.
func keepStandby(g *store.Group) bool {
	return g.Seeded || g.StandbySite() == g.Home
}
