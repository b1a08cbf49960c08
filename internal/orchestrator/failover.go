package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/site"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

const (
	// fenceTimeout bounds telling an old source that is believed to be up;
	// it fences itself when it learns of the generation later.
	fenceTimeout = 5 * time.Second
	// lastWritesTimeout bounds draining in an unplanned failover, where the
	// standby's site waits for its machines.
	lastWritesTimeout = 10 * time.Second
)

// request is what the person asked; empty fields for operations without.
func (r *run) request() rest.OperationRequest {
	if r.job.Request == nil {
		return rest.OperationRequest{}
	}
	return *r.job.Request
}

// planned reports whether the failover is to lose nothing.
func (r *run) planned() bool {
	switch r.request().Mode {
	case "planned":
		return true
	case "unplanned":
		return false
	}
	return lifecycle.RulesFor(r.job.Direction).PlannedByDefault && !r.request().PerMachine && (r.request().Point == "" || r.request().Point == dr.Latest)
}

// shutdown is try, require or skip.
func (r *run) shutdown() string {
	if r.planned() {
		return "require"
	}
	if s := r.request().ShutdownSource; s != "" {
		return s
	}
	return "try"
}

// checkPoint finds out, before anything is changed, that there is a moment to
// fail over to.
func checkPoint(ctx context.Context, r *run) error {
	if err := r.checkTargets(ctx, false); err != nil {
		return err
	}
	res, err := r.resolve(ctx, r.selector())
	if err != nil {
		return err
	}
	r.set("time", res.Time)
	r.set("position", res.Position.String())
	return nil
}

func (r *run) selector() dr.PointSelector {
	if s := r.request().Point; s != "" {
		return s
	}
	if r.request().PerMachine {
		return dr.Latest
	}
	return recommended(r.job.Operation)
}

// recommended is what an operation takes when no point is given: a failover all
// that was received, a test the newest point, which is quickest.
func recommended(op lifecycle.Operation) dr.PointSelector {
	if op == lifecycle.TestFailover {
		return dr.LatestProcessed
	}
	return dr.Latest
}

func (r *run) resolve(ctx context.Context, sel dr.PointSelector) (*rest.Recovered, error) {
	res, err := r.standby().ResolvePoint(ctx, control.ResolveRequest{Group: r.group.ID, Selector: sel, PerMachine: r.request().PerMachine})
	if err != nil {
		return nil, err
	}
	return &rest.Recovered{
		Selector: sel, Position: res.Position, Time: res.Time, Point: res.Point, LostSeconds: res.LostSeconds, LostBytes: res.LostBytes,
		Members: res.Members,
	}, nil
}

// notTogether is told with everything that recovers each member at a moment of
// its own.
const notTogether = "each machine is taken to its own newest moment: what the members of the group wrote to each other may not fit together"

// shutDownSource stops the members at the source, as hard as asked.
func shutDownSource(ctx context.Context, r *run) error {
	how := r.shutdown()
	if how == "skip" {
		r.warn("the source machines were not shut down, as asked; fencing stops them where it reaches them")
		return nil
	}
	if !r.o.reachable(ctx, r.group.Source()) {
		if how == "require" {
			return problem.New(problem.GatewayUnreachable, "gateway %s of the source is away, so nothing can be shut down there", r.group.Source())
		}
		r.warn("gateway %s is away; the source machines could not be shut down", r.group.Source())
		return nil
	}
	limit := seconds(r.policy.ShutdownTimeout)
	ctx, cancel := context.WithTimeout(r.brief(ctx), 2*limit+time.Minute)
	defer cancel()
	ctx, cancel = r.untilCancelled(ctx)
	defer cancel()
	err := r.stopSource(ctx, r.members(), r.attempt)
	if err == nil {
		r.set("stopped", true)
		return nil
	}
	if how == "require" {
		return err
	}
	r.warn("not every source machine was shut down: %v", err)
	return nil
}

const shutDownTask = "shut-down-source"

// stopSource stops members at the source, or joins an attempt to do so that is
// still running there.
func (r *run) stopSource(ctx context.Context, members []store.Member, attempt int) error {
	limit := seconds(r.policy.ShutdownTimeout)
	return r.eachOf(ctx, members, func(ctx context.Context, m store.Member) error {
		o := r.originOf(shutDownTask, string(m.Machine), attempt)
		err := r.source().StopMachine(ctx, o, control.StopRequest{Machine: m.Machine, Mode: site.GracefulThenHard, Timeout: limit})
		if err != nil {
			return err
		}
		return r.knowOff(ctx, m.Machine)
	})
}

// knowOff writes down that a machine of the source is off, as its gateway has
// just said. Its next report would say so too, but a commit that is asked for
// before that report would be refused for a machine that "still runs".
func (r *run) knowOff(ctx context.Context, name dr.MachineName) error {
	return r.o.store.Update(ctx, func(tx *store.Tx) error {
		row, there, err := machineAt(tx, r.group.SourceSite(), name)
		if err != nil || !there {
			return err
		}
		row.State, row.SeenAt = site.Off, r.o.now().UTC()
		return tx.PutMachine(row)
	})
}

// drain sends what the source wrote last. Planned, all must arrive; unplanned,
// it is worth a few seconds once the machines are off.
func drain(ctx context.Context, r *run) error {
	if !r.planned() && !r.stopped() {
		r.set("skipped", "the source machines were not shut down")
		return nil
	}
	if !r.planned() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(r.brief(ctx), lastWritesTimeout)
		defer cancel()
	}
	waiting, cancel := r.untilCancelled(r.long(ctx))
	defer cancel()
	res, err := r.source().StopReplication(waiting, r.origin(""), control.StopReplicationRequest{Group: r.group.ID, Drain: true})
	if err == nil && !res.Clean {
		err = problem.New(problem.GatewayUnreachable, "the stream ended at %s before all was durable at the standby", res.Durable)
	}
	if err == nil {
		r.set("durable", res.Durable.String())
		return nil
	}
	if r.planned() {
		return err
	}
	r.warn("the last writes of the source may be missing: %v", err)
	return nil
}

// brief makes commands fail at once when their gateway is away, unless the
// vault has only just started.
func (r *run) brief(ctx context.Context) context.Context {
	return control.WithPatience(ctx, max(0, redialTime-r.o.now().Sub(r.o.opened)))
}

func (r *run) stopped() bool {
	any := false
	for _, t := range r.job.Tasks {
		if base(t.Name) != shutDownTask {
			continue
		}
		if done, _ := t.Result["stopped"].(bool); !done {
			return false
		}
		any = true
	}
	return any
}

// raiseToStandby makes the standby's site the active one: from here on nothing
// of the old generation is true.
func raiseToStandby(_ context.Context, r *run) error {
	r.then(func(_ *store.Tx, g *store.Group) error {
		g.Generation++
		g.Active = g.StandbySite()
		return nil
	})
	return nil
}

// raiseToSource gives the authority back to the source.
func raiseToSource(_ context.Context, r *run) error {
	r.then(func(_ *store.Tx, g *store.Group) error {
		g.Generation++
		g.Active = g.SourceSite()
		return nil
	})
	return nil
}

// seal makes the generation durable at the receiver; the stream ends there.
func seal(ctx context.Context, r *run) error {
	res, err := r.standby().Seal(ctx, r.origin(""), control.SealRequest{Group: r.group.ID, Generation: r.group.Generation})
	if err != nil {
		return err
	}
	r.set("durable", res.Durable.String())
	r.set("confirmed", res.Confirmed.String())
	return nil
}

// fenceSource tells the old source when it can be reached.
func fenceSource(ctx context.Context, r *run) error {
	if !r.o.reachable(ctx, r.group.Source()) {
		r.set("told", "later: the gateway is away and learns of it when it returns")
		return nil
	}
	ctx, cancel := context.WithTimeout(r.brief(ctx), fenceTimeout)
	defer cancel()
	err := r.source().Fence(ctx, r.origin(""), control.FenceRequest{Group: r.group.ID, Generation: r.group.Generation, Machines: r.group.Machines()})
	if err != nil {
		r.warn("the old source at %s could not be told; it stops its machines when it learns of the failover: %v", r.group.Source(), err)
	}
	return nil
}

// resolvePoint chooses the moment after the stream was sealed.
func resolvePoint(ctx context.Context, r *run) error {
	res, err := r.resolve(ctx, r.selector())
	if err != nil {
		return err
	}
	r.set("time", res.Time)
	r.set("position", res.Position.String())
	r.set("lostSeconds", res.LostSeconds)
	r.set("lostBytes", res.LostBytes)
	if len(res.Members) > 0 {
		r.set("members", res.Members)
		r.warn(notTogether)
	}
	r.then(func(_ *store.Tx, g *store.Group) error {
		g.Recovered = res
		return nil
	})
	return nil
}

// startMachines starts every member that does not run yet. One that fails does
// not stop the others; a restart of the job tries it again.
func startMachines(ctx context.Context, r *run) error {
	if r.group.Recovered == nil {
		return errors.New("no moment was chosen")
	}
	return r.each(r.long(ctx), func(ctx context.Context, m store.Member) error {
		if m.Started {
			return nil
		}
		boot, err := r.lastBoot(ctx, m.Machine)
		if err != nil {
			return err
		}
		if _, err := r.recoverMachine(ctx, m, r.group.Recovered, false); err != nil {
			return err
		}
		r.changeMember(m.Machine, func(row *store.Member) {
			row.Started, row.Booted, row.StartedAt, row.BootBefore = true, false, r.o.now().UTC(), boot
		})
		r.set(startedKey+string(m.Machine), stampOf(r.o.now()))
		return nil
	})
}

// changeMember changes one member's row when the task is done.
func (r *run) changeMember(name dr.MachineName, f func(*store.Member)) {
	r.then(func(_ *store.Tx, g *store.Group) error {
		for i := range g.Members {
			if g.Members[i].Machine == name {
				f(&g.Members[i])
			}
		}
		return nil
	})
}

// lastBoot is the boot id that a machine's agent named last, "" without agent.
func (r *run) lastBoot(ctx context.Context, m dr.MachineName) (string, error) {
	var agent store.Agent
	err := r.o.store.View(ctx, func(tx *store.Tx) (err error) { agent, err = tx.Agent(m); return err })
	if errors.Is(err, store.ErrNotFound) {
		return "", nil
	}
	return agent.BootID, err
}

// watchBoot waits until each machine has proven that it boots: by its agent's
// new boot id, or where no agent is known by running.
func watchBoot(ctx context.Context, r *run) error {
	limit, cancel := context.WithTimeout(ctx, seconds(r.policy.BootTimeout))
	defer cancel()
	return r.each(limit, func(waiting context.Context, m store.Member) error {
		if !m.Started && r.job.Part != nil {
			return problem.New(problem.MachineNotRunning, "machine %s was not started", m.Machine)
		}
		if !m.Started || m.Booted {
			return nil
		}
		proof, ok, err := r.awaitHealthy(waiting, m)
		if err != nil {
			return err
		}
		if !ok {
			r.warn("machine %s was started; its agent has not registered within %d s", m.Machine, r.policy.BootTimeout)
			return nil
		}
		r.set(healthyKey+string(m.Machine), stampOf(r.o.now()))
		r.set(proofKey+string(m.Machine), proof)
		r.changeMember(m.Machine, func(row *store.Member) { row.Booted = true })
		return nil
	})
}

func (r *run) awaitBoot(ctx context.Context, m store.Member) (bool, error) {
	if m.BootBefore == "" {
		_, have, err := r.inventory(ctx, r.standby())
		if err != nil {
			return false, err
		}
		if have[m.Machine].State != site.Running {
			return false, problem.New(problem.MachineNotRunning, "machine %s is %q after its start", m.Machine, have[m.Machine].State)
		}
		return true, nil
	}
	for {
		changed := r.o.live.Changed()
		boot, err := r.lastBoot(context.WithoutCancel(ctx), m.Machine)
		if err != nil {
			return false, err
		}
		if beat, _ := r.o.live.LastHeartbeat(m.Machine); boot != m.BootBefore || beat != "" && beat != m.BootBefore {
			return true, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false, nil
		}
	}
}

// discardMachines stops and forgets the recovered machines; what they wrote is
// gone.
func discardMachines(ctx context.Context, r *run) error {
	err := r.each(ctx, func(ctx context.Context, m store.Member) error {
		return r.standby().DiscardRecovered(ctx, r.origin(string(m.Machine)), control.DiscardRecoveredRequest{Group: r.group.ID, Machine: m.Machine})
	})
	if err != nil {
		return err
	}
	r.then(func(_ *store.Tx, g *store.Group) error {
		g.Recovered = nil
		for i := range g.Members {
			g.Members[i].Started, g.Members[i].Booted = false, false
		}
		return nil
	})
	return nil
}

// checkSource refuses an undo that would leave nothing running: the machines to
// go back to must be there before the recovered ones are discarded.
func checkSource(ctx context.Context, r *run) error {
	_, have, err := r.inventory(ctx, r.source())
	if err != nil {
		return err
	}
	for _, name := range r.group.Machines() {
		if _, ok := have[name]; !ok {
			p := problem.New(problem.UnknownMachine, "machine %s is not at %s any more: there is nothing to go back to", name, r.group.SourceSite())
			p.RecommendedAction = "Commit the failover, or change its recovery point."
			return p
		}
	}
	return nil
}

// resumeSource starts the fenced source again under the newest generation.
func resumeSource(ctx context.Context, r *run) error { return r.replicate(ctx, true, dr.Position{}) }

// restoreSource brings the source back when a failover ended before the
// generation was raised: its machines were shut down for nothing.
func restoreSource(ctx context.Context, r *run) error {
	if !r.began(shutDownTask) || r.shutdown() == "skip" {
		return nil
	}
	// A cancel ended our wait for the shutdown, not the shutdown: it would
	// stop machines that were just started again.
	for _, t := range r.job.Tasks {
		if base(t.Name) != shutDownTask || !begun(t) {
			continue
		}
		part, _ := taskNamed(catalogue(), t.Name)
		if err := r.stopSource(control.WithPatience(ctx, prerequisitePatience), r.membersOf(part.part), t.Attempt); err != nil {
			r.warn("not every source machine was shut down before it is started again: %v", err)
		}
	}
	if err := r.replicate(control.WithPatience(ctx, prerequisitePatience), true, dr.Position{}); err != nil {
		return fmt.Errorf("start the source machines again: %w", err)
	}
	return nil
}
