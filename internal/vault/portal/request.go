package portal

import (
	"bytes"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/uuid"

	"rebound/internal/problem"
	"rebound/internal/vault/auth"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// maxForm is how many bytes a form may have.
const maxForm = 1 << 20

// The hidden fields of every form.
const (
	csrfField = "csrf"
	keyField  = "key"
)

// Request is one request of a person.
type Request struct {
	*http.Request
	W http.ResponseWriter
	// API speaks to the API as this person.
	API *client.Client
	// Who asks; empty when nobody is signed in.
	Who rest.Session

	portal *Portal
	calls  *transport
}

func (p *Portal) request(w http.ResponseWriter, r *http.Request) *Request {
	t := &transport{api: p.API, of: r}
	c, err := client.New(client.Config{URL: "https://" + inProcess, Transport: t, Agent: portalAgent + r.UserAgent()})
	if err != nil {
		panic(err) // the address is a constant
	}
	return &Request{Request: r, W: w, API: c, portal: p, calls: t}
}

// As returns a client that speaks with a token instead of the session, such as
// the first token before there are users.
func (rq *Request) As(token string) (*client.Client, error) {
	return client.New(client.Config{URL: "https://" + inProcess, Token: token, Transport: &transport{api: rq.portal.API, of: rq.Request, bare: true}, Agent: portalAgent + rq.UserAgent()})
}

// Portal is who answers.
func (rq *Request) Portal() *Portal { return rq.portal }

// May reports whether the person has at least this role.
func (rq *Request) May(role auth.Role) bool { return auth.Role(rq.Who.Role).Allows(role) }

// identify asks the API who sends the request.
func (rq *Request) identify() error {
	if c, err := rq.Cookie(rest.SessionCookie); err != nil || c.Value == "" {
		return problem.New(problem.NotAuthenticated, "nobody is signed in")
	}
	who, err := rq.API.WhoAmI(rq.Context())
	if err != nil {
		return err
	}
	rq.Who, rq.calls.csrf = who, who.CSRF
	return nil
}

// checkForm reads the form of a POST and compares its CSRF field with the
// session's.
func (rq *Request) checkForm() error {
	if rq.Method == http.MethodGet || rq.Method == http.MethodHead {
		return nil
	}
	if err := rq.checkOrigin(); err != nil {
		return err
	}
	said := rq.PostForm.Get(csrfField)
	if rq.Who.CSRF == "" || subtle.ConstantTimeCompare([]byte(said), []byte(rq.Who.CSRF)) != 1 {
		return problem.New(problem.CSRFRefused, "the form is not of this session; load the page again")
	}
	if key := rq.PostForm.Get(keyField); key != "" {
		rq.Request = rq.WithContext(client.WithIdempotencyKey(rq.Context(), key))
	}
	return nil
}

func (rq *Request) checkOrigin() error {
	if rq.Method == http.MethodGet || rq.Method == http.MethodHead {
		return nil
	}
	if err := http.NewCrossOriginProtection().Check(rq.Request); err != nil {
		return problem.New(problem.CSRFRefused, "the request comes from another origin")
	}
	rq.Body = http.MaxBytesReader(rq.W, rq.Body, maxForm)
	if err := rq.ParseForm(); err != nil {
		return problem.Wrap(err, problem.InvalidRequest, "the form cannot be read")
	}
	return nil
}

// Field is a value of the form or of the query, without blanks around it.
func (rq *Request) Field(name string) string { return strings.TrimSpace(rq.FormValue(name)) }

// Each returns the request with a key of its own for the nth change that one
// form makes: the API does each key once.
func (rq *Request) Each(n int) *Request {
	one := *rq
	if key := rq.PostForm.Get(keyField); key != "" {
		one.Request = rq.WithContext(client.WithIdempotencyKey(rq.Context(), fmt.Sprintf("%s-%d", key, n)))
	}
	return &one
}

// See sends the browser to another page of the portal.
func (rq *Request) See(path string) error {
	http.Redirect(rq.W, rq.Request, path, http.StatusSeeOther)
	return nil
}

// Next is the page that a sign-in leads back to: one of the portal, never
// another site.
func (rq *Request) Next() string {
	next := rq.Field("next")
	u, err := url.Parse(next)
	if err != nil || u.Scheme != "" || u.Host != "" || !strings.HasPrefix(u.Path, "/") || strings.ContainsAny(next, "\\\r\n") || strings.HasPrefix(next, "//") {
		return "/"
	}
	return next
}

// Page is what a handler shows.
type Page struct {
	// Title of the page, as in its h1.
	Title string
	// Nav is the address of the entry of the navigation that it belongs to.
	Nav string
	// Live are the types of changes (rest.ChangeItem and the like) at which
	// parts of the page are fetched again; none: the page does not listen.
	Live []string
	// Group, when set: only changes of this group.
	Group string
	// Problem is shown above the page; its kind is the answer's status.
	Problem *problem.Problem
	// Status of the answer; 0: by Problem, else 200.
	Status int
	// Data is the template's own.
	Data any
}

// view is what templates see.
type view struct {
	Page
	Who      rest.Session
	Version  string
	Path     string
	Sections []navSection
}

// SignedIn reports whether somebody is.
func (v view) SignedIn() bool { return v.Who.ID != "" }

// CSRF is the hidden field's value.
func (v view) CSRF() string { return v.Who.CSRF }

// NewKey is an idempotency key for one form.
func (v view) NewKey() string { return uuid.NewString() }

// LiveURL is where the page listens; empty when it does not.
func (v view) LiveURL() string {
	if len(v.Live) == 0 || !v.SignedIn() {
		return ""
	}
	q := url.Values{"types": {strings.Join(v.Live, ",")}}
	if v.Group != "" {
		q.Set("group", v.Group)
	}
	return "/live?" + q.Encode()
}

// May reports whether the reader has at least this role.
func (v view) May(role string) bool { return auth.Role(v.Who.Role).Allows(auth.Role(role)) }

// Render answers with a page: templates/NAME.html inside the base.
func (rq *Request) Render(name string, pg Page) error {
	t, ok := rq.portal.pages[name]
	if !ok {
		return fmt.Errorf("render page %q: no such template", name)
	}
	if pg.Status == 0 {
		pg.Status = http.StatusOK
		if pg.Problem != nil {
			pg.Status = pg.Problem.HTTPStatus()
		}
	}
	v := view{Page: pg, Who: rq.Who, Version: rq.portal.Version, Path: rq.URL.RequestURI(), Sections: rq.sections(pg.Nav)}
	var out bytes.Buffer
	if err := t.ExecuteTemplate(&out, "base", v); err != nil {
		return fmt.Errorf("render page %q: %w", name, err)
	}
	rq.W.Header().Set("Content-Type", "text/html; charset=utf-8")
	rq.W.WriteHeader(pg.Status)
	rq.W.Write(out.Bytes()) //nolint:errcheck // the reader is gone then
	return nil
}

// Fail answers with a page that shows nothing but a problem.
func (rq *Request) Fail(status int, err error) error {
	p := problem.From(err)
	return rq.Render("problem", Page{Title: p.Title, Problem: p, Status: status})
}

// refuse answers a request that failed.
func (rq *Request) refuse(err error) {
	if problem.HasCode(err, problem.NotAuthenticated) && rq.URL.Path != signInPath {
		back := "/"
		if rq.Method == http.MethodGet {
			back = rq.URL.RequestURI()
		}
		rq.See(signInPath + "?" + url.Values{"next": {back}}.Encode()) //nolint:errcheck // never fails
		return
	}
	p, known := errors.AsType[*problem.Problem](err)
	if !known && rq.Context().Err() == nil {
		rq.portal.Log.Error("make a page", "path", rq.URL.Path, "error", err)
	}
	if !known {
		p = problem.New(problem.InternalError, "the vault's log says more")
	}
	if err := rq.Fail(p.HTTPStatus(), p); err != nil {
		rq.portal.Log.Error("make the page of a problem", "error", err)
		http.Error(rq.W, p.Error(), p.HTTPStatus())
	}
}

// signInPath is where people sign in.
const signInPath = "/sign-in"
