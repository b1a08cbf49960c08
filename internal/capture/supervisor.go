package capture

import (
	"context"
	"log/slog"
	"time"
)

// SupervisorConfig says how a capture process is started and watched.
type SupervisorConfig struct {
	// Dir is the group's runtime directory; it is made when missing.
	Dir string
	// Argv starts the process; it must end in Run with the same Dir.
	// Default: this program with "capture --dir DIR".
	Argv []string
	// Interval is the time between heartbeats, default 100 ms; Silence the
	// time without an answer after which the process is killed, default
	// 500 ms: a hung capture stalls guests.
	Interval, Silence time.Duration
	// StartTimeout bounds the start until the control socket answers.
	// Default 5 s.
	StartTimeout time.Duration
	Logger       *slog.Logger
}

// Process is a capture process under supervision.
type Process struct{}

// Start adopts the capture process that serves the runtime directory, or
// starts one when there is none. ctx bounds the start only. The process is not
// a child that dies with its gateway: another gateway adopts it.
func Start(ctx context.Context, cfg SupervisorConfig) (*Process, error) { return nil, errNotOpen }

// Client returns the control connection.
func (p *Process) Client() *Client { return nil }

// Adopted reports whether the process was running already.
func (p *Process) Adopted() bool { return false }

// PID returns the process's id.
func (p *Process) PID() int { return 0 }

// Done is closed once the process has ended, or was killed for its silence.
func (p *Process) Done() <-chan struct{} { return nil }

// Err returns why the process ended, after Done: nil after an orderly shutdown.
func (p *Process) Err() error { return nil }

// Kill ends the process at once, with SIGKILL, and waits for its end.
func (p *Process) Kill() {}

// Release stops supervising and leaves the process to the next gateway.
func (p *Process) Release() {}
