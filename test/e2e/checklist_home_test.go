package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"rebound/internal/dr"
	"rebound/internal/lab/demo"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/site"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// The second half of the trip: from the cloud home, and protected again.

// disksOf is the sum of the sizes of a group's disks, in bytes.
func disksOf(g rest.Group) int64 {
	var sum int64
	for _, d := range g.Disks {
		sum += d.SizeBytes
	}
	return sum
}

// agentTold lets the lone machine's agent run.
func (c *checklist) agentTold() {
	c.t.Helper()
	if c.agent == nil {
		var err error
		c.agent, err = c.w.AgentConfig(c.ctx, lone)
		must(c.t, err)
	}
	c.w.Collector.SetAgent(lone, *c.agent)
}

// agentWindow shows that a reprotect is refused until the agent has registered
// since the boot, says since when, changes nothing, and goes on by a repetition.
func (c *checklist) agentWindow() {
	c.t.Helper()
	c.refused(alone(), lifecycle.Reprotect, rest.OperationRequest{}, problem.AgentNotInstalled, lone, "15 minutes")
	if g := c.of(alone()); g.State != lifecycle.Committed {
		c.t.Errorf("after the refusal it is %s", g.State)
	}
	c.wantOffered(alone(), lifecycle.Reprotect, false)
	c.agentTold()
	c.until("the agent has registered", func() error {
		if s := c.offered(alone(), lifecycle.Reprotect); !s.Allowed {
			return errors.New(s.Reason)
		}
		return nil
	})
}

// away is what holds in the cloud after the commit, up to the reprotect.
func (c *checklist) away() {
	c.row("S59_FailedOverMachinesAreUnprotectedUntilTheReprotect", func() {
		for _, g := range []rest.Group{c.of(shop()), c.of(alone())} {
			if g.State != lifecycle.Committed || g.ActiveSite != demo.CloudSite {
				c.rig.t.Errorf("%s: %s at %s", g.ID, g.State, g.ActiveSite)
			}
		}
		c.refused(shop(), lifecycle.Failback, rest.OperationRequest{}, problem.OperationNotAllowed, "eprotect")
		c.refused(shop(), lifecycle.CreatePoint, rest.OperationRequest{Name: "x"}, problem.OperationNotAllowed, "eprotect")
	})
	c.row("S50_NobodyCanTellHowMuchAReprotectSends", func() {
		plan, err := c.w.Client.DryRun(c.ctx, shop(), lifecycle.Reprotect, rest.OperationRequest{})
		if err != nil || plan.Transfer == nil || plan.Transfer.Min != 0 || plan.Transfer.Max != disksOf(c.of(shop())) {
			c.rig.t.Errorf("dry run %+v, %v", plan, err)
		}
	})
	c.row("S40_TheDataPortIsTriedAndBothEndsAreNamed", func() {
		must(c.rig.t, c.w.Kill(string(demo.HomeGW)))
		c.until("the vault misses the gateway", func() error {
			if s := c.offered(shop(), lifecycle.Reprotect); s.Allowed {
				return errors.New("reprotect is still offered")
			}
			return nil
		})
		c.refused(shop(), lifecycle.Reprotect, rest.OperationRequest{}, problem.GatewayUnreachable, string(demo.HomeGW))
		must(c.rig.t, c.w.Restart(c.ctx, string(demo.HomeGW)))
		c.until("reprotect is offered again", func() error {
			if s := c.offered(shop(), lifecycle.Reprotect); !s.Allowed {
				return errors.New(s.Reason)
			}
			return nil
		})
	})
	c.row("S48_TheAgentWindowHoldsInTheCloudToo", c.agentWindow)
	c.row("S30_TheProcessServerMustBeOneOfTheActiveSite", func() {
		wrong := rest.OperationRequest{Reprotect: &rest.ReprotectRequest{ReprotectTarget: rest.ReprotectTarget{ProcessServer: "nobody"}}}
		c.refused(shop(), lifecycle.Reprotect, wrong, problem.UnknownGateway, "nobody")
	})
	given := rest.OperationRequest{Reprotect: &rest.ReprotectRequest{ReprotectTarget: rest.ReprotectTarget{ProcessServer: demo.CloudGW, MasterTarget: demo.HomeGW}}}
	c.limitLone(slow)
	c.together(lifecycle.Reprotect, given, rest.OperationRequest{})
	c.withoutPoint()
	c.limitLone("")
	c.does(alone(), lifecycle.Resume, rest.OperationRequest{})
	c.settled(lifecycle.Protected)
	c.row("S04_ReprotectedMachinesReplicateHome", func() {
		for _, g := range []rest.Group{c.of(shop()), c.of(alone())} {
			if g.Direction != dr.Back || g.ActiveSite != demo.CloudSite || g.RPO.Seconds == nil {
				c.rig.t.Errorf("%s: direction %s, active at %s, RPO %+v", g.ID, g.Direction, g.ActiveSite, g.RPO)
			}
		}
	})
	c.row("S49_TheMachineAtHomeIsOffAndStaysOff", func() {
		c.machines(demo.HomeSite, site.Off, "db", "web", lone)
		wantCode(c.rig.t, "start by hand", c.w.Client.StartMachine(c.ctx, demo.HomeSite, "db"), problem.MachineInUse)
		c.machines(demo.HomeSite, site.Off, "db", "web", lone)
	})
	c.row("S51_ProtectedAgainAndTheDataIsTheSame", func() {
		c.working()
		job := c.does(shop(), lifecycle.Verify, rest.OperationRequest{})
		if !strings.Contains(fmt.Sprint(job.Tasks), "differing:0") {
			c.rig.t.Errorf("verify: %+v", job.Tasks)
		}
	})
}

// withoutPoint stops the lone machine's first copy home before it is whole.
func (c *checklist) withoutPoint() {
	c.does(alone(), lifecycle.Pause, rest.OperationRequest{})
	c.row("S06_WithoutARecoveryPointThereIsNoFailback", func() {
		if g := c.of(alone()); g.State != lifecycle.Paused {
			c.rig.t.Errorf("it is %s", g.State)
		}
		c.wantOffered(alone(), lifecycle.Failback, false)
		for _, mode := range []string{"planned", "unplanned"} {
			c.refused(alone(), lifecycle.Failback, rest.OperationRequest{Mode: mode}, problem.NoRecoveryPoint, lone)
		}
	})
	c.row("S07_APlanIsRefusedByTheMachinesThatLackAPoint", func() {
		plan := rest.Plan{ID: "all", Groups: []rest.PlanGroup{{Items: []string{lone, "group/" + string(group)}}}}
		_, err := c.w.Client.CreatePlan(c.ctx, plan)
		must(c.rig.t, err)
		_, err = c.w.Client.Operate(c.ctx, client.PlanTarget(plan.ID), lifecycle.Failback, rest.OperationRequest{})
		wantCode(c.rig.t, "failback of the plan", err, problem.NoRecoveryPoint)
		if said := fmt.Sprint(err); !strings.Contains(said, lone) || strings.Contains(said, "web") {
			c.rig.t.Errorf("the refusal names others than %s: %v", lone, err)
		}
		c.machines(demo.CloudSite, site.Running, "db", "web", lone)
		must(c.rig.t, c.w.Client.DeletePlan(c.ctx, plan.ID))
	})
}

// failback goes home, up to the commit.
func (c *checklist) failback() {
	c.row("S08_FailbackIsOfferedWhereItCanBeDone", func() {
		c.wantOffered(shop(), lifecycle.Failback, true)
		c.wantOffered(alone(), lifecycle.Failback, true)
		c.wantOffered(shop(), lifecycle.Commit, false)
	})
	c.row("S09_TheDirectionIsGiven", func() {
		all, err := c.w.Client.Choices(c.ctx, shop(), lifecycle.Failback)
		if err != nil || all.From != demo.CloudSite || all.To != demo.HomeSite || all.Direction != dr.Back {
			c.rig.t.Errorf("choices %+v, %v", all, err)
		}
		c.refused(shop(), lifecycle.Failover, rest.OperationRequest{}, problem.OperationNotAllowed, "failback")
	})
	cut := time.Now()
	c.w.Collector.NewWorld()
	c.w.Collector.ForgetAgent(lone)
	a, _ := c.together(lifecycle.Failback, rest.OperationRequest{Mode: "planned", Point: dr.Latest}, rest.OperationRequest{Mode: "planned"})
	c.row("S19_TheFailbackShutsTheCloudMachinesDown", func() {
		if !strings.Contains(tasks(a), "shut-down-source") {
			c.rig.t.Errorf("tasks %s", tasks(a))
		}
	})
	c.row("S20_TheCloudMachinesAreSeenToBeOff", func() {
		for _, m := range append(c.of(shop()).Members, c.of(alone()).Members...) {
			if m.Recovery != site.Off {
				c.rig.t.Errorf("%s in the cloud is %s", m.Machine, m.Recovery)
			}
		}
	})
	c.row("S21_TheMachinesBootAtHomeWithTheDataOfThePoint", func() {
		c.judge("planned failback", cut, time.Now(), -1)
		c.machines(demo.HomeSite, site.Running, "db", "web", lone)
	})
	c.row("S22_TheFailbackWaitsForAPerson", func() {
		for _, g := range []rest.Group{c.of(shop()), c.of(alone())} {
			if g.State != lifecycle.CommitPending || g.Recovered == nil {
				c.rig.t.Errorf("%s is %s, recovered %+v", g.ID, g.State, g.Recovered)
			}
		}
	})
	c.row("S25_TheCloudMachinesExistUntilTheCommit", func() {
		c.machines(demo.CloudSite, site.Off, "db", "web", lone)
	})
}

// committedHome ends the failback.
func (c *checklist) committedHome() {
	var deletes []string
	c.row("S23_CommitIsOfferedAndSaysWhatItDeletes", func() {
		c.wantOffered(shop(), lifecycle.Commit, true)
		plan, err := c.w.Client.DryRun(c.ctx, shop(), lifecycle.Commit, rest.OperationRequest{})
		deletes = plan.Deletes
		if all := strings.Join(deletes, " "); err != nil || !strings.Contains(all, "db") || !strings.Contains(all, "web") {
			c.rig.t.Errorf("deletes %q, %v", deletes, err)
		}
	})
	a, _ := c.together(lifecycle.Commit, rest.OperationRequest{}, rest.OperationRequest{AcceptRunning: true})
	c.row("S24_TheCommitDeletesTheCloudMachines", func() {
		c.machines(demo.CloudSite, "", "db", "web", lone)
		for _, d := range deletes {
			if strings.HasPrefix(d, "machine ") && !slices.Contains(a.Deletes, d) {
				c.rig.t.Errorf("the job's record says %q, announced was %q", a.Deletes, deletes)
			}
		}
	})
	c.row("S28_TheMachinesRunAtHomeUnprotected", func() {
		c.machines(demo.HomeSite, site.Running, "db", "web", lone)
		for _, g := range []rest.Group{c.of(shop()), c.of(alone())} {
			if g.State != lifecycle.Committed || g.ActiveSite != demo.HomeSite {
				c.rig.t.Errorf("%s: %s, active at %s", g.ID, g.State, g.ActiveSite)
			}
		}
		c.working()
	})
}

// home protects everything again.
func (c *checklist) home() {
	c.row("S32_TheAgentMayTakeAWhileAfterAStart", func() {
		if s := c.offered(alone(), lifecycle.Reprotect); s.Allowed || s.Code != problem.AgentNotInstalled || !strings.Contains(s.Reason, "since") {
			c.rig.t.Errorf("%+v", s)
		}
	})
	c.row("S33_AReprotectBeforeThatFails", func() {
		c.refused(alone(), lifecycle.Reprotect, rest.OperationRequest{}, problem.AgentNotInstalled, lone, "15 minutes")
	})
	c.row("S29_ReprotectIsOfferedForWhatCameHome", func() {
		c.wantOffered(shop(), lifecycle.Reprotect, true)
	})
	var job, other rest.Job
	c.row("S31_AReprotectIsAJob", func() {
		var err error
		job, err = c.w.Client.Operate(c.ctx, shop(), lifecycle.Reprotect, rest.OperationRequest{})
		if err != nil || job.ID == "" || job.State.Ended() {
			c.rig.t.Fatalf("%+v, %v", job, err)
		}
	})
	c.row("S34_TheSameAgainSucceedsOnceTheAgentIsThere", func() {
		c.agentWindow()
		var err error
		other, err = c.w.Client.Operate(c.ctx, alone(), lifecycle.Reprotect, rest.OperationRequest{})
		must(c.rig.t, err)
	})
	c.row("S35_AfterTheJobsEverythingReplicatesToTheCloud", func() {
		c.succeeded(job.ID)
		c.succeeded(other.ID)
		c.settled(lifecycle.Protected)
		for _, g := range []rest.Group{c.of(shop()), c.of(alone())} {
			if g.Direction != dr.Forward || g.ActiveSite != demo.HomeSite || g.RPO.Seconds == nil {
				c.rig.t.Errorf("%s: direction %s, active at %s, RPO %+v", g.ID, g.Direction, g.ActiveSite, g.RPO)
			}
		}
		c.working()
	})
	c.row("S36_AnotherFailoverCanBeRun", func() {
		c.wantOffered(shop(), lifecycle.Failover, true)
		plan, err := c.w.Client.DryRun(c.ctx, shop(), lifecycle.Failover, rest.OperationRequest{Mode: "planned"})
		if err != nil || plan.Recovered == nil {
			c.rig.t.Errorf("dry run %+v, %v", plan, err)
		}
	})
	c.row("S37_WithoutTheOtherGatewayNothingFailsOver", func() {
		must(c.rig.t, c.w.Kill(string(demo.CloudGW)))
		c.until("the vault misses the gateway", func() error {
			if s := c.offered(shop(), lifecycle.Failover); s.Allowed {
				return errors.New("failover is still offered")
			}
			return nil
		})
		c.refused(shop(), lifecycle.Failover, rest.OperationRequest{Mode: "unplanned"}, problem.GatewayUnreachable, string(demo.CloudGW))
		must(c.rig.t, c.w.Restart(c.ctx, string(demo.CloudGW)))
		c.settled(lifecycle.Protected)
	})
}
