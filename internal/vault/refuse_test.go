package vault_test

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rebound/internal/control"
	"rebound/internal/control/controltest"
	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

func wantCode(t testing.TB, err error, code problem.Code) {
	t.Helper()
	if !problem.HasCode(err, code) {
		t.Errorf("error %v, want %s", err, code)
	}
}

func faultUntil(gw dr.GatewayID, command string, c <-chan struct{}) *controltest.Fault {
	return &controltest.Fault{Gateway: gw, Command: command, Until: c}
}

// requests are bodies with which each operation is well formed.
func requests() map[lifecycle.Operation]rest.OperationRequest {
	return map[lifecycle.Operation]rest.OperationRequest{
		lifecycle.ChangePoint: {Point: dr.Latest}, lifecycle.TestFailover: {Network: "n"}, lifecycle.CreatePoint: {Name: "n"},
	}
}

// refuseAll asks for every operation that the group does not allow: each is
// refused with the code that allowedOperations named, and changes nothing.
func (l *lab) refuseAll() {
	l.t.Helper()
	ctx := l.t.Context()
	before, err := l.c.Group(ctx, "app")
	if err != nil {
		l.t.Fatal(err)
	}
	effects := len(l.world.Effects())
	refused := 0
	for _, op := range before.AllowedOperations {
		if op.Allowed {
			continue
		}
		refused++
		for _, dry := range []bool{false, true} {
			var err error
			if dry {
				_, err = l.c.DryRun(ctx, client.GroupTarget("app"), op.Name, requests()[op.Name])
			} else {
				_, err = l.c.Operate(ctx, client.GroupTarget("app"), op.Name, requests()[op.Name])
			}
			if !problem.HasCode(err, op.Code) {
				l.t.Errorf("%s in %s (dry %v): %v, want %s", op.Name, before.State, dry, err, op.Code)
			}
		}
	}
	after, err := l.c.Group(ctx, "app")
	if err != nil {
		l.t.Fatal(err)
	}
	if after.State != before.State || after.Generation != before.Generation || after.LastJob != before.LastJob || after.Test != before.Test {
		l.t.Errorf("refusals changed the group from %s/%d/%s to %s/%d/%s", before.State, before.Generation, before.LastJob, after.State, after.Generation, after.LastJob)
	}
	if n := len(l.world.Effects()); n != effects {
		l.t.Errorf("refusals had %d effects", n-effects)
	}
	if refused == 0 {
		l.t.Errorf("nothing is refused in %s", before.State)
	}
}

func TestEveryOperationInEveryOtherState(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	l.refuseAll()
	l.operate(lifecycle.Pause, rest.OperationRequest{})
	l.refuseAll()
	l.operate(lifecycle.Resume, rest.OperationRequest{})
	l.untilState("app", lifecycle.Protected)
	l.operate(lifecycle.TestFailover, rest.OperationRequest{Network: "n"})
	l.refuseAll()
	l.operate(lifecycle.TestCleanup, rest.OperationRequest{})
	l.operate(lifecycle.Failover, rest.OperationRequest{Mode: "planned"})
	l.refuseAll()
	l.operate(lifecycle.Commit, rest.OperationRequest{})
	l.refuseAll()
	_, err := l.c.Operate(t.Context(), client.ItemTarget("vm1"), lifecycle.Reprotect, rest.OperationRequest{})
	wantCode(t, err, problem.GroupMemberAlone)
}

func TestBadProtectRequests(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.home.AddMachine("vm1")
	l.home.AddMachine("vm2")
	l.home.AddDefinition(dr.Definition{Name: "diskless", UUID: "u1"})
	l.home.AddDefinition(dr.Definition{Name: "odd", UUID: "u2", Disks: []dr.DiskSpec{{ID: "disk0", SizeBytes: 1000}}})
	l.home.AddDefinition(dr.Definition{Name: "twin", UUID: "u3", Disks: []dr.DiskSpec{{ID: "disk0", SizeBytes: 512}}})
	l.cloud.AddDefinition(dr.Definition{Name: "twin", UUID: "another", Disks: []dr.DiskSpec{{ID: "disk0", SizeBytes: 512}}})
	l.known("cloud", "twin")
	l.known("home", "twin")
	m := func(names ...dr.MachineName) []dr.MachineName { return names }
	for _, c := range []struct {
		req  rest.ProtectRequest
		code problem.Code
	}{
		{rest.ProtectRequest{Machines: m("nobody"), To: "cloud"}, problem.UnknownMachine},
		{rest.ProtectRequest{Machines: m("vm1"), To: "mars"}, problem.UnknownSite},
		{rest.ProtectRequest{Machines: m("vm1"), Site: "mars", To: "cloud"}, problem.UnknownSite},
		{rest.ProtectRequest{Machines: m("vm1"), Site: "home", To: "home"}, problem.InvalidRequest},
		{rest.ProtectRequest{Machines: m("vm1"), To: "cloud", Policy: "none"}, problem.UnknownPolicy},
		{rest.ProtectRequest{Machines: m("vm1", "vm2"), To: "cloud"}, problem.InvalidRequest},
		{rest.ProtectRequest{Machines: m("vm1", "vm1"), To: "cloud", Group: "g"}, problem.InvalidRequest},
		{rest.ProtectRequest{Machines: m("vm1"), To: "cloud", Group: "no good"}, problem.InvalidName},
		{rest.ProtectRequest{Machines: m("diskless"), To: "cloud"}, problem.MachineHasNoDisks},
		{rest.ProtectRequest{Machines: m("odd"), To: "cloud"}, problem.DiskNotSupported},
		{rest.ProtectRequest{Machines: m("twin"), Site: "home", To: "cloud"}, problem.NameTaken},
		{rest.ProtectRequest{Machines: m(), To: "cloud"}, problem.InvalidRequest},
	} {
		_, err := l.c.Protect(t.Context(), c.req)
		wantCode(t, err, c.code)
		if _, dry := l.c.ProtectDryRun(t.Context(), c.req); problem.From(dry).Code != problem.From(err).Code {
			t.Errorf("dry run of %v: %v", c.req, dry)
		}
	}
	_, err := l.c.CreateSite(t.Context(), rest.NewSite{ID: "home"})
	wantCode(t, err, problem.NameTaken)
	if jobs, err := l.c.Jobs(t.Context(), ""); err != nil || len(jobs) != 0 {
		t.Errorf("refusals left jobs %v, %v", jobs, err)
	}
	// No room shows in the job, which leaves nothing behind.
	l.cloud.SetFree(1)
	job := l.finishAs(rest.JobFailed)(l.c.Protect(t.Context(), rest.ProtectRequest{Machines: m("vm1"), To: "cloud"}))
	if len(job.Errors) == 0 || job.Errors[0].Code != problem.NoRoom {
		t.Errorf("errors %+v", job.Errors)
	}
	if _, err := l.c.Group(t.Context(), "vm1"); !problem.HasCode(err, problem.UnknownGroup) {
		t.Errorf("the failed group: %v", err)
	}
	l.cloud.SetFree(1 << 30)
	l.finishAs(rest.JobSucceeded)(l.c.JobAction(t.Context(), job.ID, "restart"))
	l.untilState("vm1", lifecycle.Protected)
	_, err = l.c.Protect(t.Context(), rest.ProtectRequest{Machines: m("vm1"), To: "cloud", Group: "again"})
	wantCode(t, err, problem.AlreadyProtected)
}

func TestTwoPressFailover(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	release := make(chan struct{})
	l.world.Plan(faultUntil("gw-home", "StopMachine", release))
	ids := make([]dr.JobID, 2)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			job, err := l.c.Operate(t.Context(), client.GroupTarget("app"), lifecycle.Failover, rest.OperationRequest{})
			if err != nil {
				t.Error(err)
			}
			ids[i] = job.ID
		})
	}
	wg.Wait()
	if ids[0] != ids[1] {
		t.Errorf("two jobs: %v", ids)
	}
	_, err := l.c.Operate(t.Context(), client.GroupTarget("app"), lifecycle.Pause, rest.OperationRequest{})
	wantCode(t, err, problem.OperationRunning)
	close(release)
	l.finishAs(rest.JobSucceeded)(l.c.Job(t.Context(), ids[0]))
	if g := l.untilState("app", lifecycle.CommitPending); g.Generation != 2 {
		t.Errorf("generation %d", g.Generation)
	}
}

// TestOneMemberFails: the others start; a restart of the job starts the one.
func TestOneMemberFails(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	f := l.world.Plan(&controltest.Fault{Gateway: "gw-cloud", Command: "StartRecovered", Machine: "vm1", Times: 1, Err: problem.New(problem.HypervisorError, "no memory")})
	job := l.operate(lifecycle.Failover, rest.OperationRequest{Mode: "planned"}, rest.JobFailed)
	if l.world.Struck(f) != 1 || len(job.Errors) != 1 || !strings.Contains(job.Errors[0].Detail, "vm1") || strings.Contains(job.Errors[0].Detail, "vm2") {
		t.Fatalf("errors %+v", job.Errors)
	}
	l.untilState("app", lifecycle.FailoverFailed)
	l.wantRunning(l.cloud, "vm2", 0)
	l.finishAs(rest.JobSucceeded)(l.c.JobAction(t.Context(), job.ID, "restart"))
	l.untilState("app", lifecycle.CommitPending)
	l.wantRunning(l.cloud, "vm1", 0)
	for _, vm := range []string{"vm1", "vm2"} {
		if n := l.world.Count("StartRecovered", vm); n != 1 {
			t.Errorf("%s was started %d times", vm, n)
		}
	}
	if n := l.world.Count("Seal", ""); n != 1 {
		t.Errorf("sealed %d times", n)
	}
}

// TestPlannedFailoverThatCannotDrain leaves the source running as it was.
func TestPlannedFailoverThatCannotDrain(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	l.world.Plan(&controltest.Fault{Gateway: "gw-home", Command: "StopReplication", Times: 1, Err: problem.New(problem.GatewayUnreachable, "the link is down")})
	l.operate(lifecycle.Failover, rest.OperationRequest{Mode: "planned"}, rest.JobFailed)
	g := l.untilState("app", lifecycle.Protected)
	if g.Generation != 1 {
		t.Errorf("generation %d", g.Generation)
	}
	l.wantRunning(l.home, "vm1", 0)
}

func TestCancel(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	release := make(chan struct{})
	f := l.world.Plan(faultUntil("gw-home", "StopMachine", release))
	job, err := l.c.Operate(t.Context(), client.GroupTarget("app"), lifecycle.Failover, rest.OperationRequest{})
	if err != nil {
		t.Fatal(err)
	}
	l.until("the shutdown runs", func() bool { return l.world.Struck(f) > 0 })
	if _, err := l.c.JobAction(t.Context(), job.ID, "cancel"); err != nil {
		t.Fatal(err)
	}
	close(release)
	ended := l.finish(job, nil, rest.JobCancelled)
	if len(ended.AllowedActions) != 1 || ended.AllowedActions[0] != "resume" {
		t.Errorf("allowed: %v", ended.AllowedActions)
	}
	l.untilState("app", lifecycle.Protected)
	l.wantRunning(l.home, "vm1", 0)
	l.world.Clear()
	l.finishAs(rest.JobSucceeded)(l.c.JobAction(t.Context(), job.ID, "resume"))
	l.untilState("app", lifecycle.CommitPending)
	_, err = l.c.JobAction(t.Context(), job.ID, "cancel")
	wantCode(t, err, problem.OperationNotAllowed)
}

func TestAccess(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	ctx := t.Context()
	_, err := l.client("rbt_wrong").Status(ctx)
	wantCode(t, err, problem.NotAuthenticated)
	_, err = l.client("").Status(ctx)
	wantCode(t, err, problem.NotAuthenticated)
	tok, err := l.c.CreateToken(ctx, rest.NewToken{Name: "eye", Role: "reader"})
	if err != nil {
		t.Fatal(err)
	}
	eye := l.client(tok.Secret)
	if _, err := eye.Status(ctx); err != nil {
		t.Error(err)
	}
	_, err = eye.CreateSite(ctx, rest.NewSite{ID: "x"})
	wantCode(t, err, problem.PermissionDenied)
	_, err = eye.Operate(ctx, client.GroupTarget("app"), lifecycle.Failover, rest.OperationRequest{})
	wantCode(t, err, problem.PermissionDenied)
	if err := l.c.DeleteToken(ctx, tok.ID); err != nil {
		t.Fatal(err)
	}
	_, err = eye.Status(ctx)
	wantCode(t, err, problem.NotAuthenticated)
	rows, err := l.c.Audit(ctx, 0, 0, client.AuditFilter{})
	if err != nil || !slices.ContainsFunc(rows, func(r rest.AuditRow) bool { return r.Who == "eye" && r.Status == http.StatusForbidden }) {
		t.Errorf("audit log %v, %v", rows, err)
	}
}

func TestForeignAndRevokedCertificates(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	ca, err := identity.OpenCA(t.TempDir(), "another-vault")
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := ca.Issue(identity.RoleGateway, "gw-home", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := foreign.ClientTLS(identity.RoleVault, "vault")
	if err != nil {
		t.Fatal(err)
	}
	_, err = control.Dial(t.Context(), l.addr, cfg)
	wantCode(t, err, problem.WrongVault)
	// Even one that does not look at the vault's certificate gets nowhere.
	cfg.VerifyConnection = nil
	_, err = control.Dial(t.Context(), l.addr, cfg)
	wantCode(t, err, problem.WrongVault)

	own, err := l.ids[l.home].ClientTLS(identity.RoleVault, "vault")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.c.RevokeGateway(t.Context(), "gw-home"); err != nil {
		t.Fatal(err)
	}
	_, err = control.Dial(t.Context(), l.addr, own)
	wantCode(t, err, problem.NotAuthenticated)
	r := control.NewReporter(l.addr, own)
	defer r.Close()
	_, err = r.Report(t.Context(), control.Report{})
	wantCode(t, err, problem.NotAuthenticated)
	l.until("the revoked gateway is cut off", func() bool {
		g, err := l.c.Gateway(t.Context(), "gw-home")
		return err == nil && !g.Connected
	})
	// A passphrase works once.
	e, err := l.c.EnrollGateway(t.Context(), rest.NewGateway{ID: "gw-home", Site: "home"})
	if err != nil {
		t.Fatal(err)
	}
	l.identity("gateway", "gw-home", e)
	pinned, _ := identity.PinnedTLS([]byte(e.CA))
	_, csr, _ := identity.NewRequest("gw-home")
	_, err = control.Enroll(t.Context(), l.addr, pinned, control.EnrollRequest{Role: "gateway", Name: "gw-home", Passphrase: e.Passphrase, CSR: string(csr)})
	wantCode(t, err, problem.NotAuthenticated)
}

func TestClockAnHourOff(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	l.home.SetClock(-time.Hour)
	l.wantEvent(string(problem.ClockSkew))
	l.home.AddMachine("late")
	l.known("home", "late")
	job := l.finishAs(rest.JobFailed)(l.c.Protect(t.Context(), rest.ProtectRequest{Machines: []dr.MachineName{"late"}, To: "cloud"}))
	if len(job.Errors) == 0 || job.Errors[0].Code != problem.ClockSkew {
		t.Errorf("errors %+v", job.Errors)
	}
	// The shown RPO is corrected by the offset.
	l.until("an RPO below 5 s", func() bool {
		r, err := l.c.GroupRPO(t.Context(), "app")
		return err == nil && r.Basis == "stream" && *r.Seconds < 5 && *r.Seconds >= 0
	})
	l.home.SetClock(0)
	l.wantEvent("ClockSkewCleared")
}

func TestRPOGrowsAfterTheLastReport(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	l.home.Lose()
	l.cloud.Stop()
	first, err := l.c.GroupRPO(t.Context(), "app")
	if err != nil || first.Seconds == nil {
		t.Fatalf("%+v, %v", first, err)
	}
	time.Sleep(200 * time.Millisecond)
	second, err := l.c.GroupRPO(t.Context(), "app")
	if err != nil || *second.Seconds < *first.Seconds+0.19 || *second.Seconds < second.ReportAge {
		t.Errorf("RPO went from %+v to %+v, %v", first, second, err)
	}
}

func TestProblemDocumentsAndOpenAPI(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	hc := &http.Client{Transport: &http.Transport{TLSClientConfig: mustPinned(t, l.ca())}}
	defer hc.CloseIdleConnections()
	ask := func(method, path, body string) (*http.Response, map[string]any) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "https://"+l.addr+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+l.token())
		req.Header.Set("Content-Type", "application/json")
		resp, err := hc.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var doc map[string]any
		b, err := io.ReadAll(resp.Body)
		if err := errors.Join(err, json.Unmarshal(b, &doc)); err != nil {
			t.Fatalf("%s %s: %v: %s", method, path, err, b)
		}
		return resp, doc
	}
	for _, c := range []struct {
		method, path, body string
		status             int
		code               string
	}{
		{"GET", "/api/v1/items/none", "", 404, "UnknownItem"},
		{"GET", "/api/v1/jobs/none", "", 404, "UnknownJob"},
		{"GET", "/api/v1/nowhere", "", 404, "InvalidRequest"},
		{"POST", "/api/v1/sites", `{"id":"x","bogus":1}`, 422, "InvalidRequest"},
		{"POST", "/api/v1/sites", `{`, 400, "InvalidRequest"},
		{"POST", "/api/v1/groups/g/explode", `{}`, 400, "InvalidRequest"},
	} {
		resp, doc := ask(c.method, c.path, c.body)
		if doc["code"] != c.code || resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %s: %s %s %v", c.method, c.path, resp.Status, resp.Header.Get("Content-Type"), doc)
		}
		if c.status != 422 && resp.StatusCode != c.status {
			t.Errorf("%s %s: status %d, want %d", c.method, c.path, resp.StatusCode, c.status)
		}
	}
	_, doc := ask("GET", "/api/v1/openapi.json", "")
	if v, _ := doc["openapi"].(string); !strings.HasPrefix(v, "3.1") {
		t.Errorf("openapi %v", doc["openapi"])
	}
	if paths, _ := doc["paths"].(map[string]any); paths["/api/v1/groups/{id}/{operation}"] == nil {
		t.Errorf("paths %v", reflect.ValueOf(doc["paths"]).MapKeys())
	}
}

func mustPinned(t *testing.T, ca []byte) *tls.Config {
	t.Helper()
	cfg, err := identity.PinnedTLS(ca)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func (l *lab) finishAs(want rest.JobState) func(rest.Job, error) rest.Job {
	return func(job rest.Job, err error) rest.Job {
		l.t.Helper()
		return l.finish(job, err, want)
	}
}
