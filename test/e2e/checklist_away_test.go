package e2e

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"rebound/internal/dr"
	"rebound/internal/lab/demo"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/site"
	"rebound/internal/vault/rest"
)

// The first half of the trip: from home to the cloud.

func (c *checklist) beforeFailover() {
	c.row("S01_AFailbackNeedsAFailoverBeforeIt", func() {
		c.wantOffered(shop(), lifecycle.Failback, false)
		c.refused(shop(), lifecycle.Failback, rest.OperationRequest{}, problem.OperationNotAllowed, "failover")
	})
	c.row("S05_OnlyWhatReplicatesHomeCanFailBack", func() {
		c.refused(alone(), lifecycle.Failback, rest.OperationRequest{Mode: "planned"}, problem.OperationNotAllowed)
		c.refused(alone(), lifecycle.Commit, rest.OperationRequest{}, problem.OperationNotAllowed)
		c.refused(alone(), lifecycle.Reprotect, rest.OperationRequest{}, problem.OperationNotAllowed)
	})
}

func (c *checklist) choices() {
	app := c.appPoint(shop(), "app")
	c.row("S10_APointIsChosenLatestIsRecommended", func() {
		all, err := c.w.Client.Choices(c.ctx, shop(), lifecycle.Failover)
		must(c.rig.t, err)
		if all.Recommended != dr.Latest || !c.choice(shop(), lifecycle.Failover, dr.Latest, false).Recommended {
			c.rig.t.Errorf("recommended: %+v", all)
		}
		c.refused(shop(), lifecycle.Failover, rest.OperationRequest{Point: "nonsense"}, problem.UnknownPoint)
	})
	c.row("S11_LatestIsCrashConsistent", func() {
		if x := c.choice(shop(), lifecycle.Failover, dr.Latest, false); x.Consistency != dr.CrashConsistent || x.Moment == nil {
			c.rig.t.Errorf("latest: %+v", x)
		}
	})
	c.row("S12_LatestOfALoneMachineIsItsNewestMoment", func() {
		x := c.choice(alone(), lifecycle.Failover, dr.Latest, false)
		newest := c.choice(alone(), lifecycle.Failover, dr.LatestProcessed, false)
		if x.Moment == nil || newest.Moment == nil || x.Moment.Position.Before(newest.Moment.Position) || x.Moment.LostSeconds != 0 {
			c.rig.t.Errorf("latest %+v, latest processed %+v", x.Moment, newest.Moment)
		}
	})
	c.row("S13_PerMachineTakesEachMembersOwnNewest", func() {
		x := c.choice(shop(), lifecycle.Failover, dr.Latest, true)
		if x.Group || len(x.Warnings) == 0 || x.Moment == nil || len(x.Moment.Members) != 2 {
			c.rig.t.Errorf("per machine: %+v", x)
		}
		together := c.choice(shop(), lifecycle.Failover, dr.Latest, false)
		if !together.Group || together.Moment == nil || len(together.Moment.Members) != 0 {
			c.rig.t.Errorf("the group's own: %+v", together)
		}
	})
	c.row("S18_AppConsistentWithoutSuchAPointIsRefused", func() {
		c.refused(alone(), lifecycle.Failover, rest.OperationRequest{Mode: "unplanned", Point: dr.LatestApp}, problem.NoRecoveryPoint, "application-consistent")
		if x := c.choice(alone(), lifecycle.Failover, dr.LatestApp, false); x.Problem == nil || x.Problem.Code != problem.NoRecoveryPoint {
			c.rig.t.Errorf("choice %+v", x)
		}
	})
	c.row("S14_AppConsistentOfALoneMachineIsItsNewestSuchPoint", func() {
		p := c.appPoint(alone(), "mine")
		x := c.choice(alone(), lifecycle.Failover, dr.LatestApp, false)
		if x.Moment == nil || x.Moment.Point == nil || x.Moment.Point.ID != p.ID || x.Consistency != dr.AppConsistent {
			c.rig.t.Errorf("%+v, want %s", x, p.ID)
		}
	})
	c.row("S15_AppConsistentOfAGroupIsOnePointOfAll", func() {
		x := c.choice(shop(), lifecycle.Failover, dr.LatestApp, false)
		if x.Moment == nil || x.Moment.Point == nil || x.Moment.Point.Kind != dr.AppConsistent || !x.Group || len(x.Moment.Members) != 0 || x.Moment.Point.Time.Before(app.Time) {
			c.rig.t.Errorf("%+v, want %s or newer", x, app.ID)
		}
	})
	c.row("S16_AppConsistentIsOlderAndSaysWhatIsLost", func() {
		x, latest := c.choice(shop(), lifecycle.Failover, dr.LatestApp, false), c.choice(shop(), lifecycle.Failover, dr.Latest, false)
		if x.Moment == nil || latest.Moment == nil || !x.Moment.Time.Before(latest.Moment.Time) || x.Moment.LostSeconds <= 0 || !strings.Contains(strings.Join(x.Warnings, " "), "older than latest") {
			c.rig.t.Errorf("app-consistent %+v, latest %+v", x, latest)
		}
	})
	c.row("S52_TheChoicesOfAFailover", func() {
		for _, sel := range []dr.PointSelector{dr.Latest, dr.LatestProcessed, dr.LatestApp, "custom"} {
			if x := c.choice(shop(), lifecycle.Failover, sel, false); x.Problem != nil || x.Title == "" {
				c.rig.t.Errorf("%s: %+v", sel, x)
			}
		}
		plan, err := c.w.Client.DryRun(c.ctx, shop(), lifecycle.Failover, rest.OperationRequest{Mode: "unplanned", Point: dr.PointSelector(app.ID)})
		if err != nil || plan.Recovered == nil || plan.Recovered.Point == nil || plan.Recovered.Point.ID != app.ID || len(plan.Loses) == 0 {
			c.rig.t.Errorf("dry run with a custom point: %+v, %v", plan, err)
		}
		c.machines(demo.HomeSite, site.Running, "db", "web", lone)
	})
}

// testFailover shows S60 on the lone machine: one boot is enough.
func (c *checklist) testFailover() {
	c.row("S60_ATestFailoverIsIsolatedAndCleanedUpWithNotes", func() {
		job := c.does(alone(), lifecycle.TestFailover, rest.OperationRequest{Network: "bubble"})
		if x := fmt.Sprint(job.Tasks); !strings.Contains(x, "position") {
			c.rig.t.Errorf("the job does not say which point it used: %s", x)
		}
		console := filepath.Join(c.w.Datastore(demo.CloudSite), "machines", lone+"-test", "console.log")
		c.until("the test machine writes", func() error {
			b, err := os.ReadFile(console)
			if err == nil && !strings.Contains(string(b), `"event":"first"`) {
				err = fmt.Errorf("not yet")
			}
			return err
		})
		networks := c.definition(demo.CloudSite, lone+"-test")
		if networks == c.definition(demo.HomeSite, lone) {
			c.rig.t.Errorf("the test machine is in production's network: %s", networks)
		}
		c.refused(alone(), lifecycle.Failover, rest.OperationRequest{}, problem.OperationNotAllowed, "test")
		c.working() // production goes on
		c.does(alone(), lifecycle.TestCleanup, rest.OperationRequest{Notes: "all fine"})
		c.machines(demo.CloudSite, "", lone+"-test")
	})
}

// definition is where a machine's processes are connected, as its command line
// says.
func (c *checklist) definition(at dr.SiteID, name string) string {
	c.t.Helper()
	b, err := os.ReadFile(filepath.Join(c.w.Datastore(at), "machines", name, "command"))
	must(c.rig.t, err)
	var nets []string
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, "-netdev") || strings.Contains(line, `"mac"`) {
			nets = append(nets, strings.TrimSpace(line))
		}
	}
	return strings.Join(nets, " ")
}

// cancelled shows S53: a cancelled failover breaks nothing, though it has shut
// the machine down already. Its last writes cannot be sent meanwhile.
func (c *checklist) cancelled() {
	c.row("S53_ACancelledFailoverLeavesReplicationWhole", func() {
		c.limitLone(slow)
		c.working()
		began := time.Now()
		job, err := c.w.Client.Operate(c.ctx, alone(), lifecycle.Failover, rest.OperationRequest{Mode: "planned"})
		must(c.rig.t, err)
		c.machines(demo.HomeSite, site.Off, lone)
		_, err = c.w.Client.JobAction(c.ctx, job.ID, "cancel")
		must(c.rig.t, err)
		if job, err = c.w.Client.WaitJob(c.ctx, job.ID, nil); err != nil || job.State != rest.JobCancelled {
			c.rig.t.Fatalf("the job ended %s: %v, %v", job.State, job.Errors, err)
		}
		c.limitLone("")
		c.machines(demo.HomeSite, site.Running, lone)
		c.machines(demo.CloudSite, site.Off, lone) // it is the standby again
		ctx, cancel := context.WithTimeout(c.ctx, patience)
		defer cancel()
		s, err := c.w.Collector.WaitBoot(ctx, lone, began)
		must(c.rig.t, err)
		c.boots[lone] = s.Boot
		c.working()
		c.settled(lifecycle.Protected)
		if g := c.of(alone()); g.Direction != dr.Forward || g.ActiveSite != demo.HomeSite {
			c.rig.t.Errorf("direction %s, active at %s", g.Direction, g.ActiveSite)
		}
	})
}

// failedOver goes to the cloud: the group unplanned, the lone machine planned.
func (c *checklist) failedOver() {
	cut := time.Now()
	rpo, err := c.w.Client.GroupRPO(c.ctx, group)
	must(c.t, err)
	if rpo.Seconds == nil {
		c.t.Fatalf("no RPO before the failover: %+v", rpo)
	}
	then := maps.Clone(c.boots)
	c.w.Collector.NewWorld()
	c.together(lifecycle.Failover, rest.OperationRequest{Mode: "unplanned", Point: dr.Latest, PerMachine: true}, rest.OperationRequest{Mode: "planned"})
	c.row("S13_PerMachineBootsEachMemberAtItsOwnNewest", func() {
		if got := c.of(shop()).Recovered; got == nil || len(got.Members) != 2 {
			c.rig.t.Errorf("recovered: %+v", got)
		}
	})
	c.judge("failover", cut, time.Now(), time.Duration(*rpo.Seconds*float64(time.Second))+time.Second)
	c.row("S54_ThePointCanBeChangedUntilTheCommitAndNoLonger", func() {
		at := time.Now()
		c.w.Collector.NewWorld()
		c.does(shop(), lifecycle.ChangePoint, rest.OperationRequest{Point: dr.LatestApp})
		got := c.of(shop()).Recovered
		if got == nil || got.Point == nil || got.Point.Kind != dr.AppConsistent {
			c.rig.t.Fatalf("recovered: %+v", got)
		}
		c.judgeMoment("change to the newest application-consistent point", at, got.Time, then)
		plan, err := c.w.Client.DryRun(c.ctx, shop(), lifecycle.Commit, rest.OperationRequest{})
		if err != nil || !strings.Contains(strings.Join(append(plan.Deletes, plan.Loses...), " "), "point") {
			c.rig.t.Errorf("the commit does not say that the other points go: %+v, %v", plan, err)
		}
		c.together(lifecycle.Commit, rest.OperationRequest{}, rest.OperationRequest{AcceptRunning: true})
		c.refused(shop(), lifecycle.ChangePoint, rest.OperationRequest{Point: dr.Latest}, problem.OperationNotAllowed, "final")
	})
}
