package capture

import (
	"context"
	"log/slog"
	"time"
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

// Run is the capture process: it serves until ctx ends, a gateway asks for its
// shutdown, or it has been alone for too long; in each case it seals the stream
// first. It returns nil after an orderly end.
func Run(ctx context.Context, cfg Config) error { return errNotOpen }
