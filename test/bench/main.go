// Command bench measures Rebound beside its peers, all on this machine and in
// one run: the table of goals of docs/performance.md, which also says how each
// axis is measured.
//
// It prints the table and writes report.json and the raw output of the tools.
// It fails when an axis could not be measured or when a view at the standby
// differed from its source, never because a goal was missed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"rebound/test/bench/report"
	"rebound/test/bench/rig"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var err error
	switch {
	case len(os.Args) == 2 && os.Args[1] == rig.StandbyCommand:
		err = rig.Serve(ctx)
	case len(os.Args) == 4 && os.Args[1] == rig.CaptureCommand:
		err = rig.Capture(ctx, os.Args[2], os.Args[3])
	default:
		err = run(ctx, os.Args[1:])
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the command line's.
type options struct {
	form              string
	pairs, seconds    int
	sizeMiB           int64
	extents           int
	axes              string
	out, rebound      string
	document, profile string
}

// form is a set of lengths.
type form struct {
	name           string
	pairs, seconds int
	sizeMiB        int64
	extents        int
}

// forms are the lengths to choose from; the goals are about the full one.
func forms() []form {
	return []form{
		{"full", 5, 10, 1024, 10_000_000},
		{"quick", 2, 3, 256, 200_000},
		{"short", 1, 1, 64, 20_000},
	}
}

func parse(args []string) (o options, err error) {
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	quick := fs.Bool("quick", false, "2 pairs of 3 s on small disks")
	short := fs.Bool("short", false, "1 pair of 1 s: proves that every axis runs and every view is right")
	fs.IntVar(&o.pairs, "pairs", 0, "pairs of runs of each axis")
	fs.IntVar(&o.seconds, "seconds", 0, "length of a run")
	fs.Int64Var(&o.sizeMiB, "size", 0, "size of the disks in MiB")
	fs.IntVar(&o.extents, "extents", 0, "writes in the history of the view axes")
	fs.StringVar(&o.axes, "axes", "", "only these axes, separated by commas")
	fs.StringVar(&o.out, "out", "", "folder of the report (default out/bench, and out/bench-short for the short form)")
	fs.StringVar(&o.rebound, "rebound", "bin/rebound", "the program to be measured")
	fs.StringVar(&o.document, "write-docs", "", "document to write the table into")
	fs.StringVar(&o.profile, "profile", "", "folder for CPU profiles of Rebound's processes, made by this program in the place of the one that ships")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 || (*quick && *short) {
		return o, errors.New("want flags only, and one of -quick and -short")
	}
	f := forms()[0]
	if *quick {
		f = forms()[1]
	}
	if *short {
		f = forms()[2]
	}
	o.form = f.name
	if o.out == "" {
		o.out = "out/bench"
		if *short {
			o.out = "out/bench-short"
		}
	}
	if o.pairs != 0 || o.seconds != 0 || o.sizeMiB != 0 || o.extents != 0 || o.axes != "" {
		o.form = "custom"
	}
	o.pairs, o.seconds, o.extents = or(o.pairs, f.pairs), or(o.seconds, f.seconds), or(o.extents, f.extents)
	o.sizeMiB = or(o.sizeMiB, f.sizeMiB)
	if o.pairs < 1 || o.seconds < 1 || o.extents < 2 || o.sizeMiB < 16 {
		return o, errors.New("want at least 1 pair of 1 s, 16 MiB and 2 extents")
	}
	return o, nil
}

func or[T comparable](v, alternative T) T {
	var zero T
	if v == zero {
		return alternative
	}
	return v
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	// The processes are told of them, and journals take no other paths.
	for _, p := range []*string{&o.out, &o.rebound, &o.profile} {
		if *p == "" {
			continue
		}
		if *p, err = filepath.Abs(*p); err != nil {
			return err
		}
	}
	if o.profile != "" {
		if err := os.MkdirAll(o.profile, 0o755); err != nil {
			return fmt.Errorf("make folder of profiles: %w", err)
		}
	}
	if _, err := os.Stat(o.rebound); err != nil {
		return fmt.Errorf("find the program to be measured: %w", err)
	}
	debug.SetGCPercent(400) // the driver itself is to stay out of the way
	s := &suite{options: o, work: filepath.Join(o.out, "work"), raw: filepath.Join(o.out, "raw")}
	if err := os.RemoveAll(s.raw); err != nil {
		return fmt.Errorf("clear old output: %w", err)
	}
	rep := report.Report{Started: time.Now().UTC(), Form: o.form, Machine: machine()}
	if rep.Axes, err = s.run(ctx); err != nil {
		return err
	}
	rep.Seconds = time.Since(rep.Started).Seconds()
	if err := rep.Save(filepath.Join(o.out, "report.json")); err != nil {
		return err
	}
	if err := rep.Print(os.Stdout); err != nil {
		return err
	}
	if o.document != "" {
		if err := rep.Document(o.document); err != nil {
			return err
		}
	}
	if failed := rep.Failures(); len(failed) > 0 {
		return fmt.Errorf("axes that could not be measured: %s", strings.Join(failed, ", "))
	}
	return ctx.Err()
}

// machine says in a few words what was measured on.
func machine() string {
	model := "unknown processor"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%d cores of %s, %s", runtime.NumCPU(), model, runtime.Version())
}
