package orchestrator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// ends finds the two gateways that a reprotect is to go through, by what the
// request says and what the vault knows; it asks nobody.
func (o *Orchestrator) ends(tx *store.Tx, g *store.Group, req *rest.ReprotectRequest) (*lifecycle.Ends, error) {
	if req == nil {
		req = &rest.ReprotectRequest{}
	}
	for name := range req.Machines {
		if !slices.Contains(g.Machines(), name) {
			return nil, problem.New(problem.InvalidRequest, "there are values for %q, which is no member of %s", name, g.ID)
		}
	}
	e := &lifecycle.Ends{Datastores: map[dr.MachineName]string{}, Sizes: map[dr.MachineName]int64{}, Disks: len(g.Disks)}
	for _, d := range g.Disks {
		e.Sizes[d.Machine] += d.SizeBytes
	}
	for _, name := range g.Machines() {
		e.Datastores[name] = cmp.Or(req.Machines[name].Datastore, req.Datastore)
	}
	server := shared(e, g, "process server", func(name dr.MachineName) string {
		return string(cmp.Or(req.Machines[name].ProcessServer, req.ProcessServer))
	})
	target := shared(e, g, "master target", func(name dr.MachineName) string {
		return string(cmp.Or(req.Machines[name].MasterTarget, req.MasterTarget))
	})
	e.Volume = shared(e, g, "retention volume", func(name dr.MachineName) string {
		return cmp.Or(req.Machines[name].RetentionVolume, req.RetentionVolume)
	})
	var err error
	if e.ProcessServer, err = o.end(tx, dr.GatewayID(server), g.Source(), g.SourceSite(), control.ProcessServer); err != nil {
		return nil, err
	}
	e.MasterTarget, err = o.end(tx, dr.GatewayID(target), g.Standby(), g.StandbySite(), control.MasterTarget)
	return e, err
}

// shared returns what the members have in common, and notes where they differ.
func shared(e *lifecycle.Ends, g *store.Group, what string, of func(dr.MachineName) string) string {
	first := of(g.Machines()[0])
	for _, name := range g.Machines()[1:] {
		if v := of(name); v != first {
			e.Mixed = append(e.Mixed, fmt.Sprintf("%s of %s is %q, of %s %q", what, g.Machines()[0], first, name, v))
			break
		}
	}
	return first
}

// end describes one end: the gateway that was asked for, else the one that the
// group has, else any of the site with the role.
func (o *Orchestrator) end(tx *store.Tx, asked, has dr.GatewayID, want dr.SiteID, role control.Role) (lifecycle.End, error) {
	if asked != "" {
		row, err := tx.Gateway(asked)
		if errors.Is(err, store.ErrNotFound) || err == nil && row.State != "enrolled" {
			return lifecycle.End{}, problem.New(problem.UnknownGateway, "there is no gateway %q that has enrolled", asked)
		}
		return lifecycle.End{Gateway: asked, At: row.Site, Want: want, HasRole: takes(row, role)}, err
	}
	if row, err := tx.Gateway(has); err == nil && row.State == "enrolled" && takes(row, role) {
		return lifecycle.End{Gateway: has, At: row.Site, Want: want, HasRole: true}, nil
	} else if err != nil && !errors.Is(err, store.ErrNotFound) {
		return lifecycle.End{}, err
	}
	id, err := o.pickGateway(tx, want, role)
	if problem.HasCode(err, problem.UnknownGateway) {
		return lifecycle.End{Want: want}, nil
	}
	return lifecycle.End{Gateway: id, At: want, Want: want, HasRole: true}, err
}

// takes reports whether a gateway was given a part; one that has told nothing
// yet takes both.
func takes(g store.Gateway, role control.Role) bool {
	return len(g.Roles) == 0 || slices.Contains(g.Roles, role)
}

// addEnds puts the ends of a reprotect into the facts.
func (o *Orchestrator) addEnds(tx *store.Tx, g *store.Group, req *rest.ReprotectRequest, f *lifecycle.Facts) error {
	e, err := o.ends(tx, g, req)
	if err != nil {
		return err
	}
	f.Ends = e
	// From here on the two are the group's gateways.
	f.ActiveGateway, f.ActiveUp = e.ProcessServer.Gateway, o.up(e.ProcessServer.Gateway)
	f.StandbyGateway, f.StandbyUp = e.MasterTarget.Gateway, o.up(e.MasterTarget.Gateway)
	return nil
}

// askEnds asks both gateways, at the same time, what they have and find.
func (r *run) askEnds(ctx context.Context, e *lifecycle.Ends) error {
	defs, err := r.definitions(ctx)
	if err != nil {
		return err
	}
	var eg errgroup.Group
	for role, end := range map[control.Role]*lifecycle.End{control.ProcessServer: &e.ProcessServer, control.MasterTarget: &e.MasterTarget} {
		eg.Go(func() error {
			said, err := r.o.gateways.Commands(end.Gateway).Prerequisites(control.WithPatience(ctx, prerequisitePatience), control.PrerequisitesRequest{Group: r.group.ID, Machines: defs})
			if err != nil {
				return fmt.Errorf("ask gateway %s: %w", end.Gateway, err)
			}
			end.Said, end.HasRole = saidOf(said), slices.Contains(said.Roles, role)
			return nil
		})
	}
	return eg.Wait()
}

// definitions are the members as the site where they run knows them.
func (r *run) definitions(ctx context.Context) ([]dr.Definition, error) {
	var defs []dr.Definition
	err := r.o.store.View(ctx, func(tx *store.Tx) error {
		for _, name := range r.group.Machines() {
			m, there, err := machineAt(tx, r.group.SourceSite(), name)
			if err != nil {
				return err
			}
			if !there {
				m.Definition.Name = name
			}
			defs = append(defs, m.Definition)
		}
		return nil
	})
	return defs, err
}

func saidOf(p control.Prerequisites) *lifecycle.Said {
	s := &lifecycle.Said{
		SiteProblem: p.SiteProblem, DisksInUse: p.DisksInUse, DiskLimit: p.DiskLimit, Datastores: p.Datastores, Machines: p.Machines,
	}
	for _, v := range p.Volumes {
		s.Volumes = append(s.Volumes, lifecycle.Volume{Name: v.Name, Trouble: v.Trouble, FreeBytes: v.FreeBytes})
	}
	return s
}

// provenEnds are the ends of the run's reprotect after both gateways were
// asked; what they found may refuse it. Nothing is changed by asking.
func (r *run) provenEnds(ctx context.Context) (*lifecycle.Ends, error) {
	f, err := r.endFacts(ctx)
	if err != nil {
		return nil, err
	}
	// What is known without asking comes first: it may be that nobody is
	// there to be asked.
	if err := r.o.rules.Recheck(lifecycle.Reprotect, f); err != nil {
		return nil, err
	}
	if err := r.askEnds(ctx, f.Ends); err != nil {
		return nil, err
	}
	return f.Ends, r.o.rules.Recheck(lifecycle.Reprotect, f)
}

func (r *run) endFacts(ctx context.Context) (lifecycle.Facts, error) {
	var f lifecycle.Facts
	err := r.o.store.View(ctx, func(tx *store.Tx) error {
		g, err := tx.Group(r.group.ID)
		if err != nil {
			return err
		}
		if f, err = r.o.Facts(tx, &g); err != nil {
			return err
		}
		return r.o.addEnds(tx, &g, r.request().Reprotect, &f)
	})
	return f, err
}

// The keys under which the first task of a reprotect keeps its choice.
const (
	chosenServer = "processServer"
	chosenTarget = "masterTarget"
	chosenVolume = "retentionVolume"
)

// chooseEnds is the first task of a reprotect.
func chooseEnds(ctx context.Context, r *run) error {
	for _, gw := range []dr.GatewayID{r.group.Source(), r.group.Standby()} {
		r.o.reachable(ctx, gw)
	}
	e, err := r.provenEnds(ctx)
	if err != nil {
		return err
	}
	r.set(chosenServer, string(e.ProcessServer.Gateway))
	r.set(chosenTarget, string(e.MasterTarget.Gateway))
	if e.Volume != "" {
		r.set(chosenVolume, e.Volume)
	}
	return nil
}

// chosen reads what chooseEnds decided; the group's own gateways where a job
// of an older program has not that task.
func (r *run) chosen() (server, target dr.GatewayID) {
	server, target = r.group.Source(), r.group.Standby()
	for _, t := range r.job.Tasks {
		if t.Name != "choose-ends" {
			continue
		}
		if v, ok := t.Result[chosenServer].(string); ok {
			server = dr.GatewayID(v)
		}
		if v, ok := t.Result[chosenTarget].(string); ok {
			target = dr.GatewayID(v)
		}
	}
	return server, target
}

// probePath proves that the process server reaches the master target's data
// port and that each takes the other's certificate; heartbeats to the vault do
// not prove that.
func probePath(ctx context.Context, r *run) error {
	server, target := r.chosen()
	inv, err := r.o.gateways.Commands(target).Inventory(control.WithPatience(ctx, prerequisitePatience))
	if err != nil {
		return err
	}
	res, err := r.o.gateways.Commands(server).ProbePath(ctx, control.ProbeRequest{Gateway: target, Addr: inv.DataAddr})
	if problem.HasCode(err, problem.PathClosed) {
		f, ferr := r.endFacts(ctx)
		if ferr != nil {
			return ferr
		}
		f.Ends.PathTrouble = cmp.Or(problem.From(err).Detail, err.Error())
		return r.o.rules.Recheck(lifecycle.Reprotect, f)
	}
	if err != nil {
		return fmt.Errorf("ask gateway %s for the path to gateway %s at %s: %w", server, target, inv.DataAddr, err)
	}
	r.set("path", fmt.Sprintf("%s -> %s (%s)", server, target, inv.DataAddr))
	r.set("pathSeconds", res.Seconds)
	return nil
}

// useEnds makes the chosen gateways the group's, from the next task on.
func useEnds(_ context.Context, r *run) error {
	server, target := r.chosen()
	before := []string{string(r.group.Source()), string(r.group.Standby())}
	r.set("before", strings.Join(before, " "))
	r.then(func(_ *store.Tx, g *store.Group) error { setEnds(g, server, target); return nil })
	return nil
}

func setEnds(g *store.Group, source, standby dr.GatewayID) {
	if g.Direction == dr.Back {
		g.RecoveryGateway, g.HomeGateway = source, standby
	} else {
		g.HomeGateway, g.RecoveryGateway = source, standby
	}
}

// restoreEnds gives the group the gateways back that it had before useEnds.
func (r *run) restoreEnds() {
	for _, t := range r.job.Tasks {
		text, ok := t.Result["before"].(string)
		if source, standby, two := strings.Cut(text, " "); ok && two && t.Name == "use-ends" {
			r.then(func(_ *store.Tx, g *store.Group) error {
				setEnds(g, dr.GatewayID(source), dr.GatewayID(standby))
				return nil
			})
		}
	}
}

// transferOf is how much a reprotect may send. What differs is known only after
// comparing, so that any number between would be a guess.
func transferOf(g *store.Group) *rest.ByteRange {
	var all int64
	for _, d := range g.Disks {
		all += d.SizeBytes
	}
	return &rest.ByteRange{Max: all}
}

// LackingPoints names the machines of groups that have no recovery point, and
// so cannot be recovered: a plan is refused by them. A group without a journal
// lacks points for all its members.
func (o *Orchestrator) LackingPoints(tx *store.Tx, groups ...dr.GroupID) ([]dr.MachineName, error) {
	var lacking []dr.MachineName
	for _, id := range groups {
		g, err := tx.Group(id)
		if errors.Is(err, store.ErrNotFound) {
			return nil, problem.New(problem.UnknownGroup, "there is no group %q", id)
		}
		if err != nil {
			return nil, err
		}
		f, err := o.Facts(tx, &g)
		if err != nil {
			return nil, err
		}
		if f.Points == 0 {
			lacking = append(lacking, g.Machines()...)
		}
	}
	return lacking, nil
}
