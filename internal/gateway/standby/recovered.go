package standby

import (
	"context"
	"fmt"
	"slices"
	"time"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/journal"
	"rebound/internal/problem"
	"rebound/internal/site"
)

// recovered is one machine that runs, or is being started, on views.
type recovered struct {
	Machine  dr.MachineName `json:"machine"`
	Name     dr.MachineName `json:"name"` // at the site
	Test     bool           `json:"test"`
	Position dr.Position    `json:"position"`
	Network  string         `json:"network,omitempty"`
	Started  time.Time      `json:"started"` // zero until the site has it
}

// siteName is the name under which a recovered machine runs.
func siteName(m dr.MachineName, test bool) dr.MachineName {
	if test {
		return m + "-test"
	}
	return m
}

// find returns the recovered machine of that name at the site.
func (s settings) find(name dr.MachineName) (recovered, bool) {
	i := slices.IndexFunc(s.Recovered, func(r recovered) bool { return r.Name == name })
	if i < 0 {
		return recovered{}, false
	}
	return s.Recovered[i], true
}

// startRecovered serves the machine's disks at the position and starts it on
// them. What is on disk at each step lets a repetition finish or discard it:
// first our own record and the pin, then the machine.
func (g *group) startRecovered(ctx context.Context, r control.StartRecoveredRequest) (control.Recovered, error) {
	if g.host.boot == nil {
		return control.Recovered{}, problem.New(problem.InvalidRequest, "this site cannot start machines from a journal's view")
	}
	want := recovered{Machine: r.Machine, Name: siteName(r.Machine, r.Test), Test: r.Test, Position: r.Position, Network: r.Network}
	defer g.names.lock(want.Name)()
	spec, started, err := g.prepareRecovered(ctx, want)
	if err != nil || !started.IsZero() {
		return control.Recovered{Machine: want.Name, Started: started}, err
	}
	name, err := g.host.boot.StartRecovered(ctx, spec)
	if err != nil {
		return control.Recovered{}, fmt.Errorf("start %s on its view: %w", want.Name, err)
	}
	g.work.Lock()
	defer g.work.Unlock()
	want.Started = time.Now().UTC()
	if err := g.save(func(s *settings) { s.put(want) }); err != nil {
		return control.Recovered{}, err
	}
	g.event("MachineRecovered", "info", "%s runs on the journal of group %s at %s", want.Name, g.id, want.Position)
	return control.Recovered{Machine: name, Started: want.Started}, nil
}

// prepareRecovered pins the position and serves the disks; started is when the
// machine was started by an earlier attempt.
func (g *group) prepareRecovered(ctx context.Context, want recovered) (spec site.RecoveredSpec, started time.Time, err error) {
	g.work.Lock()
	defer g.work.Unlock()
	jrn, err := g.open()
	if err != nil {
		return spec, started, err
	}
	if phase := g.settings().Phase; phase != phaseJournal {
		return spec, started, problem.New(problem.OperationNotAllowed, "the journal of group %s is in phase %s", g.id, phase)
	}
	have, ok := g.settings().find(want.Name)
	if ok && have.Position != want.Position {
		return spec, started, problem.New(problem.MachineRunning, "%s runs at %s, asked for %s: discard it first", want.Name, have.Position, want.Position)
	}
	if ok && !have.Started.IsZero() {
		return spec, have.Started, nil
	}
	def, err := g.definitionAt(ctx, jrn, want)
	if err != nil {
		return spec, started, err
	}
	if err := g.pin(jrn, want); err != nil {
		return spec, started, err
	}
	if err := g.serveViews(ctx, want); err != nil {
		return spec, started, err
	}
	return site.RecoveredSpec{Definition: def, Disks: g.viewDisks(want), Test: want.Test, Network: want.Network}, started, nil
}

// pin records the machine and registers its view, so that the position stays
// readable from here on.
func (g *group) pin(jrn *journal.Journal, r recovered) error {
	if err := g.save(func(s *settings) { s.put(r) }); err != nil {
		return err
	}
	purpose := "failover"
	if r.Test {
		purpose = "test"
	}
	return jrn.RegisterView(journal.View{ID: string(r.Name), Machine: r.Machine, Position: r.Position, Purpose: purpose, Socket: g.views.path})
}

// put replaces or adds a recovered machine.
func (s *settings) put(r recovered) {
	s.drop(r.Name)
	s.Recovered = append(s.Recovered, r)
}

func (s *settings) drop(name dr.MachineName) {
	s.Recovered = slices.DeleteFunc(s.Recovered, func(r recovered) bool { return r.Name == name })
}

// definitionAt returns the machine's definition of the moment, with networks
// that exist here.
func (g *group) definitionAt(ctx context.Context, jrn *journal.Journal, r recovered) (dr.Definition, error) {
	res, err := jrn.Resolve(dr.PointSelector("@" + r.Position.String()))
	if err != nil {
		return dr.Definition{}, err
	}
	i := slices.IndexFunc(res.Definitions, func(d dr.Definition) bool { return d.Name == r.Machine })
	if i < 0 {
		return dr.Definition{}, problem.New(problem.UnknownMachine, "%s is no member of group %s", r.Machine, g.id)
	}
	def := res.Definitions[i]
	def.NICs = slices.Clone(def.NICs)
	if r.Test || r.Network == "" {
		return def, nil
	}
	networks, err := g.host.cfg.Driver.Networks(ctx)
	if err != nil {
		return dr.Definition{}, fmt.Errorf("list networks: %w", err)
	}
	for n := range def.NICs {
		if !slices.ContainsFunc(networks, func(x site.Network) bool { return x.Name == def.NICs[n].Network }) {
			def.NICs[n].Network = r.Network
		}
	}
	return def, nil
}

// discardRecovered stops and deletes a recovered machine, then its views.
func (g *group) discardRecovered(ctx context.Context, name dr.MachineName) error {
	defer g.names.lock(name)()
	g.work.Lock()
	defer g.work.Unlock()
	r, ok := g.settings().find(name)
	if !ok {
		return nil
	}
	if g.settings().Phase != phaseJournal {
		return problem.New(problem.OperationNotAllowed, "%s is being committed", name)
	}
	if err := g.host.boot.DiscardRecovered(ctx, name); err != nil {
		return fmt.Errorf("discard %s: %w", name, err)
	}
	if err := g.dropViews(ctx, r); err != nil {
		return err
	}
	if err := g.save(func(s *settings) { s.drop(name) }); err != nil {
		return err
	}
	g.event("MachineDiscarded", "info", "%s was stopped and what it wrote discarded", name)
	return nil
}
