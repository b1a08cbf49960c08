// Package client is the typed client of the vault's REST API, the only way in
// which the command line, the demo and tests speak to a vault. Errors are
// *problem.Problem: what the vault answered, or VaultUnreachable.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
)

// Client speaks to one vault. It is safe for use by several goroutines.
type Client struct {
	base  string
	token string
	agent string
	hc    *http.Client
}

// Config says how to reach a vault.
type Config struct {
	// URL is the vault's address, such as https://vault.example:8443.
	URL string
	// Token is the bearer token.
	Token string
	// CA is the vault's certificate (PEM) to pin; empty uses the system's
	// authorities and the host name.
	CA []byte
	// Agent is the User-Agent; the audit log tells the command line from
	// other programs by it.
	Agent string
	// Transport, when set, replaces the client's own (tests, recording).
	Transport http.RoundTripper
}

// New returns a client; it does not connect yet.
func New(c Config) (*Client, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, problem.New(problem.InvalidRequest, "the vault's address %q is no https URL", c.URL)
	}
	rt := c.Transport
	if rt == nil {
		cfg := &tls.Config{MinVersion: tls.VersionTLS13}
		if len(c.CA) > 0 {
			if cfg, err = identity.PinnedTLS(c.CA); err != nil {
				return nil, problem.Wrap(err, problem.InvalidRequest, "the vault's certificate cannot be read")
			}
		}
		rt = &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true, Proxy: http.ProxyFromEnvironment}
	}
	return &Client{base: strings.TrimSuffix(c.URL, "/"), token: c.Token, agent: c.Agent, hc: &http.Client{Transport: rt}}, nil
}

// Close lets idle connections go.
func (c *Client) Close() { c.hc.CloseIdleConnections() }

// do sends a request. One that changes something carries an idempotency key, so
// that it can be sent again when the connection breaks: the vault does it once.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, in, out any) (*http.Response, error) {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
	}
	key, pauses := "", retryAfter()
	if method != http.MethodGet {
		key = uuid.NewString()
		if given, ok := ctx.Value(idempotencyKey{}).(string); ok {
			key = given
		}
	}
	for attempt := 0; ; attempt++ {
		resp, err := c.once(ctx, method, path, query, body, key, out)
		again := problem.HasCode(err, problem.VaultUnreachable) || problem.HasCode(err, problem.RequestInProgress)
		if !again || key == "" || attempt == len(pauses) {
			return resp, err
		}
		select {
		case <-time.After(pauses[attempt]):
		case <-ctx.Done():
			return resp, err
		}
	}
}

// retryAfter are the pauses before a request is sent again.
func retryAfter() []time.Duration {
	return []time.Duration{200 * time.Millisecond, 600 * time.Millisecond}
}

func (c *Client) once(ctx context.Context, method, path string, query url.Values, body []byte, key string, out any) (*http.Response, error) {
	req, err := c.request(ctx, method, path, query, body)
	if err != nil {
		return nil, err
	}
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	if tag, ok := ctx.Value(ifMatchKey{}).(string); ok {
		req.Header.Set("If-Match", tag)
	}
	resp, err := c.hc.Do(req)
	if err != nil {
		if p, ok := errors.AsType[*problem.Problem](err); ok {
			return nil, p // WrongVault from the TLS verification
		}
		return nil, problem.Wrap(err, problem.VaultUnreachable, "%s", c.base)
	}
	defer resp.Body.Close()
	if tag, ok := ctx.Value(keepETagKey{}).(*string); ok {
		*tag = resp.Header.Get("ETag")
	}
	return resp, decode(resp, out)
}

func (c *Client) request(ctx context.Context, method, path string, query url.Values, body []byte) (*http.Request, error) {
	target := c.base + rest.Prefix + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, target, r)
	if err != nil {
		return nil, problem.Wrap(err, problem.InvalidRequest, "cannot make a request for %s", path)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if c.agent != "" {
		req.Header.Set("User-Agent", c.agent)
	}
	return req, nil
}

type (
	ifMatchKey  struct{}
	keepETagKey struct{}
)

// KeepETag returns a context whose requests leave the ETag of what they read in
// tag.
func KeepETag(ctx context.Context, tag *string) context.Context {
	return context.WithValue(ctx, keepETagKey{}, tag)
}

// IfMatch returns a context whose changes are done only if the object still has
// that ETag; else they end with PreconditionFailed.
func IfMatch(ctx context.Context, tag string) context.Context {
	return context.WithValue(ctx, ifMatchKey{}, tag)
}

func decode(resp *http.Response, out any) error {
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return problem.Wrap(err, problem.VaultUnreachable, "the answer broke off")
	}
	if resp.StatusCode/100 != 2 {
		var p problem.Problem
		if err := json.Unmarshal(b, &p); err != nil || p.Code == "" {
			return problem.New(problem.ProtocolError, "the vault answered %s", resp.Status)
		}
		return &p
	}
	if out == nil || len(b) == 0 {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return problem.Wrap(err, problem.ProtocolError, "cannot read the vault's answer")
	}
	return nil
}

func get[T any](ctx context.Context, c *Client, path string, query url.Values) (T, error) {
	var out T
	_, err := c.do(ctx, http.MethodGet, path, query, nil, &out)
	return out, err
}

func post[T any](ctx context.Context, c *Client, path string, in any) (T, error) {
	var out T
	_, err := c.do(ctx, http.MethodPost, path, nil, in, &out)
	return out, err
}

// list reads a list to its end, page by page.
func list[T any](ctx context.Context, c *Client, path string, query url.Values) ([]T, error) {
	out, err := page[T](ctx, c, path, query)
	all := out.Items
	for err == nil && out.Next != "" && query.Get("limit") == "" {
		q := url.Values{}
		for k, v := range query {
			q[k] = v
		}
		q.Set("after", out.Next)
		out, err = page[T](ctx, c, path, q)
		all = append(all, out.Items...)
	}
	return all, err
}

func page[T any](ctx context.Context, c *Client, path string, query url.Values) (rest.List[T], error) {
	return get[rest.List[T]](ctx, c, path, query)
}

func seg[S ~string](s S) string { return url.PathEscape(string(s)) }

// Status reads the overview.
func (c *Client) Status(ctx context.Context) (rest.Status, error) {
	return get[rest.Status](ctx, c, "/status", nil)
}

// Sites lists the sites.
func (c *Client) Sites(ctx context.Context) ([]rest.Site, error) {
	return list[rest.Site](ctx, c, "/sites", nil)
}

// Site reads one site.
func (c *Client) Site(ctx context.Context, id dr.SiteID) (rest.Site, error) {
	return get[rest.Site](ctx, c, "/sites/"+seg(id), nil)
}

// CreateSite makes a site.
func (c *Client) CreateSite(ctx context.Context, s rest.NewSite) (rest.Site, error) {
	return post[rest.Site](ctx, c, "/sites", s)
}

// DeleteSite removes a site that has no gateways and no items.
func (c *Client) DeleteSite(ctx context.Context, id dr.SiteID) error {
	_, err := c.do(ctx, http.MethodDelete, "/sites/"+seg(id), nil, nil, nil)
	return err
}

// Gateways lists the gateways.
func (c *Client) Gateways(ctx context.Context) ([]rest.Gateway, error) {
	return list[rest.Gateway](ctx, c, "/gateways", nil)
}

// Gateway reads one gateway.
func (c *Client) Gateway(ctx context.Context, id dr.GatewayID) (rest.Gateway, error) {
	return get[rest.Gateway](ctx, c, "/gateways/"+seg(id), nil)
}

// Prerequisites asks a gateway now what it has for a reprotect.
func (c *Client) Prerequisites(ctx context.Context, id dr.GatewayID) (rest.Prerequisites, error) {
	return get[rest.Prerequisites](ctx, c, "/gateways/"+seg(id)+"/prerequisites", nil)
}

// EnrollGateway announces a gateway, or gives an announced or enrolled one a
// new passphrase.
func (c *Client) EnrollGateway(ctx context.Context, g rest.NewGateway) (rest.Enrollment, error) {
	return post[rest.Enrollment](ctx, c, "/gateways", g)
}

// RevokeGateway ends a gateway's access at once.
func (c *Client) RevokeGateway(ctx context.Context, id dr.GatewayID) (rest.Gateway, error) {
	return post[rest.Gateway](ctx, c, "/gateways/"+seg(id)+"/revoke", nil)
}

// EnrollAgent announces a machine's agent.
func (c *Client) EnrollAgent(ctx context.Context, m dr.MachineName) (rest.Enrollment, error) {
	return post[rest.Enrollment](ctx, c, "/agents", map[string]dr.MachineName{"machine": m})
}

// Machines lists machines, of one site when site is not empty.
func (c *Client) Machines(ctx context.Context, site dr.SiteID) ([]rest.Machine, error) {
	q := url.Values{}
	if site != "" {
		q.Set("site", string(site))
	}
	return list[rest.Machine](ctx, c, "/machines", q)
}

// Machine reads one machine of a site.
func (c *Client) Machine(ctx context.Context, site dr.SiteID, name dr.MachineName) (rest.Machine, error) {
	return get[rest.Machine](ctx, c, "/sites/"+seg(site)+"/machines/"+seg(name), nil)
}

// ImportMachine takes in a machine that somebody else started.
func (c *Client) ImportMachine(ctx context.Context, r rest.ImportMachine) (rest.Machine, error) {
	return post[rest.Machine](ctx, c, "/machines/import", r)
}

// StartMachine starts a machine of a site.
func (c *Client) StartMachine(ctx context.Context, site dr.SiteID, m dr.MachineName) error {
	_, err := c.do(ctx, http.MethodPost, "/sites/"+seg(site)+"/machines/"+seg(m)+"/start", nil, nil, nil)
	return err
}

// StopMachine stops a machine of a site.
func (c *Client) StopMachine(ctx context.Context, site dr.SiteID, m dr.MachineName, r rest.StopMachine) error {
	_, err := c.do(ctx, http.MethodPost, "/sites/"+seg(site)+"/machines/"+seg(m)+"/stop", nil, r, nil)
	return err
}

// Protect starts the protection of machines as one group.
func (c *Client) Protect(ctx context.Context, r rest.ProtectRequest) (rest.Job, error) {
	return post[rest.Job](ctx, c, "/machines/protect", r)
}

// ProtectDryRun says what Protect would do.
func (c *Client) ProtectDryRun(ctx context.Context, r rest.ProtectRequest) (rest.DryRun, error) {
	var out rest.DryRun
	_, err := c.do(ctx, http.MethodPost, "/machines/protect", url.Values{"dryRun": {"true"}}, r, &out)
	return out, err
}

// Policies lists the policies.
func (c *Client) Policies(ctx context.Context) ([]rest.Policy, error) {
	return list[rest.Policy](ctx, c, "/policies", nil)
}

// Policy reads one policy.
func (c *Client) Policy(ctx context.Context, id dr.PolicyID) (rest.Policy, error) {
	return get[rest.Policy](ctx, c, "/policies/"+seg(id), nil)
}

// PutPolicy makes or replaces a policy.
func (c *Client) PutPolicy(ctx context.Context, p rest.Policy) (rest.Policy, error) {
	var out rest.Policy
	_, err := c.do(ctx, http.MethodPut, "/policies/"+seg(p.ID), nil, p, &out)
	return out, err
}

// DeletePolicy removes a policy that no group uses.
func (c *Client) DeletePolicy(ctx context.Context, id dr.PolicyID) error {
	_, err := c.do(ctx, http.MethodDelete, "/policies/"+seg(id), nil, nil, nil)
	return err
}

// Items lists the replicated items.
func (c *Client) Items(ctx context.Context) ([]rest.Item, error) {
	return list[rest.Item](ctx, c, "/items", nil)
}

// Item reads one item.
func (c *Client) Item(ctx context.Context, id dr.ItemID) (rest.Item, error) {
	return get[rest.Item](ctx, c, "/items/"+seg(id), nil)
}

// Groups lists the replication groups.
func (c *Client) Groups(ctx context.Context) ([]rest.Group, error) {
	return list[rest.Group](ctx, c, "/groups", nil)
}

// Group reads one group.
func (c *Client) Group(ctx context.Context, id dr.GroupID) (rest.Group, error) {
	return get[rest.Group](ctx, c, "/groups/"+seg(id), nil)
}

// GroupRPO reads a group's RPO alone; it is cheap enough for every 100 ms.
func (c *Client) GroupRPO(ctx context.Context, id dr.GroupID) (rest.RPO, error) {
	return get[rest.RPO](ctx, c, "/groups/"+seg(id)+"/rpo", nil)
}

// Target is what an operation works on.
type Target struct{ kind, id string }

// ItemTarget addresses an item.
func ItemTarget(id dr.ItemID) Target { return Target{"items", string(id)} }

// GroupTarget addresses a group.
func GroupTarget(id dr.GroupID) Target { return Target{"groups", string(id)} }

func (t Target) path(rest string) string {
	return "/" + t.kind + "/" + url.PathEscape(t.id) + "/" + rest
}

// Operate starts an operation and returns its job; when the same operation is
// running already, that job.
func (c *Client) Operate(ctx context.Context, t Target, op lifecycle.Operation, r rest.OperationRequest) (rest.Job, error) {
	return post[rest.Job](ctx, c, t.path(string(op)), r)
}

// DryRun says what an operation would do, lose and delete.
func (c *Client) DryRun(ctx context.Context, t Target, op lifecycle.Operation, r rest.OperationRequest) (rest.DryRun, error) {
	var out rest.DryRun
	_, err := c.do(ctx, http.MethodPost, t.path(string(op)), url.Values{"dryRun": {"true"}}, r, &out)
	return out, err
}

// PointFilter selects points; zero values do not filter.
type PointFilter struct {
	From, To time.Time
	Kind     dr.PointKind
	Limit    int
}

// Points lists recovery points.
func (c *Client) Points(ctx context.Context, t Target, f PointFilter) (rest.Points, error) {
	q := url.Values{}
	if !f.From.IsZero() {
		q.Set("from", f.From.UTC().Format(time.RFC3339Nano))
	}
	if !f.To.IsZero() {
		q.Set("to", f.To.UTC().Format(time.RFC3339Nano))
	}
	if f.Kind != "" {
		q.Set("kind", string(f.Kind))
	}
	if f.Limit > 0 {
		q.Set("limit", strconv.Itoa(f.Limit))
	}
	return get[rest.Points](ctx, c, t.path("points"), q)
}

// Resolve says which exact moment a selector means now, and what lies after it.
func (c *Client) Resolve(ctx context.Context, t Target, sel dr.PointSelector) (control.Resolved, error) {
	return get[control.Resolved](ctx, c, t.path("resolve"), url.Values{"point": {string(sel)}})
}

// Choices lists the moments that an operation can start from; an empty
// operation means the one that fits now.
func (c *Client) Choices(ctx context.Context, t Target, op lifecycle.Operation) (rest.Choices, error) {
	return get[rest.Choices](ctx, c, t.path("choices"), url.Values{"operation": {string(op)}})
}

// Console shows what an item's machine shows now; machine is rest.ActiveMachine,
// rest.TestMachine or "" for that of the test where there is one.
func (c *Client) Console(ctx context.Context, id dr.ItemID, machine string) (rest.Console, error) {
	return get[rest.Console](ctx, c, "/items/"+seg(id)+"/console", url.Values{"machine": {machine}})
}

// Jobs lists jobs, newest first; group may be empty.
func (c *Client) Jobs(ctx context.Context, group dr.GroupID) ([]rest.Job, error) {
	q := url.Values{}
	if group != "" {
		q.Set("group", string(group))
	}
	return list[rest.Job](ctx, c, "/jobs", q)
}

// Job reads one job.
func (c *Client) Job(ctx context.Context, id dr.JobID) (rest.Job, error) {
	return get[rest.Job](ctx, c, "/jobs/"+seg(id), nil)
}

// JobAction is cancel, restart or resume.
func (c *Client) JobAction(ctx context.Context, id dr.JobID, action string) (rest.Job, error) {
	return post[rest.Job](ctx, c, "/jobs/"+seg(id)+"/"+url.PathEscape(action), nil)
}

// WaitJob follows a job until it ends or waits for a person; each is called with every state read, when
// it is not nil. A vault that restarts meanwhile is waited for until ctx ends.
func (c *Client) WaitJob(ctx context.Context, id dr.JobID, each func(rest.Job)) (rest.Job, error) {
	for {
		job, err := get[rest.Job](ctx, c, "/jobs/"+seg(id), url.Values{"waitSeconds": {"2"}})
		if err == nil && each != nil {
			each(job)
		}
		switch {
		case err == nil && (job.State.Ended() || job.State == rest.JobWaiting):
			return job, nil
		case err != nil && !problem.HasCode(err, problem.VaultUnreachable):
			return job, err
		case err != nil:
			select {
			case <-time.After(250 * time.Millisecond):
			case <-ctx.Done():
				return job, err
			}
		}
	}
}

// Events lists events after a sequence number, oldest first.
func (c *Client) Events(ctx context.Context, after int64, limit int) ([]rest.Event, error) {
	return list[rest.Event](ctx, c, "/events", url.Values{"after": {strconv.FormatInt(after, 10)}, "limit": {strconv.Itoa(limit)}})
}
