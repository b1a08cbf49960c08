package vault_test

import (
	"bufio"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"rebound/internal/identity"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// person is somebody with a browser: a session's cookie and nothing else.
type person struct {
	l       *lab
	cookies []*http.Cookie
}

func (l *lab) person(name, role string) *person {
	l.t.Helper()
	const password = "a long enough phrase"
	if _, err := l.c.CreateUser(l.t.Context(), rest.NewUser{Name: name, Role: role, Password: password}); err != nil {
		l.t.Fatal(err)
	}
	_, cookies, err := l.client("").OpenSession(l.t.Context(), rest.Login{Name: name, Password: password})
	if err != nil {
		l.t.Fatal(err)
	}
	return &person{l, cookies}
}

func (p *person) client() *http.Client {
	cfg, err := identity.PinnedTLS(p.l.ca())
	if err != nil {
		p.l.t.Fatal(err)
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	p.l.t.Cleanup(c.CloseIdleConnections)
	return c
}

// page reads a page and demands its status.
func (p *person) page(path string, want int) string {
	p.l.t.Helper()
	r, err := http.NewRequestWithContext(p.l.t.Context(), http.MethodGet, "https://"+p.l.addr+path, nil)
	if err != nil {
		p.l.t.Fatal(err)
	}
	for _, c := range p.cookies {
		r.AddCookie(c)
	}
	resp, err := p.client().Do(r)
	if err != nil {
		p.l.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.l.t.Fatal(err)
	}
	if resp.StatusCode != want {
		p.l.t.Fatalf("%s: %s, want %d:\n%s", path, resp.Status, want, b)
	}
	return string(b)
}

func has(t *testing.T, page, path string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(page, w) {
			t.Errorf("%s lacks %q:\n%s", path, w, page)
		}
	}
}

// TestPortalPages: the pages of a reader show what the API says of two
// protected machines, and links keep filters.
func TestPortalPages(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	ann := l.person("ann", "reader")

	has(t, ann.page("/", 200), "/", `<h1>Overview</h1>`, "Needs you now", `<a href="/gateways/gw-home">`, `aria-current="page"`)
	list := ann.page("/items", 200)
	has(t, list, "/items", `id="i-vm1"`, `id="i-vm2"`, `href="/items/vm1/operations"`, "2 items", `sort=health`, "Protected", `data-live-from="/live?types=`)
	if list := ann.page("/items?q=vm1&sort=-id", 200); strings.Contains(list, `id="i-vm2"`) || !strings.Contains(list, `aria-sort="descending"`) || !strings.Contains(list, `q=vm1&amp;sort=health`) {
		t.Errorf("a search for vm1:\n%s", list)
	}
	has(t, ann.page("/items?q=nobody", 200), "/items?q=nobody", "No item is so.")
	has(t, ann.page("/items?sort=nonsense", 400), "/items?sort=nonsense", `role="alert"`, "InvalidRequest")
	has(t, ann.page("/items/vm1", 200), "/items/vm1", `<h1>vm1</h1>`, "Recovery points", "/jobs/", "threshold")
	has(t, ann.page("/items/vm1/operations", 200), "/items/vm1/operations", `href="/groups/app/test-failover"`, "vm1, vm2", `aria-disabled="true"`)
	has(t, ann.page("/items/none", 404), "/items/none", "UnknownItem")
	if page := ann.page("/", 200); strings.Contains(page, `href="/users"`) {
		t.Error("a reader is shown the page of users")
	}
}

// TestPortalSignIn: a wrong password keeps the name and opens nothing; the right
// one opens a session of the portal's that leads to the page asked for; a form
// without the session's CSRF field does nothing; signing out ends the session.
func TestPortalSignIn(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	ann := l.person("ann", "operator")
	ann.cookies = nil
	post := func(path string, form url.Values) *http.Response {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+l.addr+path, strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		for _, c := range ann.cookies {
			r.AddCookie(c)
		}
		resp, err := ann.client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	ann.page("/items", http.StatusSeeOther)
	form := url.Values{"name": {"ann"}, "password": {"wrong"}, "next": {"/items"}}
	resp := post("/sign-in", form)
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	has(t, string(b), "/sign-in", `role="alert"`, `value="ann"`, `value="/items"`)
	if resp.StatusCode == http.StatusOK || len(resp.Cookies()) > 0 || strings.Contains(string(b), "wrong&#34;") {
		t.Fatalf("a wrong password: %s, %v", resp.Status, resp.Cookies())
	}
	form.Set("password", "a long enough phrase")
	resp = post("/sign-in", form)
	if resp.StatusCode != http.StatusSeeOther || resp.Header.Get("Location") != "/items" || len(resp.Cookies()) != 1 {
		t.Fatalf("sign in: %s to %q", resp.Status, resp.Header.Get("Location"))
	}
	ann.cookies = resp.Cookies()
	page := ann.page("/items", http.StatusOK)
	if resp := post("/sign-out", url.Values{"csrf": {"guessed"}}); resp.StatusCode != http.StatusForbidden {
		t.Errorf("a form of another page: %s", resp.Status)
	}
	csrf := regexp.MustCompile(`name="csrf" value="([0-9a-f]+)"`).FindStringSubmatch(page)
	if csrf == nil {
		t.Fatal("the page has no CSRF field")
	}
	if resp := post("/sign-out", url.Values{"csrf": {csrf[1]}}); resp.StatusCode != http.StatusSeeOther {
		t.Errorf("sign out: %s", resp.Status)
	}
	ann.page("/items", http.StatusSeeOther)
	rows, err := l.c.Audit(t.Context(), 0, 1000, client.AuditFilter{})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(rows, func(r rest.AuditRow) bool {
		return r.Operation == "delete-session" && r.Who == "ann" && r.Channel == "portal"
	}) {
		t.Error("the audit log does not show that ann signed out in the portal")
	}
}

// TestPortalLive: a page is told which types of things changed, without what
// changed; nobody else is.
func TestPortalLive(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	ann := l.person("ann", "reader")
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+l.addr+"/live?types=policy", nil)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := ann.client().Do(r.Clone(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	stranger.Body.Close()
	if stranger.StatusCode != http.StatusUnauthorized {
		t.Fatalf("a stranger: %s", stranger.Status)
	}
	for _, c := range ann.cookies {
		r.AddCookie(c)
	}
	resp, err := ann.client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	next := func(want string) {
		t.Helper()
		for lines.Scan() {
			if lines.Text() == want {
				return
			}
		}
		t.Fatalf("the stream ended without %q: %v", want, lines.Err())
	}
	next("event: ready")
	policy, err := l.c.Policy(t.Context(), "default")
	if err != nil {
		t.Fatal(err)
	}
	policy.RPOThreshold++
	if _, err := l.c.PutPolicy(t.Context(), policy); err != nil {
		t.Fatal(err)
	}
	next("event: change")
	next(`data: {"types":["policy"]}`)
}
