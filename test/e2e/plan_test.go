package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/lab/demo"
	"rebound/internal/lifecycle"
	"rebound/internal/vault/rest"
)

// The exit codes of 'rebound help exit-codes' that the plan meets.
const (
	exitDone    = 0
	exitRefused = 3
	exitDenied  = 5
	exitWaiting = 6
)

// cli runs the program as an operator does and demands an exit code.
func (r *rig) cli(token string, want int, args ...string) string {
	r.t.Helper()
	code, out, errs := r.command(token, args...)
	if code != want {
		r.t.Fatalf("rebound %s: exit %d, want %d\n%s\n%s", strings.Join(args[:3], " "), code, want, out, errs)
	}
	return out
}

// command runs the program and returns its exit code and what it said.
func (r *rig) command(token string, args ...string) (code int, out, errs string) {
	r.t.Helper()
	cmd := exec.CommandContext(r.ctx, program, append(args, "--vault", r.w.VaultAddr(), "--ca", r.w.VaultCA(), "--token", token)...)
	cmd.Env = append(os.Environ(), "HOME="+r.dir)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err := cmd.Run()
	if ee, ok := errors.AsType[*exec.ExitError](err); ok {
		code = ee.ExitCode()
	} else if err != nil {
		r.t.Fatal(err)
	}
	return code, o.String(), e.String()
}

// cliJSON is cli with the output read.
func cliJSON[T any](r *rig, token string, want int, args ...string) T {
	r.t.Helper()
	var v T
	out := r.cli(token, want, append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		r.t.Fatalf("%v: %v\n%s", args[:2], err, out)
	}
	return v
}

const planDocument = `
id: shop-plan
description: two machines of one group in two boot groups, two alone
groups:
  - name: data
    items: [web, ledger]
    after:
      - name: tell-dns
        script:
          timeoutSeconds: 60
          text: |
            #!/bin/sh -e
            echo "$REBOUND_OPERATION $REBOUND_MODE $REBOUND_ITEMS -> $REBOUND_SITE" | tee -a SCRIPTLOG
  - name: front
    items: [db, mail]
    before:
      - name: check the data
        when: [forward]
        manual: {text: "Look at the data machines."}
      - name: open the doors
        when: [forward]
        approval: {text: "May the front start?", role: operator}
`

// TestChecklistPlan takes four machines there and home again by a recovery plan, from
// the command line alone.
func TestChecklistPlan(t *testing.T) {
	r := newRig(t, options{guests: []string{"web", "db", "ledger", "mail"}, limit: 9 * time.Minute})
	r.start()
	me := r.w.Token
	r.cli(me, exitDone, "machine", "protect", "web", "db", "--site", string(demo.HomeSite), "--to", string(demo.CloudSite), "--policy", "e2e", "--group", string(group))
	for _, m := range []string{"ledger", "mail"} {
		r.cli(me, exitDone, "machine", "protect", m, "--site", string(demo.HomeSite), "--to", string(demo.CloudSite), "--policy", "e2e")
	}
	r.planProtected()
	log := filepath.Join(r.dir, "script.log")
	file := filepath.Join(r.dir, "plan.yaml")
	must(t, os.WriteFile(file, []byte(strings.ReplaceAll(planDocument, "SCRIPTLOG", log)), 0o600))
	r.cli(me, exitDone, "plan", "create", "-f", file)
	boss := cliJSON[rest.TokenSecret](r, me, exitDone, "token", "create", "--name", "boss", "--role", "operator").Secret

	points := map[dr.GroupID]dr.Position{}
	for _, g := range []dr.GroupID{group, "ledger", "mail"} {
		points[g] = r.cliAppPoint(me, g)
	}
	r.cli(me, exitDone, "test", "plan/shop-plan", "--network", "drill", "--point", string(dr.LatestApp), "--yes")
	r.appConsistentPlan(me, points)
	r.cli(me, exitDone, "test-cleanup", "plan/shop-plan")

	at := time.Now()
	job := cliJSON[rest.Job](r, me, exitWaiting, "failover", "plan/shop-plan", "--planned", "--yes")
	cut := time.Now()
	if n := len(r.w.Guests(demo.CloudSite)); n != 2 {
		t.Errorf("%d machines run in the cloud while the second boot group waits", n)
	}
	job = cliJSON[rest.Job](r, me, exitWaiting, "job", "resume", string(job.ID), "--note", "all well")
	if job.Waiting == nil || job.Waiting.Kind != "approval" {
		t.Errorf("it waits for %+v", job.Waiting)
	}
	r.cli(me, exitDenied, "job", "approve", string(job.ID)) // the starter may not
	r.cli(boss, exitDone, "job", "approve", string(job.ID), "--note", "go")
	r.judge("planned failover of the plan", at, cut, -1)
	r.cli(me, exitRefused, "change-point", "plan/shop-plan", "--point", "latest", "--yes")
	r.cli(me, exitDone, "commit", "plan/shop-plan", "--yes")
	r.cli(me, exitDone, "reprotect", "plan/shop-plan")
	r.planProtected()

	at = time.Now()
	r.cli(me, exitDone, "failback", "plan/shop-plan", "--yes")
	r.judge("failback of the plan", at, time.Now(), -1)
	r.cli(me, exitDone, "commit", "plan/shop-plan", "--yes")
	r.cli(me, exitDone, "reprotect", "plan/shop-plan")
	r.planProtected()
	for _, m := range r.names {
		r.noGuestErrors(demo.HomeSite, m)
	}
	r.planRecord(me, log)
}

// cliAppPoint makes an application-consistent point of a group and returns where
// in the stream it is. The agent of a guest that has just booted may not run yet.
func (r *rig) cliAppPoint(token string, g dr.GroupID) dr.Position {
	r.t.Helper()
	r.until("an application-consistent point of "+string(g), func() error {
		code, _, errs := r.command(token, "point", "create", string(g), "--name", "before the plan", "--app-consistent")
		if code != exitDone {
			return fmt.Errorf("exit %d: %s", code, errs)
		}
		return nil
	})
	type listed struct {
		Points []dr.Point `json:"points"`
	}
	points := cliJSON[listed](r, token, exitDone, "point", "list", string(g), "--kind", string(dr.AppConsistent)).Points
	if len(points) == 0 {
		r.t.Fatalf("group %s has no application-consistent point", g)
	}
	return points[len(points)-1].Position
}

// appConsistentPlan shows from where the plan's last run started the
// machines: points is the newest application-consistent one of each group.
func (r *rig) appConsistentPlan(token string, points map[dr.GroupID]dr.Position) {
	t := r.t
	t.Helper()
	runs := cliJSON[[]rest.PlanRun](r, token, exitDone, "plan", "runs", "shop-plan")
	if len(runs) != 1 || len(runs[0].Machines) != len(r.names) {
		t.Fatalf("runs: %+v", runs)
	}
	check := func(of func(dr.GroupID) bool) func(*testing.T) {
		return func(t *testing.T) {
			for _, m := range runs[0].Machines {
				if of(m.Group) && m.Position != points[m.Group].String() {
					t.Errorf("%s started from %s; the application-consistent points are %v", m.Item, m.Position, points)
				}
			}
		}
	}
	t.Run("S15_TheMembersOfAGroupInAPlanStartFromOneAppConsistentPoint", check(func(g dr.GroupID) bool { return g == group }))
	t.Run("S17_MachinesOfTheirOwnInAPlanStartFromTheirOwn", check(func(g dr.GroupID) bool { return g != group }))
}

// planProtected waits until all groups of the plan are protected.
func (r *rig) planProtected() {
	r.t.Helper()
	r.until("all groups protected", func() error {
		groups, err := r.w.Client.Groups(r.ctx)
		if err != nil {
			return err
		}
		for _, g := range groups {
			if g.State != lifecycle.Protected {
				return errors.New(string(g.ID) + " is " + string(g.State))
			}
		}
		if len(groups) != 3 {
			return errors.New("not three groups")
		}
		return nil
	})
}

// planRecord looks at what is on record: the script's runs, history and report.
func (r *rig) planRecord(token, log string) {
	t := r.t
	t.Helper()
	b, err := os.ReadFile(log)
	must(t, err)
	want := "test-failover test web ledger -> cloud\nfailover planned web ledger -> cloud\nfailback planned web ledger -> home\n"
	if string(b) != want {
		t.Errorf("the script ran as\n%s\nwant\n%s", b, want)
	}
	runs := cliJSON[[]rest.PlanRun](r, token, exitDone, "plan", "runs", "shop-plan")
	i := slices.IndexFunc(runs, func(x rest.PlanRun) bool { return x.Operation == lifecycle.Failover })
	if len(runs) != 8 || i < 0 {
		t.Fatalf("%d runs", len(runs))
	}
	fo := runs[i]
	if fo.RTOSeconds == nil || fo.RPOSeconds == nil || *fo.RPOSeconds != 0 || *fo.RTOSeconds <= 0 {
		t.Errorf("%+v", fo)
	}
	for _, m := range fo.Machines {
		if m.State != "healthy" || !strings.Contains(m.Proof, "agent") {
			t.Errorf("%s is %s by %q", m.Item, m.State, m.Proof)
		}
		if front := m.Item == dr.ItemID("db") || m.Item == "mail"; front != (m.BootGroup == 2) {
			t.Errorf("%s is in boot group %d", m.Item, m.BootGroup)
		}
	}
	page := r.cli(token, exitDone, "plan", "report", "shop-plan", "--run", "3", "-o", "html")
	for _, want := range []string{"Manual action: check the data", "all well", "boss", "failover planned web ledger -&gt; cloud", "<strong>boss</strong>"} {
		if !strings.Contains(page, want) {
			t.Errorf("the report lacks %q", want)
		}
	}
}
