package rig

import (
	"context"
	"fmt"
	"os"
	"runtime/pprof"

	"rebound/internal/capture"
)

// CaptureCommand is the argument with which this program is a capture process
// that writes a CPU profile; the directory and the profile follow. It is used
// only when profiles are asked for: what ships has no profiler.
const CaptureCommand = "capture"

// Capture is that process.
func Capture(ctx context.Context, dir, profile string) error {
	return profiled(profile, func() error {
		return capture.Run(ctx, capture.Config{Dir: dir})
	})
}

// profiled runs f and writes its CPU profile to a file, if one is named.
func profiled(path string, f func() error) error {
	if path == "" {
		return f()
	}
	out, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	defer out.Close()
	if err := pprof.StartCPUProfile(out); err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	defer pprof.StopCPUProfile()
	return f()
}
