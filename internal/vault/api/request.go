package api

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"runtime/debug"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/vault/auth"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// The headers that every client may use.
const (
	requestIDHeader   = "X-Request-Id"
	idempotencyHeader = "Idempotency-Key"
	replayedHeader    = "Idempotency-Replayed"
)

// request is what the vault knows of a request besides HTTP's own.
type request struct {
	id   string
	from string
	url  *url.URL
	// cli: it comes from the command line, by its own word; crossOrigin: a
	// browser sends it for a page of somebody else.
	cli, crossOrigin bool
	// who asks; refused says why nobody is known.
	who     auth.Caller
	refused error
	// For the audit log.
	operation, object string
	dryRun, replayed  bool
}

type requestKey struct{}

// requestOf returns what is known of the request of ctx; an empty record
// outside of one.
func requestOf(ctx context.Context) *request {
	if rq, ok := ctx.Value(requestKey{}).(*request); ok {
		return rq
	}
	return &request{url: &url.URL{}}
}

// callerOf is who sends the request of ctx.
func callerOf(ctx context.Context) auth.Caller { return requestOf(ctx).who }

// caller is the name of who sends the request of ctx: the user's, or the
// service token's.
func caller(ctx context.Context) string { return callerOf(ctx).Name }

// about tells the audit log what the request of ctx is done to, where its path
// does not say so.
func about(ctx context.Context, kind, id string) { requestOf(ctx).object = kind + "/" + id }

var requestIDs = regexp.MustCompile(`^[A-Za-z0-9._-]{8,64}$`)

func newRequest(r *http.Request) *request {
	rq := &request{id: r.Header.Get(requestIDHeader), url: r.URL, cli: strings.HasPrefix(r.UserAgent(), rest.CLIAgent)}
	if !requestIDs.MatchString(rq.id) {
		rq.id = strings.ToLower(rand.Text())
	}
	rq.from = r.RemoteAddr
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		rq.from = host
	}
	rq.crossOrigin = http.NewCrossOriginProtection().Check(r) != nil
	rq.dryRun = r.URL.Query().Get("dryRun") == "true"
	return rq
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rq := newRequest(r)
	w.Header().Set(requestIDHeader, rq.id)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	r = r.WithContext(context.WithValue(r.Context(), requestKey{}, rq))
	rec := &recorder{ResponseWriter: w}
	defer s.recovered(rec, r)
	if !strings.HasPrefix(r.URL.Path, rest.Prefix+"/") && r.URL.Path != metricsPath {
		s.mux.ServeHTTP(rec, r)
		return
	}
	rq.who, rq.refused = s.identify(r)
	w.Header().Set("Cache-Control", "private, no-cache")
	s.conditional(rec, r, s.idempotent)
	s.audit(r, rq, rec)
}

// recovered turns a panic of a handler into an answer.
func (s *Server) recovered(rec *recorder, r *http.Request) {
	v := recover()
	if v == nil {
		return
	}
	if v == http.ErrAbortHandler { //nolint:errorlint // the very value that net/http compares with
		panic(v)
	}
	rq := requestOf(r.Context())
	s.Log.Error("a request made the vault panic", "request", rq.id, "method", r.Method, "path", r.URL.Path, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
	if rec.status == 0 {
		writeProblem(rec, problem.New(problem.InternalError, "request %s; the vault's log says more", rq.id))
	}
	s.audit(r, rq, rec)
}

// identify finds out who sends a request: by the token, else by the session's
// cookie.
func (s *Server) identify(r *http.Request) (auth.Caller, error) {
	if h := r.Header.Get("Authorization"); h != "" {
		secret, ok := strings.CutPrefix(h, "Bearer ")
		if !ok || secret == "" {
			return auth.Caller{}, problem.New(problem.NotAuthenticated, "the Authorization header holds no bearer token")
		}
		return s.byToken(r, secret)
	}
	c, err := r.Cookie(rest.SessionCookie)
	if err != nil || c.Value == "" {
		return auth.Caller{}, problem.New(problem.NotAuthenticated, "the request carries no token and no session")
	}
	return s.bySession(r, c.Value)
}

func (s *Server) byToken(r *http.Request, secret string) (auth.Caller, error) {
	var tok rest.Token
	var user rest.User
	now := s.Now()
	err := s.view(r.Context(), func(tx *store.Tx) (err error) {
		if tok, err = tx.TokenOf(secret, now); err != nil || tok.User == "" {
			return err
		}
		user, err = tx.User(tok.User)
		return err
	})
	if err = notFound(err, problem.NotAuthenticated, "the token is not valid"); err != nil {
		return auth.Caller{}, err
	}
	who := auth.Caller{Name: tok.Name, Role: auth.Role(tok.Role), Channel: auth.Token, Credential: tok.ID, Seal: auth.SealOf(secret)}
	if requestOf(r.Context()).cli {
		who.Channel = auth.CLI
	}
	if tok.User != "" {
		if user.Disabled {
			return auth.Caller{}, problem.New(problem.NotAuthenticated, "the user of the token is disabled")
		}
		who.Name, who.User, who.Role = user.Name, user.Name, auth.Least(who.Role, auth.Role(user.Role))
	}
	if now.Sub(tok.LastUsed) >= auth.UsedEvery {
		tok.LastUsed = now.UTC()
		s.used(r.Context(), func(tx *store.Tx) error {
			fresh, err := tx.Token(tok.ID)
			if err != nil {
				return notFound(err, problem.UnknownToken, "gone")
			}
			fresh.LastUsed = tok.LastUsed
			return tx.PutToken(fresh)
		})
	}
	return who, nil
}

func (s *Server) bySession(r *http.Request, secret string) (auth.Caller, error) {
	var ses store.Session
	var user rest.User
	err := s.view(r.Context(), func(tx *store.Tx) (err error) {
		if ses, err = tx.SessionOf(secret); err != nil {
			return err
		}
		user, err = tx.User(ses.User)
		return err
	})
	if err = notFound(err, problem.NotAuthenticated, "the session has ended; log in again"); err != nil {
		return auth.Caller{}, err
	}
	now := s.Now()
	if !now.Before(ses.Created.Add(auth.SessionLife)) || !now.Before(ses.Used.Add(auth.SessionIdle)) || user.Disabled {
		return auth.Caller{}, problem.New(problem.NotAuthenticated, "the session has ended; log in again")
	}
	if err := checkOrigin(r, secret); err != nil {
		return auth.Caller{}, err
	}
	if now.Sub(ses.Used) >= auth.UsedEvery {
		ses.Used = now.UTC()
		s.used(r.Context(), func(tx *store.Tx) error { return tx.PutSession(ses) })
	}
	return auth.Caller{
		Name: user.Name, User: user.Name, Role: auth.Role(user.Role), Channel: auth.Channel(ses.Channel),
		Credential: ses.ID, Session: true, Seal: auth.SealOf(secret),
	}, nil
}

// checkOrigin refuses what another web page makes a browser send with the
// session's cookie.
func checkOrigin(r *http.Request, secret string) error {
	if r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions {
		return nil
	}
	if requestOf(r.Context()).crossOrigin {
		return problem.New(problem.CSRFRefused, "the request comes from another origin")
	}
	if !equalSecrets(r.Header.Get(rest.CSRFHeader), auth.CSRFOf(secret)) {
		return problem.New(problem.CSRFRefused, "the header %s does not belong to the session", rest.CSRFHeader)
	}
	return nil
}

// used keeps when a credential was used last; that it could not is no reason
// to refuse the request.
func (s *Server) used(ctx context.Context, f func(*store.Tx) error) {
	if err := s.Store.Update(context.WithoutCancel(ctx), f); err != nil && !problem.HasCode(err, problem.UnknownToken) {
		s.Log.Warn("keep the last use of a credential", "error", err)
	}
}

// guard lets a request pass whose caller may do what it asks for.
func (s *Server) guard(api huma.API) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		rq := requestOf(ctx.Context())
		rq.operation = ctx.Operation().OperationID
		if rq.object == "" {
			rq.object = objectOf(ctx)
		}
		if err := permit(rq, ctx); err != nil {
			d := documentOf(err)
			ctx.SetHeader("Content-Type", "application/problem+json")
			if d.Status == http.StatusUnauthorized {
				ctx.SetHeader("WWW-Authenticate", "Bearer")
			}
			ctx.SetStatus(d.Status)
			if err := api.Marshal(ctx.BodyWriter(), "application/json", d); err != nil {
				s.Log.Debug("answer refused request", "error", err)
			}
			return
		}
		next(ctx)
	}
}

// permit is the one place that looks at the table of roles.
func permit(rq *request, ctx huma.Context) error {
	id := ctx.Operation().OperationID
	need, ok := auth.Routes()[id]
	if need.Public {
		return nil
	}
	if rq.refused != nil {
		return rq.refused
	}
	role, what := need.Role, id
	if op := ctx.Param("operation"); need.PerOperation && op != "" {
		rq.operation, what = op, op
		if _, known := lifecycle.RowOf(lifecycle.Operation(op)); known {
			role = auth.OperationRole(lifecycle.Operation(op))
		}
	}
	if !ok || !rq.who.Role.Allows(role) {
		return denied(rq.who, what, role)
	}
	return nil
}

func denied(who auth.Caller, what string, need auth.Role) error {
	return problem.New(problem.PermissionDenied, "%s needs the role %s, %q has %s", what, need, who.Name, who.Role)
}

// permitOperation checks the role of an operation that the path does not name,
// such as that of a job.
func permitOperation(ctx context.Context, op lifecycle.Operation) error {
	who := callerOf(ctx)
	if need := auth.OperationRole(op); !who.Role.Allows(need) {
		return denied(who, string(op), need)
	}
	return nil
}

// permitOwn lets owners pass, and others where the thing is their own.
func permitOwn(ctx context.Context, user string) error {
	who := callerOf(ctx)
	if who.Role.Allows(auth.Owner) || who.User != "" && who.User == user {
		return nil
	}
	return denied(who, requestOf(ctx).operation+" of somebody else", auth.Owner)
}

var pathParams = regexp.MustCompile(`/([a-z-]+)/\{([a-z]+)\}`)

// objectOf names what a path addresses: "group/app", "site/home/machine/vm1".
func objectOf(ctx huma.Context) string {
	var parts []string
	for _, m := range pathParams.FindAllStringSubmatch(ctx.Operation().Path, -1) {
		if m[2] == "operation" || m[2] == "action" {
			continue
		}
		parts = append(parts, singular(m[1])+"/"+ctx.Param(m[2]))
	}
	return strings.Join(parts, "/")
}

func singular(plural string) string {
	if stem, ok := strings.CutSuffix(plural, "ies"); ok {
		return stem + "y"
	}
	return strings.TrimSuffix(plural, "s")
}

// retryLater is a refusal that says when to come back.
type retryLater struct {
	*problem.Problem
	after time.Duration
}

func (r retryLater) Unwrap() error { return r.Problem }

func tooMany(wait time.Duration, format string, args ...any) error {
	return retryLater{problem.New(problem.TooManyAttempts, format, args...), wait}
}
