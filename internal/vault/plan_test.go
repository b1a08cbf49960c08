package vault_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"rebound/internal/control"
	"rebound/internal/control/controltest"
	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/site"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// planLab has four machines: the replication group "app" of vm1 and vm2, and
// web and db alone, all protected; the boot groups are (db, vm1) and (web, vm2).
func planLab(t *testing.T) *lab {
	t.Helper()
	l := newLab(t)
	l.protected()
	for _, m := range []dr.MachineName{"web", "db"} {
		l.home.AddMachine(m)
		l.known("home", m)
		l.finish(l.c.Protect(t.Context(), rest.ProtectRequest{Machines: []dr.MachineName{m}, To: "cloud"}))
		l.untilState(dr.GroupID(m), lifecycle.Protected)
	}
	return l
}

func shop() rest.Plan {
	return rest.Plan{ID: "shop", Groups: []rest.PlanGroup{{Name: "data", Items: []string{"db", "vm1"}}, {Name: "front", Items: []string{"web", "vm2"}}}}
}

func (l *lab) plan(p rest.Plan) {
	l.t.Helper()
	if _, err := l.c.PutPlan(l.t.Context(), p); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) runPlan(op lifecycle.Operation, req rest.OperationRequest, want ...rest.JobState) rest.Job {
	l.t.Helper()
	job, err := l.c.Operate(l.t.Context(), client.PlanTarget("shop"), op, req)
	return l.finish(job, err, want...)
}

// order are the machines of a command's effects, in order.
func (l *lab) order(what string) []string {
	var out []string
	for _, e := range l.world.Effects() {
		if e.What == what {
			out = append(out, e.Who)
		}
	}
	return out
}

// inOrder demands that the first two came before the last two.
func (l *lab) inOrder(what string, first, then []string) {
	l.t.Helper()
	got := l.order(what)
	if len(got) != 4 {
		l.t.Fatalf("%s: %v, want four", what, got)
	}
	slices.Sort(got[:2])
	slices.Sort(got[2:])
	if !slices.Equal(got[:2], first) || !slices.Equal(got[2:], then) {
		l.t.Errorf("%s: %v, want %v, then %v", what, got, first, then)
	}
}

// TestPlanRoundTrip goes there and home again, in order, with a group whose
// members boot in different boot groups.
func TestPlanRoundTrip(t *testing.T) {
	t.Parallel()
	l := planLab(t)
	p := shop()
	p.Groups[0].After = []rest.PlanAction{{Name: "dns", When: []rest.PlanWhen{rest.WhenForward, rest.WhenTest}, Script: &rest.PlanScript{Text: "true"}}}
	p.Groups[1].Before = []rest.PlanAction{{Name: "tell-home", When: []rest.PlanWhen{rest.WhenBack}, Script: &rest.PlanScript{Text: "true", At: rest.AtSource}}}
	l.plan(p)
	var env map[string]string
	l.world.OnScript(func(r control.ScriptRequest) control.ScriptResult {
		env = r.Env
		return control.ScriptResult{Stdout: "hello\n"}
	})

	l.runPlan(lifecycle.TestFailover, rest.OperationRequest{Network: "lab"})
	l.inOrder("StartRecovered", []string{"db-test", "vm1-test"}, []string{"vm2-test", "web-test"})
	if env["REBOUND_MODE"] != "test" || env["REBOUND_SITE"] != "cloud" || env["REBOUND_ITEMS"] != "db vm1" || env["REBOUND_PLAN"] != "shop" || env["REBOUND_RUN"] != "1" {
		t.Errorf("environment: %v", env)
	}
	l.runPlan(lifecycle.TestCleanup, rest.OperationRequest{})
	before := len(l.order("StartRecovered"))

	job := l.runPlan(lifecycle.Failover, rest.OperationRequest{Mode: "planned"})
	l.inOrder("StopMachine", []string{"vm2", "web"}, []string{"db", "vm1"})
	got := l.order("StartRecovered")[before:]
	slices.Sort(got[:2])
	if !slices.Equal(got[:2], []string{"db", "vm1"}) {
		t.Errorf("booted %v", got)
	}
	// Every shutdown before any boot; the script after the first boot group and before the second.
	var seen []string
	for _, e := range l.world.Effects() {
		if e.Origin.Job != "" && slices.Contains([]string{"StopMachine", "Seal", "StartRecovered", "RunScript"}, e.What) {
			seen = append(seen, e.What)
		}
	}
	text := strings.Join(seen[len(seen)-12:], " ")
	if want := "StopMachine StopMachine StopMachine StopMachine Seal Seal Seal StartRecovered StartRecovered RunScript StartRecovered StartRecovered"; text != want {
		t.Errorf("order:\n%s\nwant\n%s", text, want)
	}
	if job.Plan != "shop" || job.Run != 3 || len(job.Items) != 4 {
		t.Errorf("%+v", job)
	}
	steps := 0
	for _, task := range job.Tasks {
		steps += len(task.Steps)
	}
	if steps < 30 {
		t.Errorf("%d steps below the plan's tasks", steps)
	}
	l.runPlan(lifecycle.Commit, rest.OperationRequest{})
	l.runPlan(lifecycle.Reprotect, rest.OperationRequest{Values: map[string]rest.OperationRequest{"db": {}}})
	for _, g := range []dr.GroupID{"app", "web", "db"} {
		l.untilState(g, lifecycle.Protected)
	}
	l.runPlan(lifecycle.Failback, rest.OperationRequest{})
	if env["REBOUND_DIRECTION"] != "back" || env["REBOUND_SITE"] != "home" || env["REBOUND_ACTION"] != "tell-home" {
		t.Errorf("environment on the way back: %v", env)
	}
	if last := l.world.Effects(); !slices.ContainsFunc(last, func(e controltest.Effect) bool {
		return e.What == "RunScript" && e.Who == "tell-home" && e.Gateway == "gw-cloud"
	}) {
		t.Error("the script ran elsewhere than at the source")
	}
	l.runPlan(lifecycle.Commit, rest.OperationRequest{AcceptRunning: true})
	l.runPlan(lifecycle.Reprotect, rest.OperationRequest{})
	for _, m := range []dr.MachineName{"vm1", "vm2", "web", "db"} {
		if _, state, _ := l.home.Content(m); state != site.Running {
			t.Errorf("%s is %s at home", m, state)
		}
	}
	l.checkHistory()
}

func (l *lab) checkHistory() {
	t := l.t
	t.Helper()
	runs, err := l.c.PlanRuns(t.Context(), "shop")
	if err != nil || len(runs) != 8 {
		t.Fatalf("%d runs, %v", len(runs), err)
	}
	fo := runs[5]
	if fo.Operation != lifecycle.Failover || fo.Mode != "planned" || fo.State != rest.JobSucceeded || fo.RTOSeconds == nil || fo.RPOSeconds == nil || *fo.RTOSeconds <= 0 || *fo.RPOSeconds != 0 {
		t.Errorf("the failover's run: %+v", fo)
	}
	for _, m := range fo.Machines {
		if m.State != "healthy" || m.Healthy.Before(m.Started) || m.RTOSeconds == nil || m.LostSeconds == nil {
			t.Errorf("machine %+v", m)
		}
	}
	rep, err := l.c.PlanReport(t.Context(), "shop", fo.Run)
	if err != nil || rep.Run.Run != fo.Run || len(rep.Jobs) != 3 || rep.Document.ID != "shop" {
		t.Errorf("%+v, %v", rep.Run, err)
	}
	var page bytes.Buffer
	if err := l.c.PlanReportPage(t.Context(), "shop", fo.Run, &page); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Recovery plan shop", "Script: dns", "hello", "boot group 2 (front)", "Shut the source machines down", "vm2", rep.Job.By} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the report lacks %q", want)
		}
	}
	if strings.Contains(page.String(), "<script") || strings.Contains(page.String(), "http://") {
		t.Error("the page needs something else")
	}
}

// TestPlanWaitsForPeople: a manual action, then an approval that the starter
// may not give and a reader may not either; the job waits meanwhile.
func TestPlanWaitsForPeople(t *testing.T) {
	t.Parallel()
	l := planLab(t)
	p := shop()
	p.Before = []rest.PlanAction{{Name: "phone", Manual: &rest.PlanManual{Text: "Call the owner."}}}
	p.Groups[0].Before = []rest.PlanAction{{Name: "go", Approval: &rest.PlanApproval{Text: "Go?", Role: "contributor"}}}
	l.plan(p)
	other := func(name, role string) *client.Client {
		tok, err := l.c.CreateToken(t.Context(), rest.NewToken{Name: name, Role: role})
		if err != nil {
			t.Fatal(err)
		}
		return l.client(tok.Secret)
	}
	operator, boss := other("op", "operator"), other("boss", "contributor")
	job, err := l.c.Operate(t.Context(), client.PlanTarget("shop"), lifecycle.Failover, rest.OperationRequest{Mode: "planned"})
	job = l.finish(job, err, rest.JobWaiting)
	if job.Waiting == nil || job.Waiting.Kind != "manual" || !slices.Contains(job.AllowedActions, "resume") {
		t.Fatalf("%+v", job)
	}
	if n := len(l.order("StopMachine")); n != 0 {
		t.Errorf("%d machines were shut down already", n)
	}
	if g, err := l.c.Group(t.Context(), "app"); err != nil || g.State != lifecycle.Protected {
		t.Errorf("the group is %s, %v", g.State, err)
	}
	if _, err := l.c.AnswerJob(t.Context(), job.ID, "approve", rest.JobAnswer{}); !problem.HasCode(err, problem.NothingWaits) {
		t.Errorf("approving a manual action: %v", err)
	}
	// The vault dies while the job waits.
	l.stop()
	l.startVault()
	if _, err := l.c.AnswerJob(t.Context(), job.ID, "resume", rest.JobAnswer{Note: "told her"}); err != nil {
		t.Fatal(err)
	}
	l.until("the approval is asked for", func() bool {
		job, err = l.c.Job(t.Context(), job.ID)
		return err == nil && job.State == rest.JobWaiting && job.Waiting.Kind == "approval"
	})
	for who, want := range map[*client.Client]problem.Code{l.c: problem.SamePerson, operator: problem.PermissionDenied} {
		if _, err := who.AnswerJob(t.Context(), job.ID, "approve", rest.JobAnswer{}); !problem.HasCode(err, want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if n := len(l.order("StartRecovered")); n != 0 {
		t.Errorf("%d machines were started without approval", n)
	}
	_, err = boss.AnswerJob(t.Context(), job.ID, "approve", rest.JobAnswer{Note: "go"})
	job = l.finish(job, err)
	i := slices.IndexFunc(job.Tasks, func(t rest.Task) bool { return t.Title == "Approval: go" })
	if i < 0 || len(job.Tasks[i].Decisions) != 1 || job.Tasks[i].Decisions[0].By != "boss" || job.Tasks[i].Decisions[0].Note != "go" {
		t.Errorf("%+v", job.Tasks)
	}
}

// TestPlanRejectedAndResumed: a rejection before anything was done leaves the
// machines as they were; later it stops the plan, and a restart goes on.
func TestPlanRejected(t *testing.T) {
	t.Parallel()
	l := planLab(t)
	p := shop()
	p.Groups[1].Before = []rest.PlanAction{{Name: "go", Approval: &rest.PlanApproval{}}}
	l.plan(p)
	tok, err := l.c.CreateToken(t.Context(), rest.NewToken{Name: "boss", Role: "operator"})
	if err != nil {
		t.Fatal(err)
	}
	boss := l.client(tok.Secret)
	job, err := l.c.Operate(t.Context(), client.PlanTarget("shop"), lifecycle.Failover, rest.OperationRequest{Mode: "planned"})
	job = l.finish(job, err, rest.JobWaiting)
	if _, err := boss.AnswerJob(t.Context(), job.ID, "reject", rest.JobAnswer{Note: "not now"}); err != nil {
		t.Fatal(err)
	}
	job = l.finish(job, nil, rest.JobFailed)
	if job.Errors[0].Code != problem.ActionFailed || !strings.Contains(job.Errors[0].Detail, "not now") {
		t.Errorf("%+v", job.Errors)
	}
	l.untilState("app", lifecycle.FailoverFailed)
	l.untilState("db", lifecycle.CommitPending)
	starts := len(l.order("StartRecovered"))
	if starts != 2 {
		t.Errorf("%d machines run", starts)
	}
	job, err = l.c.JobAction(t.Context(), job.ID, "restart")
	job = l.finish(job, err, rest.JobWaiting)
	_, err = boss.AnswerJob(t.Context(), job.ID, "approve", rest.JobAnswer{})
	l.finish(job, err)
	if n := len(l.order("StartRecovered")); n != 4 || len(l.order("StopMachine")) != 4 || len(l.order("Seal")) != 3 {
		t.Errorf("after the restart: %v, %v", l.order("StartRecovered"), l.order("StopMachine"))
	}
	l.untilState("app", lifecycle.CommitPending)
}

// TestPlanRetriesWhatFailedAlone: one machine does not start; the others do,
// and the restart starts that one only.
func TestPlanRetriesWhatFailedAlone(t *testing.T) {
	t.Parallel()
	l := planLab(t)
	l.plan(shop())
	l.world.Plan(&controltest.Fault{Gateway: "gw-cloud", Command: "StartRecovered", Machine: "vm1", Times: 1, Err: problem.New(problem.HypervisorError, "no")})
	job := l.runPlan(lifecycle.Failover, rest.OperationRequest{Mode: "unplanned"}, rest.JobFailed)
	got := l.order("StartRecovered")
	slices.Sort(got)
	if !slices.Equal(got, []string{"db", "vm2", "web"}) {
		t.Errorf("started %v", got)
	}
	runs, err := l.c.PlanRuns(t.Context(), "shop")
	if err != nil || runs[0].RTOSeconds != nil {
		t.Errorf("%+v, %v", runs[0], err)
	}
	for _, m := range runs[0].Machines {
		if failed := m.State == "failed"; failed != (m.Item == "vm1") {
			t.Errorf("%s is %s", m.Item, m.State)
		}
	}
	job, err = l.c.JobAction(t.Context(), job.ID, "restart")
	l.finish(job, err)
	if n := len(l.order("StartRecovered")); n != 4 || len(l.order("Seal")) != 3 || len(l.order("StopMachine")) != 4 {
		t.Errorf("after the restart: %v", l.order("StartRecovered"))
	}
	if runs, err = l.c.PlanRuns(t.Context(), "shop"); err != nil || runs[0].RTOSeconds == nil || len(runs) != 1 {
		t.Errorf("%+v, %v", runs, err)
	}
}

// TestPlanSkipsWhatIsUp: a group that was failed over alone is left alone.
func TestPlanSkipsWhatIsUp(t *testing.T) {
	t.Parallel()
	l := planLab(t)
	l.plan(shop())
	job, err := l.c.Operate(t.Context(), client.GroupTarget("web"), lifecycle.Failover, rest.OperationRequest{Mode: "planned"})
	l.finish(job, err)
	l.runPlan(lifecycle.Failover, rest.OperationRequest{Mode: "planned"})
	if n := l.world.Count("StartRecovered", "web"); n != 1 {
		t.Errorf("web was started %d times", n)
	}
	runs, err := l.c.PlanRuns(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range runs[0].Machines {
		if skipped := m.State == "skipped"; skipped != (m.Item == "web") {
			t.Errorf("%s is %s", m.Item, m.State)
		}
	}
	if _, err := l.c.Operate(t.Context(), client.PlanTarget("shop"), lifecycle.Failover, rest.OperationRequest{Mode: "planned"}); !problem.HasCode(err, problem.OperationNotAllowed) {
		t.Errorf("a second failover: %v", err)
	}
}

// TestPlanRefusals: what is refused changes nothing and says why.
func TestPlanRefusals(t *testing.T) {
	t.Parallel()
	l := planLab(t)
	refusedPlans := map[string]func(*rest.Plan){
		"no replicated item":    func(p *rest.Plan) { p.Groups[0].Items = append(p.Groups[0].Items, "nobody") },
		"in boot group 1 and":   func(p *rest.Plan) { p.Groups[1].Items = append(p.Groups[1].Items, "db") },
		"add it to a boot":      func(p *rest.Plan) { p.Groups[0].Items = []string{"db"} },
		"1 to 7 boot groups":    func(p *rest.Plan) { p.Groups = make([]rest.PlanGroup, 8) },
		"exactly one of script": func(p *rest.Plan) { p.Before = []rest.PlanAction{{Name: "x"}} },
		"either a text or":      func(p *rest.Plan) { p.Before = []rest.PlanAction{{Name: "x", Script: &rest.PlanScript{}}} },
		"template":              func(p *rest.Plan) { p.After = []rest.PlanAction{{Name: "x", HTTP: &rest.PlanHTTP{URL: "http://{{"}}} },
	}
	for want, change := range refusedPlans {
		p := shop()
		change(&p)
		if _, err := l.c.PutPlan(t.Context(), p); err == nil || !strings.Contains(err.Error(), want) && !problem.HasCode(err, problem.InvalidRequest) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if plans, err := l.c.Plans(t.Context()); err != nil || len(plans) != 0 {
		t.Errorf("%v, %v", plans, err)
	}
	l.plan(shop())
	l.refusesRequests()
	l.refusesLacking()
}

func (l *lab) refusesRequests() {
	t := l.t
	t.Helper()
	cases := []struct {
		op   lifecycle.Operation
		req  rest.OperationRequest
		code problem.Code
	}{
		{lifecycle.Failover, rest.OperationRequest{Mode: "unplanned", Point: "p1-1"}, problem.PlanPointNotAllowed},
		{lifecycle.Failover, rest.OperationRequest{Mode: "unplanned", Point: "2026-11-23T03:04:05Z"}, problem.PlanPointNotAllowed},
		{lifecycle.ChangePoint, rest.OperationRequest{Point: dr.Latest}, problem.OperationNotAllowed},
		{lifecycle.Failback, rest.OperationRequest{}, problem.OperationNotAllowed},
		{lifecycle.Commit, rest.OperationRequest{}, problem.OperationNotAllowed},
		{lifecycle.Failover, rest.OperationRequest{Values: map[string]rest.OperationRequest{"nobody": {}}}, problem.InvalidRequest},
	}
	for _, c := range cases {
		if _, err := l.c.Operate(t.Context(), client.PlanTarget("shop"), c.op, c.req); !problem.HasCode(err, c.code) {
			t.Errorf("%s %+v: %v, want %s", c.op, c.req, err, c.code)
		}
	}
	v, err := l.c.Plan(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range v.AllowedOperations {
		want := s.Name == lifecycle.Failover || s.Name == lifecycle.TestFailover
		if s.Allowed != want || !s.Allowed && (s.Reason == "" || s.Remedy == "") {
			t.Errorf("%+v", s)
		}
	}
	d, err := l.c.DryRun(t.Context(), client.PlanTarget("shop"), lifecycle.Failover, rest.OperationRequest{Mode: "planned"})
	if err != nil || len(d.Parts) != 3 || len(d.Tasks) != 7 {
		t.Errorf("dry run: %+v, %v", d, err)
	}
	if len(l.order("StartRecovered")) != 0 || len(l.order("StopMachine")) != 0 {
		t.Error("a refusal or a dry run did something")
	}
}

// refusesLacking: a machine without a point blocks the plan and is named (S7).
func (l *lab) refusesLacking() {
	t := l.t
	t.Helper()
	release := make(chan struct{})
	f := l.world.Plan(faultUntil("gw-home", "StartReplication", release))
	l.home.AddMachine("new")
	l.known("home", "new")
	job, err := l.c.Protect(t.Context(), rest.ProtectRequest{Machines: []dr.MachineName{"new"}, To: "cloud"})
	if err != nil {
		t.Fatal(err)
	}
	l.until("the protection is on its way", func() bool { return l.world.Struck(f) == 1 })
	p := shop()
	p.Groups[0].Items = append(p.Groups[0].Items, "new")
	l.plan(p)
	_, err = l.c.Operate(t.Context(), client.PlanTarget("shop"), lifecycle.Failover, rest.OperationRequest{Mode: "unplanned"})
	if err == nil || !strings.Contains(err.Error(), "new") || strings.Contains(err.Error(), "web:") {
		t.Errorf("%v", err)
	}
	close(release)
	l.finish(job, nil)
}

// TestPlanActionsFail: stop and continue, and a call's expectation.
func TestPlanActionsFail(t *testing.T) {
	t.Parallel()
	l := planLab(t)
	var calls atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		fmt.Fprint(w, r.URL.Path)
	}))
	defer srv.Close()
	p := shop()
	p.Before = []rest.PlanAction{
		{Name: "shrug", OnFailure: rest.OnFailureContinue, Script: &rest.PlanScript{Text: "exit 3"}},
		{Name: "hook", HTTP: &rest.PlanHTTP{URL: srv.URL + "/{{.REBOUND_PLAN}}", Method: "PUT", Body: `{"items":{{json .REBOUND_ITEMS}}}`}},
	}
	p.Groups[0].Before = []rest.PlanAction{{Name: "must", Script: &rest.PlanScript{Text: "exit 4"}}}
	l.plan(p)
	code := 4
	l.world.OnScript(func(r control.ScriptRequest) control.ScriptResult {
		if r.Text == "exit 3" {
			return control.ScriptResult{ExitCode: 3, Stderr: "no idea\n"}
		}
		return control.ScriptResult{ExitCode: code, TimedOut: code != 0}
	})
	job := l.runPlan(lifecycle.Failover, rest.OperationRequest{Mode: "planned"}, rest.JobFailed)
	if len(job.Errors) != 1 || job.Errors[0].Code != problem.ActionFailed || !strings.Contains(job.Errors[0].Detail, "was killed") {
		t.Errorf("%+v", job.Errors)
	}
	if !slices.ContainsFunc(job.Warnings, func(w string) bool { return strings.Contains(w, "code 3: no idea") }) {
		t.Errorf("%v", job.Warnings)
	}
	if len(l.order("StartRecovered")) != 0 || calls.Load() != 1 {
		t.Errorf("%v started, %d calls", l.order("StartRecovered"), calls.Load())
	}
	code = 0
	job, err := l.c.JobAction(t.Context(), job.ID, "restart")
	l.finish(job, err, rest.JobWarning)
	if n := len(l.order("StartRecovered")); n != 4 || calls.Load() != 1 || l.world.Count("RunScript", "shrug") != 1 || l.world.Count("RunScript", "must") != 2 {
		t.Errorf("%d started, %d calls, %v", n, calls.Load(), l.order("RunScript"))
	}
}

// TestPlanActionCutShort: a gateway that died in the middle of a script says
// so, and a person decides.
func TestPlanActionCutShort(t *testing.T) {
	t.Parallel()
	l := planLab(t)
	p := shop()
	p.Before = []rest.PlanAction{{Name: "once", Script: &rest.PlanScript{Text: "true"}}}
	l.plan(p)
	l.world.Plan(&controltest.Fault{Gateway: "gw-cloud", Command: "RunScript", Times: 1, Err: problem.New(problem.ActionInterrupted, "it was begun")})
	job, err := l.c.Operate(t.Context(), client.PlanTarget("shop"), lifecycle.Failover, rest.OperationRequest{Mode: "planned"})
	job = l.finish(job, err, rest.JobWaiting)
	if job.Waiting.Kind != "decision" || !strings.Contains(job.Waiting.Text, "it was begun") {
		t.Errorf("%+v", job.Waiting)
	}
	_, err = l.c.AnswerJob(t.Context(), job.ID, "resume", rest.JobAnswer{Again: true})
	l.finish(job, err)
	if n := l.world.Count("RunScript", "once"); n != 1 {
		t.Errorf("it ran %d times", n)
	}
}

// TestPlanCancelled: before the failover everything is as before; the job goes
// on when it is resumed.
func TestPlanCancelled(t *testing.T) {
	t.Parallel()
	l := planLab(t)
	p := shop()
	p.Groups[0].Before = []rest.PlanAction{{Name: "wait", Manual: &rest.PlanManual{Text: "wait"}}}
	l.plan(p)
	release := make(chan struct{})
	f := l.world.Plan(faultUntil("gw-home", "StopMachine", release))
	job, err := l.c.Operate(t.Context(), client.PlanTarget("shop"), lifecycle.Failover, rest.OperationRequest{Mode: "planned"})
	if err != nil {
		t.Fatal(err)
	}
	l.until("a shutdown runs", func() bool { return l.world.Struck(f) > 0 })
	if _, err := l.c.JobAction(t.Context(), job.ID, "cancel"); err != nil {
		t.Fatal(err)
	}
	close(release)
	job = l.finish(job, nil, rest.JobCancelled)
	for _, g := range []dr.GroupID{"app", "web", "db"} {
		l.untilState(g, lifecycle.Protected)
	}
	for _, m := range []dr.MachineName{"vm1", "vm2", "web", "db"} {
		l.until(string(m)+" runs at home", func() bool { _, state, _ := l.home.Content(m); return state == site.Running })
	}
	l.until("it may begin", func() bool {
		v, err := l.c.Plan(t.Context(), "shop")
		return err == nil && v.RunningJob == "" && slices.ContainsFunc(v.AllowedOperations, func(s lifecycle.OperationStatus) bool { return s.Name == lifecycle.Failover && s.Allowed })
	})
	job, err = l.c.JobAction(t.Context(), job.ID, "resume")
	job = l.finish(job, err, rest.JobWaiting)
	_, err = l.c.AnswerJob(t.Context(), job.ID, "resume", rest.JobAnswer{})
	l.finish(job, err, rest.JobSucceeded, rest.JobWarning)
	if n := len(l.order("StartRecovered")); n != 4 {
		t.Errorf("%d machines run", n)
	}
}
