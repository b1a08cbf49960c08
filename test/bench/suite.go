package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"rebound/test/bench/report"
	"rebound/test/bench/rig"
)

// suite runs measurements one after the other.
type suite struct {
	options
	work, raw string
}

// measurement gives one or more axes.
type measurement struct {
	specs []report.Spec
	// why is set where nothing can be measured yet.
	why string
	run func(context.Context, *bench) error
}

// bench is one running measurement.
type bench struct {
	*suite
	*rig.Rig
	specs []report.Spec
	axes  []report.Axis
}

// run runs the chosen measurements. One that fails is an axis of the report,
// and the others go on.
func (s *suite) run(ctx context.Context) ([]report.Axis, error) {
	var chosen []string
	if s.options.axes != "" {
		chosen = strings.Split(s.options.axes, ",")
	}
	all := table()
	if err := known(all, chosen); err != nil {
		return nil, err
	}
	var out []report.Axis
	for _, m := range all {
		if len(chosen) > 0 && !slices.ContainsFunc(m.specs, func(sp report.Spec) bool { return slices.Contains(chosen, sp.Name) }) {
			continue
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		out = append(out, s.measure(ctx, m)...)
	}
	return out, os.RemoveAll(s.work)
}

// known refuses names of axes that there are not.
func known(all []measurement, chosen []string) error {
	for _, name := range chosen {
		if !slices.ContainsFunc(all, func(m measurement) bool {
			return slices.ContainsFunc(m.specs, func(sp report.Spec) bool { return sp.Name == name })
		}) {
			return fmt.Errorf("there is no axis %q", name)
		}
	}
	return nil
}

func (s *suite) measure(ctx context.Context, m measurement) []report.Axis {
	if m.why != "" {
		var out []report.Axis
		for _, sp := range m.specs {
			out = append(out, report.NotMeasured(sp, "not measured: "+m.why))
		}
		return out
	}
	begin := time.Now()
	b := &bench{suite: s, specs: m.specs}
	err := b.inside(ctx, m)
	for _, sp := range m.specs {
		if !slices.ContainsFunc(b.axes, func(a report.Axis) bool { return a.Name == sp.Name }) {
			b.axes = append(b.axes, report.Failed(sp, or(err, errors.New("the measurement gave no result"))))
		}
	}
	fmt.Fprintf(os.Stderr, "bench: %s in %.0f s", m.specs[0].Name, time.Since(begin).Seconds())
	if err != nil {
		fmt.Fprintf(os.Stderr, ": %v", err)
	}
	fmt.Fprintln(os.Stderr)
	return b.axes
}

// inside runs a measurement in directories of its own.
func (b *bench) inside(ctx context.Context, m measurement) (err error) {
	if b.Rig, err = rig.New(b.rebound, b.work, b.raw, m.specs[0].Name); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Rig.Close()) }()
	b.Rig.Profiles = b.profile
	return m.run(ctx, b)
}

// spec returns the definition of an axis of this measurement.
func (b *bench) spec(name string) report.Spec {
	i := slices.IndexFunc(b.specs, func(sp report.Spec) bool { return sp.Name == name })
	return b.specs[i]
}

// add reports an axis; with gives it what else is to be said.
func (b *bench) add(name string, ours, peer []float64, with func(*report.Axis)) error {
	a, err := report.Measured(b.spec(name), ours, peer)
	if err != nil {
		return err
	}
	if with != nil {
		with(&a)
	}
	b.axes = append(b.axes, a)
	return nil
}

func (b *bench) size() int64 { return b.sizeMiB << 20 }

// settle lets the disk finish what earlier runs left to it, so that no run
// pays for another.
func settle() { syscall.Sync() }

// alternate runs pairs: ours first in the even ones, the peer first in the odd
// ones.
func alternate(pairs int, ours, peer func(i int) error) error {
	for i := range pairs {
		order := []func(int) error{ours, peer}
		if i%2 == 1 {
			slices.Reverse(order)
		}
		for _, f := range order {
			settle()
			if err := f(i); err != nil {
				return err
			}
		}
	}
	return nil
}
