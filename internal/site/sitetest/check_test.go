package sitetest_test

import (
	"context"
	"strings"
	"testing"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site"
	"rebound/internal/site/fake"
	"rebound/internal/site/sitetest"
)

// lazy is a driver that breaks three promises.
type lazy struct{ *fake.Driver }

func (lazy) SetStandby(context.Context, dr.MachineName, bool) error { return nil }

func (lazy) Update(context.Context, dr.Definition) error { panic("not today") }

func (l lazy) Delete(_ context.Context, name dr.MachineName, _ bool) error {
	return problem.New(problem.MachineInUse, "%s", name)
}

// TestCheckFindsWhatIsBroken: also outside of a test, with a panic among it, and
// the rest is tried all the same.
func TestCheckFindsWhatIsBroken(t *testing.T) {
	seen := 0
	results, err := sitetest.Check(t.Context(), sitetest.Factory{
		Network: "default", View: sitetest.View,
		New: func(x sitetest.T) site.Driver { return lazy{fake.New(fake.Options{Dir: x.TempDir()})} },
	}, func(done, total int, _ sitetest.Result) {
		if seen++; done != seen || total < done {
			t.Errorf("told of %d of %d as number %d", done, total, seen)
		}
	})
	if err != nil || seen != len(results) {
		t.Fatal(seen, len(results), err)
	}
	got := map[string]sitetest.Result{}
	for _, r := range results {
		got[r.Name] = r
	}
	for _, name := range []string{"Standby", "Update", "Delete"} {
		if got[name].Outcome != sitetest.Failed {
			t.Errorf("%s: %+v", name, got[name])
		}
	}
	if !strings.Contains(got["Update"].Text, "not today") {
		t.Errorf("the panic is told as %q", got["Update"].Text)
	}
	for _, name := range []string{"Inventory", "Create", "OpenDisk"} {
		if got[name].Outcome != sitetest.Passed {
			t.Errorf("%s: %+v", name, got[name])
		}
	}
}
