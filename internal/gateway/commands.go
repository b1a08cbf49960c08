package gateway

import (
	"context"
	"errors"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/gateway/source"
	"rebound/internal/problem"
)

// source returns the group's source at this site.
func (g *Gateway) source(group dr.GroupID) (*source.Group, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.sources[group]
	if s == nil {
		return nil, problem.New(problem.UnknownGroup, "site %s is not the source of group %q", g.cfg.Site, group)
	}
	return s, nil
}

// sourceOf returns the source that has the machine as a member, or nil.
func (g *Gateway) sourceOf(m dr.MachineName) *source.Group {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range g.sources {
		if s.Has(m) {
			return s
		}
	}
	return nil
}

// fencedIn returns the group that has the machine as a member and is active
// elsewhere, or "".
func (g *Gateway) fencedIn(m dr.MachineName) dr.GroupID {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, s := range g.sources {
		if s.Fenced(m) {
			return id
		}
	}
	return ""
}

// standbyOf returns the group whose standby the machine is, or "".
func (g *Gateway) standbyOf(m dr.MachineName) dr.GroupID { return g.standby.GroupOf(m) }

// StartReplication makes this site the source of a group.
func (g *Gateway) StartReplication(ctx context.Context, _ control.Origin, r control.ReplicationSpec) error {
	if err := g.admitGeneration(r.Group, r.Generation); err != nil {
		return err
	}
	if err := g.admitRole(control.ProcessServer); err != nil {
		return err
	}
	for _, d := range r.Disks {
		if grp := g.standbyOf(d.Machine); grp != "" {
			return problem.New(problem.MachineInUse, "%s is the standby of group %s", d.Machine, grp)
		}
	}
	s, err := g.makeSource(r.Group)
	if err != nil {
		return err
	}
	defer g.Poke()
	err = s.Start(ctx, r)
	if err != nil && s.Empty() { // the spec was refused: nothing changes
		return errors.Join(err, g.dropSource(ctx, r.Group))
	}
	return err
}

// StopReplication ends or suspends the stream of a group.
func (g *Gateway) StopReplication(ctx context.Context, _ control.Origin, r control.StopReplicationRequest) (control.StopReplicationResult, error) {
	s, err := g.source(r.Group)
	if problem.HasCode(err, problem.UnknownGroup) && r.Forget {
		return control.StopReplicationResult{}, nil // forgotten by an earlier attempt
	}
	if err != nil {
		return control.StopReplicationResult{}, err
	}
	defer g.Poke()
	res, err := s.Stop(ctx, r)
	if err == nil && r.Forget {
		err = g.dropSource(ctx, r.Group)
	}
	return res, err
}

// CreatePoint places a marker.
func (g *Gateway) CreatePoint(ctx context.Context, _ control.Origin, r control.CreatePointRequest) (dr.Point, error) {
	s, err := g.source(r.Group)
	if err != nil {
		return dr.Point{}, err
	}
	return s.CreatePoint(ctx, r)
}

// Resync makes the standby equal to the source again.
func (g *Gateway) Resync(ctx context.Context, _ control.Origin, r control.ResyncRequest) error {
	s, err := g.source(r.Group)
	if err != nil {
		return err
	}
	return s.Resync(ctx, r.Mode)
}

// Verify compares the standby with the source; it is asked of the source.
func (g *Gateway) Verify(ctx context.Context, _ control.Origin, group dr.GroupID) (control.VerifyResult, error) {
	s, err := g.source(group)
	if err != nil {
		return control.VerifyResult{}, err
	}
	return s.Verify(ctx)
}

// CreateJournal makes this site the standby of a group. Machines of it that
// still run here are from before a failover: they are powered off.
func (g *Gateway) CreateJournal(ctx context.Context, _ control.Origin, r control.CreateJournalRequest) (control.CreateJournalResult, error) {
	if err := g.admitGeneration(r.Group, r.Generation); err != nil {
		return control.CreateJournalResult{}, err
	}
	if err := errors.Join(g.admitRole(control.MasterTarget), g.checkVolume(r.RetentionVolume)); err != nil {
		return control.CreateJournalResult{}, err
	}
	// A source that ended clean knows what its disks hold, until it is ended.
	seed := g.seedOf(r.Group)
	if err := g.endSource(ctx, r.Group); err != nil {
		return control.CreateJournalResult{}, err
	}
	defer g.Poke()
	return g.standby.Create(ctx, r, seed)
}

// DeleteJournal ends a journal.
func (g *Gateway) DeleteJournal(ctx context.Context, _ control.Origin, r control.DeleteJournalRequest) error {
	defer g.Poke()
	return g.standby.Delete(ctx, r)
}

// Seal raises a group's generation.
func (g *Gateway) Seal(ctx context.Context, _ control.Origin, r control.SealRequest) (control.SealResult, error) {
	defer g.Poke()
	return g.standby.Seal(ctx, r)
}

// Points lists recovery points.
func (g *Gateway) Points(ctx context.Context, r control.PointsRequest) (control.Points, error) {
	return g.standby.Points(ctx, r)
}

// ResolvePoint turns a selector into a position.
func (g *Gateway) ResolvePoint(ctx context.Context, r control.ResolveRequest) (control.Resolved, error) {
	return g.standby.Resolve(ctx, r)
}

// StartRecovered starts a machine on views of the journal.
func (g *Gateway) StartRecovered(ctx context.Context, _ control.Origin, r control.StartRecoveredRequest) (control.Recovered, error) {
	defer g.Poke()
	return g.standby.StartRecovered(ctx, r)
}

// DiscardRecovered deletes a machine that StartRecovered started.
func (g *Gateway) DiscardRecovered(ctx context.Context, _ control.Origin, r control.DiscardRecoveredRequest) error {
	defer g.Poke()
	return g.standby.DiscardRecovered(ctx, r)
}

// CommitRecovered makes the recovered machines independent of the journal.
func (g *Gateway) CommitRecovered(ctx context.Context, _ control.Origin, r control.CommitRequest) (control.CommitResult, error) {
	defer g.Poke()
	return g.standby.Commit(ctx, r, func(done, total int64) {
		control.ReportProgress(ctx, control.Progress{Done: done, Total: total, Unit: "bytes"})
	})
}
