package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rebound/internal/vault/rest"
)

// TestPlanFile reads the example of docs/plans.md, and refuses a typing mistake.
func TestPlanFile(t *testing.T) {
	b, err := os.ReadFile("../../docs/plans.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	path := filepath.Join(t.TempDir(), "plan.yaml")
	write := func(s string) {
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(between(text, "```yaml\n", "```"))
	var p rest.Plan
	a := newApp(Streams{})
	if err := a.readStrict(path, &p); err != nil || p.ID != "shop" || len(p.Groups) != 2 || p.Groups[1].Before[1].Approval.Role != "contributor" || p.Groups[1].After[0].HTTP.Retries != 3 {
		t.Errorf("%+v, %v", p, err)
	}
	write("id: shop\ngruops: []\n")
	if err := a.readStrict(path, &p); exitCode(err) != exitUsage {
		t.Errorf("a typing mistake: %v", err)
	}
}

func between(s, from, to string) string {
	_, s, _ = strings.Cut(s, from)
	s, _, _ = strings.Cut(s, to)
	return s
}
