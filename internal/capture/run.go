package capture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"rebound/internal/dr"
	"rebound/internal/problem"
)

// Config of a capture process.
type Config struct {
	// Dir is the runtime directory; it exists, and nobody but this process
	// and its gateway can enter it.
	Dir string
	// AloneTimeout is for how long the process goes on without a control
	// connection before it seals the stream and ends. Default 30 s.
	AloneTimeout time.Duration
	// Clock is the machine's unless a test brings its own.
	Clock Clock
	// Logger takes one line per change of state. Default: discarded.
	Logger *slog.Logger
}

const (
	defaultAloneTimeout = 30 * time.Second
	// farewell bounds how long an ending process delivers what it holds.
	farewell = 2 * time.Second
	lockName = "capture.lock"
)

var (
	errShutdown = errors.New("the gateway asked for the end of capture")
	errAlone    = errors.New("no gateway was connected for too long")
)

// process is the state of Run.
type process struct {
	cfg     Config
	log     *slog.Logger
	server  *server
	started time.Time
	ctx     context.Context
	stop    context.CancelCauseFunc

	configuring sync.Mutex // serialises configure

	mu    sync.Mutex
	group *group
}

// Run is the capture process: it serves until ctx ends, a gateway asks for its
// shutdown, or it has been alone for too long; in each case it seals the stream
// first. It returns nil after an orderly end, and fails at once when another
// process serves the directory.
func Run(ctx context.Context, cfg Config) error {
	if cfg.AloneTimeout <= 0 {
		cfg.AloneTimeout = defaultAloneTimeout
	}
	if cfg.Clock == nil {
		cfg.Clock = NewSystemClock()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	p := &process{cfg: cfg, log: cfg.Logger, started: cfg.Clock.Wall().UTC()}
	p.ctx, p.stop = context.WithCancelCause(ctx)
	p.server = newServer(p)
	return p.run()
}

// lockDir takes the directory for this process.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock runtime directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock runtime directory %s: another capture process serves it: %w", dir, err)
	}
	return f, nil
}

func (p *process) run() error {
	l, err := listenUnix(ControlSocket(p.cfg.Dir))
	if err != nil {
		return err
	}
	serving, stopServing := context.WithCancel(context.WithoutCancel(p.ctx))
	defer stopServing()
	var wg sync.WaitGroup
	wg.Go(func() { p.watchAlone() })
	wg.Go(func() {
		if err := p.server.serve(serving, l); err != nil {
			p.stop(err)
		}
	})
	<-p.ctx.Done()
	cause := context.Cause(p.ctx)
	p.log.Info("capture ends", "cause", cause)
	p.configuring.Lock() // until the end: nothing is configured any more
	p.endGroup("capture ends: " + cause.Error())
	stopServing()
	wg.Wait()
	if errors.Is(cause, errShutdown) || errors.Is(cause, errAlone) || errors.Is(cause, context.Canceled) {
		return nil
	}
	return cause
}

// watchAlone ends the process when no gateway has been connected for too long.
func (p *process) watchAlone() {
	timer := time.NewTimer(p.cfg.AloneTimeout)
	defer timer.Stop()
	for {
		select {
		case n := <-p.server.alone:
			timer.Stop()
			if n == 0 {
				timer.Reset(p.cfg.AloneTimeout)
			}
		case <-timer.C:
			p.stop(errAlone)
		case <-p.ctx.Done():
			return
		}
	}
}

// endGroup seals and ends the group, if there is one.
func (p *process) endGroup(reason string) {
	p.mu.Lock()
	g := p.group
	p.group = nil
	p.mu.Unlock()
	if g == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), farewell)
	defer cancel()
	g.close(ctx, reason)
}

// current returns the configured group.
func (p *process) current() (*group, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.group == nil {
		return nil, problem.New(problem.OperationNotAllowed, "capture is not configured")
	}
	return p.group, nil
}

// configure takes a group on, or new settings of the one that is served.
func (p *process) configure(cfg GroupConfig) error {
	if err := cfg.Validate(); err != nil {
		return problem.New(problem.InvalidRequest, "%v", err)
	}
	p.configuring.Lock()
	defer p.configuring.Unlock()
	if g, err := p.current(); err == nil {
		if g.same(&cfg) {
			return g.reconfigure(cfg)
		}
		if g.q.stateNow() == StateOpen {
			return problem.New(problem.OperationNotAllowed, "an epoch of the group is open")
		}
		p.endGroup("capture is configured anew")
	}
	if p.ctx.Err() != nil {
		return problem.New(problem.OperationNotAllowed, "capture is ending")
	}
	g, err := startGroup(p.ctx, cfg, NBDSocket(p.cfg.Dir), p.cfg.Clock, p.server.emit, p.log)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.group = g
	p.mu.Unlock()
	return nil
}

func (p *process) status() Status {
	s := Status{Version: ProtocolVersion, PID: os.Getpid(), Started: p.started, State: StateIdle}
	if g, err := p.current(); err == nil {
		g.status(&s)
	}
	return s
}

// decode reads a request's parameters.
func decode[T any](req *Request) (v T, err error) {
	if err := json.Unmarshal(req.Params, &v); err != nil {
		return v, problem.New(problem.InvalidRequest, "parameters of %s: %v", req.Method, err)
	}
	return v, nil
}

// handle answers one request.
func (p *process) handle(ctx context.Context, req *Request) (any, error) {
	switch req.Method {
	case methodHello, methodStatus:
		return p.status(), nil
	case methodShutdown:
		return struct{}{}, nil
	case methodConfigure:
		cfg, err := decode[GroupConfig](req)
		if err == nil {
			err = p.configure(cfg)
		}
		return struct{}{}, err
	case methodHeartbeat:
		if g, err := p.current(); err == nil {
			g.q.stateNow() // the sequencer's lock can be had
		}
		return struct{}{}, nil
	}
	g, err := p.current()
	if err != nil {
		return nil, err
	}
	return g.handle(ctx, req)
}

// handle answers one request about the group.
func (g *group) handle(ctx context.Context, req *Request) (any, error) {
	switch req.Method {
	case methodOpen:
		return g.open(ctx)
	case methodProbe:
		return g.q.probe()
	case methodConfirm:
		return withParams(req, g.q.confirm)
	case methodDefinition:
		return withParams(req, g.q.definition)
	case methodSeal:
		return withParams(req, func(s sealParams) (dr.Position, error) {
			g.q.seal(s.Reason)
			return g.q.breakPosition(), nil
		})
	case methodLeaveSpool:
		at, err := g.leaveSpool(ctx)
		return positionResult{at}, err
	case methodGoDirect:
		return struct{}{}, g.goDirect()
	case methodDrain:
		at, err := g.q.drain(ctx)
		return positionResult{at}, err
	case methodMarker:
		m, err := decode[markerParams](req)
		if err != nil {
			return nil, err
		}
		return g.q.marker(m.ID, m.Kind, m.Name)
	case methodThawed:
		return withParams(req, func(t thawedParams) (dr.Position, error) { return g.thawed(t.Point) })
	case methodSync:
		r, err := decode[SyncRequest](req)
		if err == nil {
			err = g.startSync(r)
		}
		return struct{}{}, err
	case methodCancelSync:
		g.cancelSync()
		return struct{}{}, nil
	}
	return nil, problem.New(problem.InvalidRequest, "unknown method %q", req.Method)
}

// withParams answers a method that gives a position.
func withParams[T any](req *Request, f func(T) (dr.Position, error)) (any, error) {
	v, err := decode[T](req)
	if err != nil {
		return nil, err
	}
	at, err := f(v)
	return positionResult{at}, err
}
