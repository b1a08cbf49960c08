package lifecycle

import (
	"strings"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site"
)

// goodEnds are ends with which a reprotect of vm1 and vm2 goes through; both
// machines exist at the target.
func goodEnds() *Ends {
	there := []site.Finding{{Machine: "vm1", Exists: true}, {Machine: "vm2", Exists: true}}
	return &Ends{
		ProcessServer: End{Gateway: "gw-cloud", At: "cloud", Want: "cloud", HasRole: true, Said: &Said{Machines: there}},
		MasterTarget: End{Gateway: "gw-home", At: "home", Want: "home", HasRole: true, Said: &Said{
			DisksInUse: 58, DiskLimit: 60, Volumes: []Volume{{Name: DefaultPlace, FreeBytes: JournalReserve}, {Name: "big", FreeBytes: JournalReserve}},
			Datastores: []site.Datastore{{Name: DefaultPlace, FreeBytes: 100}, {Name: "fast", FreeBytes: 100}}, Machines: there,
		}},
		Disks: 2, Sizes: map[dr.MachineName]int64{"vm1": 60, "vm2": 60},
	}
}

// endCases are one or more breaches of each guard of Ends, for
// TestEveryGuardMatters.
func endCases() (cases []struct {
	guard GuardName
	op    Operation
	facts Facts
	code  problem.Code
},
) {
	add := func(g GuardName, code problem.Code, change func(*Ends)) {
		f := good(Committed)
		f.Ends = goodEnds()
		change(f.Ends)
		cases = append(cases, struct {
			guard GuardName
			op    Operation
			facts Facts
			code  problem.Code
		}{g, Reprotect, f, code})
	}
	gone := []site.Finding{{Machine: "vm1"}, {Machine: "vm2"}}
	add(OneMasterTarget, problem.MixedMasterTargets, func(e *Ends) { e.Mixed = []string{"vm1: gw-a, vm2: gw-b"} })
	add(ProcessServerFits, problem.NoProcessServer, func(e *Ends) { e.ProcessServer.Gateway = "" })
	add(ProcessServerFits, problem.WrongGateway, func(e *Ends) { e.ProcessServer.At = "moon" })
	add(ProcessServerFits, problem.WrongGateway, func(e *Ends) { e.ProcessServer.HasRole = false })
	add(ProcessServerFits, problem.WrongGateway, func(e *Ends) { e.ProcessServer.Said.Machines = gone })
	add(MasterTargetFits, problem.NoMasterTarget, func(e *Ends) { e.MasterTarget.Gateway = "" })
	add(MasterTargetFits, problem.WrongGateway, func(e *Ends) { e.MasterTarget.At = "cloud" })
	add(SiteAnswers, problem.SiteUnreachable, func(e *Ends) { e.MasterTarget.Said.SiteProblem = "credentials" })
	add(SiteAnswers, problem.SiteUnreachable, func(e *Ends) { e.ProcessServer.Said.SiteProblem = "credentials" })
	add(DisksFit, problem.MasterTargetFull, func(e *Ends) { e.MasterTarget.Said.DisksInUse = 59 })
	add(RetentionFits, problem.RetentionUnusable, func(e *Ends) { e.MasterTarget.Said.Volumes[0].Trouble = "FAT" })
	add(RetentionFits, problem.RetentionUnusable, func(e *Ends) { e.Volume = "none" })
	add(RetentionFits, problem.NoRoom, func(e *Ends) { e.Volume, e.MasterTarget.Said.Volumes[1].FreeBytes = "big", JournalReserve-1 })
	add(DatastoreFits, problem.DatastoreUnusable, func(e *Ends) { e.MasterTarget.Said.Machines, e.MasterTarget.Said.Datastores = gone, nil })
	add(DatastoreFits, problem.DatastoreUnusable, func(e *Ends) { e.Datastores = map[dr.MachineName]string{"vm1": "slow"} })
	add(DatastoreFits, problem.NoRoom, func(e *Ends) { e.MasterTarget.Said.Machines = gone })
	add(NoSnapshots, problem.SnapshotsPresent, func(e *Ends) { e.MasterTarget.Said.Machines[1].Snapshots = []string{"disk0: before"} })
	add(DisksReturn, problem.CannotComeHome, func(e *Ends) { e.MasterTarget.Said.Machines[1].NoBase = []string{"disk0: qcow2"} })
	add(IdentityFree, problem.IdentityClash, func(e *Ends) { e.MasterTarget.Said.Machines[1].Twins = []string{"machine x"} })
	add(PathOpen, problem.PathClosed, func(e *Ends) { e.PathTrouble = "connection refused" })
	return cases
}

// TestEndsThatFit: at the very limits nothing is refused.
func TestEndsThatFit(t *testing.T) {
	gone := []site.Finding{{Machine: "vm1"}, {Machine: "vm2"}}
	for name, change := range map[string]func(*Ends){
		"both at the target": func(*Ends) {},
		"nobody asked":       func(e *Ends) { e.ProcessServer.Said, e.MasterTarget.Said = nil, nil },
		"one made anew":      func(e *Ends) { e.MasterTarget.Said.Machines = gone[:1] },
		"in two datastores": func(e *Ends) {
			e.MasterTarget.Said.Machines, e.Datastores = gone, map[dr.MachineName]string{"vm2": "fast"}
		},
		"another volume":        func(e *Ends) { e.Volume, e.MasterTarget.Said.Volumes[0].Trouble = "big", "full" },
		"no datastore is asked": func(e *Ends) { e.MasterTarget.Said.Datastores = nil },
	} {
		f := good(Committed)
		f.Ends = goodEnds()
		change(f.Ends)
		if r := Decide(Reprotect, f); r != nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// TestAgentWindow: within 15 minutes the remedy is to wait, then to look.
func TestAgentWindow(t *testing.T) {
	started := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		after time.Duration
		want  string
	}{
		{14*time.Minute + 59*time.Second, "Wait a few minutes"},
		{15 * time.Minute, "Install or start the agent"},
		{15*time.Minute + time.Second, "Install or start the agent"},
	} {
		f := good(Committed)
		f.AgentRequired, f.AgentPending, f.PendingSince, f.Now = true, []dr.MachineName{"vm1"}, started, started.Add(c.after)
		r := Decide(Reprotect, f)
		if r == nil || r.Code != problem.AgentNotInstalled || !strings.Contains(r.Remedy, c.want) || !strings.Contains(r.Reason, "2026-01-02T03:00:00Z") {
			t.Errorf("after %v: %+v, want %q", c.after, r, c.want)
		}
	}
}
