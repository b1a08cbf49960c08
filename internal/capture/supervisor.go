package capture

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// SupervisorConfig says how a capture process is started and watched.
type SupervisorConfig struct {
	// Dir is the group's runtime directory; it is made when missing.
	Dir string
	// Argv starts the process; it must end in Run with the same Dir.
	// Default: this program with "capture --dir DIR".
	Argv []string
	// Env is added to this process's environment.
	Env []string
	// Output takes the process's standard output and error. It must outlive
	// this process: a file or the journal, not a pipe. Default: /dev/null.
	Output *os.File
	// Interval is the time between heartbeats, default 100 ms; Silence the
	// time without an answer after which the process is killed, default
	// 500 ms: a hung capture stalls guests.
	Interval, Silence time.Duration
	// StartTimeout bounds the start until the control socket answers.
	// Default 5 s.
	StartTimeout time.Duration
	Logger       *slog.Logger
}

func (c SupervisorConfig) withDefaults() (SupervisorConfig, error) {
	if len(c.Argv) == 0 {
		self, err := os.Executable()
		if err != nil {
			return c, fmt.Errorf("find this program: %w", err)
		}
		c.Argv = []string{self, "capture", "--dir", c.Dir}
	}
	if c.Interval <= 0 {
		c.Interval = 100 * time.Millisecond
	}
	if c.Silence <= c.Interval {
		c.Silence = 5 * c.Interval
	}
	if c.StartTimeout <= 0 {
		c.StartTimeout = 5 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// Errors of a supervised process.
var (
	// ErrSilent means that the process was killed because it did not answer.
	ErrSilent = errors.New("capture: no sign of life; killed")
	// ErrKilled means that Kill ended the process.
	ErrKilled = errors.New("capture: killed")
)

// Process is a capture process under supervision.
type Process struct {
	cfg     SupervisorConfig
	handle  *handle
	adopted bool
	client  *Client // for the caller
	pulse   *Client // for heartbeats alone: large requests do not hold them up
	stop    context.CancelFunc
	watched chan struct{} // closed when the watch has ended
	done    chan struct{}

	mu  sync.Mutex
	err error // why we ended it
}

// Start adopts the capture process that serves the runtime directory, or
// starts one when there is none. One that hangs or speaks another version is
// killed and replaced. ctx bounds the start only. The process does not die with
// its gateway: another gateway adopts it.
func Start(ctx context.Context, cfg SupervisorConfig) (*Process, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make runtime directory: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.StartTimeout)
	defer cancel()
	p, err := adopt(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if p != nil {
		return p, nil
	}
	return launch(ctx, cfg)
}

// adopt takes over the process behind the control socket; nil if there is none.
func adopt(ctx context.Context, cfg SupervisorConfig) (*Process, error) {
	h, err := peerOf(ctx, ControlSocket(cfg.Dir))
	if err != nil {
		return nil, nil //nolint:nilerr // nobody listens
	}
	answer, cancel := context.WithTimeout(ctx, cfg.Silence)
	defer cancel()
	p, err := attach(answer, cfg, h, true)
	if err == nil {
		return p, nil
	}
	if errors.Is(ctx.Err(), context.Canceled) { // it is us who were told to stop
		return nil, fmt.Errorf("adopt capture process %d: %w", h.pid, ctx.Err())
	}
	cfg.Logger.Warn("capture found but not usable; it is replaced", "pid", h.pid, "error", err)
	h.kill()
	select {
	case <-h.done:
		return nil, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("replace capture process %d: %w", h.pid, ctx.Err())
	}
}

// launch starts a new process and waits until it answers.
func launch(ctx context.Context, cfg SupervisorConfig) (*Process, error) {
	cmd := exec.Command(cfg.Argv[0], cfg.Argv[1:]...) //nolint:gosec // the caller says what to run
	cmd.Env = append(os.Environ(), cfg.Env...)
	if cfg.Output != nil {
		cmd.Stdout, cmd.Stderr = cfg.Output, cfg.Output
	}
	// A session of its own: signals to the gateway's do not reach it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start capture: %w", err)
	}
	h, err := childHandle(cmd)
	if err != nil {
		return nil, err
	}
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		p, err := attach(ctx, cfg, h, false)
		if err == nil {
			return p, nil
		}
		select {
		case <-poll.C:
		case <-h.done:
			return nil, fmt.Errorf("start capture: it ended at once: %w", h.exitErr())
		case <-ctx.Done():
			h.kill()
			<-h.done
			return nil, fmt.Errorf("start capture: no answer: %w: %w", err, ctx.Err())
		}
	}
}

// attach connects to a process and begins to watch it.
func attach(ctx context.Context, cfg SupervisorConfig, h *handle, adopted bool) (*Process, error) {
	client, err := Dial(ctx, ControlSocket(cfg.Dir))
	if err != nil {
		return nil, err
	}
	pulse, err := Dial(ctx, ControlSocket(cfg.Dir))
	if err != nil {
		_ = client.Close()
		return nil, err
	}
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	p := &Process{
		cfg: cfg, handle: h, adopted: adopted, client: client, pulse: pulse, stop: stop,
		watched: make(chan struct{}), done: make(chan struct{}),
	}
	go p.watch(watching)
	go func() {
		<-h.done
		stop()
		<-p.watched
		close(p.done)
	}()
	cfg.Logger.Info("capture process", "pid", h.pid, "adopted", adopted, "dir", cfg.Dir)
	return p, nil
}

// watch asks for signs of life and kills the process when there is none.
func (p *Process) watch(ctx context.Context) {
	defer close(p.watched)
	defer func() { _ = p.pulse.Close() }()
	timeout := p.cfg.Silence - p.cfg.Interval
	tick := time.NewTicker(p.cfg.Interval)
	defer tick.Stop()
	for {
		start := time.Now()
		err := p.beat(ctx, timeout)
		if ctx.Err() != nil {
			return
		}
		// If it was this process that did not run, ask again.
		if err != nil && !errors.Is(err, ErrGone) && time.Since(start) > timeout+p.cfg.Interval {
			err = p.beat(ctx, timeout)
		}
		if errors.Is(err, ErrGone) {
			select { // it is ending, orderly or not
			case <-p.handle.done:
				return
			case <-time.After(farewell + p.cfg.Silence):
			case <-ctx.Done():
				return
			}
		}
		if err != nil && ctx.Err() == nil {
			p.cfg.Logger.Error("capture is silent; killing it", "pid", p.handle.pid, "error", err)
			p.end(ErrSilent)
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (p *Process) beat(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return p.pulse.Heartbeat(ctx)
}

// end kills the process for a reason.
func (p *Process) end(why error) {
	p.mu.Lock()
	if p.err == nil {
		p.err = why
	}
	p.mu.Unlock()
	p.handle.kill()
}

// Client returns the control connection.
func (p *Process) Client() *Client { return p.client }

// Adopted reports whether the process was running already.
func (p *Process) Adopted() bool { return p.adopted }

// PID returns the process's id.
func (p *Process) PID() int { return p.handle.pid }

// Done is closed once the process has ended, or was killed for its silence.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err returns why the process ended, after Done: nil after an orderly end of a
// process that this one started, or of any that was adopted.
func (p *Process) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return p.err
	}
	return p.handle.exitErr()
}

// Kill ends the process at once, with SIGKILL, and waits for its end.
func (p *Process) Kill() {
	p.end(ErrKilled)
	<-p.done
	_ = p.client.Close()
}

// Release stops supervising and leaves the process to the next gateway.
func (p *Process) Release() {
	p.stop()
	<-p.watched
	_ = p.client.Close()
}
