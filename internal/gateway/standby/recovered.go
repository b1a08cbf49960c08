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
	// Alone: the position is of this machine, and not of the group.
	Alone   bool   `json:"alone,omitempty"`
	Network string `json:"network,omitempty"`
	// Target is how the machine was asked to be; a repetition of the request
	// goes by it too.
	Target  site.Target `json:"target,omitzero"`
	Started time.Time   `json:"started"` // zero until the site has it
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
	want := recovered{Machine: r.Machine, Name: siteName(r.Machine, r.Test), Test: r.Test, Position: r.Position, Alone: r.Alone, Network: r.Network, Target: r.Target}
	defer g.names.lock(want.Name)()
	spec, warnings, err := g.prepareRecovered(ctx, &want)
	if err != nil || !want.Started.IsZero() {
		return control.Recovered{Machine: want.Name, Started: want.Started}, err
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
	return control.Recovered{Machine: name, Started: want.Started, Warnings: warnings}, nil
}

// prepareRecovered pins the position and serves the disks. What an earlier
// attempt was asked for stays as it was; Started is set when it succeeded.
func (g *group) prepareRecovered(ctx context.Context, want *recovered) (spec site.RecoveredSpec, warnings []string, err error) {
	g.work.Lock()
	defer g.work.Unlock()
	jrn, err := g.open()
	if err != nil {
		return spec, nil, err
	}
	if phase := g.settings().Phase; phase != phaseJournal {
		return spec, nil, problem.New(problem.OperationNotAllowed, "the journal of group %s is in phase %s", g.id, phase)
	}
	have, ok := g.settings().find(want.Name)
	if ok && have.Position != want.Position {
		return spec, nil, problem.New(problem.MachineRunning, "%s runs at %s, asked for %s: discard it first", want.Name, have.Position, want.Position)
	}
	if ok {
		*want = have
	}
	if !want.Started.IsZero() {
		return spec, nil, nil
	}
	spec, warnings, err = g.recoveredSpec(ctx, jrn, *want)
	if err != nil {
		return spec, nil, err
	}
	if err := g.pin(jrn, *want); err != nil {
		return spec, nil, err
	}
	if err := g.serveViews(ctx, *want); err != nil {
		return spec, nil, err
	}
	spec.Disks = g.viewDisks(*want)
	return spec, warnings, nil
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
	return jrn.RegisterView(journal.View{ID: string(r.Name), Machine: r.Machine, Position: r.Position, Alone: r.Alone, Purpose: purpose, Socket: g.views.path})
}

// put replaces or adds a recovered machine.
func (s *settings) put(r recovered) {
	s.drop(r.Name)
	s.Recovered = append(s.Recovered, r)
}

func (s *settings) drop(name dr.MachineName) {
	s.Recovered = slices.DeleteFunc(s.Recovered, func(r recovered) bool { return r.Name == name })
}

// recoveredSpec describes the machine: its definition of the moment comes first,
// then its target settings.
func (g *group) recoveredSpec(ctx context.Context, jrn *journal.Journal, r recovered) (site.RecoveredSpec, []string, error) {
	spec := site.RecoveredSpec{Test: r.Test, Network: r.Network}
	if err := checkMoment(jrn, r); err != nil {
		return spec, nil, err
	}
	definitions := jrn.Definitions(r.Position)
	i := slices.IndexFunc(definitions, func(d dr.Definition) bool { return d.Name == r.Machine })
	if i < 0 {
		return spec, nil, problem.New(problem.UnknownMachine, "%s is no member of group %s", r.Machine, g.id)
	}
	networks, err := g.host.cfg.Driver.Networks(ctx)
	if err != nil {
		return spec, nil, fmt.Errorf("list networks: %w", err)
	}
	def, warnings, err := r.Target.Apply(definitions[i], site.TargetOf{Site: g.host.cfg.Site, Networks: networks, Fallback: r.Network, Test: r.Test})
	if err != nil {
		return spec, nil, err
	}
	spec.Definition = def
	if r.Test && len(def.NICs) > 0 {
		// A machine under test is in one bubble: cards in several would join them.
		spec.Network = def.NICs[0].Network
		for _, nic := range def.NICs[1:] {
			if nic.Network != spec.Network {
				return spec, nil, problem.New(problem.InvalidRequest, "the cards of %s are to be tested in networks %s and %s: a test joins a machine to one; name it in the request", r.Machine, spec.Network, nic.Network)
			}
		}
	}
	return spec, warnings, nil
}

// checkMoment refuses a position that the machine cannot be taken to.
func checkMoment(jrn *journal.Journal, r recovered) error {
	if r.Alone {
		return jrn.CheckMember(r.Machine, r.Position)
	}
	_, err := jrn.Resolve(dr.PointSelector("@" + r.Position.String()))
	return err
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
