package controltest

import (
	"context"
	"slices"
	"strings"
	"time"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site"
)

func (g *Gateway) find(name dr.MachineName) (*machine, error) {
	m := g.machines[name]
	if m == nil {
		return nil, problem.New(problem.UnknownMachine, "site %s has no machine %q", g.site, name)
	}
	return m, nil
}

func (g *Gateway) findJournal(id dr.GroupID) (*journal, error) {
	j := g.journals[id]
	if j == nil {
		return nil, problem.New(problem.UnknownGroup, "gateway %s keeps no journal of %q", g.id, id)
	}
	return j, nil
}

// ImportMachine implements control.Commands.
func (g *Gateway) ImportMachine(ctx context.Context, o control.Origin, r control.ImportRequest) (site.Machine, error) {
	var out site.Machine
	err := g.do(ctx, "ImportMachine", string(r.Name), o, func() error {
		if g.machines[r.Name] != nil {
			return problem.New(problem.NameTaken, "machine %q", r.Name)
		}
		out = site.Machine{Definition: dr.Definition{Name: r.Name, UUID: "imported-" + string(r.Name), Disks: []dr.DiskSpec{{ID: "disk0", SizeBytes: 1 << 20}}}, State: site.Running, Imported: true}
		g.machines[r.Name] = &machine{m: out, booted: g.world.now()}
		return nil
	})
	return out, err
}

// StartMachine implements control.Commands.
func (g *Gateway) StartMachine(ctx context.Context, o control.Origin, r control.MachineRequest) error {
	return g.do(ctx, "StartMachine", string(r.Machine), o, func() error {
		m, err := g.find(r.Machine)
		if err != nil {
			return err
		}
		if m.m.Standby {
			return problem.New(problem.MachineInUse, "%s is a standby", r.Machine)
		}
		m.m.State, m.booted = site.Running, g.world.now()
		return nil
	})
}

// StopMachine implements control.Commands.
func (g *Gateway) StopMachine(ctx context.Context, o control.Origin, r control.StopRequest) error {
	return g.do(ctx, "StopMachine", string(r.Machine), o, func() error {
		m, err := g.find(r.Machine)
		if err == nil {
			m.m.State = site.Off
		}
		return err
	})
}

// DeleteMachine implements control.Commands.
func (g *Gateway) DeleteMachine(ctx context.Context, o control.Origin, r control.DeleteRequest) (control.Deleted, error) {
	out := control.Deleted{Removed: []string{"machine " + string(r.Machine) + " at " + string(g.site)}}
	if r.KeepDisks {
		out.Kept = []string{"disk0 of " + string(r.Machine)}
	}
	what := "DeleteMachine"
	if r.DryRun {
		what = "DeleteMachine dry"
	}
	err := g.do(ctx, what, string(r.Machine), o, func() error {
		m, err := g.find(r.Machine)
		if err != nil || r.DryRun {
			return err
		}
		if m.m.State != site.Off {
			return problem.New(problem.MachineRunning, "%s", r.Machine)
		}
		delete(g.machines, r.Machine)
		return nil
	})
	return out, err
}

// StartReplication implements control.Commands.
func (g *Gateway) StartReplication(ctx context.Context, o control.Origin, r control.ReplicationSpec) error {
	return g.do(ctx, "StartReplication", string(r.Group), o, func() error {
		for _, d := range r.Disks {
			m, err := g.find(d.Machine)
			if err != nil {
				return err
			}
			if r.StartStopped && m.m.State == site.Off {
				m.m.State, m.booted = site.Running, g.world.now()
			}
			if m.m.State != site.Running {
				return problem.New(problem.MachineNotRunning, "%s", d.Machine)
			}
		}
		if j := g.world.gateways[r.Standby].journals[r.Group]; j != nil && j.generation == r.Generation {
			j.epoch++
			j.sealed = false
		}
		g.newest[r.Group] = r.Generation
		g.streams[r.Group] = &stream{spec: r, phase: control.PhaseSyncing}
		return nil
	})
}

// StopReplication implements control.Commands.
func (g *Gateway) StopReplication(ctx context.Context, o control.Origin, r control.StopReplicationRequest) (control.StopReplicationResult, error) {
	var out control.StopReplicationResult
	err := g.do(ctx, "StopReplication", string(r.Group), o, func() error {
		s := g.streams[r.Group]
		if s == nil {
			return problem.New(problem.UnknownGroup, "gateway %s sends no stream of %q", g.id, r.Group)
		}
		g.step(s)
		if j := g.world.gateways[s.spec.Standby].journals[r.Group]; j != nil {
			h, _ := j.head()
			out = control.StopReplicationResult{Durable: h.pos, Clean: s.phase == control.PhaseStreaming}
		}
		s.phase = control.PhasePaused
		if r.Forget {
			delete(g.streams, r.Group)
		}
		return nil
	})
	return out, err
}

// Fence implements control.Commands.
func (g *Gateway) Fence(ctx context.Context, o control.Origin, r control.FenceRequest) error {
	return g.do(ctx, "Fence", string(r.Group), o, func() error {
		if s := g.streams[r.Group]; s != nil {
			g.fence(s, r.Machines)
		}
		return nil
	})
}

// CreatePoint implements control.Commands.
func (g *Gateway) CreatePoint(ctx context.Context, o control.Origin, r control.CreatePointRequest) (dr.Point, error) {
	var out dr.Point
	err := g.do(ctx, "CreatePoint", string(r.Group), o, func() error {
		s := g.streams[r.Group]
		if s == nil {
			return problem.New(problem.UnknownGroup, "%q", r.Group)
		}
		g.step(s)
		out = g.world.gateways[s.spec.Standby].journals[r.Group].addPoint(r.Kind, r.Name, g.world.now())
		return nil
	})
	return out, err
}

// Resync implements control.Commands.
func (g *Gateway) Resync(ctx context.Context, o control.Origin, r control.ResyncRequest) error {
	return g.do(ctx, "Resync", string(r.Group), o, func() error {
		if s := g.streams[r.Group]; s != nil {
			s.phase = control.PhaseSyncing
		}
		return nil
	})
}

// CreateJournal implements control.Commands.
func (g *Gateway) CreateJournal(ctx context.Context, o control.Origin, r control.CreateJournalRequest) (control.CreateJournalResult, error) {
	var out control.CreateJournalResult
	err := g.do(ctx, "CreateJournal", string(r.Group), o, func() error {
		j := &journal{request: r, generation: r.Generation, source: r.Source, defs: map[dr.MachineName]dr.Definition{}, base: map[dr.MachineName]int{}, redoWindow: r.RedoWindow, retention: r.Retention}
		for _, d := range r.Definitions {
			m := g.machines[d.Name]
			if m == nil {
				m = &machine{m: site.Machine{Definition: d, State: site.Off}}
				g.machines[d.Name] = m
			} else {
				out.Seeded = true
				if m.m.State != site.Off {
					out.PoweredOff = append(out.PoweredOff, d.Name)
				}
			}
			m.m.State, m.m.Standby = site.Off, true
			j.defs[d.Name], j.base[d.Name] = d, m.content
		}
		g.newest[r.Group] = r.Generation
		g.journals[r.Group], g.asked[r.Group] = j, r
		return nil
	})
	return out, err
}

// DeleteJournal implements control.Commands.
func (g *Gateway) DeleteJournal(ctx context.Context, o control.Origin, r control.DeleteJournalRequest) error {
	return g.do(ctx, "DeleteJournal", string(r.Group), o, func() error {
		j, err := g.findJournal(r.Group)
		if err != nil {
			return err
		}
		for name := range j.defs {
			if r.KeepMachines {
				g.machines[name].m.Standby = false
			} else {
				delete(g.machines, name)
			}
		}
		delete(g.journals, r.Group)
		return nil
	})
}

// Seal implements control.Commands.
func (g *Gateway) Seal(ctx context.Context, o control.Origin, r control.SealRequest) (control.SealResult, error) {
	var out control.SealResult
	err := g.do(ctx, "Seal", string(r.Group), o, func() error {
		j, err := g.findJournal(r.Group)
		if err != nil {
			return err
		}
		if r.Generation < j.generation {
			return problem.New(problem.StaleGeneration, "%d is older than %d", r.Generation, j.generation)
		}
		j.generation, j.sealed = r.Generation, true
		g.newest[r.Group] = r.Generation
		h, _ := j.head()
		out = control.SealResult{Durable: h.pos, Confirmed: h.pos}
		return nil
	})
	return out, err
}

// Points implements control.Commands.
func (g *Gateway) Points(_ context.Context, r control.PointsRequest) (control.Points, error) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	j, err := g.findJournal(r.Group)
	if err != nil {
		return control.Points{}, err
	}
	out := control.Points{}
	for _, p := range j.points {
		if r.Kind == "" || p.Kind == r.Kind {
			out.Points = append(out.Points, p)
		}
	}
	return out, nil
}

// ResolvePoint implements control.Commands.
func (g *Gateway) ResolvePoint(_ context.Context, r control.ResolveRequest) (control.Resolved, error) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	j, err := g.findJournal(r.Group)
	if err != nil {
		return control.Resolved{}, err
	}
	h, ok := j.head()
	if !ok {
		return control.Resolved{}, problem.New(problem.NoRecoveryPoint, "group %s", r.Group)
	}
	switch {
	case r.PerMachine:
		return j.members(h), nil
	case r.Selector == dr.Latest:
		return control.Resolved{Position: h.pos, Time: h.at}, nil
	case r.Selector == dr.LatestProcessed, r.Selector == dr.LatestMultiVM:
		p := j.points[len(j.points)-1]
		res, err := j.at(p.Position, h)
		res.Point = &p
		return res, err
	case r.Selector == dr.LatestApp, r.Selector == dr.LatestMultiVMApp:
		for _, p := range slices.Backward(j.points) {
			if p.Kind == dr.AppConsistent {
				res, err := j.at(p.Position, h)
				res.Point = &p
				return res, err
			}
		}
		return control.Resolved{}, problem.New(problem.NoRecoveryPoint, "no application-consistent point was made")
	}
	if at, ok := strings.CutPrefix(string(r.Selector), "@"); ok {
		pos, err := dr.ParsePosition(at)
		if err != nil {
			return control.Resolved{}, problem.Wrap(err, problem.InvalidRequest, "%v", err)
		}
		return j.at(pos, h)
	}
	for _, p := range j.points {
		if string(p.ID) == string(r.Selector) {
			res, err := j.at(p.Position, h)
			res.Point = &p
			return res, err
		}
	}
	return control.Resolved{}, problem.New(problem.UnknownPoint, "%s", r.Selector)
}

func (j *journal) at(pos dr.Position, head moment) (control.Resolved, error) {
	for _, m := range j.moments {
		if m.pos == pos {
			res := control.Resolved{Position: m.pos, Time: m.at, LostSeconds: head.at.Sub(m.at).Seconds()}
			for name, n := range head.content {
				res.LostBytes += int64(n-m.content[name]) * writeSize
			}
			return res, nil
		}
	}
	return control.Resolved{}, problem.New(problem.UnknownPoint, "%s", pos)
}

// StartRecovered implements control.Commands.
func (g *Gateway) StartRecovered(ctx context.Context, o control.Origin, r control.StartRecoveredRequest) (control.Recovered, error) {
	name := r.Machine
	if r.Test {
		name += "-test"
	}
	var warnings []string
	err := g.do(ctx, "StartRecovered", string(name), o, func() error {
		j, err := g.findJournal(r.Group)
		if err != nil {
			return err
		}
		content, err := j.contentAt(r)
		if err != nil {
			return err
		}
		def, more, err := g.targeted(j.defs[r.Machine], r)
		if err != nil {
			return err
		}
		warnings = more
		m := g.machines[name]
		if r.Test && m == nil {
			m = &machine{}
			g.machines[name] = m
		}
		if m == nil {
			return problem.New(problem.UnknownMachine, "%s", name)
		}
		if m.view != nil && *m.view != r.Position {
			return problem.New(problem.MachineRunning, "%s runs at %s", name, m.view)
		}
		pos := r.Position
		m.content = content
		def.Name = name
		m.m.Definition = def
		m.m.State, m.view, m.booted = site.Running, &pos, g.world.now()
		return nil
	})
	return control.Recovered{Machine: name, Started: time.Now().UTC(), Warnings: warnings}, err
}

// DiscardRecovered implements control.Commands.
func (g *Gateway) DiscardRecovered(ctx context.Context, o control.Origin, r control.DiscardRecoveredRequest) error {
	name := r.Machine
	if r.Test {
		name += "-test"
	}
	return g.do(ctx, "DiscardRecovered", string(name), o, func() error {
		m := g.machines[name]
		if m == nil {
			return nil
		}
		if r.Test {
			delete(g.machines, name)
			return nil
		}
		m.m.State, m.view, m.content = site.Off, nil, g.journals[r.Group].base[r.Machine]
		return nil
	})
}

// CommitRecovered implements control.Commands.
func (g *Gateway) CommitRecovered(ctx context.Context, o control.Origin, r control.CommitRequest) (control.CommitResult, error) {
	return control.CommitResult{RollbackBytes: 4096}, g.do(ctx, "CommitRecovered", string(r.Group), o, func() error {
		j, err := g.findJournal(r.Group)
		if err != nil {
			return err
		}
		if err := g.checkCommit(j, r); err != nil {
			return err
		}
		for name := range j.defs {
			m := g.machines[name]
			m.view, m.m.Standby = nil, false
		}
		delete(g.journals, r.Group)
		return nil
	})
}

// Verify implements control.Commands.
func (g *Gateway) Verify(ctx context.Context, o control.Origin, group dr.GroupID) (control.VerifyResult, error) {
	return control.VerifyResult{Bytes: 1 << 20}, g.do(ctx, "Verify", string(group), o, func() error { return nil })
}
