package source

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"

	"rebound/internal/control"
	"rebound/internal/link"
	"rebound/internal/problem"
)

// ending says what becomes of the capture process when a runner stops.
type ending int

const (
	// leaveCapture: the gateway ends, its successor adopts the process.
	leaveCapture ending = iota
	// endCapture: detach the members and end the process.
	endCapture
)

// The causes of a runner's context once it was told to stop; any other cause
// is the end of the gateway.
var (
	errStopped = errors.New("replication was stopped")
	errLeft    = errors.New("the gateway ends")
)

// runner makes attempts until it is stopped.
type runner struct {
	g      *Group
	cancel context.CancelCauseFunc
	done   chan struct{}
	// settled is closed when the first attempt has attached all members and
	// begun the synchronisation, or failed with first.
	settled chan struct{}
	first   error
	once    sync.Once
	// calls are commands for the attempt that is watching now.
	calls chan call
	// renewed: the capture is to be told of the present identity.
	renewed atomic.Bool
	// told is the refusal that was reported last.
	told string
}

// call runs on the attempt's goroutine, so that commands and the watch never
// work on the stream at the same time.
type call struct {
	do   func(context.Context, *attempt) error
	done chan error
}

func newRunner(g *Group) *runner {
	return &runner{g: g, settled: make(chan struct{}), done: make(chan struct{}), calls: make(chan call)}
}

func (r *runner) start(ctx context.Context) {
	ctx, r.cancel = context.WithCancelCause(ctx)
	go r.loop(ctx)
}

// stop ends the loop and waits for it. It may be called more than once; the
// first call says what becomes of the capture process.
func (r *runner) stop(how ending) {
	if how == endCapture {
		r.cancel(errStopped)
	} else {
		r.cancel(errLeft)
	}
	<-r.done
}

// settle tells Start how the first attempt went, once.
func (r *runner) settle(err error) {
	r.once.Do(func() {
		r.first = err
		close(r.settled)
	})
}

// do runs f within the present attempt, as soon as it watches.
func (r *runner) do(ctx context.Context, f func(context.Context, *attempt) error) error {
	c := call{do: f, done: make(chan error, 1)}
	select {
	case r.calls <- c:
	case <-r.done:
		return problem.New(problem.OperationNotAllowed, "replication of group %s has stopped", r.g.cfg.Group)
	case <-ctx.Done():
		return problem.Wrap(ctx.Err(), problem.OperationNotAllowed, "group %s is not streaming: %s", r.g.cfg.Group, r.g.Report().Problem)
	}
	select {
	case err := <-c.done:
		return err
	case <-r.done:
		return problem.New(problem.OperationNotAllowed, "replication of group %s has stopped", r.g.cfg.Group)
	}
}

// loop makes attempts, with growing pauses while they fail early. The members'
// bitmaps remember what is written meanwhile.
func (r *runner) loop(ctx context.Context) {
	defer close(r.done)
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = 200*time.Millisecond, 5*time.Second
	for {
		a := &attempt{g: r.g, r: r}
		err := a.run(ctx)
		if ctx.Err() != nil {
			how := leaveCapture
			if errors.Is(context.Cause(ctx), errStopped) {
				how = endCapture
			}
			a.finish(how)
			r.settle(context.Cause(ctx))
			return
		}
		// Told first: a hypervisor may take its time to let go.
		r.broke(err)
		if a.captureDied() {
			r.g.show(func(p *progress) { p.restarts.add(time.Now()) })
		}
		a.finish(endCapture)
		r.settle(err)
		if a.streamed {
			wait.Reset()
		}
		select {
		case <-ctx.Done():
			r.settle(context.Cause(ctx))
			return
		case <-time.After(wait.NextBackOff()):
		}
	}
}

// broke tells of an attempt that ended by itself.
func (r *runner) broke(err error) {
	r.g.cfg.Log.Warn("replication broke", "error", err)
	r.g.show(func(p *progress) {
		p.phase, p.problem = control.PhaseTracking, text(err)
		p.breaks.add(time.Now())
	})
	if !fencedElsewhere(err) || r.told == text(err) {
		return
	}
	r.told = text(err)
	r.g.cfg.Event(control.Event{
		Code: "StaleSource", Severity: "critical", Group: r.g.cfg.Group,
		Text: "the standby refuses this source: " + text(err),
	})
}

// fencedElsewhere reports whether the standby knows a newer generation. The
// source goes on asking, without touching a member: what becomes of its
// machines is the vault's to say (a failover that failed is taken back).
func fencedElsewhere(err error) bool {
	return problem.HasCode(err, problem.StaleGeneration) && link.Permanent(err)
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
