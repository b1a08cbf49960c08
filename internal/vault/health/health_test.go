package health

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/site"
	"rebound/internal/vault/rest"
)

var update = flag.Bool("update", false, "write docs/health.md")

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func num(f float64) *float64 { return &f }

// well is a world in which nothing is wrong.
func well(now time.Time) *Facts {
	source := &control.GroupReport{Source: true, Phase: control.PhaseStreaming, Counters: control.Counters{RingLimit: 1000}}
	standby := &control.GroupReport{Points: 3, NewestAppTime: now.Add(-time.Minute)}
	gw := func(id dr.GatewayID, at dr.SiteID) Gateway {
		return Gateway{
			ID: id, Site: at, LastSeen: now, Known: true, Connected: true, CertificateEnds: now.Add(60 * day),
			Host: control.HostReport{CPUs: 2, MemoryTotal: 100, MemoryAvailable: 60, Volumes: []control.Volume{{Path: "/d", Uses: []string{"journal"}, FreeBytes: 90, TotalBytes: 100}}},
		}
	}
	return &Facts{
		Now: now, Settings: rest.DefaultHealthSettings(),
		Vault:    Vault{ID: "v", Created: start, LastBackup: now.Add(-time.Hour), CAEnds: now.Add(1000 * day), FreeBytes: 50, TotalBytes: 100},
		Sites:    []Site{{"home", []dr.GatewayID{"gw-h"}}, {"cloud", []dr.GatewayID{"gw-c"}}},
		Gateways: []Gateway{gw("gw-h", "home"), gw("gw-c", "cloud")},
		Webhooks: []rest.Webhook{{ID: "hook", Enabled: true}},
		Groups: []Group{{
			ID: "g", State: lifecycle.Protected, Active: "home", Home: "home", Recovery: "cloud", HomeGateway: "gw-h", RecoveryGateway: "gw-c",
			SourceGateway: "gw-h", StandbyGateway: "gw-c", SourceSite: "home", StandbySite: "cloud", Created: now.Add(-day), ChangedAt: now.Add(-day),
			CrashInterval: 5 * time.Minute, AppInterval: time.Hour, RPO: rest.RPO{Seconds: num(1), NewestPointSeconds: num(10), ThresholdSeconds: 100},
			Source: source, Standby: standby, SourceUp: true, StandbyUp: true, SyncMoved: now, LastTest: now.Add(-day), LastVerify: now.Add(-day),
			Members: []Member{{Item: "i", Machine: "m", HomeThere: true, RecoveryThere: true, HomeState: site.Running, RecoveryState: site.Off, Agent: &Agent{LastHeartbeat: now, CertificateEnds: now.Add(60 * day)}}},
		}},
	}
}

// cases: for each condition what brings it about, and with which severity.
var cases = []struct {
	code Code
	sev  rest.Severity
	bad  func(*Facts)
}{
	{"VaultBackupOverdue", "warning", func(f *Facts) { f.Vault.LastBackup = f.Now.Add(-8 * day) }},
	{"VaultBackupOverdue", "warning", func(f *Facts) { f.Vault.LastBackup, f.Vault.Created = time.Time{}, f.Now.Add(-8*day) }},
	{"VaultCertificateEnding", "warning", func(f *Facts) { f.Vault.CAEnds = f.Now.Add(59 * day) }},
	{"VaultCertificateEnding", "critical", func(f *Facts) { f.Vault.CAEnds = f.Now.Add(13 * day) }},
	{"VaultCertificateEnding", "critical", func(f *Facts) { f.Vault.CAEnds = f.Now.Add(-time.Hour) }},
	{"VaultVolumeFilling", "warning", func(f *Facts) { f.Vault.FreeBytes, f.Vault.TotalBytes = 55, 1000 }},
	{"VaultVolumeFilling", "critical", func(f *Facts) { f.Vault.FreeBytes, f.Vault.TotalBytes = 49, 1000 }},
	{"WebhookFailing", "warning", func(f *Facts) { f.Webhooks[0].Dead = 1 }},
	{"WebhookFailing", "warning", func(f *Facts) { f.Webhooks[0].FailingSince = f.Now.Add(-16 * time.Minute) }},
	{"SiteUnreachable", "critical", func(f *Facts) { f.Gateways[0].LastSeen = f.Now.Add(-16 * time.Second) }},
	{"GatewaySilent", "warning", func(f *Facts) { f.Gateways[0].LastSeen = f.Now.Add(-61 * time.Second) }},
	{"GatewaySilent", "critical", func(f *Facts) { f.Gateways[0].LastSeen = f.Now.Add(-15 * time.Minute) }},
	{"ClockSkew", "warning", func(f *Facts) { f.Gateways[0].Offset = -31 * time.Second }},
	{"ClockSkew", "critical", func(f *Facts) { f.Gateways[0].Offset = 6 * time.Minute }},
	{"GatewayCertificateEnding", "warning", func(f *Facts) { f.Gateways[0].CertificateEnds = f.Now.Add(19 * day) }},
	{"GatewayCertificateEnding", "critical", func(f *Facts) { f.Gateways[0].CertificateEnds = f.Now.Add(6 * day) }},
	{"GatewayBusy", "warning", func(f *Facts) { f.Gateways[0].Host.Load1 = 1.7 }},
	{"GatewayBusy", "critical", func(f *Facts) { f.Gateways[0].Host.MemoryAvailable = 4 }},
	{"VolumeFilling", "warning", func(f *Facts) { f.Gateways[1].Host.Volumes[0].FreeBytes = 29 }},
	{"VolumeFilling", "critical", func(f *Facts) { f.Gateways[1].Host.Volumes[0].FreeBytes = 24 }},
	{"RPOExceeded", "critical", func(f *Facts) { f.Groups[0].RPO.Seconds = num(101) }},
	{"NoRecoveryPoint", "warning", func(f *Facts) { f.Groups[0].RPO.NewestPointSeconds = num(16*60 + 1) }},
	{"NoFirstPoint", "warning", func(f *Facts) { f.Groups[0].State = lifecycle.WaitingForFirstPoint }},
	{"NoAppConsistentPoint", "warning", func(f *Facts) { f.Groups[0].Standby.NewestAppTime = f.Now.Add(-4 * time.Hour) }},
	{"ReplicationBroken", "warning", func(f *Facts) { f.Groups[0].State = lifecycle.Tracking }},
	{"SyncStalled", "warning", func(f *Facts) {
		f.Groups[0].State, f.Groups[0].SyncMoved = lifecycle.InitialSync, f.Now.Add(-6*time.Minute)
	}},
	{"SyncStalled", "critical", func(f *Facts) {
		f.Groups[0].State, f.Groups[0].SyncMoved = lifecycle.InitialSync, f.Now.Add(-16*time.Minute)
	}},
	{"RingFilling", "warning", func(f *Facts) { f.Groups[0].Source.Counters.RingBytes = 801 }},
	{"JournalAtReserve", "critical", func(f *Facts) { f.Groups[0].Standby.NoRoom = true }},
	{"CaptureUnstable", "warning", func(f *Facts) { f.Groups[0].Source.CaptureRestarts = 3 }},
	{"CaptureUnstable", "warning", func(f *Facts) { f.Groups[0].Source.BreaksLastHour = 6 }},
	{"DiscardsDropped", "info", func(f *Facts) { f.Groups[0].Source.Counters.DroppedDiscards = 1 }},
	{"StalePrimary", "critical", func(f *Facts) { f.Groups[0].StaleSeen = f.Now.Add(-time.Minute) }},
	{"StaleMachineRunning", "critical", func(f *Facts) { f.Groups[0].Members[0].RecoveryState = site.Running }},
	{"NetworkMappingMissing", "warning", func(f *Facts) { f.Groups[0].Unmapped = []string{"lan"} }},
	{"FailoverIncomplete", "critical", func(f *Facts) { f.Groups[0].State = lifecycle.FailoverFailed }},
	{"CommitOverdue", "warning", func(f *Facts) {
		f.Groups[0].State, f.Groups[0].ChangedAt = lifecycle.CommitPending, f.Now.Add(-25*time.Hour)
	}},
	{"NotReplicated", "warning", func(f *Facts) { f.Groups[0].State = lifecycle.Committed }},
	{"ReplicationPaused", "warning", func(f *Facts) { f.Groups[0].State = lifecycle.Paused }},
	{"Resynchronising", "warning", func(f *Facts) { f.Groups[0].State = lifecycle.Resynchronising }},
	{"LastJobFailed", "warning", func(f *Facts) { f.Groups[0].LastJob = &rest.Job{ID: "j", State: rest.JobFailed} }},
	{"TestFailoverOverdue", "warning", func(f *Facts) { f.Groups[0].LastTest = f.Now.Add(-183 * day) }},
	{"TestFailoverOverdue", "warning", func(f *Facts) { f.Groups[0].LastTest, f.Groups[0].Created = time.Time{}, f.Now.Add(-183*day) }},
	{"VerificationOverdue", "warning", func(f *Facts) { f.Groups[0].LastVerify = f.Now.Add(-36 * day) }},
	{"UnprotectedDisk", "warning", func(f *Facts) {
		f.Groups[0].Source.Unprotected = []control.UnprotectedDisk{{Machine: "m", Disk: "vdc", SizeBytes: 1}}
	}},
	{"MachineDeleted", "critical", func(f *Facts) { f.Groups[0].Members[0].HomeThere = false }},
	{"MachineDeleted", "critical", func(f *Facts) { f.Groups[0].Members[0].RecoveryThere = false }},
	{"AgentSilent", "warning", func(f *Facts) { f.Groups[0].Members[0].Agent.LastHeartbeat = f.Now.Add(-2 * time.Minute) }},
	{"AgentSilent", "critical", func(f *Facts) { f.Groups[0].Members[0].Agent.LastHeartbeat = f.Now.Add(-15 * time.Minute) }},
	{"AgentMissing", "warning", func(f *Facts) { f.Groups[0].AgentRequired, f.Groups[0].Members[0].Agent = true, nil }},
	{"AgentCertificateEnding", "warning", func(f *Facts) { f.Groups[0].Members[0].Agent.CertificateEnds = f.Now.Add(19 * day) }},
}

// run takes a tracker through facts, a second apart, and collects the changes.
func run(t *Tracker, from time.Time, d time.Duration, change func(*Facts)) (out []Change, now time.Time) {
	for now = from; now.Before(from.Add(d)); now = now.Add(time.Second) {
		f := well(now)
		if change != nil {
			change(f)
		}
		out = append(out, t.Step(f)...)
	}
	return out, now
}

func of(list []Change, code Code) (out []Change) {
	for _, c := range list {
		if c.Condition.Code == string(code) {
			out = append(out, c)
		}
	}
	return out
}

func TestNothingIsWrongInAWellWorld(t *testing.T) {
	if got, _ := run(NewTracker(nil), start, 20*time.Minute, nil); len(got) != 0 {
		t.Errorf("conditions without a cause: %+v", got)
	}
}

func TestEveryConditionAppearsAndGoes(t *testing.T) {
	tested := map[Code]bool{}
	for i, tc := range cases {
		tested[tc.code] = true
		t.Run(fmt.Sprintf("%s-%d", tc.code, i), func(t *testing.T) {
			row, ok := RowOf(tc.code)
			if !ok {
				t.Fatal("not in the table")
			}
			if !slices.Contains(row.Severities, tc.sev) {
				t.Errorf("the table says %v, not %s", row.Severities, tc.sev)
			}
			tr := NewTracker(nil)
			began, now := run(tr, start, row.After+2*time.Second, tc.bad)
			got := of(began, tc.code)
			if len(got) != 1 || !got[0].Began || got[0].Condition.Severity != tc.sev {
				t.Fatalf("began: %+v", got)
			}
			c := got[0].Condition
			if c.Object.ID == "" || c.Object.Kind != row.Object || c.Text == "" || c.Title == "" || len(c.PossibleCauses) == 0 || c.RecommendedAction == "" {
				t.Errorf("incomplete: %+v", c)
			}
			if row.After > 0 {
				if early, _ := run(NewTracker(nil), start, row.After, tc.bad); len(of(early, tc.code)) != 0 {
					t.Error("it appeared before its time")
				}
			}
			ended, _ := run(tr, now, row.Hold+2*time.Second, nil)
			got = of(ended, tc.code)
			if len(got) != 1 || got[0].Began || got[0].Condition.Cleared.IsZero() {
				t.Fatalf("ended: %+v", got)
			}
			if n := len(tr.Open()); n != 0 {
				t.Errorf("%d conditions stay open: %+v", n, tr.Open())
			}
		})
	}
	for _, row := range Table() {
		if !tested[row.Code] {
			t.Errorf("%s has no case", row.Code)
		}
	}
}

// TestWaveringValueIsOneCondition: around each limit with hysteresis a value goes
// up and down; there is one beginning and no end.
func TestWaveringValueIsOneCondition(t *testing.T) {
	for _, tc := range []struct {
		code     Code
		bad, mid func(*Facts)
	}{
		{"RPOExceeded", func(f *Facts) { f.Groups[0].RPO.Seconds = num(101) }, func(f *Facts) { f.Groups[0].RPO.Seconds = num(95) }},
		{"ClockSkew", func(f *Facts) { f.Gateways[0].Offset = 31 * time.Second }, func(f *Facts) { f.Gateways[0].Offset = 25 * time.Second }},
		{"VolumeFilling", func(f *Facts) { f.Gateways[0].Host.Volumes[0].FreeBytes = 29 }, func(f *Facts) { f.Gateways[0].Host.Volumes[0].FreeBytes = 31 }},
		{"CaptureUnstable", func(f *Facts) { f.Groups[0].Source.BreaksLastHour = 6 }, func(f *Facts) { f.Groups[0].Source.BreaksLastHour = 5 }},
	} {
		tr := NewTracker(nil)
		i := 0
		got, now := run(tr, start, time.Minute, func(f *Facts) {
			if i++; i%2 == 1 {
				tc.bad(f)
			} else {
				tc.mid(f)
			}
		})
		if len(of(got, tc.code)) != 1 {
			t.Errorf("%s: %d changes, want 1", tc.code, len(of(got, tc.code)))
		}
		if got, _ := run(NewTracker(nil), now, time.Minute, tc.mid); len(of(got, tc.code)) != 0 {
			t.Errorf("%s appeared below its limit", tc.code)
		}
	}
}

func TestSeverityRisesInPlace(t *testing.T) {
	tr := NewTracker(nil)
	got, now := run(tr, start, brokenCritical+2*time.Second, func(f *Facts) { f.Groups[0].State = lifecycle.Tracking })
	got = of(got, "ReplicationBroken")
	if len(got) != 2 || !got[0].Began || got[1].Began || got[1].Condition.Severity != rest.SeverityCritical || !got[1].Condition.Cleared.IsZero() {
		t.Fatalf("changes %+v", got)
	}
	if got[1].Condition.Since != got[0].Condition.Since {
		t.Error("it began anew")
	}
	if got, _ := run(tr, now, 2*time.Second, nil); len(of(got, "ReplicationBroken")) != 1 {
		t.Error("it did not end")
	}
}

// TestMissingFactsChangeNothing: a vault that has just started keeps what was open
// until the gateways have spoken.
func TestMissingFactsChangeNothing(t *testing.T) {
	bad := func(f *Facts) {
		f.Gateways[0].Offset = time.Minute
		f.Gateways[1].Host.Volumes[0].FreeBytes = 10
		f.Groups[0].RPO.Seconds = num(200)
		f.Groups[0].Standby.NoRoom = true
		f.Groups[0].Source.Unprotected = []control.UnprotectedDisk{{Machine: "m", Disk: "vdc"}}
		f.Groups[0].Source.CaptureRestarts = 9
	}
	tr := NewTracker(nil)
	_, now := run(tr, start, 10*time.Second, bad)
	open := tr.Open()
	if len(open) != 6 {
		t.Fatalf("%d open: %+v", len(open), open)
	}
	tr = NewTracker(open)
	got, _ := run(tr, now, 10*time.Second, func(f *Facts) {
		for i := range f.Gateways {
			f.Gateways[i].Known, f.Gateways[i].Host, f.Gateways[i].Offset = false, control.HostReport{}, 0
		}
		g := &f.Groups[0]
		g.Source, g.Standby, g.SourceUp, g.StandbyUp, g.RPO = nil, nil, false, false, rest.RPO{ThresholdSeconds: 100}
	})
	if len(got) != 0 || len(tr.Open()) != 6 {
		t.Errorf("changes %+v", got)
	}
}

func TestHealthOfObjects(t *testing.T) {
	tr := NewTracker(nil)
	run(tr, start, 10*time.Second, func(f *Facts) {
		f.Groups = append(f.Groups, f.Groups[0])
		f.Groups[1].ID, f.Groups[1].HomeGateway, f.Groups[1].Members = "other", "gw-x", nil
		f.Gateways[0].Offset = time.Minute
		f.Gateways[1].CertificateEnds = f.Now.Add(day)
		f.Groups[0].Members[0].HomeThere = false
		f.Groups[0].Source = &control.GroupReport{Counters: control.Counters{DroppedDiscards: 1}}
	})
	all := tr.Open()
	open := NewIndex(all)
	w := Where{Group: "g", Gateways: []dr.GatewayID{"gw-h", "gw-c"}, Sites: []dr.SiteID{"home", "cloud"}}
	for _, tc := range []struct {
		what, want string
		list       []rest.Condition
	}{
		{"group", rest.HealthCritical, open.OfGroup(w)},
		{"item", rest.HealthCritical, open.OfItem(w, "i")},
		{"another item", rest.HealthWarning, open.OfItem(w, "j")},
		{"gateway with a skewed clock", rest.HealthWarning, open.OfGateway("gw-h")},
		{"gateway whose certificate ends", rest.HealthCritical, open.OfGateway("gw-c")},
		{"site", rest.HealthWarning, open.OfSite("home")},
		{"vault", rest.HealthOK, open.OfVault()},
		{"group elsewhere", rest.HealthOK, open.OfGroup(Where{Group: "third"})},
	} {
		if got := Grade(tc.list); got != tc.want {
			t.Errorf("%s: %s, want %s: %+v", tc.what, got, tc.want, tc.list)
		}
	}
	for i := range all {
		all[i].Muted = &rest.Note{By: "me"}
	}
	if got := Grade(open.All()); got != rest.HealthOK {
		t.Errorf("all muted: %s", got)
	}
}

func TestTableIsWhole(t *testing.T) {
	seen := map[Code]bool{}
	for _, r := range Table() {
		if seen[r.Code] {
			t.Errorf("%s twice", r.Code)
		}
		seen[r.Code] = true
		if r.Title == "" || r.When == "" || r.Action == "" || len(r.Causes) == 0 || len(r.Severities) == 0 || r.find == nil || r.Object == "" {
			t.Errorf("%s is not complete", r.Code)
		}
	}
}

// TestDocument keeps docs/health.md equal to the table.
func TestDocument(t *testing.T) {
	path := filepath.Join("..", "..", "..", "docs", "health.md")
	var b strings.Builder
	b.WriteString("# Health: every condition\n\nGenerated from `internal/vault/health`: `go test ./internal/vault/health -update`.\n\n" +
		"A condition appears by itself and clears by itself; both are events (`CODE` and `CODECleared`), and both reach webhooks. `rebound health` shows what is open; " +
		"`rebound health history` what was. See [operating.md](operating.md#health) for acknowledging and muting.\n")
	for _, r := range Table() {
		sev := make([]string, len(r.Severities))
		for i, s := range r.Severities {
			sev[i] = string(s)
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s. Severity: %s. About: %s.\n\n- When: %s\n- Possible causes: %s.\n- Do: %s\n", r.Code, r.Title, strings.Join(sev, ", "), r.Object, r.When, strings.Join(r.Causes, "; "), r.Action)
		if r.Azure != "" {
			fmt.Fprintf(&b, "- In Azure Site Recovery: %s.\n", r.Azure)
		}
	}
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil || string(have) != b.String() {
		t.Errorf("docs/health.md is out of date (%v): run with -update", err)
	}
}
