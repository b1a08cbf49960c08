package agent

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"rebound/internal/control"
	"rebound/internal/identity"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
)

// vault is the part of a vault that an agent sees.
type vault struct {
	t    *testing.T
	ca   *identity.CA
	addr string

	mu         sync.Mutex
	passphrase string
	registered []rest.AgentRegistration
	heartbeats int
	fail       int           // requests to answer with 503
	news       chan struct{} // capacity 100
}

func newVault(t *testing.T) *vault {
	t.Helper()
	ca, err := identity.OpenCA(t.TempDir(), "vault-1")
	if err != nil {
		t.Fatal(err)
	}
	v := &vault{t: t, ca: ca, passphrase: "once", news: make(chan struct{}, 100)}
	v.serve("127.0.0.1:0")
	return v
}

// serve starts the server at an address; the result stops it.
func (v *vault) serve(addr string) (stop func()) {
	v.t.Helper()
	b, err := v.ca.Issue(identity.RoleVault, "v", time.Hour)
	if err != nil {
		v.t.Fatal(err)
	}
	conf, err := b.PublicServerTLS()
	if err != nil {
		v.t.Fatal(err)
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		v.t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+control.EnrollPath, v.enroll)
	mux.HandleFunc("POST "+rest.AgentRegisterPath, v.report)
	mux.HandleFunc("POST "+rest.AgentHeartbeatPath, v.report)
	s := &httptest.Server{Listener: tls.NewListener(ln, conf), Config: &http.Server{Handler: mux}}
	s.Start()
	v.addr = ln.Addr().String()
	v.t.Cleanup(s.Close)
	return func() { s.CloseClientConnections(); s.Close() }
}

func refuse(w http.ResponseWriter, status int, p *problem.Problem) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(p)
}

func (v *vault) enroll(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var req control.EnrollRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		v.t.Error(err)
	}
	if v.fail > 0 {
		v.fail--
		refuse(w, 503, problem.New(problem.VaultUnreachable, "not now"))
		return
	}
	if req.Role != "agent" || v.passphrase == "" || req.Passphrase != v.passphrase {
		refuse(w, 403, problem.New(problem.NotAuthenticated, "wrong passphrase"))
		return
	}
	v.passphrase = ""
	cert, err := v.ca.Sign([]byte(req.CSR), identity.RoleAgent, req.Name, time.Hour)
	if err != nil {
		v.t.Error(err)
	}
	_ = json.NewEncoder(w).Encode(control.EnrollResponse{Certificate: string(cert), CA: string(v.ca.PEM()), Vault: v.ca.Vault()})
}

func (v *vault) report(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	peer, err := identity.PeerOf(*r.TLS)
	if err != nil || peer.Role != identity.RoleAgent || peer.Name != "alpha" {
		v.t.Errorf("report by %v, %v", peer, err)
	}
	if v.fail > 0 {
		v.fail--
		refuse(w, 503, problem.New(problem.VaultUnreachable, "not now"))
		return
	}
	if r.URL.Path == rest.AgentHeartbeatPath {
		v.heartbeats++
	} else {
		var reg rest.AgentRegistration
		if err := json.NewDecoder(r.Body).Decode(&reg); err != nil {
			v.t.Error(err)
		}
		v.registered = append(v.registered, reg)
	}
	select {
	case v.news <- struct{}{}:
	default:
	}
}

func (v *vault) config(dir string) Config {
	return Config{Vault: "https://" + v.addr, Machine: "alpha", Passphrase: "once", CA: v.ca.PEM(), StateDir: dir, Interval: 5 * time.Millisecond}
}

// until waits for news until ok.
func (v *vault) until(what string, ok func() bool) {
	v.t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		v.mu.Lock()
		done := ok()
		v.mu.Unlock()
		if done {
			return
		}
		select {
		case <-v.news:
		case <-deadline:
			v.t.Fatalf("no %s", what)
		}
	}
}

// runAgent runs an agent until the returned function is called.
func runAgent(t *testing.T, cfg Config) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg) }()
	return func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("agent ended with %v", err)
		}
	}
}

func TestEnrolRegisterHeartbeat(t *testing.T) {
	v, dir := newVault(t), filepath.Join(t.TempDir(), "agent")
	v.fail = 2 // it tries again
	stop := runAgent(t, v.config(dir))
	v.until("heartbeats", func() bool { return v.heartbeats > 3 })
	stop()
	if len(v.registered) != 1 || v.registered[0].BootID == "" || time.Since(v.registered[0].Booted) < 0 || v.registered[0].Booted.IsZero() {
		t.Errorf("registered %+v", v.registered)
	}
	if st, err := os.Stat(filepath.Join(dir, "key.pem")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("key: %v, %v", st, err)
	}

	// The next boot needs no passphrase.
	cfg := v.config(dir)
	cfg.Passphrase, cfg.CA, cfg.BootID = "", nil, "second"
	stop = runAgent(t, cfg)
	v.until("second registration", func() bool { return len(v.registered) == 2 && v.registered[1].BootID == "second" })
	stop()
}

// TestOutage: after an outage the agent registers anew, by itself.
func TestOutage(t *testing.T) {
	v, dir := newVault(t), t.TempDir()
	stop := runAgent(t, v.config(dir))
	defer stop()
	v.until("heartbeats", func() bool { return v.heartbeats > 1 })
	v.mu.Lock()
	v.fail = 2
	v.mu.Unlock()
	v.until("registration after the outage", func() bool { return len(v.registered) == 2 })
}

func TestRefused(t *testing.T) {
	v, other := newVault(t), newVault(t)
	saved := t.TempDir()
	b, err := v.ca.Issue(identity.RoleAgent, "beta", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Save(saved); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		change func(*Config)
		code   problem.Code
	}{
		{"wrong passphrase", func(c *Config) { c.Passphrase = "guess" }, problem.NotAuthenticated},
		{"no passphrase", func(c *Config) { c.Passphrase = "" }, problem.NotAuthenticated},
		{"other vault", func(c *Config) { c.CA = other.ca.PEM() }, problem.WrongVault},
		{"no certificate", func(c *Config) { c.CA = []byte("junk") }, problem.InvalidRequest},
		{"other machine's identity", func(c *Config) { c.StateDir = saved }, problem.NotAuthenticated},
		{"bad name", func(c *Config) { c.Machine = "a b" }, problem.InvalidName},
		{"plain http", func(c *Config) { c.Vault = "http://" + v.addr }, problem.InvalidRequest},
		{"no state directory", func(c *Config) { c.StateDir = "" }, problem.InvalidRequest},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := v.config(t.TempDir())
			tc.change(&cfg)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := Run(ctx, cfg); !problem.HasCode(err, tc.code) {
				t.Errorf("Run = %v, want %s", err, tc.code)
			}
		})
	}
	if v.passphrase == "" {
		t.Error("a refused enrolment used the passphrase up")
	}
}
