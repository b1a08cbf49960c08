package orchestrator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"text/template"
	"time"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/gateway/runbook"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// The time limits of actions that do not say.
const (
	scriptTimeout = 300 // seconds
	callTimeout   = 30  // seconds
)

// runAction does one action of a plan.
func runAction(ctx context.Context, r *run) error {
	a, group, err := actionOf(r.job.Spec.Document, r.task.arg)
	if err != nil {
		return err
	}
	switch {
	case a.Script != nil:
		err = r.interruptible(ctx, a, func(sub string) error { return r.runScript(ctx, a, group, sub) })
	case a.HTTP != nil:
		err = r.interruptible(ctx, a, func(sub string) error { return r.call(ctx, a, group, sub) })
	case a.Manual != nil:
		err = r.person(ctx, a, rest.Waiting{Kind: waitManual, Text: a.Manual.Text})
	case a.Approval != nil:
		err = r.person(ctx, a, rest.Waiting{Kind: waitApproval, Text: a.Approval.Text, Role: a.Approval.Role, NotBy: r.job.By})
	}
	if err == nil || a.OnFailure != rest.OnFailureContinue || errors.Is(err, context.Canceled) {
		return err
	}
	r.warn("%s failed, and the plan goes on, as it says: %s", a.Name, problem.Text(err))
	return nil
}

// person waits for an answer.
func (r *run) person(ctx context.Context, a rest.PlanAction, w rest.Waiting) error {
	if w.Text == "" {
		w.Text = a.Name
	}
	d, err := r.ask(ctx, w)
	if err != nil {
		return err
	}
	r.set("answer", d)
	if d.Verdict == verdictReject {
		return problem.New(problem.ActionFailed, "%s rejected it%s", d.By, noteOf(d))
	}
	return nil
}

func noteOf(d rest.Decision) string {
	if d.Note == "" {
		return ""
	}
	return ": " + d.Note
}

// interruptible runs an action that may have been cut short by the death of the
// one who ran it. Then nobody knows how far it came: a person decides.
func (r *run) interruptible(ctx context.Context, a rest.PlanAction, f func(sub string) error) error {
	for n := 0; ; n++ {
		sub := ""
		if n > 0 {
			sub = fmt.Sprintf("again%d", n)
		}
		err := f(sub)
		if !problem.HasCode(err, problem.ActionInterrupted) {
			return err
		}
		d, askErr := r.ask(ctx, rest.Waiting{Kind: waitDecision, Text: fmt.Sprintf("%s was cut short: %s. Look at what it did; then say whether it counts as done, is to be run again, or has failed.", a.Name, problem.Text(err))})
		if askErr != nil {
			return askErr
		}
		r.set("answer", d)
		switch {
		case d.Verdict == verdictReject:
			return err
		case !d.Again:
			r.warn("%s was cut short; %s said that it is done%s", a.Name, d.By, noteOf(d))
			return nil
		}
	}
}

// runScript runs a script on a gateway.
func (r *run) runScript(ctx context.Context, a rest.PlanAction, group int, sub string) error {
	gw, err := r.place(ctx, a.Script.At, rest.AtTarget)
	if err != nil {
		return err
	}
	env, err := r.values(ctx, a, group)
	if err != nil {
		return err
	}
	req := control.ScriptRequest{Text: a.Script.Text, Path: a.Script.Path, Args: a.Script.Args, Env: map[string]string{}, Timeout: seconds(scriptTimeout)}
	if a.Script.TimeoutSeconds > 0 {
		req.Timeout = seconds(a.Script.TimeoutSeconds)
	}
	for k, v := range a.Script.Env {
		req.Env[k] = v
	}
	for k, v := range env {
		req.Env[k] = v
	}
	waiting, cancel := r.untilCancelled(ctx)
	defer cancel()
	res, err := r.o.gateways.Commands(gw).RunScript(waiting, r.origin(sub), req)
	if err != nil {
		return err
	}
	r.set("gateway", string(gw))
	r.set("exitCode", res.ExitCode)
	r.set("stdout", res.Stdout)
	r.set("stderr", res.Stderr)
	r.set("seconds", res.Ended.Sub(res.Started).Seconds())
	switch {
	case res.TimedOut:
		return problem.New(problem.ActionFailed, "script %q did not end within %v and was killed", a.Name, req.Timeout)
	case res.Signal != "":
		return problem.New(problem.ActionFailed, "script %q was ended by a signal: %s", a.Name, res.Signal)
	case res.ExitCode != 0:
		return problem.New(problem.ActionFailed, "script %q ended with code %d%s", a.Name, res.ExitCode, lastLine(res.Stderr))
	}
	return nil
}

// lastLine is what a script said last, for the problem's text.
func lastLine(s string) string {
	s = strings.TrimSpace(s)
	if s = s[strings.LastIndexByte(s, '\n')+1:]; s == "" {
		return ""
	}
	const most = 200
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + " ..."
	}
	return ": " + s
}

// call sends an HTTP request, from the vault or a gateway.
func (r *run) call(ctx context.Context, a rest.PlanAction, group int, sub string) error {
	values, err := r.values(ctx, a, group)
	if err != nil {
		return err
	}
	req, err := callOf(*a.HTTP, values)
	if err != nil {
		return err
	}
	waiting, cancel := r.untilCancelled(ctx)
	defer cancel()
	var res control.CallResult
	if a.HTTP.At == "" || a.HTTP.At == rest.AtVault {
		r.set("by", "vault")
		res, err = r.o.calls.Call(waiting, runbook.Key(r.origin(sub)), req)
	} else {
		var gw dr.GatewayID
		if gw, err = r.place(ctx, a.HTTP.At, rest.AtTarget); err != nil {
			return err
		}
		r.set("by", string(gw))
		res, err = r.o.gateways.Commands(gw).CallHTTP(waiting, r.origin(sub), req)
	}
	if err != nil {
		return err
	}
	r.set("status", res.Status)
	r.set("body", res.Body)
	r.set("attempts", res.Attempts)
	switch {
	case res.Expected:
		return nil
	case res.Status == 0 || res.Error != "":
		return problem.New(problem.ActionFailed, "HTTP call %q: %s (%d attempts)", a.Name, res.Error, res.Attempts)
	}
	return problem.New(problem.ActionFailed, "HTTP call %q was answered with %d %s (%d attempts)", a.Name, res.Status, http.StatusText(res.Status), res.Attempts)
}

// callOf fills the templates of a call in.
func callOf(c rest.PlanHTTP, values map[string]string) (control.CallRequest, error) {
	req := control.CallRequest{Method: c.Method, Headers: map[string]string{}, Expect: c.Expect, Retries: c.Retries, Timeout: seconds(callTimeout)}
	if req.Method == "" {
		req.Method = http.MethodPost
	}
	if c.TimeoutSeconds > 0 {
		req.Timeout = time.Duration(c.TimeoutSeconds) * time.Second
	}
	var err error
	if req.URL, err = fill("url", c.URL, values); err != nil {
		return req, err
	}
	if req.Body, err = fill("body", c.Body, values); err != nil {
		return req, err
	}
	for k, v := range c.Headers {
		if req.Headers[k], err = fill("header "+k, v, values); err != nil {
			return req, err
		}
	}
	return req, nil
}

func parse(what, text string) (*template.Template, error) {
	t, err := template.New(what).Option("missingkey=error").Funcs(template.FuncMap{"json": func(v string) (string, error) {
		b, err := json.Marshal(v)
		return string(b), err
	}}).Parse(text)
	if err != nil {
		return nil, problem.New(problem.InvalidPlan, "template: %v", err)
	}
	return t, nil
}

func fill(what, text string, values map[string]string) (string, error) {
	t, err := parse(what, text)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, values); err != nil {
		return "", problem.New(problem.ActionFailed, "template: %v", err)
	}
	return out.String(), nil
}

// place is the gateway that an action runs on.
func (r *run) place(ctx context.Context, p, otherwise rest.Place) (dr.GatewayID, error) {
	if p == "" {
		p = otherwise
	}
	if id, ok := strings.CutPrefix(string(p), "gateway/"); ok {
		return dr.GatewayID(id), nil
	}
	g, err := r.firstGroup(ctx)
	if err != nil {
		return "", err
	}
	if p == rest.AtSource {
		return g.gatewayOf(r.job.Direction, true), nil
	}
	return g.gatewayOf(r.job.Direction, false), nil
}

type planGroup struct{ store.Group }

// gatewayOf is a gateway by the direction of the job: a commit in the middle
// of a run would turn that of the group.
func (g planGroup) gatewayOf(d dr.Direction, source bool) dr.GatewayID {
	if source == (d != dr.Back) {
		return g.HomeGateway
	}
	return g.RecoveryGateway
}

func (g planGroup) siteOf(d dr.Direction, source bool) dr.SiteID {
	if source == (d != dr.Back) {
		return g.Home
	}
	return g.Recovery
}

func (r *run) firstGroup(ctx context.Context) (planGroup, error) {
	var g planGroup
	err := r.o.store.View(ctx, func(tx *store.Tx) (err error) {
		g.Group, err = tx.Group(r.job.Spec.Members[0].Group)
		return err
	})
	return g, err
}

// values are what scripts get as their environment and calls in their
// templates. They are the same in every attempt but for the addresses, which
// are those that are known now.
func (r *run) values(ctx context.Context, a rest.PlanAction, group int) (map[string]string, error) {
	g, err := r.firstGroup(ctx)
	if err != nil {
		return nil, err
	}
	j := r.job
	out := map[string]string{
		"REBOUND_PLAN": string(j.Plan), "REBOUND_RUN": strconv.Itoa(j.Run), "REBOUND_JOB": string(j.ID), "REBOUND_ACTION": a.Name,
		"REBOUND_OPERATION": string(j.Operation), "REBOUND_DIRECTION": string(j.Direction), "REBOUND_MODE": modeOf(j),
		"REBOUND_SOURCE_SITE": string(g.siteOf(j.Direction, true)), "REBOUND_SITE": string(g.siteOf(j.Direction, false)),
		"REBOUND_GROUP": strconv.Itoa(group), "REBOUND_GROUP_NAME": "",
	}
	if group > 0 {
		out["REBOUND_GROUP_NAME"] = j.Spec.Document.Groups[group-1].Name
	}
	var items []string
	for _, m := range j.Spec.Members {
		if group == 0 || m.Boot == group {
			items = append(items, string(m.Item))
		}
	}
	out["REBOUND_ITEMS"] = strings.Join(items, " ")
	return out, r.addresses(ctx, g.siteOf(j.Direction, false), group, out)
}

// modeOf is planned, unplanned or test, or "" where nothing is started.
func modeOf(j store.Job) string {
	if j.Operation == lifecycle.TestFailover {
		return "test"
	}
	if !ordered(j.Operation) {
		return ""
	}
	r := run{job: j}
	if r.planned() {
		return "planned"
	}
	return "unplanned"
}

// addresses adds what is known of the machines' addresses at a site:
// REBOUND_ADDRESS_ and the machine's name in capitals.
func (r *run) addresses(ctx context.Context, at dr.SiteID, group int, out map[string]string) error {
	return r.o.store.View(ctx, func(tx *store.Tx) error {
		for _, m := range r.job.Spec.Members {
			if group != 0 && m.Boot != group {
				continue
			}
			row, _, err := machineAt(tx, at, m.Machine)
			if err != nil {
				return err
			}
			for _, nic := range row.Definition.NICs {
				if nic.Address == nil || len(nic.Address.IPs) == 0 {
					continue
				}
				ip, _, _ := strings.Cut(nic.Address.IPs[0], "/")
				out["REBOUND_ADDRESS_"+strings.ToUpper(strings.ReplaceAll(string(m.Machine), "-", "_"))] = ip
				break
			}
		}
		return nil
	})
}
