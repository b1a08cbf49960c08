package vault_test

import (
	"fmt"
	"slices"
	"strings"
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

// negativeRows are the negative tests, in the order of the list in
// docs/behaviour.md.
func negativeRows() []row {
	return []row{
		{"N01_FailbackInOtherStates", guards{lifecycle.RightDirection}, rowFailbackElsewhere},
		{"N02_CommitTwice", nil, rowCommitTwice},
		{"N03_ReprotectTwice", guards{lifecycle.NoOtherJob}, rowReprotectTwice},
		{"N04_CommitWithoutFailover", nil, rowCommitWithoutFailover},
		{"N05_ChangePointAfterCommit", nil, rowChangePointAfterCommit},
		{"N06_AppPointThatIsNot", nil, rowAppPointThatIsNot},
		{"N07_LoneMember", guards{lifecycle.WholeGroup}, rowLoneMember},
		{"N08_MachinesWithoutPoints", guards{lifecycle.HasPoint}, rowMachinesWithoutPoints},
		{"N09_AgentAt15Minutes", guards{lifecycle.AgentRegistered}, rowAgentBoundary},
		{"N10_ProcessServerElsewhere", guards{lifecycle.ProcessServerFits, lifecycle.MasterTargetFits}, rowProcessServerElsewhere},
		{"N11_DiskLimit", guards{lifecycle.DisksFit}, rowDiskLimit},
		{"N12_MixedGuests", nil, rowMixedGuests},
		{"N13_SnapshotAtMasterTarget", guards{lifecycle.NoSnapshots}, rowSnapshotKept},
		{"N14_NFSDatastore", nil, rowNFS},
		{"N15_SiteLostInFailback", guards{lifecycle.SiteAnswers}, rowSiteLostInFailback},
		{"N16_DeletedByHand", guards{lifecycle.SourceExists}, rowDeletedByHand},
		{"N17_GatewayLostAndRestored", nil, rowGatewayRestored},
		{"N18_HostWithoutMemory", nil, rowHostWithoutMemory},
		{"N19_CommitWhileTheCloudRuns", guards{lifecycle.SourceOff, lifecycle.RecoveredRuns}, rowCommitWhileRunning},
	}
}

// rowFailbackElsewhere asks for a failback in the states 4, 8, 11, 12, 15 and
// 17 of the state table.
func rowFailbackElsewhere(l *lab) {
	back := func(code problem.Code, says ...string) {
		l.t.Helper()
		l.refuses(lifecycle.Failback, rest.OperationRequest{}, code, says...)
	}
	l.protected() // 4
	back(problem.OperationNotAllowed, "failover")
	l.operate(lifecycle.Failover, rest.OperationRequest{Mode: "planned"})
	l.untilState("app", lifecycle.CommitPending) // 8
	back(problem.OperationNotAllowed, "commit")
	l.until("commit allowed", func() bool { return l.allowed(lifecycle.Commit) })
	l.operate(lifecycle.Commit, rest.OperationRequest{}) // 11
	back(problem.OperationNotAllowed, "Reprotect first")
	l.until("reprotect allowed", func() bool { return l.allowed(lifecycle.Reprotect) })
	release := make(chan struct{})
	f := l.world.Plan(faultUntil("gw-home", "CreateJournal", release))
	job, err := l.c.Operate(l.t.Context(), client.GroupTarget("app"), lifecycle.Reprotect, rest.OperationRequest{})
	if err != nil {
		l.t.Fatal(err)
	}
	l.until("the reprotect is at work", func() bool { return l.world.Struck(f) > 0 }) // 12
	back(problem.OperationRunning, string(job.ID))
	l.world.Clear()
	close(release)
	l.finish(job, nil)
	l.untilState("app", lifecycle.Protected)
	l.until("failback allowed", func() bool { return l.allowed(lifecycle.Failback) })
	l.operate(lifecycle.Failback, rest.OperationRequest{})
	l.untilState("app", lifecycle.CommitPending) // 15
	back(problem.OperationNotAllowed, "commit")
	l.until("commit allowed", func() bool { return l.allowed(lifecycle.Commit) })
	l.operate(lifecycle.Commit, rest.OperationRequest{AcceptRunning: true}) // 17
	back(problem.OperationNotAllowed, "Reprotect first")
}

func rowCommitTwice(l *lab) {
	l.inCloud()
	l.refuses(lifecycle.Commit, rest.OperationRequest{}, problem.OperationNotAllowed, "committed already")
}

func rowReprotectTwice(l *lab) {
	l.inCloud()
	release := make(chan struct{})
	f := l.world.Plan(faultUntil("gw-home", "CreateJournal", release))
	job, err := l.c.Operate(l.t.Context(), client.GroupTarget("app"), lifecycle.Reprotect, rest.OperationRequest{})
	if err != nil {
		l.t.Fatal(err)
	}
	again, err := l.c.Operate(l.t.Context(), client.GroupTarget("app"), lifecycle.Reprotect, rest.OperationRequest{})
	if err != nil || again.ID != job.ID {
		l.t.Errorf("pressed twice: %s and %s, %v", job.ID, again.ID, err)
	}
	l.until("the reprotect is at work", func() bool { return l.world.Struck(f) > 0 })
	l.refuses(lifecycle.Disable, rest.OperationRequest{}, problem.OperationRunning, string(job.ID))
	l.world.Clear()
	close(release)
	l.finish(job, nil)
	l.untilState("app", lifecycle.Protected)
	l.refuses(lifecycle.Reprotect, rest.OperationRequest{}, problem.OperationNotAllowed, "protected already")
	// A job beside replication leaves the state as it is, and is in the way
	// nevertheless.
	release = make(chan struct{})
	f = l.world.Plan(faultUntil("gw-cloud", "Verify", release))
	verify, err := l.c.Operate(l.t.Context(), client.GroupTarget("app"), lifecycle.Verify, rest.OperationRequest{})
	if err != nil {
		l.t.Fatal(err)
	}
	l.until("the verification is at work", func() bool { return l.world.Struck(f) > 0 })
	l.refuses(lifecycle.Pause, rest.OperationRequest{}, problem.OperationRunning, string(verify.ID))
	close(release)
	l.finish(verify, nil)
	if n := l.world.Count("CreateJournal", "app"); n != 2 {
		l.t.Errorf("%d journals were made, want one for each direction", n)
	}
}

func rowCommitWithoutFailover(l *lab) {
	l.protected()
	l.refuses(lifecycle.Commit, rest.OperationRequest{}, problem.OperationNotAllowed, "Nothing is failed over")
}

func rowChangePointAfterCommit(l *lab) {
	l.inCloud()
	l.refuses(lifecycle.ChangePoint, rest.OperationRequest{Point: dr.Latest}, problem.OperationNotAllowed, "final")
}

func rowAppPointThatIsNot(l *lab) {
	l.backInCloud()
	l.refuses(lifecycle.Failback, rest.OperationRequest{Mode: "unplanned", Point: dr.LatestApp}, problem.NoRecoveryPoint)
	l.operate(lifecycle.Failback, rest.OperationRequest{})
}

func rowLoneMember(l *lab) {
	l.backInCloud()
	l.refusesOn(client.ItemTarget("vm1"), lifecycle.Failback, rest.OperationRequest{}, problem.GroupMemberAlone, "on the group")
	l.operate(lifecycle.Failback, rest.OperationRequest{})
}

func rowMachinesWithoutPoints(l *lab) {
	l.protected()
	l.home.Stop()
	l.cloud.DropPoints("app")
	l.until("the vault knows of no points", func() bool { return l.group().Points == 0 })
	l.refuses(lifecycle.Failover, rest.OperationRequest{Mode: "unplanned"}, problem.NoRecoveryPoint, "vm1", "vm2")
	l.startGateway(l.home)
	l.until("failover allowed", func() bool { return l.allowed(lifecycle.Failover) })
	l.operate(lifecycle.Failover, rest.OperationRequest{Mode: "planned"})
}

// rowAgentBoundary looks at the window from both sides of its end.
func rowAgentBoundary(l *lab) {
	l.inCloud()
	l.agentsDemanded()
	one, two := l.agent("vm1"), l.agent("vm2")
	started := time.Time{}
	for _, name := range []dr.MachineName{"vm1", "vm2"} {
		m, err := l.c.Machine(l.t.Context(), "cloud", name)
		if err != nil {
			l.t.Fatal(err)
		}
		if started.IsZero() || m.BootedAt.Before(started) {
			started = m.BootedAt
		}
	}
	// The machine's boot, or its start by the failover, whichever is later:
	// both lie in the same second here, so that the refusal names the moment.
	p := l.refuses(lifecycle.Reprotect, rest.OperationRequest{}, problem.AgentNotInstalled)
	var pending time.Time
	for _, at := range []time.Time{started, started.Add(time.Second), started.Add(-time.Second)} {
		if text := at.UTC().Format(time.RFC3339); strings.Contains(p.Detail, text) {
			pending = at.UTC().Truncate(time.Second)
		}
	}
	if pending.IsZero() {
		l.t.Fatalf("%q does not name the start %s", p.Detail, started.UTC())
	}
	l.at(pending.Add(14*time.Minute + 59*time.Second))
	l.untilHeard()
	l.refuses(lifecycle.Reprotect, rest.OperationRequest{}, problem.AgentNotInstalled, "can take up to 15 minutes", "Wait a few minutes")
	l.at(pending.Add(15*time.Minute + time.Second))
	l.untilHeard()
	l.refuses(lifecycle.Reprotect, rest.OperationRequest{}, problem.AgentNotInstalled, "did not register", "Install or start the agent")
	one("boot-2")
	two("boot-2")
	l.home.SetClock(0)
	l.cloud.SetClock(0)
	l.clock.Store(nil)
	l.until("the gateways are heard again", func() bool { return l.allowed(lifecycle.Reprotect) })
	l.reprotected(rest.OperationRequest{})
}

// untilHeard waits until the vault has heard of both gateways by its new clock.
func (l *lab) untilHeard() {
	l.t.Helper()
	l.until("both gateways are heard", func() bool {
		list, err := l.c.Gateways(l.t.Context())
		return err == nil && !slices.ContainsFunc(list, func(g rest.Gateway) bool { return !g.LastSeen.Equal(l.now()) })
	})
}

func rowProcessServerElsewhere(l *lab) {
	l.inCloud()
	l.refuses(lifecycle.Reprotect, with(rest.ReprotectTarget{ProcessServer: "gw-home"}), problem.WrongGateway, "gw-home", "process-server", "cloud")
	l.refuses(lifecycle.Reprotect, with(rest.ReprotectTarget{MasterTarget: "gw-cloud"}), problem.WrongGateway, "gw-cloud", "master-target", "home")
	// Of the right site, but on a host that does not run the machines.
	l.enrolledAt("gw-cloud2", "cloud")
	l.refuses(lifecycle.Reprotect, with(rest.ReprotectTarget{ProcessServer: "gw-cloud2"}), problem.WrongGateway, "gw-cloud2", "vm1")
	l.reprotected(with(rest.ReprotectTarget{ProcessServer: "gw-cloud"}))
}

// rowDiskLimit: 59 disks are kept, 2 more come.
func rowDiskLimit(l *lab) {
	l.inCloud()
	var disks []dr.DiskSpec
	for i := range 59 {
		disks = append(disks, dr.DiskSpec{ID: dr.DiskID(fmt.Sprintf("disk%d", i)), Bus: "virtio", SizeBytes: 1 << 20})
	}
	l.cloud.AddDefinition(dr.Definition{Name: "wide", UUID: "uuid-wide", Disks: disks})
	l.known("cloud", "wide")
	l.finish(l.c.Protect(l.t.Context(), rest.ProtectRequest{Machines: []dr.MachineName{"wide"}, Site: "cloud", To: "home"}))
	l.untilState("wide", lifecycle.Protected)
	l.refuses(lifecycle.Reprotect, rest.OperationRequest{}, problem.MasterTargetFull, "gw-home", "59", "60", "2")
	job, err := l.c.Operate(l.t.Context(), client.GroupTarget("wide"), lifecycle.Disable, rest.OperationRequest{})
	l.finish(job, err)
	l.reprotected(rest.OperationRequest{})
}

// rowMixedGuests: a master target writes blocks, whatever system wrote them.
func rowMixedGuests(l *lab) {
	l.home.AddMachine("vm1")
	l.home.AddDefinition(dr.Definition{Name: "vm2", UUID: "uuid-vm2", CPUs: 2, MemoryMiB: 256, Firmware: dr.UEFI, MachineType: "pc", Disks: []dr.DiskSpec{{ID: "disk0", Bus: "sata", SizeBytes: 1 << 20}}})
	l.known("home", "vm2")
	l.finish(l.c.Protect(l.t.Context(), rest.ProtectRequest{Machines: []dr.MachineName{"vm1", "vm2"}, To: "cloud", Group: "app"}))
	l.untilState("app", lifecycle.Protected)
	l.operate(lifecycle.Failover, rest.OperationRequest{Mode: "planned"})
	l.until("commit allowed", func() bool { return l.allowed(lifecycle.Commit) })
	l.operate(lifecycle.Commit, rest.OperationRequest{})
	l.until("reprotect allowed", func() bool { return l.allowed(lifecycle.Reprotect) })
	l.reprotected(rest.OperationRequest{})
}

func rowSnapshotKept(l *lab) {
	l.inCloud()
	finds(l.home, func(f *site.Finding) { f.Snapshots = []string{"disk0: nightly", "disk1: nightly"} })
	l.refuses(lifecycle.Reprotect, rest.OperationRequest{}, problem.SnapshotsPresent, "disk0: nightly", "disk1: nightly")
	// Asked again while the cause is there: refused again, and no worse.
	l.refuses(lifecycle.Reprotect, rest.OperationRequest{}, problem.SnapshotsPresent)
	l.home.Alter(nil)
	l.reprotected(rest.OperationRequest{})
}

// rowNFS: what counts is whether the gateway can write there.
func rowNFS(l *lab) {
	l.inCloud()
	l.home.DeleteByHand("vm1")
	nfs := site.Datastore{Name: "nfs", Path: "/net/filer", FreeBytes: 1 << 40, TotalBytes: 1 << 40}
	l.home.Alter(func(p *control.Prerequisites) { p.Datastores = append(p.Datastores, nfs) })
	l.reprotected(with(rest.ReprotectTarget{Datastore: "nfs"}))
	if got := l.home.Asked("app").Datastores["vm1"]; got != "nfs" {
		l.t.Errorf("vm1 was made in %q", got)
	}
}

func rowSiteLostInFailback(l *lab) {
	l.backInCloud()
	l.home.Alter(func(p *control.Prerequisites) { p.SiteProblem = "libvirtd does not answer" })
	job := l.operate(lifecycle.Failback, rest.OperationRequest{}, rest.JobFailed)
	if len(job.Errors) != 1 || job.Errors[0].Code != problem.SiteUnreachable {
		l.t.Fatalf("errors %+v", job.Errors)
	}
	l.untilState("app", lifecycle.Protected)
	l.wantRunning(l.cloud, "vm1", 0)
	l.home.Alter(nil)
	// In the middle: the cloud is fenced already, home does not start one.
	l.world.Plan(&controltest.Fault{Gateway: "gw-home", Command: "StartRecovered", Machine: "vm2", Times: 1, Err: problem.New(problem.HypervisorError, "libvirtd does not answer")})
	job = l.operate(lifecycle.Failback, rest.OperationRequest{}, rest.JobFailed)
	l.untilState("app", lifecycle.FailoverFailed)
	l.finish(l.c.JobAction(l.t.Context(), job.ID, "restart"))
	l.untilState("app", lifecycle.CommitPending)
	l.wantRunning(l.home, "vm1", 0)
	l.wantRunning(l.home, "vm2", 0)
}

func rowDeletedByHand(l *lab) {
	l.inCloud()
	l.cloud.DeleteByHand("vm1")
	l.restart(l.cloud)
	l.until("vm1 is known to be gone", func() bool {
		_, err := l.c.Machine(l.t.Context(), "cloud", "vm1")
		return problem.HasCode(err, problem.UnknownMachine)
	})
	l.refuses(lifecycle.Reprotect, rest.OperationRequest{}, problem.UnknownMachine, "vm1")
	l.operate(lifecycle.Disable, rest.OperationRequest{})
}

// rowGatewayRestored: the gateway at home is lost with its certificate, enrols
// anew under its name, once at its old address and once at another; the vault is
// started again from its directory.
func rowGatewayRestored(l *lab) {
	l.inCloud()
	for _, addr := range []string{"gw-home:9443", "192.0.2.7:9443"} {
		l.home.Stop()
		l.home.SetAddr(addr)
		e, err := l.c.EnrollGateway(l.t.Context(), rest.NewGateway{ID: "gw-home", Site: "home"})
		if err != nil {
			l.t.Fatal(err)
		}
		l.ids[l.home] = l.identity("gateway", "gw-home", e)
		l.startGateway(l.home)
		l.stop()
		l.startVault()
		l.until("both gateways are back", func() bool {
			list, err := l.c.Gateways(l.t.Context())
			return err == nil && !slices.ContainsFunc(list, func(g rest.Gateway) bool { return !g.Connected })
		})
		l.until("reprotect allowed", func() bool { return l.allowed(lifecycle.Reprotect) })
	}
	l.reprotected(rest.OperationRequest{})
}

func rowHostWithoutMemory(l *lab) {
	l.backInCloud()
	l.world.Plan(&controltest.Fault{Gateway: "gw-home", Command: "StartRecovered", Machine: "vm1", Times: 1, Err: problem.New(problem.HypervisorError, "cannot allocate memory")})
	job := l.operate(lifecycle.Failback, rest.OperationRequest{}, rest.JobFailed)
	if p := job.Errors[0]; p.Code != problem.HypervisorError || !strings.Contains(p.Detail, "vm1") || !strings.Contains(p.Detail, "memory") {
		l.t.Errorf("error %+v", p)
	}
	l.untilState("app", lifecycle.FailoverFailed)
	l.wantRunning(l.home, "vm2", 0)
	l.finish(l.c.JobAction(l.t.Context(), job.ID, "restart"))
	l.untilState("app", lifecycle.CommitPending)
	l.wantRunning(l.home, "vm1", 0)
}

func rowCommitWhileRunning(l *lab) {
	known := func(at dr.SiteID, name dr.MachineName, want site.PowerState) {
		l.t.Helper()
		l.until(fmt.Sprintf("%s at %s is known to be %s", name, at, want), func() bool {
			m, err := l.c.Machine(l.t.Context(), at, name)
			return err == nil && m.State == want
		})
	}
	// With agents that are not heard no boot is proven: that the machines
	// have power is all that is known of them.
	l.backInCloud()
	l.agentsDemanded()
	l.agent("vm1")("boot-1")
	l.agent("vm2")("boot-1")
	l.operate(lifecycle.Failback, rest.OperationRequest{}, rest.JobWarning)
	l.untilState("app", lifecycle.CommitPending)
	known("cloud", "vm1", site.Off)
	known("cloud", "vm2", site.Off)
	known("home", "vm2", site.Running)
	l.cloud.Deaf(true) // else it would power the machine off at once
	l.cloud.StartByHand("vm1")
	known("cloud", "vm1", site.Running)
	l.refuses(lifecycle.Commit, rest.OperationRequest{}, problem.CommitNotProven, "still runs")
	l.cloud.Deaf(false)
	known("cloud", "vm1", site.Off)
	l.home.StopByHand("vm2")
	known("home", "vm2", site.Off)
	l.refuses(lifecycle.Commit, rest.OperationRequest{AcceptRunning: true}, problem.CommitNotProven, "would survive")
	l.home.StartByHand("vm2")
	known("home", "vm2", site.Running)
	l.until("commit allowed", func() bool { return l.allowed(lifecycle.Commit) })
	l.operate(lifecycle.Commit, rest.OperationRequest{})
	l.untilState("app", lifecycle.Committed)
}
