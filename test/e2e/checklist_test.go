package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/lab/checker"
	"rebound/internal/lab/demo"
	"rebound/internal/lab/wire"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/site"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// lone is a machine that is protected by itself, in a group of its name.
const lone = "solo"

// checklist is one round trip of one world, home to cloud and back, in which
// the rows of docs/behaviour.md are shown as subtests, in the order in which
// they come true: a group of two machines, and one machine alone whose policy
// demands an agent. Everything goes through the API of a real vault.
type checklist struct {
	*rig
	top *testing.T
	// agent is the lone machine's, once it was announced.
	agent *wire.AgentConfig
	// policyOfLone is as it was made.
	policyOfLone rest.Policy
}

// TestChecklistTrip shows rows on real vault, gateways and guests.
func TestChecklistTrip(t *testing.T) {
	r := newRig(t, options{guests: []string{"db", "web", lone}, alone: []string{lone}, limit: 12 * time.Minute})
	c := &checklist{rig: r, top: t}
	c.policies()
	r.start()
	c.protectBoth()
	for _, part := range []func(){
		c.beforeFailover, c.choices, c.testFailover, c.failedOver, c.away, c.failback, c.committedHome, c.home, c.cancelled,
	} {
		part()
		if t.Failed() {
			return // later rows stand on these
		}
	}
}

// row runs a row of the list. When it fails, the rows after it in the same part
// run too: each says what it found.
func (c *checklist) row(name string, show func()) {
	c.top.Run(name, func(t *testing.T) {
		before := c.rig.t
		c.rig.t = t
		defer func() { c.rig.t = before }()
		show()
	})
}

// policies: the group's makes application-consistent points, both ways; the lone
// machine's does not, and wants an agent before a reprotect.
func (c *checklist) policies() {
	c.t.Helper()
	p := rest.Policy{ID: "e2e", RPOThreshold: 60, CrashInterval: 2, AppInterval: 4, RedoWindow: 7200, Compression: "none", ShutdownTimeout: 60, BootTimeout: 120}
	back := rest.NewFailbackPolicy(p)
	back.AppInterval = 4
	p.Failback = &back
	_, err := c.w.Client.PutPolicy(c.ctx, p)
	must(c.t, err)
	// Its agent does not run yet: a failover need not wait for it.
	p.ID, p.AppInterval, p.RequireAgent, p.BootTimeout = lone, 0, true, 3
	back.AppInterval = 0
	c.policyOfLone = p
	c.limitLone("")
}

// limitLone limits the lone machine's stream, in both directions.
func (c *checklist) limitLone(b dr.Bandwidth) {
	c.t.Helper()
	p, back := c.policyOfLone, *c.policyOfLone.Failback
	p.Bandwidth, back.Bandwidth, p.Failback = b, b, &back
	_, err := c.w.Client.PutPolicy(c.ctx, p)
	must(c.t, err)
}

// slow is the smallest limit. A guest writes more than that, so that whatever
// waits for its stream does not end by itself.
const slow = dr.Bandwidth("64KB")

// shop and alone are what operations are asked of.
func shop() client.Target  { return client.GroupTarget(group) }
func alone() client.Target { return client.GroupTarget(lone) }

func (c *checklist) protectBoth() {
	c.t.Helper()
	both := []rest.ProtectRequest{
		{Site: demo.HomeSite, To: demo.CloudSite, Policy: "e2e", Group: group, Machines: []dr.MachineName{"db", "web"}},
		{Site: demo.HomeSite, To: demo.CloudSite, Policy: lone, Machines: []dr.MachineName{lone}},
	}
	var jobs []dr.JobID
	for _, p := range both {
		job, err := c.w.Client.Protect(c.ctx, p)
		must(c.t, err)
		jobs = append(jobs, job.ID)
	}
	for _, j := range jobs {
		c.succeeded(j)
	}
	c.settled(lifecycle.Protected)
}

// of reads a group.
func (c *checklist) of(t client.Target) rest.Group {
	c.t.Helper()
	id := group
	if t == alone() {
		id = lone
	}
	g, err := c.w.Client.Group(c.ctx, id)
	must(c.t, err)
	return g
}

// settled waits until both groups are in a state.
func (c *checklist) settled(want lifecycle.State) {
	c.t.Helper()
	for _, t := range []client.Target{shop(), alone()} {
		c.until(fmt.Sprintf("%v is %s", t, want), func() error {
			if g := c.of(t); g.State != want {
				return fmt.Errorf("it is %s: %s", g.State, g.Problem)
			}
			return nil
		})
	}
}

// does runs an operation to success.
func (c *checklist) does(t client.Target, op lifecycle.Operation, req rest.OperationRequest) rest.Job {
	c.t.Helper()
	job, err := c.w.Client.Operate(c.ctx, t, op, req)
	if err != nil {
		c.t.Fatalf("%s of %v: %v", op, t, err)
	}
	return c.succeeded(job.ID)
}

// together runs an operation on both at the same time.
func (c *checklist) together(op lifecycle.Operation, shopReq, loneReq rest.OperationRequest) (of, ofLone rest.Job) {
	c.t.Helper()
	a, err := c.w.Client.Operate(c.ctx, shop(), op, shopReq)
	must(c.t, err)
	b, err := c.w.Client.Operate(c.ctx, alone(), op, loneReq)
	must(c.t, err)
	return c.succeeded(a.ID), c.succeeded(b.ID)
}

// refused demands that an operation is refused with a code, that the refusal
// says each of the words, and that nothing changed.
func (c *checklist) refused(t client.Target, op lifecycle.Operation, req rest.OperationRequest, code problem.Code, words ...string) {
	c.t.Helper()
	before := c.of(t)
	_, err := c.w.Client.Operate(c.ctx, t, op, req)
	wantCode(c.t, fmt.Sprintf("%s of %v", op, t), err, code)
	for _, w := range words {
		if err == nil || !strings.Contains(err.Error()+problem.From(err).RecommendedAction, w) {
			c.t.Errorf("%s of %v: %v does not say %q", op, t, err, w)
		}
	}
	after := c.of(t)
	if after.State != before.State || after.Generation != before.Generation || after.ActiveSite != before.ActiveSite || after.LastJob != before.LastJob {
		c.t.Errorf("the refusal changed something: %+v, before %+v", after.Replication, before.Replication)
	}
}

// offered returns what the API says of an operation now.
func (c *checklist) offered(t client.Target, op lifecycle.Operation) lifecycle.OperationStatus {
	c.t.Helper()
	for _, s := range c.of(t).AllowedOperations {
		if s.Name == op {
			return s
		}
	}
	c.t.Errorf("%v has no word on %s", t, op)
	return lifecycle.OperationStatus{}
}

func (c *checklist) wantOffered(t client.Target, op lifecycle.Operation, want bool) {
	c.t.Helper()
	s := c.offered(t, op)
	if s.Allowed != want {
		c.t.Errorf("%s of %v: allowed %v, want %v (%s)", op, t, s.Allowed, want, s.Reason)
	}
	if !s.Allowed && (s.Reason == "" || s.Remedy == "" || s.Code == "") {
		c.t.Errorf("%s of %v is not allowed, without reason, remedy or code: %+v", op, t, s)
	}
}

// choice returns one of the choices that an operation has now.
func (c *checklist) choice(t client.Target, op lifecycle.Operation, sel dr.PointSelector, perMachine bool) rest.Choice {
	c.t.Helper()
	all, err := c.w.Client.Choices(c.ctx, t, op)
	must(c.t, err)
	for _, x := range all.Choices {
		if x.Selector == sel && x.PerMachine == perMachine {
			return x
		}
	}
	c.t.Errorf("%s of %v does not offer %q: %+v", op, t, sel, all.Choices)
	return rest.Choice{}
}

// machines wants each machine of the names in a state at a site; "" means that
// it is not there.
func (c *checklist) machines(at dr.SiteID, want site.PowerState, names ...dr.MachineName) {
	c.t.Helper()
	for _, n := range names {
		// The vault hears of it with the gateway's next report.
		c.until(fmt.Sprintf("%s at %s is %q", n, at, want), func() error {
			m, err := c.w.Client.Machine(c.ctx, at, n)
			switch {
			case want == "" && !problem.HasCode(err, problem.UnknownMachine):
				return fmt.Errorf("it is %s (%v)", m.State, err)
			case want != "" && (err != nil || m.State != want):
				return fmt.Errorf("it is %s (%v)", m.State, err)
			}
			return nil
		})
	}
}

// tasks returns the names of a job's tasks that were done.
func tasks(j rest.Job) string {
	var names []string
	for _, t := range j.Tasks {
		if t.State == rest.JobSucceeded || t.State == rest.JobWarning {
			names = append(names, t.Name)
		}
	}
	return strings.Join(names, " ")
}

// judgeMoment waits for new boots of the group and compares them with what the
// boots at the site of the moment had acknowledged by then.
func (c *checklist) judgeMoment(what string, after, moment time.Time, then map[string]string) {
	c.t.Helper()
	old := c.boots
	c.boots = map[string]string{}
	names := c.names
	c.names = names[:2]
	c.newBoots(after)
	for name, l := range c.ledgersOf() {
		v := checker.AtMoment(l, checker.SinceBoot(c.w.Collector.Acks(name), then[name]), moment)
		if !v.OK {
			c.t.Errorf("%s: %s: %s", what, name, strings.Join(v.Reasons, "; "))
		}
	}
	c.judgeOrder(what, c.ledgersOf())
	c.names, c.boots[lone] = names, old[lone]
}
