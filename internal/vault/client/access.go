package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"rebound/internal/problem"
	"rebound/internal/vault/rest"
)

// Users lists the users.
func (c *Client) Users(ctx context.Context) ([]rest.User, error) {
	return list[rest.User](ctx, c, "/users", nil)
}

// User reads one user.
func (c *Client) User(ctx context.Context, name string) (rest.User, error) {
	return get[rest.User](ctx, c, "/users/"+seg(name), nil)
}

// CreateUser makes a user.
func (c *Client) CreateUser(ctx context.Context, u rest.NewUser) (rest.User, error) {
	return post[rest.User](ctx, c, "/users", u)
}

// UpdateUser changes a user's role, disables or enables a user.
func (c *Client) UpdateUser(ctx context.Context, name string, u rest.UserChange) (rest.User, error) {
	var out rest.User
	_, err := c.do(ctx, http.MethodPatch, "/users/"+seg(name), nil, u, &out)
	return out, err
}

// DeleteUser removes a user with all sessions and tokens.
func (c *Client) DeleteUser(ctx context.Context, name string) error {
	_, err := c.do(ctx, http.MethodDelete, "/users/"+seg(name), nil, nil, nil)
	return err
}

// ChangePassword sets a user's password.
func (c *Client) ChangePassword(ctx context.Context, name string, p rest.PasswordChange) error {
	_, err := c.do(ctx, http.MethodPost, "/users/"+seg(name)+"/password", nil, p, nil)
	return err
}

// Tokens lists the API tokens that the caller may see.
func (c *Client) Tokens(ctx context.Context) ([]rest.Token, error) {
	return list[rest.Token](ctx, c, "/tokens", nil)
}

// Token reads one token.
func (c *Client) Token(ctx context.Context, id string) (rest.Token, error) {
	return get[rest.Token](ctx, c, "/tokens/"+seg(id), nil)
}

// CreateToken makes an API token.
func (c *Client) CreateToken(ctx context.Context, t rest.NewToken) (rest.TokenSecret, error) {
	return post[rest.TokenSecret](ctx, c, "/tokens", t)
}

// UpdateToken changes a token's name, role or end.
func (c *Client) UpdateToken(ctx context.Context, id string, t rest.TokenChange) (rest.Token, error) {
	var out rest.Token
	_, err := c.do(ctx, http.MethodPatch, "/tokens/"+seg(id), nil, t, &out)
	return out, err
}

// DeleteToken ends a token.
func (c *Client) DeleteToken(ctx context.Context, id string) error {
	_, err := c.do(ctx, http.MethodDelete, "/tokens/"+seg(id), nil, nil, nil)
	return err
}

// WhoAmI says who the caller is.
func (c *Client) WhoAmI(ctx context.Context) (rest.Session, error) {
	return get[rest.Session](ctx, c, "/session", nil)
}

// Login proves who somebody is by a password and makes a token for this
// program, of that user. The client itself needs no token for it.
func (c *Client) Login(ctx context.Context, l rest.Login, t rest.NewToken) (rest.TokenSecret, error) {
	var out rest.TokenSecret
	ses, cookies, err := c.OpenSession(ctx, l)
	if err != nil {
		return out, err
	}
	browser := *c
	browser.token = ""
	browser.hc = &http.Client{Transport: sessionTransport{c.hc.Transport, cookies, ses.CSRF}}
	if t.Role == "" {
		t.Role = ses.Role
	}
	t.User = ses.User
	if out, err = browser.CreateToken(ctx, t); err != nil {
		return out, err
	}
	return out, browser.CloseSession(ctx)
}

// sessionTransport sends requests as a browser does: with the session's cookie.
type sessionTransport struct {
	next    http.RoundTripper
	cookies []*http.Cookie
	csrf    string
}

// RoundTrip implements http.RoundTripper.
func (s sessionTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	for _, k := range s.cookies {
		r.AddCookie(k)
	}
	r.Header.Set(rest.CSRFHeader, s.csrf)
	return s.next.RoundTrip(r)
}

// AuditFilter selects rows of the audit log; zero values do not filter.
type AuditFilter struct {
	Who, Object, Operation, Outcome, Channel string
	From, To                                 time.Time
	NewestFirst                              bool
}

// Audit lists the audit log after a sequence number, oldest first; with
// NewestFirst before it.
func (c *Client) Audit(ctx context.Context, after int64, limit int, f AuditFilter) ([]rest.AuditRow, error) {
	q := url.Values{"after": {strconv.FormatInt(after, 10)}, "limit": {strconv.Itoa(limit)}}
	for name, v := range map[string]string{"who": f.Who, "object": f.Object, "operation": f.Operation, "outcome": f.Outcome, "channel": f.Channel} {
		if v != "" {
			q.Set(name, v)
		}
	}
	for name, t := range map[string]time.Time{"from": f.From, "to": f.To} {
		if !t.IsZero() {
			q.Set(name, t.UTC().Format(time.RFC3339Nano))
		}
	}
	if f.NewestFirst {
		q.Set("sort", "-seq")
	}
	return list[rest.AuditRow](ctx, c, "/audit", q)
}

// CheckAudit checks the audit log's chain; with seq and hash of an earlier check
// also that nothing up to there has changed since.
func (c *Client) CheckAudit(ctx context.Context, seq int64, hash string) (rest.AuditCheck, error) {
	q := url.Values{}
	if seq > 0 {
		q.Set("seq", strconv.FormatInt(seq, 10))
		q.Set("hash", hash)
	} else if hash != "" {
		return rest.AuditCheck{}, problem.New(problem.InvalidRequest, "a hash needs the number of its row")
	}
	return get[rest.AuditCheck](ctx, c, "/audit/check", q)
}
