package vault_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rebound/internal/control"
	"rebound/internal/control/controltest"
	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/site"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// open returns the open condition of a code, if any.
func (l *lab) open(code string) (rest.Condition, bool) {
	l.t.Helper()
	list, err := l.c.Conditions(l.t.Context(), client.ConditionFilter{Code: code})
	if err != nil {
		l.t.Fatal(err)
	}
	if len(list) == 0 {
		return rest.Condition{}, false
	}
	return list[0], true
}

// appears waits for a condition, and demands that the event of its beginning is
// there.
func (l *lab) appears(code string) (c rest.Condition) {
	l.t.Helper()
	l.until(code+" appears", func() (ok bool) { c, ok = l.open(code); return ok })
	l.until("event of "+code, func() bool {
		return l.hasEvent(func(e rest.Event) bool { return e.Code == code && e.Condition == c.ID && !e.Ended })
	})
	return c
}

// clears waits until a condition is gone, and demands its event and its place in the
// history.
func (l *lab) clears(c rest.Condition) {
	l.t.Helper()
	l.until(c.Code+" clears", func() bool { _, ok := l.open(c.Code); return !ok })
	l.until("event of the end of "+c.Code, func() bool {
		return l.hasEvent(func(e rest.Event) bool { return e.Code == c.Code+"Cleared" && e.Condition == c.ID && e.Ended })
	})
	list, err := l.c.ConditionHistory(l.t.Context(), client.ConditionFilter{Code: c.Code}, 0, 0)
	if err != nil {
		l.t.Fatal(err)
	}
	i := slices.IndexFunc(list, func(h rest.Condition) bool { return h.ID == c.ID })
	if i < 0 || list[i].Cleared.IsZero() || list[i].Since.After(list[i].Cleared) {
		l.t.Errorf("%s in the history: %+v", c.Code, list)
	}
}

func (l *lab) hasEvent(f func(rest.Event) bool) bool {
	l.t.Helper()
	for after := int64(0); ; {
		page, err := l.c.Events(l.t.Context(), after, 1000)
		if err != nil {
			l.t.Fatal(err)
		}
		if slices.ContainsFunc(page, f) {
			return true
		}
		if len(page) < 1000 {
			return false
		}
		after = page[len(page)-1].Seq
	}
}

// goodHost is what the gateways of these tests report of their hosts.
func goodHost() control.HostReport {
	return control.HostReport{CPUs: 2, MemoryTotal: 100, MemoryAvailable: 90, Volumes: []control.Volume{{Path: "/j", Uses: []string{"journal"}, FreeBytes: 90, TotalBytes: 100}}}
}

// TestConditionsComeAndGo brings conditions about at gateways that live in memory,
// sees them over the API of a real vault, and takes their causes away.
func TestConditionsComeAndGo(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	full := goodHost()
	full.Volumes[0].FreeBytes = 5
	report := func(g *controltest.Gateway, f func(*control.GroupReport)) {
		g.SetReport(func(r *control.Report) {
			for i := range r.Groups {
				f(&r.Groups[i])
			}
		})
	}
	for _, tc := range []struct {
		code     string
		severity rest.Severity
		object   rest.ObjectKind
		group    string // the group's health meanwhile
		bad, fix func()
	}{
		{"ClockSkew", "warning", "gateway", "warning", func() { l.cloud.SetClock(-2 * time.Minute) }, func() { l.cloud.SetClock(0) }},
		{"VolumeFilling", "critical", "gateway", "critical", func() { l.cloud.SetReport(func(r *control.Report) { r.Host = full }) }, func() { l.cloud.SetReport(func(r *control.Report) { r.Host = goodHost() }) }},
		{"JournalAtReserve", "critical", "group", "critical", func() { report(l.cloud, func(g *control.GroupReport) { g.NoRoom = true }) }, func() { l.cloud.SetReport(nil) }},
		{"UnprotectedDisk", "warning", "disk", "warning", func() {
			report(l.home, func(g *control.GroupReport) {
				g.Unprotected = []control.UnprotectedDisk{{Machine: "vm2", Disk: "vdz", SizeBytes: 1 << 30}}
			})
		}, func() { l.home.SetReport(nil) }},
		{"CaptureUnstable", "warning", "group", "warning", func() { report(l.home, func(g *control.GroupReport) { g.CaptureRestarts = 3 }) }, func() { l.home.SetReport(nil) }},
		{"DiscardsDropped", "info", "group", "ok", func() {
			report(l.home, func(g *control.GroupReport) { g.Counters.DroppedDiscards = 7 })
		}, func() { l.home.SetReport(nil) }},
		{"ReplicationPaused", "warning", "group", "warning", func() { l.operate(lifecycle.Pause, rest.OperationRequest{}) }, func() {
			l.operate(lifecycle.Resume, rest.OperationRequest{})
			l.untilState("app", lifecycle.Protected)
		}},
		{"SiteUnreachable", "critical", "site", "critical", func() { l.cloud.Stop() }, func() { l.startGateway(l.cloud) }},
		{"MachineDeleted", "critical", "item", "critical", func() {
			l.cloud.Stop() // a gateway that comes is asked for its inventory at once
			l.cloud.Forget("vm1")
			l.startGateway(l.cloud)
		}, func() {
			l.cloud.Stop()
			l.cloud.Remember("vm1")
			l.startGateway(l.cloud)
		}},
	} {
		t.Run(tc.code, func(t *testing.T) {
			tc.bad()
			c := l.appears(tc.code)
			if c.Severity != tc.severity || c.Object.Kind != tc.object || c.RecommendedAction == "" || len(c.PossibleCauses) == 0 {
				t.Errorf("%+v", c)
			}
			l.until("the group's health", func() bool {
				g, err := l.c.Group(t.Context(), "app")
				return err == nil && g.Health == tc.group && slices.ContainsFunc(g.Conditions, func(x rest.Condition) bool { return x.ID == c.ID })
			})
			if tc.code == "UnprotectedDisk" {
				other, err := l.c.Item(t.Context(), "vm1")
				if err != nil || other.Health != "ok" {
					t.Errorf("the other machine is %s (%v)", other.Health, err)
				}
			}
			tc.fix()
			l.clears(c)
			l.until("the group is well", func() bool {
				g, err := l.c.Group(t.Context(), "app")
				return err == nil && g.Health == "ok"
			})
		})
	}
	h, err := l.c.Health(t.Context())
	if err != nil || h.Health != "ok" || len(h.Groups)+len(h.Gateways)+len(h.Items) != 0 {
		t.Errorf("health at the end: %+v, %v", h, err)
	}
}

// TestStandbyMachineStartedByHand: both sites run the machine, and its gateway
// fails to stop it.
func TestStandbyMachineStartedByHand(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	l.cloud.Stick("vm1", true)
	l.cloud.Power("vm1", site.Running)
	c := l.appears("StaleMachineRunning")
	if c.Severity != "critical" || c.Object.Item != "vm1" {
		t.Errorf("%+v", c)
	}
	l.cloud.Power("vm1", site.Off)
	l.clears(c)
}

// TestNotesOnConditions: acknowledge, mute and unmute, over a restart of the vault, in
// the audit log.
func TestNotesOnConditions(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	ctx := t.Context()
	l.operate(lifecycle.Pause, rest.OperationRequest{})
	c := l.appears("ReplicationPaused")
	if _, err := l.c.NoteCondition(ctx, c.ID, "mute", rest.NoteRequest{Text: "maintenance"}); !problem.HasCode(err, problem.InvalidRequest) {
		t.Errorf("a mute without an end: %v", err)
	}
	if _, err := l.c.NoteCondition(ctx, 4711, "acknowledge", rest.NoteRequest{Text: "x"}); !problem.HasCode(err, problem.UnknownCondition) {
		t.Errorf("an unknown condition: %v", err)
	}
	if got, err := l.c.NoteCondition(ctx, c.ID, "acknowledge", rest.NoteRequest{Text: "seen"}); err != nil || got.Acknowledged == nil || got.Acknowledged.By != "first" {
		t.Fatalf("acknowledged %+v, %v", got, err)
	}
	if g, err := l.c.Group(ctx, "app"); err != nil || g.Health != "warning" {
		t.Errorf("acknowledged, the group is %s (%v)", g.Health, err)
	}
	if _, err := l.c.NoteCondition(ctx, c.ID, "mute", rest.NoteRequest{Text: "maintenance", Seconds: 3600}); err != nil {
		t.Fatal(err)
	}
	if g, err := l.c.Group(ctx, "app"); err != nil || g.Health != "ok" {
		t.Errorf("muted, the group is %s (%v)", g.Health, err)
	}
	l.stop()
	l.startVault()
	l.until("notes after a restart", func() bool {
		got, ok := l.open("ReplicationPaused")
		return ok && got.ID == c.ID && got.Acknowledged != nil && got.Muted != nil && got.Muted.Text == "maintenance"
	})
	if got, err := l.c.UnmuteCondition(ctx, c.ID); err != nil || got.Muted != nil {
		t.Errorf("unmuted %+v, %v", got, err)
	}
	rows, err := l.c.Audit(ctx, 0, 1000, client.AuditFilter{})
	if err != nil {
		t.Fatal(err)
	}
	for _, action := range []string{"acknowledge", "mute", "unmute"} {
		if !slices.ContainsFunc(rows, func(r rest.AuditRow) bool { return strings.HasSuffix(r.Path, "/"+action) && r.Who == "first" }) {
			t.Errorf("%s is not in the audit log", action)
		}
	}
}

// TestWebhookOverTheAPI: a condition's beginning and end reach a real receiver,
// signed, also when the vault was restarted in between; the secret is shown once.
func TestWebhookOverTheAPI(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	ctx := t.Context()
	var mu sync.Mutex
	var got []rest.WebhookBody
	var secret string
	well := false
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		stamp, sum, _ := strings.Cut(r.Header.Get(rest.HeaderSignature), ",v1=")
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte(strings.TrimPrefix(stamp, "t=") + "." + string(body)))
		var b rest.WebhookBody
		switch {
		case !well:
			w.WriteHeader(http.StatusServiceUnavailable)
		case hex.EncodeToString(mac.Sum(nil)) != sum || json.Unmarshal(body, &b) != nil:
			w.WriteHeader(http.StatusForbidden)
		default:
			got = append(got, b)
		}
	}))
	t.Cleanup(srv.Close)
	made, err := l.c.CreateWebhook(ctx, rest.PutWebhook{ID: "ops", URL: srv.URL, Filter: &rest.WebhookFilter{Codes: []string{"ClockSkew"}, MinSeverity: "warning"}})
	if err != nil || made.Secret == "" {
		t.Fatalf("made %+v, %v", made, err)
	}
	mu.Lock()
	secret = made.Secret
	mu.Unlock()
	for _, w := range []rest.PutWebhook{{ID: "ops", URL: srv.URL}, {ID: "x y", URL: srv.URL}, {ID: "b", URL: "ftp://x"}, {ID: "c"}, {ID: "d", URL: "http://u:p@x"}} {
		if _, err := l.c.CreateWebhook(ctx, w); err == nil {
			t.Errorf("%+v was taken", w)
		}
	}
	if res, err := l.c.TestWebhook(ctx, "ops"); err != nil || res.Status != http.StatusServiceUnavailable || res.Error == "" {
		t.Errorf("test %+v, %v", res, err)
	}
	l.cloud.SetClock(-2 * time.Minute)
	c := l.appears("ClockSkew")
	l.until("a failed try", func() bool {
		w, err := l.c.Webhook(ctx, "ops")
		return err == nil && w.Waiting == 1 && w.LastError != ""
	})
	l.stop()
	l.startVault()
	mu.Lock()
	well = true
	mu.Unlock()
	if _, err := l.c.RetryWebhook(ctx, "ops"); err != nil {
		t.Fatal(err)
	}
	l.cloud.SetClock(0)
	l.clears(c)
	l.until("both deliveries", func() bool { mu.Lock(); defer mu.Unlock(); return len(got) >= 2 })
	mu.Lock()
	if got[0].Event.Code != "ClockSkew" || got[0].Condition == nil || got[0].Condition.ID != c.ID || got[1].Event.Code != "ClockSkewCleared" || !got[1].Event.Ended {
		t.Errorf("received %+v", got)
	}
	mu.Unlock()
	if res, err := l.c.TestWebhook(ctx, "ops"); err != nil || res.Status != http.StatusOK {
		t.Errorf("test %+v, %v", res, err)
	}
	w, err := l.c.Webhook(ctx, "ops")
	b, _ := json.Marshal(w)
	if err != nil || strings.Contains(string(b), made.Secret) {
		t.Errorf("the webhook shows its secret: %s (%v)", b, err)
	}
	off := false
	if w, err = l.c.UpdateWebhook(ctx, "ops", rest.PutWebhook{Enabled: &off}); err != nil || w.Enabled || w.URL != srv.URL {
		t.Errorf("updated %+v, %v", w, err)
	}
	if err := l.c.DeleteWebhook(ctx, "ops"); err != nil {
		t.Error(err)
	}
	if _, err := l.c.Webhook(ctx, "ops"); !problem.HasCode(err, problem.UnknownWebhook) {
		t.Errorf("deleted: %v", err)
	}
}

// TestHealthSettings: limits can be changed and turned off.
func TestHealthSettings(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	ctx := t.Context()
	s, err := l.c.HealthSettings(ctx)
	if err != nil || s != rest.DefaultHealthSettings() {
		t.Fatalf("%+v, %v", s, err)
	}
	bad := s
	bad.HeartbeatCritical = 1
	if _, err := l.c.PutHealthSettings(ctx, bad); !problem.HasCode(err, problem.InvalidRequest) {
		t.Errorf("bad limits: %v", err)
	}
	s.HeartbeatWarning, s.HeartbeatCritical = 1, 3
	if _, err := l.c.PutHealthSettings(ctx, s); err != nil {
		t.Fatal(err)
	}
	l.cloud.Stop()
	c := l.appears("GatewaySilent")
	if c.Object.Gateway != dr.GatewayID("gw-cloud") {
		t.Errorf("%+v", c.Object)
	}
	l.until("it becomes critical", func() bool {
		c, ok := l.open("GatewaySilent")
		return ok && c.Severity == "critical" && c.Worst == "critical"
	})
	l.startGateway(l.cloud)
	l.clears(c)
}

// TestVaultMetrics scrapes the vault's own port.
func TestVaultMetrics(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	l.operate(lifecycle.Pause, rest.OperationRequest{})
	l.appears("ReplicationPaused")
	var b strings.Builder
	if err := l.c.Metrics(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`rebound_condition{code="ReplicationPaused",kind="group",muted="false",object="app",severity="warning"} 1`, `rebound_group_items{group="app"} 2`,
		`rebound_gateway_up{gateway="gw-cloud",site="cloud"} 1`, `rebound_group_state{active="home",group="app",state="Paused"} 1`, "rebound_health 1\n", "rebound_group_rpo_seconds{",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %s", want)
		}
	}
	nobody := l.client("wrong")
	if err := nobody.Metrics(t.Context(), io.Discard); !problem.HasCode(err, problem.NotAuthenticated) {
		t.Errorf("without a token: %v", err)
	}
}

// TestSupportBundle plants secrets wherever the vault keeps any, and looks for them in
// the archive.
func TestSupportBundle(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	ctx := t.Context()
	if _, err := l.c.CreateWebhook(ctx, rest.PutWebhook{ID: "ops", URL: "http://127.0.0.1:1/", Secret: "PLANTED-hook"}); err != nil {
		t.Fatal(err)
	}
	e, err := l.c.EnrollGateway(ctx, rest.NewGateway{ID: "gw-third", Site: "cloud"})
	if err != nil {
		t.Fatal(err)
	}
	l.cloud.Stop()
	var b bytes.Buffer
	if err := l.c.SupportBundle(ctx, &b); err != nil {
		t.Fatal(err)
	}
	files := unpack(t, &b)
	for _, name := range []string{"vault/log.jsonl", "vault/metrics.txt", "vault/status.json", "vault/conditions.json", "vault/groups.json", "vault/jobs.json", "vault/events.json", "vault/audit.json", "vault/webhooks.json", "gateway-gw-home/log.jsonl", "gateway-gw-cloud/not-reached.error"} {
		if _, ok := files["rebound-support/"+name]; !ok {
			t.Errorf("no %s in %v", name, slices.Sorted(maps.Keys(files)))
		}
	}
	if !strings.Contains(files["rebound-support/vault/groups.json"], "vm1") || !strings.Contains(files["rebound-support/vault/jobs.json"], "protect") {
		t.Error("groups or jobs say nothing")
	}
	key, err := os.ReadFile(filepath.Join(l.dir, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		for what, secret := range map[string]string{"token": l.token(), "webhook": "PLANTED-hook", "passphrase": e.Passphrase, "CA key": strings.Split(string(key), "\n")[1], "private key": "PRIVATE KEY"} {
			if strings.Contains(text, secret) {
				t.Errorf("%s holds the %s", name, what)
			}
		}
	}
}

func unpack(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	zip, err := gzip.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for tr := tar.NewReader(zip); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = string(text)
	}
}
