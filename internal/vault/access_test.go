package vault_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"rebound/internal/control"
	"rebound/internal/control/controltest"
	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/vault/auth"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

const password = "correct horse battery staple"

// raw sends a request as it is; headers are pairs of name and value.
func (l *lab) raw(method, path, body string, headers ...string) (*http.Response, []byte) {
	l.t.Helper()
	if l.http == nil {
		cfg, err := identity.PinnedTLS(l.ca())
		if err != nil {
			l.t.Fatal(err)
		}
		l.http = &http.Client{Transport: &http.Transport{TLSClientConfig: cfg}}
		l.t.Cleanup(l.http.CloseIdleConnections)
	}
	req, err := http.NewRequestWithContext(l.t.Context(), method, "https://"+l.addr+path, strings.NewReader(body))
	if err != nil {
		l.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := l.http.Do(req)
	if err != nil {
		l.t.Fatal(err)
	}
	defer resp.Body.Close()
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		return resp, nil
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		l.t.Fatal(err)
	}
	return resp, b
}

// user makes a user and returns a token of that user.
func (l *lab) user(name string, role auth.Role) rest.TokenSecret {
	l.t.Helper()
	if _, err := l.c.CreateUser(l.t.Context(), rest.NewUser{Name: name, Role: string(role), Password: password}); err != nil {
		l.t.Fatal(err)
	}
	tok, err := l.c.CreateToken(l.t.Context(), rest.NewToken{Name: "t", Role: string(role), User: name})
	if err != nil {
		l.t.Fatal(err)
	}
	return tok
}

func bearer(secret string) []string { return []string{"Authorization", "Bearer " + secret} }

// spec is what the tests read of the API's description.
type spec struct {
	OpenAPI string                          `json:"openapi"`
	Paths   map[string]map[string]operation `json:"paths"`
}

type operation struct {
	ID          string `json:"operationId"`
	Summary     string `json:"summary"`
	Security    []any  `json:"security"`
	RequestBody *struct {
		Content map[string]media `json:"content"`
	} `json:"requestBody"`
	Responses map[string]struct {
		Content map[string]media `json:"content"`
	} `json:"responses"`
}

type media struct {
	Example any `json:"example"`
}

func (l *lab) spec() spec {
	l.t.Helper()
	_, b := l.raw("GET", "/api/v1/openapi.json", "")
	var s spec
	if err := json.Unmarshal(b, &s); err != nil {
		l.t.Fatal(err)
	}
	return s
}

// TestOpenAPI: the description is 3.1, and each route has a summary, errors,
// security and examples.
func TestOpenAPI(t *testing.T) {
	t.Parallel()
	s := newLab(t).spec()
	if !strings.HasPrefix(s.OpenAPI, "3.1.") || len(s.Paths) < 30 {
		t.Fatalf("openapi %s with %d paths", s.OpenAPI, len(s.Paths))
	}
	for path, ops := range s.Paths {
		for method, op := range ops {
			name := method + " " + path
			if op.Summary == "" || op.ID == "" {
				t.Errorf("%s lacks a summary or an id", name)
			}
			if len(op.Security) == 0 && !auth.Routes()[op.ID].Public {
				t.Errorf("%s names no security", name)
			}
			if op.RequestBody != nil {
				hasExample(t, name+": body", op.RequestBody.Content)
			}
			refused := 0
			for status, r := range op.Responses {
				if status >= "400" {
					refused++
				}
				if len(r.Content) > 0 {
					hasExample(t, name+": "+status, r.Content)
				}
			}
			if refused < 4 {
				t.Errorf("%s describes %d errors", name, refused)
			}
		}
	}
}

func hasExample(t *testing.T, what string, content map[string]media) {
	t.Helper()
	for kind, m := range content {
		if m.Example == nil {
			t.Errorf("%s, %s: no example", what, kind)
		}
	}
}

var pathParam = regexp.MustCompile(`\{[^}]*\}`)

// TestEveryRouteEveryRole asks for every route of the API's description with
// every role, and with none.
func TestEveryRouteEveryRole(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	tokens := map[auth.Role]string{"": ""}
	for _, r := range auth.Roles() {
		tokens[r] = l.user("u-"+string(r), r).Secret
	}
	asked := map[string]bool{}
	for path, ops := range l.spec().Paths {
		for method, op := range ops {
			need, ok := auth.Routes()[op.ID]
			if !ok {
				t.Errorf("%s %s (%s) has no row in auth.Routes", method, path, op.ID)
				continue
			}
			asked[op.ID] = true
			for role, secret := range tokens {
				l.askRoute(strings.ToUpper(method), path, op, need, role, secret)
			}
		}
	}
	for id := range auth.Routes() {
		if !asked[id] {
			t.Errorf("auth.Routes has a row for %s, which is no route", id)
		}
	}
}

func (l *lab) askRoute(method, path string, op operation, need auth.Need, role auth.Role, secret string) {
	l.t.Helper()
	if method == "DELETE" && need.Public {
		return
	}
	body := ""
	if op.RequestBody != nil {
		b, err := json.Marshal(op.RequestBody.Content["application/json"].Example)
		if err != nil {
			l.t.Fatal(err)
		}
		body = string(b)
	}
	operations := []string{"none"}
	if strings.Contains(path, "{operation}") {
		operations = operations[:0]
		for _, r := range lifecycle.Table() {
			operations = append(operations, string(r.Operation))
		}
	}
	for _, name := range operations {
		least := need.Role
		if o := lifecycle.Operation(name); need.PerOperation && strings.Contains(path, "{operation}") {
			least = auth.OperationRole(o)
			if o == "" || auth.Operations()[o] == "" {
				l.t.Errorf("auth.Operations has no row for %q", name)
			}
		}
		target := strings.ReplaceAll(path, "{operation}", name)
		target = strings.ReplaceAll(target, "{action}", "cancel")
		if need.OwnOnly {
			target = strings.ReplaceAll(target, "{user}", "u-"+string(role))
			if role == "" {
				target = strings.ReplaceAll(target, "u-", "u-reader")
			}
		}
		target = pathParam.ReplaceAllString(target, "none")
		if op.ID == "create-token" {
			body = `{"name":"own","role":"reader"}`
		}
		var headers []string
		if secret != "" {
			headers = bearer(secret)
		}
		if need.OwnOnly && strings.HasSuffix(path, "/password") && role != "" {
			// Not its password, so that nothing changes; but it may ask.
			body = `{"current":"not the right one","new":"something else entirely"}`
		}
		resp, b := l.raw(method, target, body, headers...)
		var p problem.Problem
		json.Unmarshal(b, &p) //nolint:errcheck // a body that is no problem has no code
		denied := p.Code == problem.PermissionDenied
		switch {
		case need.Public:
			if denied {
				l.t.Errorf("%s %s is public, but %q was denied it", method, target, role)
			}
		case role == "":
			if resp.StatusCode != http.StatusUnauthorized {
				l.t.Errorf("%s %s without a token: %s %s", method, target, resp.Status, p.Code)
			}
		case role.Allows(least) == denied:
			l.t.Errorf("%s %s (%s) as %s, needs %s: %s %s", method, target, op.ID, role, least, resp.Status, p.Detail)
		case resp.StatusCode == http.StatusInternalServerError:
			l.t.Errorf("%s %s as %s: %s %s", method, target, role, resp.Status, b)
		}
	}
}

// TestOwnOnly: below owner, tokens and passwords are one's own only.
func TestOwnOnly(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	ctx := t.Context()
	alice, bob := l.user("alice", auth.Contributor), l.user("bob", auth.Reader)
	a := l.client(alice.Secret)
	_, err := a.Token(ctx, bob.ID)
	wantCode(t, err, problem.UnknownToken)
	wantCode(t, a.DeleteToken(ctx, bob.ID), problem.UnknownToken)
	wantCode(t, a.ChangePassword(ctx, "bob", rest.PasswordChange{New: "something else entirely"}), problem.PermissionDenied)
	_, err = a.CreateToken(ctx, rest.NewToken{Name: "x", Role: "reader", User: "bob"})
	wantCode(t, err, problem.PermissionDenied)
	_, err = a.CreateToken(ctx, rest.NewToken{Name: "x", Role: "owner"})
	wantCode(t, err, problem.PermissionDenied)
	own, err := a.Tokens(ctx)
	if err != nil || len(own) != 1 || own[0].User != "alice" {
		t.Errorf("alice sees %+v, %v", own, err)
	}
	// A token is never more than its user.
	role := "reader"
	if _, err := l.c.UpdateUser(ctx, "alice", rest.UserChange{Role: &role}); err != nil {
		t.Fatal(err)
	}
	_, err = a.CreateSite(ctx, rest.NewSite{ID: "moon"})
	wantCode(t, err, problem.PermissionDenied)
}

func TestLastOwnerStays(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	ctx := t.Context()
	toks, err := l.c.Tokens(ctx)
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, l.c.DeleteToken(ctx, toks[0].ID), problem.LastOwner)
	l.user("alice", auth.Owner)
	reader, yes := "reader", true
	_, err = l.c.UpdateUser(ctx, "alice", rest.UserChange{Role: &reader})
	wantCode(t, err, problem.LastOwner)
	_, err = l.c.UpdateUser(ctx, "alice", rest.UserChange{Disabled: &yes})
	wantCode(t, err, problem.LastOwner)
	wantCode(t, l.c.DeleteUser(ctx, "alice"), problem.LastOwner)
	l.user("bob", auth.Owner)
	if err := l.c.DeleteUser(ctx, "alice"); err != nil {
		t.Error(err)
	}
}

// TestSession: what a browser does, and what another page cannot make it do.
func TestSession(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.user("alice", auth.Contributor)
	login := `{"name":"alice","password":"` + password + `"}`
	resp, _ := l.raw("POST", "/api/v1/session", login, "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site")
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("a log-in from another origin: %s", resp.Status)
	}
	resp, b := l.raw("POST", "/api/v1/session", login)
	var ses rest.Session
	if err := json.Unmarshal(b, &ses); err != nil || resp.StatusCode != http.StatusCreated || ses.CSRF == "" || ses.Channel != "portal" {
		t.Fatalf("log-in: %s %s", resp.Status, b)
	}
	set := resp.Header.Get("Set-Cookie")
	for _, want := range []string{"HttpOnly", "Secure", "SameSite=Strict", "Path=/"} {
		if !strings.Contains(set, want) {
			t.Errorf("cookie %q lacks %s", set, want)
		}
	}
	cookie := []string{"Cookie", strings.Split(set, ";")[0]}
	with := func(extra ...string) []string { return append(slices.Clone(cookie), extra...) }
	if resp, _ := l.raw("GET", "/api/v1/status", "", with()...); resp.StatusCode != http.StatusOK {
		t.Errorf("status with the cookie: %s", resp.Status)
	}
	site := `{"id":"moon"}`
	for name, headers := range map[string][]string{
		"no header": with(), "a wrong one": with(rest.CSRFHeader, "x"),
		"another origin": with(rest.CSRFHeader, ses.CSRF, "Sec-Fetch-Site", "cross-site"),
	} {
		if resp, b := l.raw("POST", "/api/v1/sites", site, headers...); resp.StatusCode != http.StatusForbidden && resp.StatusCode != http.StatusUnauthorized || !bytes.Contains(b, []byte(problem.CSRFRefused)) {
			t.Errorf("%s: %s %s", name, resp.Status, b)
		}
	}
	if resp, b := l.raw("POST", "/api/v1/sites", site, with(rest.CSRFHeader, ses.CSRF)...); resp.StatusCode != http.StatusCreated {
		t.Errorf("with the header: %s %s", resp.Status, b)
	}
	rows, err := l.c.Audit(t.Context(), 0, 1000, client.AuditFilter{Channel: "portal", Operation: "create-site"})
	if err != nil || len(rows) != 1 || rows[0].Who != "alice" || rows[0].Object != "site/moon" || rows[0].Outcome != "done" {
		t.Errorf("audit: %+v, %v", rows, err)
	}
	l.raw("DELETE", "/api/v1/session", "", with(rest.CSRFHeader, ses.CSRF)...)
	if resp, _ := l.raw("GET", "/api/v1/status", "", with()...); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("after the log-out: %s", resp.Status)
	}
}

// TestGuessing: wrong passwords and passphrases are answered ever later, and
// counted.
func TestGuessing(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.user("alice", auth.Reader)
	var last *http.Response
	for range 8 {
		last, _ = l.raw("POST", "/api/v1/session", `{"name":"alice","password":"wrong wrong wrong"}`)
	}
	if last.StatusCode != http.StatusTooManyRequests || last.Header.Get("Retry-After") == "" {
		t.Errorf("the eighth guess: %s, retry after %q", last.Status, last.Header.Get("Retry-After"))
	}
	if resp, _ := l.raw("POST", "/api/v1/session", `{"name":"alice","password":"`+password+`"}`); resp.StatusCode != http.StatusTooManyRequests {
		t.Errorf("the right one within the pause: %s", resp.Status)
	}
	_, csr, err := identity.NewRequest("gw-home")
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(control.EnrollRequest{Role: "gateway", Name: "gw-home", Passphrase: "wrong", CSR: string(csr)})
	if err != nil {
		t.Fatal(err)
	}
	for range 8 {
		last, _ = l.raw("POST", control.EnrollPath, string(body))
	}
	if last.StatusCode != http.StatusTooManyRequests {
		t.Errorf("the eighth passphrase: %s", last.Status)
	}
	events, err := l.c.Events(t.Context(), 0, 1000)
	if err != nil || !slices.ContainsFunc(events, func(e rest.Event) bool { return e.Code == "EnrollmentGuessed" }) {
		t.Errorf("no event tells of the guesses: %v", err)
	}
	rows, err := l.c.Audit(t.Context(), 0, 1000, client.AuditFilter{Operation: "create-session", Outcome: "refused"})
	if err != nil || len(rows) == 0 || len(rows) > 3 || strings.Contains(fmt.Sprint(rows), "wrong wrong") {
		t.Errorf("%d rows of refused log-ins: %+v %v", len(rows), rows, err)
	}
}

// TestAuditLogOnlyGrows: SQL itself refuses to change a row, and whoever gets
// round that is found out.
func TestAuditLogOnlyGrows(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	ctx := t.Context()
	before, err := l.c.CheckAudit(ctx, 0, "")
	if err != nil || !before.Intact || before.Rows < 4 {
		t.Fatalf("check: %+v, %v", before, err)
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(l.dir, "vault.db")+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, q := range []string{
		"UPDATE audit SET doc = '{}' WHERE seq = 2", "DELETE FROM audit WHERE seq = 2", "DELETE FROM audit",
		"REPLACE INTO audit(seq, doc, hash) VALUES(2, '{}', NULL)", "INSERT INTO audit(seq, doc) VALUES(1, '{}')",
	} {
		if _, err := db.ExecContext(ctx, q); err == nil {
			t.Errorf("%s was done", q)
		}
	}
	for _, q := range []string{"DROP TRIGGER audit_not_changed", `UPDATE audit SET doc = CAST(json_set(doc, '$.who', 'somebody') AS BLOB) WHERE seq = 3`} {
		if _, err := db.ExecContext(ctx, q); err != nil {
			t.Fatal(err)
		}
	}
	after, err := l.c.CheckAudit(ctx, before.Seq, before.Hash)
	if err != nil || after.Intact || after.BrokenAt != 3 {
		t.Errorf("after a row was changed: %+v, %v", after, err)
	}
}

// TestIdempotencyKeys: a repeated request is done once.
func TestIdempotencyKeys(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	first := bearer(l.token())
	key := func(k string) []string { return append(slices.Clone(first), "Idempotency-Key", k) }
	resp1, b1 := l.raw("POST", "/api/v1/groups/app/create-point", `{"name":"one"}`, key("k1")...)
	resp2, b2 := l.raw("POST", "/api/v1/groups/app/create-point", `{"name":"one"}`, key("k1")...)
	if resp1.StatusCode != http.StatusAccepted || resp2.StatusCode != http.StatusAccepted || !bytes.Equal(b1, b2) || resp2.Header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("%s %s\nagain: %s %s", resp1.Status, b1, resp2.Status, b2)
	}
	if resp1.Header.Get("Location") == "" || resp1.Header.Get("Location") != resp2.Header.Get("Location") || resp2.Header.Get("Retry-After") == "" {
		t.Errorf("location %q, again %q", resp1.Header.Get("Location"), resp2.Header.Get("Location"))
	}
	if resp, b := l.raw("POST", "/api/v1/groups/app/create-point", `{"name":"two"}`, key("k1")...); resp.StatusCode != http.StatusUnprocessableEntity {
		t.Errorf("the key with another body: %s %s", resp.Status, b)
	}
	// A secret is given again to whoever had it, and is nowhere to be read.
	_, t1 := l.raw("POST", "/api/v1/tokens", `{"name":"ci","role":"reader"}`, key("k2")...)
	_, t2 := l.raw("POST", "/api/v1/tokens", `{"name":"ci","role":"reader"}`, key("k2")...)
	var tok rest.TokenSecret
	if err := json.Unmarshal(t1, &tok); err != nil || tok.Secret == "" || !bytes.Equal(t1, t2) {
		t.Errorf("token %s, again %s", t1, t2)
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(l.dir, "vault.db")+"?_pragma=busy_timeout(60000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var kept []byte
	if err := db.QueryRowContext(t.Context(), "SELECT answer FROM answers WHERE key = 'k2'").Scan(&kept); err != nil || len(kept) == 0 || bytes.Contains(kept, []byte(tok.Secret)) {
		t.Errorf("the kept answer: %d bytes, %v", len(kept), err)
	}
	// The vault dies between the job's row and the answer.
	if _, err := db.ExecContext(t.Context(), "UPDATE answers SET answer = NULL WHERE key = 'k1'"); err != nil {
		t.Fatal(err)
	}
	resp3, b3 := l.raw("POST", "/api/v1/groups/app/create-point", `{"name":"one"}`, key("k1")...)
	if resp3.StatusCode != http.StatusAccepted || resp3.Header.Get("Location") != resp1.Header.Get("Location") {
		t.Errorf("after the vault's death: %s %s", resp3.Status, b3)
	}
}

func TestETags(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	me := bearer(l.token())
	with := func(h ...string) []string { return append(slices.Clone(me), h...) }
	resp, b := l.raw("GET", "/api/v1/policies/default", "", me...)
	tag := resp.Header.Get("ETag")
	if !strings.HasPrefix(tag, `"`) {
		t.Fatalf("ETag %q", tag)
	}
	if resp, b := l.raw("GET", "/api/v1/policies/default", "", with("If-None-Match", tag)...); resp.StatusCode != http.StatusNotModified || len(b) > 0 {
		t.Errorf("the same again: %s %s", resp.Status, b)
	}
	changed := strings.Replace(string(b), `"crashIntervalSeconds":300`, `"crashIntervalSeconds":60`, 1)
	if changed == string(b) {
		t.Fatalf("policy %s", b)
	}
	if resp, b := l.raw("PUT", "/api/v1/policies/default", changed, with("If-Match", tag)...); resp.StatusCode != http.StatusOK {
		t.Errorf("with the right tag: %s %s", resp.Status, b)
	}
	for _, h := range [][]string{{"If-Match", tag}, {"If-None-Match", "*"}} {
		if resp, b := l.raw("PUT", "/api/v1/policies/default", string(b), with(h...)...); resp.StatusCode != http.StatusPreconditionFailed {
			t.Errorf("%v: %s %s", h, resp.Status, b)
		}
	}
	if resp, _ := l.raw("DELETE", "/api/v1/policies/none", "", with("If-Match", tag)...); resp.StatusCode != http.StatusPreconditionFailed {
		t.Errorf("of what is not there: %s", resp.Status)
	}
}

func TestPagesFiltersAndOrder(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for i := range 7 {
		l.user(fmt.Sprintf("u%d", i), auth.Roles()[i%2])
	}
	me := bearer(l.token())
	var got []string
	path := "/api/v1/users?limit=3&sort=-role"
	for pages := 0; path != ""; pages++ {
		resp, b := l.raw("GET", path, "", me...)
		var page rest.List[rest.User]
		if err := json.Unmarshal(b, &page); err != nil || resp.StatusCode != http.StatusOK || page.Total != 7 || pages > 3 {
			t.Fatalf("%s: %s %s", path, resp.Status, b)
		}
		for _, u := range page.Items {
			got = append(got, u.Role[:1]+u.Name)
		}
		path = ""
		if link := resp.Header.Get("Link"); link != "" {
			path, _, _ = strings.Cut(strings.TrimPrefix(link, "<"), ">")
		}
		if (path == "") != (page.Next == "") {
			t.Errorf("link %q, next %q", path, page.Next)
		}
	}
	if want := []string{"ru0", "ru2", "ru4", "ru6", "ou1", "ou3", "ou5"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, bad := range []string{"/users?sort=shoe", "/users?shoe=1", "/users?after=xyz", "/items?health=fine", "/jobs?after=x", "/events?sort=text", "/users?limit=-1", "/audit?outcome=great"} {
		if resp, b := l.raw("GET", "/api/v1"+bad, "", me...); resp.StatusCode != http.StatusBadRequest || !bytes.Contains(b, []byte(problem.InvalidRequest)) {
			t.Errorf("%s: %s %s", bad, resp.Status, b)
		}
	}
}

// TestEveryListHasPages: each list of more than one row is read in pages of one,
// upwards and downwards by its id, and ends.
func TestEveryListHasPages(t *testing.T) {
	t.Parallel()
	l := connected(t)
	ctx := t.Context()
	for _, id := range []dr.PolicyID{"gold", "silver"} {
		if _, err := l.c.PutPolicy(ctx, policyLike(l, id)); err != nil {
			t.Fatal(err)
		}
	}
	for _, network := range []string{"lan", "backup"} {
		m := rest.NetworkMapping{ID: dr.MappingID("m-" + network), From: rest.NetworkMapEnd{Site: "home", Network: network}, To: rest.NetworkMapEnd{Site: "cloud", Network: "dmz"}, OneWay: true}
		if _, err := l.c.PutMapping(ctx, m); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"ops", "chat"} {
		if _, err := l.c.CreateWebhook(ctx, rest.PutWebhook{ID: id, URL: "http://127.0.0.1:1/"}); err != nil {
			t.Fatal(err)
		}
	}
	host := goodHost()
	host.Volumes[0].FreeBytes = 5
	for _, g := range []*controltest.Gateway{l.home, l.cloud} {
		g.SetReport(func(r *control.Report) { r.Host = host })
	}
	l.until("two conditions", func() bool {
		open, err := l.c.Conditions(ctx, client.ConditionFilter{Code: "VolumeFilling"})
		return err == nil && len(open) == 2
	})
	for path, field := range map[string]string{
		"/sites": "id", "/gateways": "id", "/policies": "id", "/mappings": "id", "/webhooks": "id", "/machines": "name",
		"/health/conditions": "since",
	} {
		up, down := l.walk(path, field), l.walk(path, "-"+field)
		if field == "id" {
			slices.Reverse(down)
		} else { // rows that are alike in it keep their order
			slices.Sort(up)
			slices.Sort(down)
		}
		if len(up) < 2 || !slices.Equal(up, down) {
			t.Errorf("%s: %d rows upwards, %d downwards:\n%s\n%s", path, len(up), len(down), up, down)
		}
	}
	for path, want := range map[string]int{
		"/gateways?site=home": 1, "/gateways?state=announced": 0, "/sites?health=critical": 2, "/mappings?site=cloud": 2,
		"/gateways?health=critical": 2, "/health/conditions?severity=info": 0,
	} {
		resp, b := l.raw("GET", "/api/v1"+path, "", bearer(l.token())...)
		var page rest.List[json.RawMessage]
		if err := json.Unmarshal(b, &page); err != nil || resp.StatusCode != http.StatusOK || len(page.Items) != want {
			t.Errorf("%s: %s, %d rows, want %d", path, resp.Status, len(page.Items), want)
		}
	}
}

// policyLike is the default policy with another name.
func policyLike(l *lab, id dr.PolicyID) rest.Policy {
	l.t.Helper()
	all, err := l.c.Policies(l.t.Context())
	if err != nil || len(all) == 0 {
		l.t.Fatalf("policies: %v, %v", all, err)
	}
	all[0].ID = id
	return all[0]
}

// walk reads a list in pages of one row and returns what each is named by.
func (l *lab) walk(path, by string) (names []string) {
	l.t.Helper()
	next := "/api/v1" + path + "?limit=1&sort=" + by
	for next != "" {
		resp, b := l.raw("GET", next, "", bearer(l.token())...)
		var page rest.List[struct {
			ID         any `json:"id"`
			Site       string
			Definition struct{ Name string }
		}]
		if err := json.Unmarshal(b, &page); err != nil || resp.StatusCode != http.StatusOK || len(page.Items) != 1 || len(names) > 100 {
			l.t.Fatalf("%s: %s %s", next, resp.Status, b)
		}
		row := page.Items[0]
		names = append(names, fmt.Sprint(row.ID, row.Definition.Name, row.Site))
		next, _, _ = strings.Cut(strings.TrimPrefix(resp.Header.Get("Link"), "<"), ">")
	}
	return names
}

// TestStream: changes come as they are committed, a client that was away misses
// none, and one whose token ends hears no more.
func TestStream(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	tok := l.user("alice", auth.Reader)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	ch := make(chan rest.Change, 1000)
	opened := make(chan struct{}, 10)
	ended := make(chan error, 1)
	watch := func(ctx context.Context, after int64) {
		ended <- l.client(tok.Secret).Watch(ctx, client.WatchOptions{After: after, Opened: func() error { opened <- struct{}{}; return nil }}, func(c rest.Change) error { ch <- c; return nil })
	}
	next := func(typ, id string) rest.Change {
		t.Helper()
		for {
			select {
			case c := <-ch:
				if c.Type == typ && c.ID == id {
					return c
				}
			case <-ctx.Done():
				t.Fatalf("no change of %s %s", typ, id)
			}
		}
	}
	here, leave := context.WithCancel(ctx)
	go watch(here, 0)
	<-opened
	if _, err := l.c.CreateSite(ctx, rest.NewSite{ID: "moon"}); err != nil {
		t.Fatal(err)
	}
	moon := next(rest.ChangeSite, "moon")
	leave()
	<-ended
	l.protected()
	if err := l.c.DeleteSite(ctx, "moon"); err != nil {
		t.Fatal(err)
	}
	go watch(ctx, moon.Seq)
	<-opened
	item := next(rest.ChangeItem, "vm1")
	var v rest.Item
	if err := json.Unmarshal(item.Object, &v); err != nil || v.Group != "app" {
		t.Errorf("item %s: %v", item.Object, err)
	}
	if gone := next(rest.ChangeSite, "moon"); !gone.Gone || gone.Seq <= moon.Seq {
		t.Errorf("site %+v", gone)
	}
	next(rest.ChangeLive, "app")
	if err := l.c.DeleteToken(ctx, tok.ID); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		wantCode(t, err, problem.NotAuthenticated)
	case <-ctx.Done():
		t.Fatal("the stream goes on after its token has ended")
	}
}

// TestNoRequestBreaksTheVault sends damaged requests to every route: whatever
// comes, it is no error of the vault's own.
func TestNoRequestBreaksTheVault(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	paths := l.spec().Paths
	names := slices.Sorted(maps.Keys(paths))
	values := []string{"", "%00", "..", "-1", "null", strings.Repeat("x", 300), "%F0%9F%92%A9", "9999999999999999999999", "a'b\"", "app"}
	for range 400 {
		path := names[rnd.IntN(len(names))]
		methods := slices.Sorted(maps.Keys(paths[path]))
		method := methods[rnd.IntN(len(methods))]
		op := paths[path][method]
		if op.ID == "watch-events" || op.ID == "delete-token" || op.ID == "change-password" {
			continue
		}
		target := pathParam.ReplaceAllStringFunc(path, func(string) string { return values[1+rnd.IntN(len(values)-1)] })
		if rnd.IntN(3) == 0 {
			target += "?" + []string{"limit", "after", "sort", "from", "point", "dryRun", "seq"}[rnd.IntN(7)] + "=" + values[rnd.IntN(len(values))]
		}
		body := ""
		if op.RequestBody != nil {
			b, err := json.Marshal(op.RequestBody.Content["application/json"].Example)
			if err != nil {
				t.Fatal(err)
			}
			body = damage(rnd, string(b))
		}
		resp, b := l.raw(strings.ToUpper(method), target, body, append(bearer(l.token()), "Idempotency-Key", fmt.Sprint(rnd.Uint64()))...)
		if resp.StatusCode == http.StatusInternalServerError {
			t.Errorf("%s %s with %.300q: %s", method, target, body, b)
		}
	}
}

// damage changes a document a little, or a lot.
func damage(rnd *rand.Rand, s string) string {
	b := []byte(s)
	switch rnd.IntN(6) {
	case 0:
		return s
	case 1:
		return s[:rnd.IntN(len(s)+1)]
	case 2:
		return []string{"", "null", "[]", "0", `"x"`, "{", "{}", `{"x":{}}`}[rnd.IntN(8)]
	case 3:
		return strings.Replace(s, `"`+"text"+`"`, []string{"null", "-1", "1e400", "[]", `"\u0000"`}[rnd.IntN(5)], 1)
	case 4:
		return regexp.MustCompile(`:1\b`).ReplaceAllString(s, []string{":-1", ":9223372036854775807", ":1e300", ":null", `:"1"`}[rnd.IntN(5)])
	default:
		for range 1 + rnd.IntN(4) {
			b[rnd.IntN(len(b))] = byte(rnd.IntN(256))
		}
		return string(b)
	}
}
