package gateway

import (
	"errors"
	"os"
	"strings"
	"testing"

	"rebound/internal/control"
	"rebound/internal/site/fake"
)

// TestValidateSite: the whole contract is tried beside the site's machines, what
// fails is named, and nothing is left.
func TestValidateSite(t *testing.T) {
	dir := t.TempDir()
	g := &Gateway{driver: fake.New(fake.Options{Dir: dir})}
	res, err := g.ValidateSite(t.Context(), control.Origin{}, control.ValidateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	passed := 0
	for _, c := range res.Checks {
		if c.Outcome == "failed" {
			t.Errorf("%s: %s", c.Name, c.Text)
		}
		if c.Outcome == "passed" {
			passed++
		}
	}
	if passed < 10 {
		t.Errorf("only %d checks passed: %+v", passed, res.Checks)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}

	g.driver = fake.New(fake.Options{Dir: dir, Fault: func(c fake.Call) error {
		if c.Method == "Scratch" {
			return errors.New("no room for it")
		}
		return nil
	}})
	res, err = g.ValidateSite(t.Context(), control.Origin{}, control.ValidateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range res.Checks {
		if c.Outcome != "failed" || !strings.Contains(c.Text, "no room for it") {
			t.Errorf("%s: %s %q", c.Name, c.Outcome, c.Text)
		}
	}
}
