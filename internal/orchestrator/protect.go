package orchestrator

import (
	"context"
	"errors"
	"slices"
	"time"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/site"
	"rebound/internal/vault/live"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// Protect begins the protection of machines as one group.
func (o *Orchestrator) Protect(ctx context.Context, req rest.ProtectRequest, by string) (job rest.Job, joined bool, err error) {
	var j store.Job
	err = o.store.Update(ctx, func(tx *store.Tx) error {
		if err := completeProtect(tx, &req); err != nil {
			return err
		}
		// Pressed twice: the job at work on the same group is the answer.
		if g, err := tx.Group(req.Group); err == nil && g.State == lifecycle.Enabling && slices.Equal(g.Machines(), req.Machines) {
			joined = true
			j, err = tx.Job(g.Running)
			return err
		}
		g, err := o.insertProtected(tx, req)
		if err != nil {
			return err
		}
		j = newJob(lifecycle.Protect, g, by, o)
		j.FromState = string(lifecycle.Unprotected)
		j.Protect = &req
		return o.insertJob(tx, j, g)
	})
	if err != nil || joined {
		return o.present(j), joined, err
	}
	return o.submitted(ctx, j)
}

// completeProtect fills in what the request leaves out.
func completeProtect(tx *store.Tx, req *rest.ProtectRequest) error {
	if len(req.Machines) == 0 || len(req.Machines) > 100 {
		return problem.New(problem.InvalidRequest, "a group has 1 to 100 machines, not %d", len(req.Machines))
	}
	sorted := slices.Sorted(slices.Values(req.Machines))
	if len(slices.Compact(sorted)) != len(req.Machines) {
		return problem.New(problem.InvalidRequest, "a machine is named twice")
	}
	if req.Policy == "" {
		req.Policy = DefaultPolicy().ID
	}
	if req.Group == "" {
		if len(req.Machines) > 1 {
			return problem.New(problem.InvalidRequest, "several machines share one order of writes: give the group a name")
		}
		req.Group = dr.GroupID(req.Machines[0])
	}
	if err := dr.ValidName(string(req.Group)); err != nil {
		return problem.Wrap(err, problem.InvalidName, "%v", err)
	}
	if req.Site != "" {
		return nil
	}
	return findSite(tx, req)
}

// findSite looks for the one site, other than the target, that holds the first
// machine.
func findSite(tx *store.Tx, req *rest.ProtectRequest) error {
	machines, err := tx.Machines("")
	if err != nil {
		return err
	}
	for _, m := range machines {
		if m.Definition.Name != req.Machines[0] || m.Standby || m.Site == req.To {
			continue
		}
		if req.Site != "" {
			return problem.New(problem.InvalidRequest, "machine %s is at %s and at %s: name the site", req.Machines[0], req.Site, m.Site)
		}
		req.Site = m.Site
	}
	if req.Site == "" {
		return problem.New(problem.UnknownMachine, "no site but the target has a machine %q", req.Machines[0])
	}
	return nil
}

// insertProtected checks a completed request against the inventory and makes
// the group's rows.
func (o *Orchestrator) insertProtected(tx *store.Tx, req rest.ProtectRequest) (*store.Group, error) {
	if _, err := tx.Policy(req.Policy); errors.Is(err, store.ErrNotFound) {
		return nil, problem.New(problem.UnknownPolicy, "there is no policy %q", req.Policy)
	} else if err != nil {
		return nil, err
	}
	for _, id := range []dr.SiteID{req.Site, req.To} {
		if _, err := tx.Site(id); errors.Is(err, store.ErrNotFound) {
			return nil, problem.New(problem.UnknownSite, "there is no site %q", id)
		} else if err != nil {
			return nil, err
		}
	}
	if req.Site == req.To {
		return nil, problem.New(problem.InvalidRequest, "the machines are at %s already; choose another site", req.To)
	}
	now := o.now().UTC()
	g := &store.Group{
		ID: req.Group, Policy: req.Policy, Home: req.Site, Recovery: req.To, Direction: dr.Forward, Active: req.Site,
		State: lifecycle.Unprotected, Created: now, ChangedAt: now,
	}
	for _, name := range req.Machines {
		m, err := protectable(tx, req, name)
		if err != nil {
			return nil, err
		}
		g.Members = append(g.Members, store.Member{Item: dr.ItemID(name), Machine: name, StartedAt: m.BootedAt})
		g.Disks = append(g.Disks, disksOf(m.Definition)...)
	}
	var err error
	if g.HomeGateway, err = o.pickGateway(tx, req.Site, control.ProcessServer); err != nil {
		return nil, err
	}
	if g.RecoveryGateway, err = o.pickGateway(tx, req.To, control.MasterTarget); err != nil {
		return nil, err
	}
	f := lifecycle.Facts{State: g.State, Direction: g.Direction, ActiveGateway: g.HomeGateway, StandbyGateway: g.RecoveryGateway, ActiveUp: o.up(g.HomeGateway), StandbyUp: o.up(g.RecoveryGateway)}
	if err := o.rules.Check(lifecycle.Protect, f); err != nil {
		return nil, err
	}
	if err := tx.InsertGroup(g); errors.Is(err, store.ErrExists) {
		return nil, problem.New(problem.NameTaken, "there is a group %q already", g.ID)
	} else if err != nil {
		return nil, err
	}
	return g, nil
}

// protectable finds a machine and refuses one that cannot be protected.
func protectable(tx *store.Tx, req rest.ProtectRequest, name dr.MachineName) (store.Machine, error) {
	if g, err := tx.GroupOfItem(dr.ItemID(name)); err == nil {
		return store.Machine{}, problem.New(problem.AlreadyProtected, "machine %s is in group %s", name, g.ID)
	}
	m, err := tx.Machine(req.Site, name)
	if errors.Is(err, store.ErrNotFound) {
		return m, problem.New(problem.UnknownMachine, "site %s has no machine %q", req.Site, name)
	}
	if err != nil {
		return m, err
	}
	if err := dr.ValidName(string(name)); err != nil {
		return m, problem.Wrap(err, problem.InvalidName, "%v", err)
	}
	if m.Standby {
		return m, problem.New(problem.MachineInUse, "machine %s at %s is a standby", name, req.Site)
	}
	if err := checkDisks(m.Definition); err != nil {
		return m, err
	}
	if m.State != site.Running {
		return m, problem.New(problem.MachineNotRunning, "machine %s is %s; its writes can be captured only while it runs", name, m.State)
	}
	there, err := tx.Machine(req.To, name)
	if err == nil && there.Definition.UUID != m.Definition.UUID {
		return m, problem.New(problem.NameTaken, "site %s has another machine %q", req.To, name)
	}
	return m, nil
}

func checkDisks(def dr.Definition) error {
	if len(disksOf(def)) == 0 {
		return problem.New(problem.MachineHasNoDisks, "machine %s", def.Name)
	}
	for _, d := range disksOf(def) {
		if d.SizeBytes <= 0 || d.SizeBytes%512 != 0 {
			return problem.New(problem.DiskNotSupported, "disk %s of %s has %d bytes, which is no multiple of 512", d.Disk, def.Name, d.SizeBytes)
		}
	}
	return nil
}

// disksOf lists the disks of a machine that are replicated.
func disksOf(def dr.Definition) []dr.GroupDisk {
	var out []dr.GroupDisk
	for _, d := range def.Disks {
		if !d.ReadOnly {
			out = append(out, dr.GroupDisk{Machine: def.Name, Disk: d.ID, SizeBytes: d.SizeBytes})
		}
	}
	return out
}

// pickGateway chooses a site's gateway for a part: a connected one before
// others.
func (o *Orchestrator) pickGateway(tx *store.Tx, id dr.SiteID, role control.Role) (dr.GatewayID, error) {
	list, err := tx.Gateways(id)
	if err != nil {
		return "", err
	}
	var any dr.GatewayID
	for _, g := range list {
		if g.State != "enrolled" || !takes(g, role) {
			continue
		}
		if o.up(g.ID) {
			return g.ID, nil
		}
		any = g.ID
	}
	if any == "" {
		return "", problem.New(problem.UnknownGateway, "site %s has no gateway with the role %s", id, role)
	}
	return any, nil
}

// inventory reads a site's inventory anew and keeps only the group's machines.
func (r *run) inventory(ctx context.Context, c control.Commands) (control.Inventory, map[dr.MachineName]site.Machine, error) {
	inv, err := c.Inventory(control.WithPatience(ctx, prerequisitePatience))
	if err != nil {
		return inv, nil, err
	}
	have := map[dr.MachineName]site.Machine{}
	for _, m := range inv.Machines {
		if slices.Contains(r.group.Machines(), m.Definition.Name) {
			have[m.Definition.Name] = m
		}
	}
	return inv, have, nil
}

// prerequisitePatience is how long a check waits for a gateway that has just
// gone away.
const prerequisitePatience = 5 * time.Second

func protectPrerequisites(ctx context.Context, r *run) error {
	for _, gw := range []dr.GatewayID{r.group.Source(), r.group.Standby()} {
		if _, off := r.o.live.Gateway(gw); off.Abs() > live.SkewRefuse {
			return problem.New(problem.ClockSkew, "the clock of gateway %s differs from the vault's by %s", gw, off.Round(time.Second))
		}
	}
	_, have, err := r.inventory(ctx, r.source())
	if err != nil {
		return err
	}
	inv, there, err := r.inventory(ctx, r.standby())
	if err != nil {
		return err
	}
	var need int64
	for _, name := range r.group.Machines() {
		m, ok := have[name]
		if !ok {
			return problem.New(problem.UnknownMachine, "site %s has no machine %q any more", r.group.SourceSite(), name)
		}
		if m.State != site.Running {
			return problem.New(problem.MachineNotRunning, "machine %s is %s", name, m.State)
		}
		if err := checkDisks(m.Definition); err != nil {
			return err
		}
		other, ok := there[name]
		if ok && other.Definition.UUID != m.Definition.UUID {
			return problem.New(problem.NameTaken, "site %s has another machine %q", r.group.StandbySite(), name)
		}
		if !ok {
			for _, d := range disksOf(m.Definition) {
				need += d.SizeBytes
			}
		}
	}
	if inv.FreeBytes < need {
		return problem.New(problem.NoRoom, "site %s has %d bytes free, the disks need %d", r.group.StandbySite(), inv.FreeBytes, need)
	}
	r.set("needBytes", need)
	return nil
}

// siteRefusal lets the life cycle refuse a failover to a site that does not
// answer its gateway; any other error is what it is.
func (r *run) siteRefusal(ctx context.Context, err error) error {
	op := r.job.Operation
	if !problem.HasCode(err, problem.SiteUnreachable) || op != lifecycle.Failover && op != lifecycle.Failback {
		return err
	}
	f, ferr := r.endFacts(ctx)
	if ferr != nil {
		return ferr
	}
	f.Ends.MasterTarget.Said = &lifecycle.Said{SiteProblem: problem.From(err).Detail}
	return r.o.rules.Recheck(op, f)
}

// checkPrerequisites proves that the gateways an operation needs answer.
func checkPrerequisites(ctx context.Context, r *run) error {
	if r.job.Operation == lifecycle.Reprotect {
		return r.machinesRun(ctx)
	}
	force := r.job.Request != nil && r.job.Request.Force
	if _, _, err := r.inventory(ctx, r.standby()); err != nil {
		if !force {
			return r.siteRefusal(ctx, err)
		}
		r.warn("%v", err)
	}
	switch r.job.Operation {
	case lifecycle.Undo, lifecycle.Resume, lifecycle.Disable:
	default:
		return nil
	}
	if _, _, err := r.inventory(ctx, r.source()); err != nil {
		if !force {
			return err
		}
		r.warn("%v", err)
	}
	return nil
}

// machinesRun demands of the chosen process server that every member runs.
func (r *run) machinesRun(ctx context.Context) error {
	server, _ := r.chosen()
	_, have, err := r.inventory(ctx, r.o.gateways.Commands(server))
	if err != nil {
		return err
	}
	for _, name := range r.group.Machines() {
		m, ok := have[name]
		if !ok {
			return problem.New(problem.UnknownMachine, "site %s has no machine %q", r.group.SourceSite(), name)
		}
		if m.State != site.Running {
			return problem.New(problem.MachineNotRunning, "machine %s at %s is %s", name, r.group.SourceSite(), m.State)
		}
	}
	return nil
}

// createJournal makes the journal at the standby with the machines as they are
// now at the source; its disk table becomes the group's.
func createJournal(ctx context.Context, r *run) error {
	_, have, err := r.inventory(ctx, r.source())
	if err != nil {
		return err
	}
	req := control.CreateJournalRequest{
		Group: r.group.ID, Generation: r.group.Generation, Source: r.group.Source(), Keep: r.keep(), RedoWindow: seconds(r.policy.RedoWindow), Retention: seconds(r.policy.Retention),
	}
	if err := r.placesOf(ctx, &req); err != nil {
		return err
	}
	for _, name := range r.group.Machines() {
		m, ok := have[name]
		if !ok {
			return problem.New(problem.UnknownMachine, "site %s has no machine %q", r.group.SourceSite(), name)
		}
		req.Definitions = append(req.Definitions, m.Definition)
		req.Disks = append(req.Disks, disksOf(m.Definition)...)
	}
	res, err := r.standby().CreateJournal(r.long(ctx), r.origin(""), req)
	if err != nil {
		return err
	}
	r.set("seeded", res.Seeded)
	if !res.Seed.IsZero() {
		r.set("seed", res.Seed.String())
	}
	if len(res.PoweredOff) > 0 {
		r.set("poweredOff", res.PoweredOff)
	}
	r.then(func(_ *store.Tx, g *store.Group) error {
		g.Disks, g.Seeded = req.Disks, g.Seeded || res.Seeded
		return nil
	})
	return nil
}

// placesOf says where a reprotect was asked to put the journal and new disks.
func (r *run) placesOf(ctx context.Context, req *control.CreateJournalRequest) error {
	if r.job.Operation != lifecycle.Reprotect || r.request().Reprotect == nil {
		return nil
	}
	return r.o.store.View(ctx, func(tx *store.Tx) error {
		e, err := r.o.ends(tx, &r.group, r.request().Reprotect)
		if err != nil {
			return err
		}
		req.RetentionVolume = e.Volume
		for name, ds := range e.Datastores {
			if ds != "" {
				if req.Datastores == nil {
					req.Datastores = map[dr.MachineName]string{}
				}
				req.Datastores[name] = ds
			}
		}
		return nil
	})
}

func startReplication(ctx context.Context, r *run) error {
	return r.replicate(ctx, false, r.seed())
}

// seed is what the task before found out about the standby's disks; zero when
// it is not known.
func (r *run) seed() dr.Position {
	for _, t := range r.job.Tasks {
		if text, ok := t.Result["seed"].(string); ok && t.Name == "create-journal" {
			if pos, err := dr.ParsePosition(text); err == nil {
				return pos
			}
		}
	}
	return dr.Position{}
}

// replicate starts (or goes on with) the stream from the source to the
// standby; startStopped also starts the source's machines.
func (r *run) replicate(ctx context.Context, startStopped bool, seed dr.Position) error {
	inv, _, err := r.inventory(ctx, r.standby())
	if err != nil {
		return err
	}
	return r.source().StartReplication(r.long(ctx), r.origin(""), control.ReplicationSpec{
		Group: r.group.ID, Generation: r.group.Generation, Disks: r.group.Disks, Keep: r.keep(),
		Standby: r.group.Standby(), StandbyAddr: inv.DataAddr, Mode: control.SyncAuto,
		CrashInterval: seconds(r.policy.CrashInterval), AppInterval: seconds(r.policy.AppInterval), Compression: r.policy.Compression, Bandwidth: r.policy.Bandwidth, StartStopped: startStopped, Seed: seed,
	})
}

// undoProtect takes back what a failed protection had made. Standby disks go
// only when it is known that this job made them.
func undoProtect(ctx context.Context, r *run) error {
	made := false
	for _, t := range r.job.Tasks {
		if t.Name == "create-journal" && t.State == rest.JobSucceeded {
			seeded, known := t.Result["seeded"].(bool)
			made = known && !seeded
		}
	}
	return r.dismantle(ctx, !made)
}

func undoReprotect(ctx context.Context, r *run) error {
	r.restoreEnds()
	return r.dismantle(ctx, true)
}

// dismantle ends stream and journal as far as they exist; what cannot be
// reached is a warning.
func (r *run) dismantle(ctx context.Context, keepMachines bool) error {
	ctx = control.WithPatience(ctx, prerequisitePatience)
	if r.began("start-replication") {
		if _, err := r.source().StopReplication(ctx, r.origin("stop"), control.StopReplicationRequest{Group: r.group.ID, Forget: true}); err != nil && !problem.HasCode(err, problem.UnknownGroup) {
			r.warn("the stream at %s was not ended: %v", r.group.Source(), err)
		}
	}
	if r.began("create-journal") {
		err := r.standby().DeleteJournal(ctx, r.origin("delete"), control.DeleteJournalRequest{Group: r.group.ID, KeepMachines: keepMachines})
		if err != nil && !problem.HasCode(err, problem.UnknownGroup) {
			r.warn("the journal at %s was not deleted: %v", r.group.Standby(), err)
		}
	}
	return nil
}

// began reports whether a task of the job was started in this attempt or an
// earlier one.
func (r *run) began(name string) bool {
	return slices.ContainsFunc(r.job.Tasks, func(t rest.Task) bool { return base(t.Name) == name && begun(t) })
}

// forgetOldStream ends, at the site that is to be the standby, the stream that
// began there before the failover.
func forgetOldStream(ctx context.Context, r *run) error {
	_, target := r.chosen()
	replaced := target != r.group.Standby()
	if replaced {
		ctx = control.WithPatience(ctx, 0)
	}
	_, err := r.standby().StopReplication(ctx, r.origin(""), control.StopReplicationRequest{Group: r.group.ID, Forget: true})
	switch {
	case problem.HasCode(err, problem.UnknownGroup):
		return nil
	case err != nil && replaced:
		// It is replaced because it is gone; when it comes back, the newer
		// generation fences it.
		r.warn("gateway %s, which %s replaces, was not told: %s", r.group.Standby(), target, problem.Text(err))
		return nil
	}
	return err
}
