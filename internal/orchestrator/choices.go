package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// custom stands, in a list of choices, for any named point or any moment of
// the spans.
const custom dr.PointSelector = "custom"

// offer is one line of the choices before it is resolved.
type offer struct {
	selector   dr.PointSelector
	title      string
	perMachine bool
}

// offers lists what a group can be recovered from. The multi-VM selectors and
// the one per machine mean something to more than one member only.
func offers(members int) []offer {
	out := []offer{
		{dr.Latest, "Latest: everything received (lowest loss)", false},
		{dr.LatestProcessed, "Latest processed: the newest recovery point (quickest)", false},
		{dr.LatestApp, "Latest application-consistent point", false},
	}
	if members > 1 {
		out = append(
			out,
			offer{dr.LatestMultiVM, "Latest multi-VM processed: the newest point common to all members", false},
			offer{dr.LatestMultiVMApp, "Latest multi-VM application-consistent point, common to all members", false},
			offer{dr.Latest, "Latest per machine: each member at its own newest moment", true},
		)
	}
	return out
}

// ChoicesFor returns the moments that an operation on a group can start from.
// An empty operation means the one that the group's direction and state ask for.
func (o *Orchestrator) ChoicesFor(ctx context.Context, group dr.GroupID, op lifecycle.Operation) (rest.Choices, error) {
	r := &run{o: o, attempt: 1}
	err := o.store.View(ctx, func(tx *store.Tx) (err error) {
		if r.group, err = tx.Group(group); errors.Is(err, store.ErrNotFound) {
			return problem.New(problem.UnknownGroup, "there is no group %q", group)
		}
		return err
	})
	if err != nil {
		return rest.Choices{}, err
	}
	if op == "" {
		op = usualOperation(&r.group)
	}
	if !takesPoint(op) {
		return rest.Choices{}, problem.New(problem.InvalidRequest, "%s starts from no recovery point", op)
	}
	r.job = newJob(op, &r.group, "", o)
	out := rest.Choices{
		Operation: op, Target: string(group), Direction: r.group.Direction, From: r.group.SourceSite(), To: r.group.StandbySite(),
		Recommended: recommended(op), Choices: []rest.Choice{}, Spans: []control.Span{}, Verified: r.group.Verified, AsOf: o.now().UTC(),
	}
	points, err := r.standby().Points(control.WithPatience(ctx, 0), control.PointsRequest{Group: group})
	if err != nil {
		return rest.Choices{}, err
	}
	out.Points = len(points.Points)
	out.Spans = append(out.Spans, points.Spans...)
	for _, of := range offers(len(r.group.Members)) {
		out.Choices = append(out.Choices, r.choice(ctx, of, op))
	}
	out.Choices = append(out.Choices, r.customChoice(points))
	return out, nil
}

// usualOperation is what a person wants who asks for choices and does not say.
func usualOperation(g *store.Group) lifecycle.Operation {
	if g.State == lifecycle.CommitPending {
		return lifecycle.ChangePoint
	}
	return lifecycle.RulesFor(g.Direction).Failover
}

func takesPoint(op lifecycle.Operation) bool {
	switch op {
	case lifecycle.Failover, lifecycle.Failback, lifecycle.ChangePoint, lifecycle.TestFailover:
		return true
	default:
		return false
	}
}

// choice resolves one offer as of now.
func (r *run) choice(ctx context.Context, of offer, op lifecycle.Operation) rest.Choice {
	c := rest.Choice{
		Selector: of.selector, PerMachine: of.perMachine, Title: of.title, Warnings: []string{}, Consistency: dr.CrashConsistent, Group: !of.perMachine,
		Recommended: of.selector == recommended(op) && !of.perMachine,
	}
	app := of.selector == dr.LatestApp || of.selector == dr.LatestMultiVMApp
	if app {
		c.Consistency = dr.AppConsistent
	}
	asked := r.job.Request
	r.job.Request = &rest.OperationRequest{PerMachine: of.perMachine}
	res, err := r.resolve(control.WithPatience(ctx, 0), of.selector)
	r.job.Request = asked
	if err != nil {
		c.Problem = problem.From(err).Plain()
		return c
	}
	c.Moment = res
	if op == lifecycle.Failover || op == lifecycle.Failback {
		c.NotReceivedSeconds = r.o.notReceived(&r.group)
	}
	if app {
		c.Warnings = append(c.Warnings, fmt.Sprintf("application-consistent points are older than latest: %s of received history (%d bytes of writes) after it is lost", span(res.LostSeconds), res.LostBytes))
	} else if res.LostSeconds > 0 || res.LostBytes > 0 {
		c.Warnings = append(c.Warnings, fmt.Sprintf("%s of received history (%d bytes of writes) after it is lost", span(res.LostSeconds), res.LostBytes))
	}
	if s := c.NotReceivedSeconds; s != nil {
		c.Warnings = append(c.Warnings, fmt.Sprintf("unplanned, what the source wrote in the last %s is lost too, as far as it has not arrived", span(*s)))
	}
	if of.perMachine {
		c.Warnings = append(c.Warnings, notTogether)
	}
	return c
}

// customChoice stands for all named points and all moments of the spans.
func (r *run) customChoice(p control.Points) rest.Choice {
	c := rest.Choice{Selector: custom, Title: "Custom: a named point (its ID), a time (RFC 3339) or a position (@…)", Group: true, Warnings: []string{}}
	if len(p.Points) == 0 && len(p.Spans) == 0 {
		c.Problem = problem.New(problem.NoRecoveryPoint, "there is neither a point nor a confirmed moment").Plain()
		return c
	}
	c.Warnings = append(c.Warnings, "what was received after the chosen moment is lost; a dry run says how much")
	return c
}

// foreknown is what a person is told with the answer to a request, before the
// job has begun.
type foreknown struct{ deletes, keeps []string }

// preflight looks, before anything is written down, whether there is a moment
// to recover from, and names what will be deleted. Only a clear answer refuses; what
// cannot be asked now is found out by the job.
func (o *Orchestrator) preflight(ctx context.Context, s StartRequest) (foreknown, error) {
	var known foreknown
	r := &run{o: o, attempt: 1}
	ready := false
	err := o.store.View(ctx, func(tx *store.Tx) error {
		var err error
		if r.group, err = tx.Group(s.Group); err != nil || r.group.Running != "" {
			return err
		}
		if r.policy, err = tx.PolicyOf(&r.group); err != nil {
			return err
		}
		f, err := o.factsFor(tx, &r.group, s)
		ready = err == nil && o.rules.Check(s.Operation, f) == nil
		return err
	})
	if err != nil || !ready {
		return known, nil //nolint:nilerr // the transaction that follows gives the true refusal
	}
	r.job = newJob(s.Operation, &r.group, s.By, o)
	r.job.Request = &s.Request
	ctx = control.WithPatience(ctx, 0)
	if takesPoint(s.Operation) {
		if _, err := r.resolve(ctx, r.selector()); err != nil && refuses(problem.From(err)) {
			return known, err
		}
		return known, nil
	}
	out := newDryRun(s.Operation, string(s.Group))
	switch {
	case s.Operation == lifecycle.Commit:
		if lifecycle.State(r.job.FromState) != lifecycle.Committing {
			r.losePoints(ctx, &out)
		}
		if lifecycle.RulesFor(r.group.Direction).CommitDeletesSource {
			err = r.foreseeDeletions(ctx, r.source(), !r.policy.DropSeed, &out)
		}
	case s.Operation == lifecycle.Disable:
		err = foreseeDisable(ctx, r, &out)
	case s.Operation == lifecycle.TestCleanup:
		err = foreseeCleanup(ctx, r, &out)
	}
	if err != nil {
		o.log.Warn("list what will be deleted", "group", s.Group, "operation", s.Operation, "error", err)
	}
	return foreknown{slices.Clip(out.Deletes), slices.Clip(out.Keeps)}, nil
}

// refuses reports whether a problem is an answer and not a disturbance.
func refuses(p *problem.Problem) bool {
	return p.Kind == problem.Conflict || p.Kind == problem.NotFound || p.Kind == problem.Invalid
}
