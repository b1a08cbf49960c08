package vault_test

import (
	"path/filepath"
	"slices"
	"time"

	"rebound/internal/control"
	"rebound/internal/control/controltest"
	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/site"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

type guards = []lifecycle.GuardName

// preconditionRows are the rows of S1 to S60 that are about what has to be there
// first.
func preconditionRows() []row {
	return []row{
		{"S02_MissingParts", guards{lifecycle.ProcessServerFits, lifecycle.MasterTargetFits, lifecycle.PathOpen}, rowMissingParts},
		{"S03_ReprotectRequirements", guards{lifecycle.ActiveRuns, lifecycle.BothGatewaysUp}, rowRequirements},
		{"S05_MustBeReplicated", guards{lifecycle.RightDirection}, rowMustBeReplicated},
		{"S06_NoPoint", guards{lifecycle.HasPoint}, rowNoPoint},
		{"S33_AgentWindow", guards{lifecycle.AgentRegistered}, rowAgentWindow},
		{"S37_GatewaysConnected", guards{lifecycle.StandbyGatewayUp, lifecycle.SourceGatewayUp, lifecycle.BothGatewaysUpOrForce, lifecycle.RecoveredAnswers}, rowGatewaysConnected},
		{"S38_SnapshotsAtTheTarget", guards{lifecycle.NoSnapshots}, rowSnapshots},
		{"S39_OneMasterTarget", guards{lifecycle.OneMasterTarget}, rowOneMasterTarget},
		{"S40_DataPort", guards{lifecycle.PathOpen}, rowDataPort},
		{"S41_SiteAnswers", guards{lifecycle.SiteAnswers}, rowSiteAnswers},
		{"S42_ReadOnlyDatastores", guards{lifecycle.DatastoreFits}, rowReadOnlyDatastores},
		{"S43_SameIdentity", guards{lifecycle.IdentityFree}, rowSameIdentity},
		{"S44_AnotherMasterTarget", nil, rowAnotherMasterTarget},
		{"S45_CannotComeHome", guards{lifecycle.DisksReturn, lifecycle.AwayFromHome, lifecycle.SourceExists}, rowCannotComeHome},
		{"S46_Datastore", guards{lifecycle.DatastoreFits}, rowDatastore},
		{"S47_ReprotectForm", nil, rowReprotectForm},
		{"S49_HomeStaysOff", nil, rowHomeStaysOff},
		{"S50_NoEstimate", nil, rowNoEstimate},
		{"S55_FailbackPolicy", nil, rowFailbackPolicy},
		{"S56_SixtyDisks", guards{lifecycle.DisksFit}, rowSixtyDisks},
		{"S58_RetentionVolume", guards{lifecycle.RetentionFits}, rowRetention},
		{"S60_TestFailover", guards{lifecycle.NoTestRunning, lifecycle.TestToClean}, rowTestFailover},
	}
}

// restart stops and starts a gateway, which tells the vault what it is anew.
func (l *lab) restart(g *controltest.Gateway) {
	l.t.Helper()
	g.Stop()
	l.startGateway(g)
}

// rolesKnown waits until the vault knows the roles of a gateway.
func (l *lab) rolesKnown(id dr.GatewayID, want ...control.Role) {
	l.t.Helper()
	l.until("the roles of "+string(id), func() bool {
		g, err := l.c.Gateway(l.t.Context(), id)
		return err == nil && slices.Equal(g.Roles, want)
	})
}

func rowMissingParts(l *lab) {
	l.inCloud()
	l.cloud.SetRoles(control.MasterTarget)
	l.restart(l.cloud)
	l.rolesKnown("gw-cloud", control.MasterTarget)
	l.refuses(lifecycle.Reprotect, rest.OperationRequest{}, problem.NoProcessServer, "cloud", "process-server")
	l.cloud.SetRoles()
	l.home.SetRoles(control.ProcessServer)
	l.restart(l.cloud)
	l.restart(l.home)
	l.rolesKnown("gw-cloud")
	l.rolesKnown("gw-home", control.ProcessServer)
	l.refuses(lifecycle.Reprotect, rest.OperationRequest{}, problem.NoMasterTarget, "home", "master-target")
	l.home.SetRoles()
	l.restart(l.home)
	l.rolesKnown("gw-home")
	l.home.Close(true)
	l.refuses(lifecycle.Reprotect, rest.OperationRequest{}, problem.PathClosed, "gw-cloud", "gw-home")
	l.home.Close(false)
	l.reprotected(rest.OperationRequest{})
}

func rowRequirements(l *lab) {
	l.failedOver()
	l.refuses(lifecycle.Reprotect, rest.OperationRequest{}, problem.OperationNotAllowed, "Commit the failover first")
	l.until("commit allowed", func() bool { return l.allowed(lifecycle.Commit) })
	l.operate(lifecycle.Commit, rest.OperationRequest{})
	l.until("reprotect allowed", func() bool { return l.allowed(lifecycle.Reprotect) })
	l.home.Stop()
	l.until("gw-home is known to be away", func() bool { g, err := l.c.Gateway(l.t.Context(), "gw-home"); return err == nil && !g.Connected })
	l.refuses(lifecycle.Reprotect, rest.OperationRequest{}, problem.GatewayUnreachable, "gw-home")
	l.startGateway(l.home)
	if err := l.c.StopMachine(l.t.Context(), "cloud", "vm1", rest.StopMachine{Mode: "hard"}); err != nil {
		l.t.Fatal(err)
	}
	l.until("vm1 is known to be off", func() bool {
		m, err := l.c.Machine(l.t.Context(), "cloud", "vm1")
		return err == nil && m.State == site.Off
	})
	l.refuses(lifecycle.Reprotect, rest.OperationRequest{}, problem.MachineNotRunning)
	l.cloud.StartByHand("vm1")
	l.until("the machines are known to run", func() bool { return l.powered("cloud", "running") })
	l.reprotected(rest.OperationRequest{})
}

func rowMustBeReplicated(l *lab) {
	l.protected()
	l.refuses(lifecycle.Failback, rest.OperationRequest{}, problem.OperationNotAllowed, "failover")
	l.operate(lifecycle.Failover, rest.OperationRequest{Mode: "planned"})
	l.refuses(lifecycle.Failback, rest.OperationRequest{}, problem.OperationNotAllowed)
}

func rowNoPoint(l *lab) {
	l.backInCloud()
	// The source goes away, and with it every new moment; then the history
	// is lost.
	l.cloud.Stop()
	l.home.DropPoints("app")
	l.until("the vault knows of no points", func() bool { return l.group().Points == 0 })
	l.refuses(lifecycle.Failback, rest.OperationRequest{Mode: "unplanned"}, problem.NoRecoveryPoint, "vm1", "vm2")
	l.startGateway(l.cloud)
	l.until("failback allowed", func() bool { return l.allowed(lifecycle.Failback) })
	l.operate(lifecycle.Failback, rest.OperationRequest{})
}

// agentsDemanded makes reprotect wait for agents, and a boot not.
func (l *lab) agentsDemanded() {
	l.t.Helper()
	p, err := l.c.Policy(l.t.Context(), "default")
	if err != nil {
		l.t.Fatal(err)
	}
	p.RequireAgent, p.BootTimeout = true, 1
	if _, err := l.c.PutPolicy(l.t.Context(), p); err != nil {
		l.t.Fatal(err)
	}
}

// rowAgentWindow: the window applies after a failover to the cloud too.
func rowAgentWindow(l *lab) {
	l.inCloud()
	l.agentsDemanded()
	one, two := l.agent("vm1"), l.agent("vm2")
	l.refuses(lifecycle.Reprotect, rest.OperationRequest{}, problem.AgentNotInstalled, "vm1", "vm2", "pending since", "15 minutes", "Wait")
	one("boot-2")
	l.refuses(lifecycle.Reprotect, rest.OperationRequest{}, problem.AgentNotInstalled, "[vm2]")
	two("boot-2")
	l.reprotected(rest.OperationRequest{})
}

func rowGatewaysConnected(l *lab) {
	away := func(g *controltest.Gateway, id dr.GatewayID) {
		l.t.Helper()
		g.Stop()
		l.until(string(id)+" is known to be away", func() bool { g, err := l.c.Gateway(l.t.Context(), id); return err == nil && !g.Connected })
	}
	l.backInCloud()
	away(l.home, "gw-home")
	l.refuses(lifecycle.Failback, rest.OperationRequest{}, problem.GatewayUnreachable, "gw-home")
	l.refuses(lifecycle.Disable, rest.OperationRequest{}, problem.GatewayUnreachable, "gw-home")
	l.startGateway(l.home)
	away(l.cloud, "gw-cloud")
	l.refuses(lifecycle.Pause, rest.OperationRequest{}, problem.GatewayUnreachable, "gw-cloud")
	l.startGateway(l.cloud)
	l.until("failback allowed", func() bool { return l.allowed(lifecycle.Failback) })
	l.operate(lifecycle.Failback, rest.OperationRequest{})
	l.untilState("app", lifecycle.CommitPending)
	away(l.home, "gw-home")
	// What runs on a journal cannot be let go of by force either.
	l.refuses(lifecycle.Disable, rest.OperationRequest{Force: true}, problem.GatewayUnreachable, "gw-home")
	l.startGateway(l.home)
}

// finds makes a gateway find something about vm2 at its site.
func finds(g *controltest.Gateway, change func(*site.Finding)) {
	g.Alter(func(p *control.Prerequisites) {
		for i := range p.Machines {
			if p.Machines[i].Machine == "vm2" {
				change(&p.Machines[i])
			}
		}
	})
}

func rowSnapshots(l *lab) {
	l.inCloud()
	finds(l.home, func(f *site.Finding) { f.Snapshots = []string{"disk0: before the upgrade"} })
	l.refuses(lifecycle.Reprotect, rest.OperationRequest{}, problem.SnapshotsPresent, "vm2", "disk0: before the upgrade", "Delete the snapshots")
	l.home.Alter(nil)
	l.reprotected(rest.OperationRequest{})
}

func rowOneMasterTarget(l *lab) {
	l.inCloud()
	l.enrolledAt("gw-home2", "home")
	mixed := rest.OperationRequest{Reprotect: &rest.ReprotectRequest{Machines: map[dr.MachineName]rest.ReprotectTarget{"vm2": {MasterTarget: "gw-home2"}}}}
	l.refuses(lifecycle.Reprotect, mixed, problem.MixedMasterTargets, "vm1", "vm2", "gw-home2")
	l.refusesOn(client.ItemTarget("vm1"), lifecycle.Reprotect, rest.OperationRequest{}, problem.GroupMemberAlone)
	l.reprotected(rest.OperationRequest{})
}

func rowDataPort(l *lab) {
	l.inCloud()
	l.home.Close(true)
	p := l.refuses(lifecycle.Reprotect, rest.OperationRequest{}, problem.PathClosed, "gw-cloud", "gw-home", "gw-home:9443")
	if !p.Transient {
		l.t.Errorf("a closed path is not worth a retry: %+v", p)
	}
	l.home.Close(false)
	// The failed job is as good as a new one.
	g := l.group()
	l.finish(l.c.JobAction(l.t.Context(), g.LastJob, "restart"))
	l.untilState("app", lifecycle.Protected)
}

func rowSiteAnswers(l *lab) {
	broken := func(p *control.Prerequisites) { p.SiteProblem = "the credentials are not valid any more" }
	l.inCloud()
	l.home.Alter(broken)
	l.refuses(lifecycle.Reprotect, rest.OperationRequest{}, problem.SiteUnreachable, "Gateway gw-home does not reach its site home", "credentials")
	l.home.Alter(nil)
	l.cloud.Alter(broken)
	l.refuses(lifecycle.Reprotect, rest.OperationRequest{}, problem.SiteUnreachable, "gw-cloud")
	l.cloud.Alter(nil)
	l.reprotected(rest.OperationRequest{})
	l.until("failback allowed", func() bool { return l.allowed(lifecycle.Failback) })
	l.home.Alter(broken)
	job := l.operate(lifecycle.Failback, rest.OperationRequest{}, rest.JobFailed)
	if job.Errors[0].Code != problem.SiteUnreachable || len(job.Errors) != 1 {
		l.t.Errorf("failback: %+v", job.Errors)
	}
	l.untilState("app", lifecycle.Protected)
	l.wantRunning(l.cloud, "vm1", 0)
	l.home.Alter(nil)
	l.finish(l.c.JobAction(l.t.Context(), job.ID, "restart"))
	l.untilState("app", lifecycle.CommitPending)
}

func rowReadOnlyDatastores(l *lab) {
	l.inCloud()
	l.home.DeleteByHand("vm1")
	l.home.Alter(func(p *control.Prerequisites) { p.Datastores = nil })
	l.refuses(lifecycle.Reprotect, rest.OperationRequest{}, problem.DatastoreUnusable, "home", "gw-home", "right to write")
	l.home.Alter(nil)
	l.reprotected(rest.OperationRequest{})
}

func rowSameIdentity(l *lab) {
	l.inCloud()
	l.home.AddDefinition(dr.Definition{Name: "clone", UUID: "uuid-vm2", Disks: []dr.DiskSpec{{ID: "disk0", SizeBytes: 1 << 20}}})
	l.refuses(lifecycle.Reprotect, rest.OperationRequest{}, problem.IdentityClash, "clone", "vm2", "uuid-vm2")
	l.home.DeleteByHand("clone")
	l.reprotected(rest.OperationRequest{})
}

// enrolledAt adds a gateway to a site that exists.
func (l *lab) enrolledAt(id dr.GatewayID, at dr.SiteID) *controltest.Gateway {
	l.t.Helper()
	e, err := l.c.EnrollGateway(l.t.Context(), rest.NewGateway{ID: id, Site: at})
	if err != nil {
		l.t.Fatal(err)
	}
	g := l.world.NewGateway(id, at, filepath.Join(l.t.TempDir(), "ledger"))
	l.ids[g] = l.identity("gateway", string(id), e)
	l.startGateway(g)
	l.t.Cleanup(g.Stop)
	return g
}

// rowAnotherMasterTarget: the old infrastructure at home is gone; a new gateway
// takes its place, and the machines are made anew there.
func rowAnotherMasterTarget(l *lab) {
	l.inCloud()
	other := rest.ReprotectTarget{MasterTarget: "gw-home2"}
	l.refuses(lifecycle.Reprotect, with(other), problem.UnknownGateway, "gw-home2")
	fresh := l.enrolledAt("gw-home2", "home")
	l.home.Stop()
	l.operate(lifecycle.Reprotect, with(other), rest.JobWarning) // the old gateway was not told
	l.untilState("app", lifecycle.Protected)
	if _, state, ok := fresh.Content("vm1"); !ok || state != site.Off {
		l.t.Errorf("vm1 at the new gateway: %s, there %v", state, ok)
	}
	l.until("failback allowed", func() bool { return l.allowed(lifecycle.Failback) })
	l.operate(lifecycle.Failback, rest.OperationRequest{})
	l.wantRunning(fresh, "vm1", 0)
}

func rowCannotComeHome(l *lab) {
	l.inCloud()
	finds(l.home, func(f *site.Finding) { f.NoBase = []string{"disk0: /srv/vm2.qcow2 is qcow2, not raw"} })
	l.refuses(lifecycle.Reprotect, rest.OperationRequest{}, problem.CannotComeHome, "vm2", "qcow2")
	l.home.Alter(nil)
	// The machine in the cloud was deleted by hand.
	l.cloud.DeleteByHand("vm2")
	l.restart(l.cloud)
	l.until("vm2 is known to be gone", func() bool {
		_, err := l.c.Machine(l.t.Context(), "cloud", "vm2")
		return problem.HasCode(err, problem.UnknownMachine)
	})
	l.refuses(lifecycle.Reprotect, rest.OperationRequest{}, problem.UnknownMachine, "vm2")
	l.cloud.AddMachine("vm2")
	l.restart(l.cloud)
	l.until("the machines are known to run", func() bool { return l.powered("cloud", "running") })
	l.reprotected(rest.OperationRequest{})
	l.until("failback allowed", func() bool { return l.allowed(lifecycle.Failback) })
	l.operate(lifecycle.Failback, rest.OperationRequest{})
	l.refuses(lifecycle.CompleteMigration, rest.OperationRequest{}, problem.OperationNotAllowed, "no migration")
	// What is protected no more has no way home.
	l.operate(lifecycle.Undo, rest.OperationRequest{})
	l.untilState("app", lifecycle.Protected)
	l.operate(lifecycle.Disable, rest.OperationRequest{})
	_, err := l.c.Operate(l.t.Context(), client.GroupTarget("app"), lifecycle.Reprotect, rest.OperationRequest{})
	wantCode(l.t, err, problem.UnknownGroup)
}

func rowDatastore(l *lab) {
	l.inCloud()
	l.home.DeleteByHand("vm1")
	l.refuses(lifecycle.Reprotect, with(rest.ReprotectTarget{Datastore: "fast"}), problem.DatastoreUnusable, "fast", "gw-home")
	small := func(free int64) func(*control.Prerequisites) {
		return func(p *control.Prerequisites) {
			p.Datastores = append(p.Datastores, site.Datastore{Name: "fast", Path: "/fast", FreeBytes: free, TotalBytes: 1 << 40})
		}
	}
	l.home.Alter(small(1<<20 - 1))
	l.refuses(lifecycle.Reprotect, with(rest.ReprotectTarget{Datastore: "fast"}), problem.NoRoom, "fast", "1048575")
	l.home.Alter(small(1 << 20))
	l.reprotected(with(rest.ReprotectTarget{Datastore: "fast"}))
	if got := l.home.Asked("app").Datastores["vm1"]; got != "fast" {
		l.t.Errorf("vm1 was made in %q", got)
	}
}

func rowReprotectForm(l *lab) {
	l.inCloud()
	full := rest.ReprotectTarget{ProcessServer: "gw-cloud", MasterTarget: "gw-home", Datastore: "default", RetentionVolume: "default"}
	l.refuses(lifecycle.Reprotect, with(rest.ReprotectTarget{ProcessServer: "nobody"}), problem.UnknownGateway, "nobody")
	_, err := l.c.Operate(l.t.Context(), client.GroupTarget("app"), lifecycle.Reprotect, rest.OperationRequest{Reprotect: &rest.ReprotectRequest{Machines: map[dr.MachineName]rest.ReprotectTarget{"stranger": {}}}})
	wantCode(l.t, err, problem.InvalidRequest)
	job := l.operate(lifecycle.Reprotect, with(full))
	i := slices.IndexFunc(job.Tasks, func(t rest.Task) bool { return t.Name == "choose-ends" })
	if i < 0 || job.Tasks[i].Result["processServer"] != "gw-cloud" || job.Tasks[i].Result["masterTarget"] != "gw-home" {
		l.t.Errorf("the job does not record what was chosen: %+v", job.Tasks)
	}
	l.untilState("app", lifecycle.Protected)
	_, err = l.c.Operate(l.t.Context(), client.GroupTarget("app"), lifecycle.Failback, with(full))
	wantCode(l.t, err, problem.InvalidRequest)
}

func rowHomeStaysOff(l *lab) {
	l.inCloud()
	// Started by hand before the reprotect: seen, stopped, told.
	l.home.StartByHand("vm1")
	l.until("vm1 at home is powered off", func() bool { _, state, _ := l.home.Content("vm1"); return state == site.Off })
	l.wantEvent("StalePrimaryPoweredOff")
	l.reprotected(rest.OperationRequest{})
	for _, name := range []dr.MachineName{"vm1", "vm2"} {
		if _, state, _ := l.home.Content(name); state != site.Off {
			l.t.Errorf("after the reprotect %s at home is %s", name, state)
		}
	}
	wantCode(l.t, l.c.StartMachine(l.t.Context(), "home", "vm1"), problem.MachineInUse)
}

func rowNoEstimate(l *lab) {
	l.inCloud()
	dry, err := l.c.DryRun(l.t.Context(), client.GroupTarget("app"), lifecycle.Reprotect, rest.OperationRequest{})
	if err != nil || dry.Transfer == nil || *dry.Transfer != (rest.ByteRange{Min: 0, Max: 2 << 20}) {
		l.t.Errorf("dry run: %+v, %v; want 0 to the sum of the disks", dry.Transfer, err)
	}
}

func rowFailbackPolicy(l *lab) {
	p, err := l.c.Policy(l.t.Context(), "default")
	if err != nil || p.Failback == nil {
		l.t.Fatalf("the policy has no failback policy: %+v, %v", p, err)
	}
	f := *p.Failback
	if f.RPOThreshold != 15*60 || f.Retention != 24*3600 || f.AppInterval != 3600 {
		l.t.Errorf("failback policy %+v, want 15 min, 24 h, 60 min", f)
	}
	l.backInCloud()
	if rpo := l.group().RPO; rpo.ThresholdSeconds != 15*60 {
		l.t.Errorf("on the way home the threshold is %d s", rpo.ThresholdSeconds)
	}
}

func rowSixtyDisks(l *lab) {
	l.inCloud()
	keeps := func(n int) { l.home.Alter(func(p *control.Prerequisites) { p.DisksInUse += n }) }
	keeps(59)
	l.refuses(lifecycle.Reprotect, rest.OperationRequest{}, problem.MasterTargetFull, "gw-home", "59", "60")
	keeps(58)
	l.reprotected(rest.OperationRequest{})
}

func rowRetention(l *lab) {
	l.inCloud()
	has := func(v control.RetentionVolume) {
		v.Name, v.Path = "big", "/mnt/retention"
		l.home.Alter(func(p *control.Prerequisites) { p.Volumes = append(p.Volumes, v) })
	}
	big := with(rest.ReprotectTarget{RetentionVolume: "big"})
	l.refuses(lifecycle.Reprotect, big, problem.RetentionUnusable, "big", "gw-home")
	has(control.RetentionVolume{Trouble: "/mnt/retention is a FAT file system (vfat)", FreeBytes: 1 << 40})
	l.refuses(lifecycle.Reprotect, big, problem.RetentionUnusable, "FAT")
	has(control.RetentionVolume{FreeBytes: lifecycle.JournalReserve - 1})
	l.refuses(lifecycle.Reprotect, big, problem.NoRoom, "big")
	has(control.RetentionVolume{FreeBytes: lifecycle.JournalReserve})
	l.reprotected(big)
	if got := l.home.Asked("app").RetentionVolume; got != "big" {
		l.t.Errorf("the journal was made on %q", got)
	}
}

func rowTestFailover(l *lab) {
	l.protected()
	l.refuses(lifecycle.TestCleanup, rest.OperationRequest{Notes: "nothing there"}, problem.OperationNotAllowed, "no test failover")
	l.operate(lifecycle.TestFailover, rest.OperationRequest{Network: "isolated", Point: dr.LatestProcessed})
	l.refuses(lifecycle.Failover, rest.OperationRequest{Mode: "planned"}, problem.OperationNotAllowed, "test-cleanup")
	l.operate(lifecycle.TestCleanup, rest.OperationRequest{Notes: "booted, answered"})
	l.operate(lifecycle.Failover, rest.OperationRequest{Mode: "planned"})
}

// at freezes the vault's clock; the gateways' go with it, so that nobody's is
// off.
func (l *lab) at(t time.Time) {
	l.home.SetClock(time.Until(t))
	l.cloud.SetClock(time.Until(t))
	l.clock.Store(&t)
}
