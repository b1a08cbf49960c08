package source

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site"
)

const (
	// pointPatience bounds how long a point waits for the standby.
	pointPatience = 30 * time.Second
	// freezePatience is how long the guests of a group may take to run their
	// hooks, write out what they hold in memory and freeze.
	freezePatience = time.Minute
	// holdPatience is for how long the first frozen guest waits for the
	// others and for the marker: Windows thaws by itself after about 10 s.
	holdPatience = 8 * time.Second
	// thawPatience bounds one attempt to thaw; thawAgain is the time between
	// attempts.
	thawPatience = 5 * time.Second
	thawAgain    = time.Second
)

// CreatePoint places a recovery point and waits until it can be chosen. One
// that was asked to be application-consistent and is not is GuestNotFrozen; what
// was placed of it is an ordinary crash-consistent point without a name.
func (g *Group) CreatePoint(ctx context.Context, r control.CreatePointRequest) (dr.Point, error) {
	run, err := g.runner()
	if err != nil {
		return dr.Point{}, err
	}
	var p dr.Point
	switch r.Kind {
	case dr.CrashConsistent, dr.Bookmark:
		ctx, cancel := context.WithTimeout(ctx, pointPatience)
		defer cancel()
		p, err = g.mark(ctx, run, r.Kind, r.Name)
	case dr.AppConsistent:
		p, err = g.appPoint(ctx, run, r.Name)
	default:
		err = problem.New(problem.InvalidRequest, "this gateway cannot make points of kind %q", r.Kind)
	}
	if err != nil {
		return dr.Point{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, pointPatience)
	defer cancel()
	if _, err := g.settle(ctx, run, p.Position); err != nil {
		return dr.Point{}, err
	}
	return p, nil
}

// mark places a marker in the stream.
func (g *Group) mark(ctx context.Context, run *runner, kind dr.PointKind, name string) (p dr.Point, err error) {
	err = run.do(ctx, func(c context.Context, a *attempt) error {
		if !a.streamed {
			return problem.New(problem.OperationNotAllowed, "group %s is being synchronised", g.cfg.Group)
		}
		p, err = a.cl.Marker(c, newPointID(), kind, name)
		return err
	})
	if err != nil {
		return dr.Point{}, fmt.Errorf("place marker: %w", err)
	}
	return p, nil
}

// appPoint makes an application-consistent point: it hears every member's agent,
// so that no guest waits frozen for one that is silent, freezes all members, places
// a marker, finds every member still frozen, thaws all of them, and labels the
// marker if each was frozen until then. Whatever fails, all members are thawed.
func (g *Group) appPoint(ctx context.Context, run *runner, name string) (dr.Point, error) {
	f, ok := g.cfg.Driver.(site.Freezer)
	if !ok || !g.cfg.Driver.Capabilities().Freezer {
		return dr.Point{}, problem.New(problem.GuestNotFrozen, "this site cannot freeze the file systems of its machines")
	}
	g.freezing.Lock()
	defer g.freezing.Unlock()
	names := members(g.state().Spec)
	if err := hear(ctx, f, names); err != nil {
		return dr.Point{}, err
	}
	if err := g.bookFrozen(names); err != nil {
		return dr.Point{}, err
	}
	p, frozen, err := g.markFrozen(ctx, run, f, names)
	if terr := g.thaw(ctx, f, frozen); err == nil {
		err = terr
	}
	if err != nil {
		return dr.Point{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, pointPatience)
	defer cancel()
	p.Kind, p.Name = dr.AppConsistent, name
	err = run.do(ctx, func(c context.Context, a *attempt) error {
		_, err := a.cl.Thawed(c, p)
		return err
	})
	if err != nil {
		return dr.Point{}, fmt.Errorf("label point: %w", err)
	}
	return p, nil
}

// hear demands that the agent of every member answers, and that none is frozen
// by somebody else, whose work our thaw would spoil.
func hear(ctx context.Context, f site.Freezer, names []dr.MachineName) error {
	ctx, cancel := context.WithTimeout(ctx, freezePatience)
	defer cancel()
	return atOnce(ctx, names, func(ctx context.Context, m dr.MachineName) error {
		frozen, err := f.Frozen(ctx, m)
		if err == nil && frozen {
			err = problem.New(problem.GuestNotFrozen, "the file systems of machine %s are frozen already, by another program", m)
		}
		return err
	})
}

// bookFrozen notes, before the first of them is frozen, which members the next
// process has to thaw if this one dies.
func (g *Group) bookFrozen(names []dr.MachineName) error {
	return g.trySave(func(s *state) error {
		if len(s.Frozen) > 0 {
			return problem.New(problem.GuestNotFrozen, "%v may still be frozen for an earlier point; they are being thawed", s.Frozen)
		}
		s.Frozen = names
		return nil
	})
}

// markFrozen places a marker at which all members are frozen. It returns whom it
// froze, after an error too.
func (g *Group) markFrozen(ctx context.Context, run *runner, f site.Freezer, names []dr.MachineName) (p dr.Point, frozen []dr.MachineName, err error) {
	ctx, cancel := context.WithTimeout(ctx, freezePatience)
	defer cancel()
	var mu sync.Mutex
	err = atOnce(ctx, names, func(ctx context.Context, m dr.MachineName) error {
		if err := f.Freeze(ctx, m, freezePatience+holdPatience); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if frozen = append(frozen, m); len(frozen) == 1 {
			time.AfterFunc(holdPatience, cancel)
		}
		return nil
	})
	if err != nil {
		return p, frozen, err
	}
	if p, err = g.mark(ctx, run, dr.CrashConsistent, ""); err != nil {
		return p, frozen, err
	}
	return p, frozen, atOnce(ctx, names, func(ctx context.Context, m dr.MachineName) error {
		is, err := f.Frozen(ctx, m)
		if err == nil && !is {
			err = thawedEarly(m)
		}
		return err
	})
}

func thawedEarly(m dr.MachineName) error {
	return problem.New(problem.GuestNotFrozen, "machine %s thawed by itself before the point was made", m)
}

// thaw lets all members go on; it fails unless each was frozen until now. Those
// that cannot be thawed now are thawed as soon as they can.
func (g *Group) thaw(ctx context.Context, f site.Freezer, names []dr.MachineName) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), thawPatience)
	defer cancel()
	left := make([]bool, len(names))
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, m := range names {
		wg.Go(func() {
			if sabotageThawLate {
				return
			}
			n, err := f.Thaw(ctx, m)
			left[i] = err != nil && !gone(err)
			if err == nil && n == 0 && !sabotageLabelUnproven {
				err = thawedEarly(m)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	var still []dr.MachineName
	var first error
	for i, m := range names {
		if left[i] {
			still = append(still, m)
		}
		if first == nil {
			first = errs[i]
		}
	}
	if err := g.save(func(s *state) { s.Frozen = still }); err != nil && first == nil {
		first = err
	}
	if len(still) > 0 {
		g.wg.Go(func() { g.thawLeft(f, still) })
	}
	return first
}

// gone reports whether there is no guest any more that could be frozen.
func gone(err error) bool {
	return problem.HasCode(err, problem.MachineNotRunning) || problem.HasCode(err, problem.UnknownMachine)
}

// thawLeft thaws members that somebody, this process or one before it, had to
// leave behind frozen, or so it may be. It goes on until each is thawed, or off,
// or the gateway ends.
func (g *Group) thawLeft(f site.Freezer, names []dr.MachineName) {
	for len(names) > 0 {
		var still []dr.MachineName
		for _, m := range names {
			ctx, cancel := context.WithTimeout(g.points, thawPatience)
			n, err := f.Thaw(ctx, m)
			cancel()
			if err != nil && !gone(err) {
				still = append(still, m)
				continue
			}
			if n > 0 {
				g.cfg.Log.Warn("thawed a guest that was left frozen", "machine", m)
			}
			err = g.save(func(s *state) {
				s.Frozen = slices.DeleteFunc(slices.Clone(s.Frozen), func(x dr.MachineName) bool { return x == m })
			})
			if err != nil {
				g.cfg.Log.Error("note a thawed guest", "machine", m, "error", err)
			}
		}
		if names = still; len(names) == 0 {
			return
		}
		select {
		case <-time.After(thawAgain):
		case <-g.points.Done():
			return
		}
	}
}

// thawFound thaws what the process before left frozen.
func (g *Group) thawFound() {
	left := g.state().Frozen
	f, ok := g.cfg.Driver.(site.Freezer)
	if len(left) > 0 && ok {
		g.wg.Go(func() { g.thawLeft(f, left) })
	}
}

// startAppPoint makes an application-consistent point beside the watch when the
// policy wants one now.
func (a *attempt) startAppPoint(now time.Time) {
	g := a.g
	if a.spec.AppInterval <= 0 || g.quiescing.Load() > 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pointing || now.Sub(g.pointed) < a.spec.AppInterval {
		return
	}
	g.pointing, g.pointed = true, now
	g.wg.Go(func() {
		g.scheduledPoint(a.r)
		g.mu.Lock()
		defer g.mu.Unlock()
		g.pointing = false
	})
}

// scheduledPoint makes the policy's point. One that cannot be application-
// consistent is made crash-consistent, and an event says why.
func (g *Group) scheduledPoint(run *runner) {
	_, err := g.appPoint(g.points, run, "")
	if err == nil || g.points.Err() != nil || g.state().Want != wantRun {
		return
	}
	ctx, cancel := context.WithTimeout(g.points, pointPatience)
	defer cancel()
	if _, merr := g.mark(ctx, run, dr.CrashConsistent, ""); merr != nil {
		g.cfg.Log.Debug("no point", "error", merr)
	}
	g.cfg.Event(control.Event{
		Code: "PointNotAppConsistent", Severity: "warning", Group: g.cfg.Group,
		Text: fmt.Sprintf("the point of group %s is crash-consistent only: %s", g.cfg.Group, text(err)),
	})
}

// atOnce does f for all members at the same time, and ends all with the first
// error.
func atOnce(ctx context.Context, names []dr.MachineName, f func(context.Context, dr.MachineName) error) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, m := range names {
		group.Go(func() error { return f(ctx, m) })
	}
	return group.Wait()
}
