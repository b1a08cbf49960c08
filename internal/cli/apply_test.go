package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rebound/internal/dr"
	"rebound/internal/vault/rest"
)

const wholeFile = `
kind: settings
item: web
recovery: {cpus: 2, name: web-dr}
---
kind: group
id: front
machines: [web]
to: cloud
policy: silver
---
kind: mapping
id: lan
from: {site: home, network: lan}
to: {site: cloud, network: lan, testNetwork: bubble}
---
kind: policy
id: silver
rpoThresholdSeconds: 45
failback: {rpoThresholdSeconds: 99}
---
kind: site
id: third
description: a third place
`

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "dr.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// actions runs apply and returns what became of each object.
func actions(t *testing.T, args ...string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, s := range read[[]step](t, append([]string{"apply"}, args...)...) {
		out[s.Kind+" "+s.ID] = s.Action
	}
	return out
}

// TestApply: objects come to be in the order in which they depend on each other,
// whatever their order in the file; again changes nothing; a dry run changes
// nothing either.
func TestApply(t *testing.T) {
	l := newLab(t)
	l.home.AddMachine("web")
	l.until("web is known", func() bool { return run(t, "machine", "show", "web").code == exitOK })
	path := writeFile(t, strings.Replace(wholeFile, "kind: settings\nitem: web\nrecovery: {cpus: 2, name: web-dr}\n---\n", "", 1))

	dry := actions(t, "-f", path, "--dry-run")
	if len(dry) != 4 || dry["policy silver"] != actionCreate {
		t.Errorf("the dry run says %v", dry)
	}
	refused(t, exitNotFound, "UnknownPolicy", "policy", "show", "silver")

	for what, action := range actions(t, "-f", path) {
		if action != actionCreate {
			t.Errorf("%s: %s", what, action)
		}
	}
	p := read[rest.Policy](t, "policy", "show", "silver")
	if p.RPOThreshold != 45 || p.Failback.RPOThreshold != 99 || p.Failback.Retention != 86400 || p.CrashInterval != 300 {
		t.Errorf("the policy is %+v, failback %+v", p, p.Failback)
	}
	if g := read[rest.Group](t, "group", "show", "front"); g.Policy != "silver" || len(g.Members) != 1 {
		t.Errorf("the group is %+v", g)
	}
	whole := writeFile(t, wholeFile) // now that the machine is protected
	if got := actions(t, "-f", whole); got["settings web"] != actionCreate || got["site third"] != actionKeep {
		t.Errorf("with settings: %v", got)
	}
	for what, action := range actions(t, "-f", whole) {
		if action != actionKeep {
			t.Errorf("a second time, %s: %s", what, action)
		}
	}

	changed := strings.Replace(wholeFile, "rpoThresholdSeconds: 45", "rpoThresholdSeconds: 46", 1)
	changed = strings.Replace(changed, "testNetwork: bubble", "oneWay: false, testNetwork: bubble", 1)
	r := refused(t, exitUsage, "InvalidRequest", "apply", "-f", writeFile(t, changed))
	contains(t, r.Error.Detail, `no field "oneWay"`, "dr.yaml:15")
	changed = strings.Replace(changed, "oneWay: false, ", "", 1)
	out := want(t, exitOK, "apply", "-f", writeFile(t, changed)).out
	contains(t, out, "policy silver", "changed", "~ rpoThresholdSeconds", "45 -> 46", "unchanged")
	if strings.Contains(out, "crashInterval") {
		t.Errorf("what does not change is shown:\n%s", out)
	}
	if got := read[rest.Policy](t, "policy", "show", "silver").RPOThreshold; got != 46 {
		t.Errorf("the threshold is %d", got)
	}
}

// TestExportComesBack: what export writes is what apply finds unchanged, and
// what makes the same objects again.
func TestExportComesBack(t *testing.T) {
	l := newLab(t).protected()
	want(t, exitOK, "mapping", "create", "lan", "--from", "home/lan", "--to", "cloud/lan", "--test", "bubble")
	want(t, exitOK, "item", "settings", "web", "--cpus", "2", "--memory", "256")
	text := want(t, exitOK, "export").out
	contains(t, text, "kind: site", "kind: policy", "kind: mapping", "kind: group", "kind: settings")
	path := writeFile(t, text)
	for what, action := range actions(t, "-f", path) {
		if action != actionKeep {
			t.Errorf("%s: %s", what, action)
		}
	}
	want(t, exitOK, "mapping", "delete", "lan", "--yes")
	if got := actions(t, "-f", path); got["mapping lan"] != actionCreate || got["group shop"] != actionKeep {
		t.Errorf("after a deletion: %v", got)
	}
	if m := read[rest.NetworkMapping](t, "mapping", "show", "lan"); m.To.TestNetwork != "bubble" {
		t.Errorf("the mapping is %+v", m)
	}
	only := want(t, exitOK, "export", "mapping/lan").out
	if strings.Count(only, "kind:") != 1 {
		t.Errorf("one mapping is exported as\n%s", only)
	}
	want(t, exitUsage, "export", "mapping/nothing")
	_ = l
}

func TestApplyPrunes(t *testing.T) {
	newLab(t)
	want(t, exitOK, "policy", "create", "gold")
	want(t, exitOK, "mapping", "create", "lan", "--from", "home/lan", "--to", "cloud/lan")
	path := writeFile(t, "kind: policy\nid: silver\n")
	if got := actions(t, "-f", path); len(got) != 1 {
		t.Errorf("without --prune: %v", got)
	}
	refused(t, exitUsage, "NotConfirmed", "apply", "-f", path, "--prune")
	want(t, exitOK, "policy", "show", "gold")
	got := actions(t, "-f", path, "--prune", "--yes")
	if got["policy gold"] != actionDelete || len(got) != 2 {
		t.Errorf("with --prune: %v", got)
	}
	refused(t, exitNotFound, "UnknownPolicy", "policy", "show", "gold")
	want(t, exitOK, "policy", "show", "default")
	want(t, exitOK, "mapping", "show", "lan")
}

func TestBadDocuments(t *testing.T) {
	newLab(t)
	for name, c := range map[string]struct{ text, says string }{
		"no kind":        {"id: x\n", `kind ""`},
		"unknown kind":   {"\nkind: vm\n", `dr.yaml:2: kind "vm"`},
		"no name":        {"kind: policy\nrpoThresholdSeconds: 1\n", `has no "id"`},
		"unknown field":  {"kind: policy\nid: x\nfailback:\n  rpo: 3\n", `dr.yaml:4: a policy has no field "rpo"`},
		"another type":   {"kind: policy\nid: x\nrpoThresholdSeconds: soon\n", `dr.yaml:3: field "rpoThresholdSeconds" is a string`},
		"no YAML":        {"kind: [\n", "line"},
		"a list":         {"- kind: policy\n", "want an object"},
		"twice":          {"kind: site\nid: x\n---\nkind: site\nid: x\n", "dr.yaml:4: site x is described"},
		"nothing at all": {"---\n", "no document"},
	} {
		f := refused(t, exitUsage, "InvalidRequest", "apply", "-f", writeFile(t, c.text))
		if !strings.Contains(f.Error.Detail, c.says) {
			t.Errorf("%s: %q does not say %q", name, f.Error.Detail, c.says)
		}
	}
	// What the vault refuses stops the rest, and what was done is said.
	path := writeFile(t, "kind: site\nid: x\n---\nkind: policy\nid: bad\nappIntervalSeconds: 99999999\n---\nkind: mapping\nid: m\nfrom: {site: home, network: lan}\nto: {site: cloud, network: lan}\n")
	r := want(t, exitUsage, "apply", "-f", path)
	contains(t, r.out, "site x", "created", "policy bad", "not created", "mapping m")
	if list := read[[]rest.NetworkMapping](t, "mapping", "list"); len(list) != 0 {
		t.Errorf("mappings: %+v", list)
	}
}

func TestItemSettingsFlags(t *testing.T) {
	newLab(t).protected()
	got := read[rest.ItemSettings](t, "item", "settings", "web", "--cpus", "2", "--name", "web-dr", "--boot-order", "disk0")
	if s := got.Recovery; s == nil || s.CPUs != 2 || s.Name != "web-dr" || len(s.BootOrder) != 1 || s.BootOrder[0] != dr.DiskID("disk0") || got.Home != nil {
		t.Errorf("settings: %+v", got.Recovery)
	}
	got = read[rest.ItemSettings](t, "item", "settings", "web", "--home", "--memory", "512")
	if got.Recovery.CPUs != 2 || got.Home.MemoryMiB != 512 {
		t.Errorf("settings: %+v, %+v", got.Recovery, got.Home)
	}
	contains(t, want(t, exitOK, "item", "settings", "web").out, "After a failover", "CPUs", "After a failback", "512")
	got = read[rest.ItemSettings](t, "item", "settings", "web", "--clear")
	if got.Recovery != nil || got.Home == nil {
		t.Errorf("cleared: %+v, %+v", got.Recovery, got.Home)
	}
	refused(t, exitUsage, "InvalidRequest", "item", "settings", "web", "--network", "lan")
	refused(t, exitUsage, "InvalidRequest", "item", "settings", "web", "--network", "0=lan") // it has no card
	refused(t, exitRefused, "TargetNotPossible", "item", "settings", "web", "--cpus", "1000")
	refused(t, exitUsage, "NotConfirmed", "mapping", "delete", "x")
}

func TestListFilters(t *testing.T) {
	newLab(t).protected()
	for line, n := range map[string]int{
		"item list --site home": 2, "item list --site cloud": 0, "item list --state protected": 2, "item list --policy gold": 0,
		"item list --health critical": 0, "group list --state Protected": 1, "group list --site cloud": 0,
	} {
		if strings.HasPrefix(line, "item") {
			if got := read[[]rest.Item](t, strings.Fields(line)...); len(got) != n {
				t.Errorf("%s: %d items, want %d", line, len(got), n)
			}
		} else if got := read[[]rest.Group](t, strings.Fields(line)...); len(got) != n {
			t.Errorf("%s: %d groups, want %d", line, len(got), n)
		}
	}
	job := read[[]rest.Job](t, "job", "list")[0]
	out := read[jobExport](t, "job", "export", string(job.ID))
	if out.Job.ID != job.ID || len(out.Job.Tasks) == 0 {
		t.Errorf("exported %+v", out)
	}
	want(t, exitOK, "policy", "create", "gold")
	if g := read[rest.Group](t, "group", "update", "shop", "--policy", "gold"); g.Policy != "gold" {
		t.Errorf("the policy is %s", g.Policy)
	}
	contains(t, want(t, exitOK, "site", "validate", "home").out, "Power", "passed", "Freeze", "skipped")
	if s := read[rest.Site](t, "site", "update", "home", "--description", "rack 7"); s.Description != "rack 7" {
		t.Errorf("the site is %+v", s)
	}
}
