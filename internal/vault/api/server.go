package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/orchestrator"
	"rebound/internal/problem"
	"rebound/internal/vault/auth"
	"rebound/internal/vault/live"
	"rebound/internal/vault/monitor"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
	"rebound/internal/vault/webhook"
)

// Config of a server; all fields are needed.
type Config struct {
	Store  *store.Store
	Live   *live.State
	Jobs   *orchestrator.Orchestrator
	Hub    *control.Hub
	Health *monitor.Monitor
	Hooks  *webhook.Sender
	CA     *identity.CA
	// CertificateLife is how long the certificates of gateways and agents
	// last; 0 means 90 days.
	CertificateLife time.Duration
	Log             *slog.Logger
	Now             func() time.Time
	Version         string
}

// Server answers every request that reaches the vault.
type Server struct {
	Config
	mux    *http.ServeMux
	base   context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	fresh    map[dr.GatewayID]chan struct{}
	snapshot map[dr.GroupID]time.Time
	kept     map[keptKey]string
}

// New returns a server; Close ends the gateways' connections it holds.
func New(ctx context.Context, c Config) *Server {
	useDocuments()
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &Server{
		Config: c, mux: http.NewServeMux(), base: base, cancel: cancel,
		fresh: map[dr.GatewayID]chan struct{}{}, snapshot: map[dr.GroupID]time.Time{},
	}
	s.routes()
	return s
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Close ends the gateways' connections and waits for what the server began.
func (s *Server) Close() {
	s.cancel()
	s.wg.Wait()
}

func (s *Server) routes() {
	cfg := huma.DefaultConfig("Rebound vault", s.Version)
	cfg.OpenAPIPath, cfg.DocsPath, cfg.SchemasPath = rest.Prefix+"/openapi", "", rest.Prefix+"/schemas"
	cfg.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"token": {Type: "http", Scheme: "bearer"}}
	cfg.CreateHooks = nil // no $schema fields in bodies
	api := humago.New(s.mux, cfg)
	api.UseMiddleware(s.guard(api))

	s.inventoryRoutes(api)
	s.itemRoutes(api)
	s.choiceRoutes(api)
	s.jobRoutes(api)
	s.targetSettingRoutes(api)
	s.changeRoutes(api)
	s.adminRoutes(api)
	s.adoptRoutes(api)
	s.healthRoutes(api)
	s.webhookRoutes(api)

	s.mux.HandleFunc("GET "+control.ConnectPath, s.connect)
	s.mux.HandleFunc("POST "+control.ReportPath, s.report)
	s.mux.HandleFunc("POST "+control.EnrollPath, s.enroll)
	s.mux.HandleFunc("POST "+control.RenewPath, s.renew)
	s.mux.HandleFunc("POST "+rest.AgentRegisterPath, s.agentRegister)
	s.mux.HandleFunc("POST "+rest.AgentHeartbeatPath, s.agentHeartbeat)
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		d := documentOf(problem.New(problem.InvalidRequest, "there is nothing at %s %s", r.Method, r.URL.Path))
		d.Status = http.StatusNotFound
		w.Header().Set("Content-Type", "application/problem+json")
		writeProblem(w, d)
	})
}

type callerKey struct{}

// caller is who sends the request of ctx.
func caller(ctx context.Context) string {
	who, _ := ctx.Value(callerKey{}).(string)
	return who
}

// guard lets a request pass whose token has the route's role, and writes down
// what changes something.
func (s *Server) guard(api huma.API) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		who, err := s.authorize(ctx)
		if err != nil {
			d := documentOf(err)
			ctx.SetHeader("Content-Type", "application/problem+json")
			if d.Status == http.StatusUnauthorized {
				ctx.SetHeader("WWW-Authenticate", "Bearer")
			}
			ctx.SetStatus(d.Status)
			if err := api.Marshal(ctx.BodyWriter(), "application/json", d); err != nil {
				s.Log.Debug("answer refused request", "error", err)
			}
		} else {
			next(huma.WithValue(ctx, callerKey{}, who))
		}
		if ctx.Method() == http.MethodGet {
			return
		}
		row := rest.AuditRow{Time: s.Now().UTC(), Who: who, From: ctx.RemoteAddr(), Method: ctx.Method(), Path: pathOf(ctx), Status: ctx.Status()}
		if err := s.Store.Update(context.WithoutCancel(ctx.Context()), func(tx *store.Tx) error { return tx.InsertAudit(row) }); err != nil {
			s.Log.Error("write audit log", "error", err)
		}
	}
}

func (s *Server) authorize(ctx huma.Context) (string, error) {
	secret, ok := strings.CutPrefix(ctx.Header("Authorization"), "Bearer ")
	if !ok || secret == "" {
		return "", problem.New(problem.NotAuthenticated, "the request carries no token")
	}
	var tok rest.Token
	err := s.Store.View(ctx.Context(), func(tx *store.Tx) (err error) { tok, err = tx.TokenOf(secret, s.Now()); return err })
	if errors.Is(err, store.ErrNotFound) {
		return "", problem.New(problem.NotAuthenticated, "the token is not valid")
	}
	if err != nil {
		return "", err
	}
	need := auth.Routes()[ctx.Operation().OperationID].Role
	if !auth.Role(tok.Role).Allows(need) {
		return tok.Name, problem.New(problem.PermissionDenied, "%s needs the role %s, the token %q has %s", ctx.Operation().OperationID, need, tok.Name, tok.Role)
	}
	return tok.Name, nil
}

// route describes one operation of the REST API. Who may call it is the row of
// its id in auth.Routes; one without a row is a defect.
func route(method, path, id, summary string) huma.Operation {
	if _, ok := auth.Routes()[id]; !ok {
		panic("api: auth.Routes has no row for " + id)
	}
	return huma.Operation{
		OperationID: id, Method: method, Path: rest.Prefix + path, Summary: summary,
		Security: []map[string][]string{{"token": {}}},
		Errors:   []int{400, 401, 403, 404, 409, 503},
	}
}

// reply wraps a body for huma.
type reply[T any] struct{ Body T }

func listOf[T any](items []T) *reply[rest.List[T]] {
	if items == nil {
		items = []T{}
	}
	return &reply[rest.List[T]]{rest.List[T]{Items: items}}
}

// add registers a handler whose errors become problem documents.
func add[I, O any](api huma.API, op huma.Operation, f func(context.Context, *I) (*O, error)) {
	huma.Register(api, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := f(ctx, in)
		if err != nil {
			return nil, documentOf(err)
		}
		return out, nil
	})
}

func (s *Server) view(ctx context.Context, f func(*store.Tx) error) error {
	return s.Store.View(ctx, f)
}

func pathOf(ctx huma.Context) string {
	u := ctx.URL()
	return u.RequestURI()
}
