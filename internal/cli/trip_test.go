package cli

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"rebound/internal/lifecycle"
	"rebound/internal/vault/rest"
)

// TestRoundTrip goes the whole way with commands alone.
func TestRoundTrip(t *testing.T) {
	l := newLab(t)
	dry := read[rest.DryRun](t, "machine", "protect", "web", "db", "--to", "cloud", "--group", "shop", "--dry-run")
	if dry.Operation != lifecycle.Protect || dry.Target != "shop" || len(dry.Tasks) == 0 {
		t.Errorf("dry run: %+v", dry)
	}
	if g := read[[]rest.Group](t, "group", "list"); len(g) != 0 {
		t.Fatalf("the dry run made %+v", g)
	}
	l.protected()
	items := read[[]rest.Item](t, "item", "list")
	if len(items) != 2 || items[0].Group != "shop" || items[0].ActiveSite != "home" {
		t.Errorf("items: %+v", items)
	}
	want(t, exitOK, "point", "create", "shop", "--name", "before")
	pts := read[rest.Points](t, "point", "list", "shop", "--kind", "bookmark")
	if len(pts.Points) != 1 || pts.Points[0].Name != "before" {
		t.Fatalf("points: %+v", pts)
	}
	want(t, exitOK, "pause", "shop")
	refused(t, exitRefused, "OperationNotAllowed", "pause", "shop")
	want(t, exitOK, "resume", "shop")
	l.state("Protected")
	want(t, exitOK, "verify", "shop")
	want(t, exitOK, "resync", "shop")
	l.state("Protected")
	want(t, exitOK, "test", "shop", "--network", "drill")
	want(t, exitOK, "test-cleanup", "shop", "--notes", "fine")
	l.home2cloud(string(pts.Points[0].ID))
	l.cloud2home()
	want(t, exitOK, "disable", "shop", "--yes")
	refused(t, exitNotFound, "UnknownGroup", "group", "show", "shop")
}

func (l *lab) home2cloud(point string) {
	t := l.t
	dry := read[rest.DryRun](t, "failover", "shop", "--unplanned", "--point", point, "--dry-run")
	if dry.Recovered == nil || dry.Recovered.Point == nil || string(dry.Recovered.Point.ID) != point {
		t.Errorf("dry run of a failover: %+v", dry)
	}
	l.state("Protected")
	want(t, exitOK, "failover", "shop", "--unplanned", "--point", point, "--yes")
	l.state("CommitPending")
	want(t, exitOK, "change-point", "shop", "--point", "latest", "--yes")
	want(t, exitOK, "undo", "shop", "--yes")
	l.state("Protected")
	want(t, exitOK, "failover", "shop", "--planned", "--yes")
	contains(t, want(t, exitOK, "commit", "shop", "--dry-run").out, "a commit is final")
	want(t, exitOK, "commit", "shop", "--yes")
	want(t, exitOK, "reprotect", "shop")
	l.state("Protected")
}

// cloud2home also is the commit that deletes machines: it lists them by name
// and goes on only when the group's name is typed.
func (l *lab) cloud2home() {
	t := l.t
	want(t, exitOK, "failback", "shop", "--yes")
	r := answer(t, "yes\n", "commit", "shop")
	if r.code != exitUsage {
		t.Errorf("a wrong answer: exit %d", r.code)
	}
	dry := read[rest.DryRun](t, "commit", "shop", "--dry-run")
	if len(dry.Deletes) == 0 {
		t.Fatal("the commit of a failback deletes nothing")
	}
	contains(t, r.err, dry.Deletes...)
	contains(t, r.err, `Type the name "shop" to commit`, "Warning", "NotConfirmed")
	l.state("CommitPending")
	if r := answer(t, "shop\n", "commit", "shop"); r.code != exitOK {
		t.Fatalf("the right answer: exit %d, %s", r.code, r.err)
	}
	want(t, exitOK, "reprotect", "shop")
	l.state("Protected")
}

// TestNothingIsLostUnasked: what loses or deletes something is refused without
// --yes when nobody can be asked, and changes nothing.
func TestNothingIsLostUnasked(t *testing.T) {
	l := newLab(t).protected()
	effects := len(l.world.Effects())
	for _, line := range []string{
		"failover shop --unplanned", "failover shop --planned", "failback shop", "change-point shop --point latest", "commit shop", "undo shop",
		"disable shop", "disable shop --force", "site delete home", "gateway revoke gw-home", "policy delete default", "token delete x",
	} {
		refused(t, exitUsage, "NotConfirmed", strings.Fields(line)...)
	}
	if n := len(l.world.Effects()); n != effects {
		t.Errorf("refusals had %d effects", n-effects)
	}
	l.state("Protected")
	if g := read[rest.Gateway](t, "gateway", "show", "gw-home"); g.State != "enrolled" {
		t.Errorf("gateway: %+v", g)
	}
	if r := answer(t, "", "disable", "shop"); r.code != exitUsage {
		t.Errorf("no answer: exit %d", r.code)
	}
	if r := answer(t, "gw-home\n", "gateway", "revoke", "gw-home"); r.code != exitOK {
		t.Errorf("confirmed: exit %d, %s", r.code, r.err)
	}
	if g := read[rest.Gateway](t, "gateway", "show", "gw-home"); g.State != "revoked" {
		t.Errorf("gateway: %+v", g)
	}
}

// TestNames: a name means a group, then an item; a prefix decides.
func TestNames(t *testing.T) {
	l := newLab(t).protected()
	refused(t, exitRefused, "GroupMemberAlone", "failover", "web", "--unplanned", "--yes")
	refused(t, exitRefused, "GroupMemberAlone", "failover", "item/web", "--unplanned", "--yes")
	refused(t, exitNotFound, "UnknownItem", "failover", "nobody", "--unplanned", "--yes")
	refused(t, exitNotFound, "UnknownGroup", "failover", "group/web", "--unplanned", "--yes")
	want(t, exitOK, "point", "list", "web")
	l.home.AddMachine("lone")
	l.until("the new machine", func() bool { return run(t, "machine", "show", "lone").code == exitOK })
	want(t, exitOK, "machine", "protect", "lone", "--to", "cloud")
	l.until("its protection", func() bool { return read[rest.Item](t, "item", "show", "lone").State == lifecycle.Protected })
	job := read[rest.Job](t, "pause", "lone")
	if job.Group != "lone" || job.State != rest.JobSucceeded {
		t.Errorf("job: %+v", job)
	}
}

func TestUnknownThings(t *testing.T) {
	newLab(t)
	for line, code := range map[string]string{
		"item show x": "UnknownItem", "group show x": "UnknownGroup", "machine show x": "UnknownMachine", "machine show web --site x": "UnknownMachine",
		"site show x": "UnknownSite", "site delete x --yes": "UnknownSite", "gateway show x": "UnknownGateway", "gateway enroll x --site x": "UnknownSite",
		"mapping show x": "UnknownMapping", "mapping delete x --yes": "UnknownMapping", "item settings x": "UnknownItem", "job export x": "UnknownJob",
		"group update x --policy default": "UnknownGroup", "site update x --description y": "UnknownSite",
		"policy show x": "UnknownPolicy", "policy update x": "UnknownPolicy", "policy delete x --yes": "UnknownPolicy",
		"job show x": "UnknownJob", "job cancel x": "UnknownJob", "point list x": "UnknownItem", "group watch x": "UnknownGroup",
		"machine import --site x --qmp /s": "UnknownSite", "machine protect x --to cloud": "UnknownMachine",
	} {
		f := refused(t, exitNotFound, code, strings.Fields(line)...)
		if f.Error.RecommendedAction == "" {
			t.Errorf("%s: no action is recommended", line)
		}
	}
	r := want(t, exitNotFound, "machine", "protect", "x", "--to", "cloud")
	contains(t, r.err, "UnknownMachine", "possible cause: The name is mistyped", "Try: ")
}

func TestPolicies(t *testing.T) {
	newLab(t)
	def := read[rest.Policy](t, "policy", "show", "default")
	gold := read[rest.Policy](t, "policy", "create", "gold", "--redo-window", "72h", "--require-agent", "--compression", "s2")
	wanted := def
	wanted.ID, wanted.RedoWindow, wanted.Retention, wanted.RequireAgent, wanted.Compression = "gold", 72*3600, 72*3600, true, "s2"
	back := rest.NewFailbackPolicy(def)
	wanted.Failback = &back
	if !reflect.DeepEqual(gold, wanted) {
		t.Errorf("created %+v, want %+v", gold, wanted)
	}
	refused(t, exitRefused, "NameTaken", "policy", "create", "gold")
	wanted.RequireAgent, wanted.CrashInterval = false, 60
	if got := read[rest.Policy](t, "policy", "update", "gold", "--require-agent=false", "--crash-interval", "1m"); !reflect.DeepEqual(got, wanted) {
		t.Errorf("updated %+v, want %+v", got, wanted)
	}
	got := read[rest.Policy](t, "policy", "update", "gold", "--failback-rpo-threshold", "10m", "--app-interval", "1h", "--unmapped-networks", "isolate")
	if got.Failback.RPOThreshold != 600 || got.RPOThreshold != def.RPOThreshold || got.AppInterval != 3600 || got.UnmappedNetworks != "isolate" {
		t.Errorf("updated %+v, failback %+v", got, got.Failback)
	}
	refused(t, exitUsage, "InvalidRequest", "policy", "update", "gold", "--app-interval", "72h")
	refused(t, exitUsage, "InvalidRequest", "policy", "update", "gold", "--crash-interval", "1500ms")
	refused(t, exitUsage, "InvalidRequest", "policy", "update", "gold", "--compression", "rar")
	want(t, exitOK, "policy", "delete", "gold", "--yes")
	if list := read[[]rest.Policy](t, "policy", "list"); len(list) != 1 {
		t.Errorf("policies: %+v", list)
	}
}

// TestFormats: table, JSON and YAML of every list and show say the same names.
func TestFormats(t *testing.T) {
	newLab(t).protected()
	want(t, exitOK, "pause", "shop")
	jobs := read[[]rest.Job](t, "job", "list", "--group", "shop")
	if len(jobs) != 2 || jobs[0].Operation != lifecycle.Pause || jobs[1].Operation != lifecycle.Protect {
		t.Fatalf("jobs: %+v", jobs)
	}
	for line, parts := range map[string][]string{
		"status": {"Gateways", "2 of 2 connected", "Items Paused"}, "site list": {"home", "cloud"}, "site show home": {"gw-home", "the home"},
		"gateway list": {"gw-home", "gw-cloud"}, "gateway show gw-cloud": {"enrolled"}, "machine list": {"web", "standby"},
		"machine show web": {"web at home", "web at cloud", "disk0"}, "item list": {"web", "shop", "Paused"}, "item show db": {"Can", "resume", "Cannot", "pause: "},
		"group list": {"shop", "Paused"}, "group show shop": {"web/disk0", "db/disk0"}, "point list shop": {"TIME", "crash"},
		"job list": {"pause", "protect", "succeeded"}, "job show " + string(jobs[0].ID): {"Suspend replication", "succeeded"},
		"policy list": {"default"}, "token list": {"first", "owner"}, "event list": {"SEVERITY"}, "audit list": {"create-site", "site/home"},
	} {
		args := strings.Fields(line)
		contains(t, want(t, exitOK, args...).out, parts...)
		j := want(t, exitOK, append(args, "-o", "json")...).out
		y := want(t, exitOK, append(args, "-o", "yaml")...).out
		for _, k := range keys(t, j) {
			contains(t, y, k+":")
		}
	}
}

// keys returns the names of the first object in a JSON text.
func keys(t *testing.T, text string) []string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	if list, ok := v.([]any); ok {
		if len(list) == 0 {
			return nil
		}
		v = list[0]
	}
	obj, ok := v.(map[string]any)
	if !ok {
		t.Fatalf("neither an object nor a list of objects: %s", text)
	}
	var names []string
	for k := range obj {
		names = append(names, k)
	}
	slices.Sort(names)
	return names
}

func TestCompletionKnowsNames(t *testing.T) {
	newLab(t).protected()
	contains(t, want(t, exitOK, "completion", "bash").out, "rebound")
	contains(t, want(t, exitOK, "__complete", "failover", "").out, "shop", "web", "db")
	contains(t, want(t, exitOK, "__complete", "site", "show", "").out, "home", "cloud")
	t.Setenv(envVault, "127.0.0.1:1")
	if out := want(t, exitOK, "__complete", "failover", "").out; strings.Contains(out, "shop") {
		t.Errorf("names from nowhere: %s", out)
	}
}
