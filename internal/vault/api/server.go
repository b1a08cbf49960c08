package api

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net/http"
	"path"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/logging"
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
	// Recent holds the newest lines of Log; may be nil.
	Recent *logging.Recent
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

	limits    *auth.Limiter
	hashers   chan struct{}
	nobody    func() string
	strangers strangers
	paths     keyLocks
	claims    keyLocks
	feed      *feed

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
	s.limits = auth.NewLimiter(c.Now)
	s.hashers = make(chan struct{}, maxHashing)
	// What is compared with where there is no such user.
	s.nobody = sync.OnceValue(func() string { return auth.HashPassword(rand.Text()) })
	s.feed = newFeed(s)
	s.routes()
	s.wg.Go(s.housekeeping)
	s.wg.Go(s.feed.run)
	return s
}

// Close ends the gateways' connections and waits for what the server began.
func (s *Server) Close() {
	s.cancel()
	s.wg.Wait()
}

func (s *Server) routes() {
	cfg := huma.DefaultConfig("Rebound vault", s.Version)
	cfg.OpenAPIPath, cfg.DocsPath, cfg.SchemasPath = rest.Prefix+"/openapi", "", rest.Prefix+"/schemas"
	cfg.Components.SecuritySchemes = securitySchemes()
	cfg.RejectUnknownQueryParameters = true
	cfg.CreateHooks = nil // no $schema fields in bodies
	api := humago.New(s.mux, cfg)
	api.UseMiddleware(s.guard(api))

	s.inventoryRoutes(api)
	s.itemRoutes(api)
	s.choiceRoutes(api)
	s.consoleRoute(api)
	s.jobRoutes(api)
	s.planRoutes(api)
	s.targetSettingRoutes(api)
	s.changeRoutes(api)
	s.adminRoutes(api)
	s.accessRoutes(api)
	s.adoptRoutes(api)
	s.streamRoutes(api)
	s.healthRoutes(api)
	s.webhookRoutes(api)
	s.metricsRoute(api)
	s.supportRoute(api)

	s.door("GET "+control.ConnectPath, s.connect)
	s.door("POST "+control.ReportPath, s.report)
	s.door("POST "+control.EnrollPath, s.enroll)
	s.door("POST "+control.RenewPath, s.renew)
	s.door("POST "+rest.AgentRegisterPath, s.agentRegister)
	s.door("POST "+rest.AgentHeartbeatPath, s.agentHeartbeat)
	s.door("/", func(w http.ResponseWriter, r *http.Request) {
		d := documentOf(problem.New(problem.InvalidRequest, "there is nothing at %s %s", r.Method, r.URL.Path))
		d.Status = http.StatusNotFound
		writeProblem(w, d)
	})
	describe(api.OpenAPI())
}

// door registers an address beside the REST API. Who may use it is its row in
// auth.Doors; one without a row is a defect. Those who are refused are written
// down.
func (s *Server) door(pattern string, f http.HandlerFunc) {
	way, ok := auth.Doors()[pattern]
	if !ok {
		panic("api: auth.Doors has no row for " + pattern)
	}
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		requestOf(r.Context()).operation = path.Base(pattern)
		f(w, r)
		if rec, ok := w.(*recorder); ok && way != auth.OpenDoor && (rec.status == http.StatusUnauthorized || rec.status == http.StatusForbidden) && pattern != "POST "+control.EnrollPath {
			s.auditDoor(r, string(way), "", rec.said().Code, rec.status)
		}
	})
}

// route describes one operation of the REST API. Who may call it is the row of
// its id in auth.Routes; one without a row is a defect.
func route(method, path, id, summary string) huma.Operation {
	if _, ok := auth.Routes()[id]; !ok {
		panic("api: auth.Routes has no row for " + id)
	}
	return huma.Operation{
		OperationID: id, Method: method, Path: rest.Prefix + path, Summary: summary,
		Security: []map[string][]string{{"token": {}}, {"session": {}}},
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
