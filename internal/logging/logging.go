// Package logging makes the logger of every process: one place for format, level,
// what must never be written, and the memory of recent lines that a support bundle
// takes along.
package logging

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
)

// Options of a logger.
type Options struct {
	// W takes the lines.
	W io.Writer
	// Format is "text" (also when empty) or "json"; Level debug, info (also
	// when empty), warn or error.
	Format, Level string
}

// New returns a logger, and the memory of its recent lines. Attributes whose name
// says that they are secret are replaced in both.
func New(o Options) (*slog.Logger, *Recent, error) {
	var level slog.Level
	if o.Level != "" {
		if err := level.UnmarshalText([]byte(o.Level)); err != nil {
			return nil, nil, fmt.Errorf("level %q: want debug, info, warn or error", o.Level)
		}
	}
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: redact}
	recent := &Recent{}
	var out slog.Handler
	switch o.Format {
	case "", "text":
		out = slog.NewTextHandler(o.W, opts)
	case "json":
		out = slog.NewJSONHandler(o.W, opts)
	default:
		return nil, nil, fmt.Errorf("format %q: want text or json", o.Format)
	}
	return slog.New(slog.NewMultiHandler(out, slog.NewJSONHandler(recent, opts))), recent, nil
}

// Redacted stands in the place of a secret.
const Redacted = "[redacted]"

// Secret reports whether a field of this name holds something that must not be
// shown.
func Secret(name string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc([]string{"secret", "passphrase", "password", "authorization", "cookie", "privatekey", "private_key"}, func(s string) bool {
		return strings.Contains(name, s)
	}) || name == "token" || name == "key"
}

func redact(_ []string, a slog.Attr) slog.Attr {
	if Secret(a.Key) {
		a.Value = slog.StringValue(Redacted)
	}
	return a
}

// recentBytes bounds what Recent keeps.
const recentBytes = 2 << 20

// Recent keeps the newest lines of a log, as JSON. Safe for use by several
// goroutines; nil keeps nothing.
type Recent struct {
	mu    sync.Mutex
	lines [][]byte
	size  int
}

// Write implements io.Writer: one call is one line.
func (r *Recent) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, bytes.Clone(p))
	r.size += len(p)
	drop := 0
	for r.size > recentBytes && drop < len(r.lines)-1 {
		r.size -= len(r.lines[drop])
		drop++
	}
	if drop > 0 {
		r.lines = slices.Delete(r.lines, 0, drop)
	}
	return len(p), nil
}

// Bytes returns the lines, oldest first.
func (r *Recent) Bytes() []byte {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return bytes.Join(r.lines, nil)
}
