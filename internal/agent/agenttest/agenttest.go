// Package agenttest is the part of a vault that agents see, with real
// certificates, for tests of the agent and of machines that run it.
package agenttest

import (
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"rebound/internal/control"
	"rebound/internal/identity"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
)

// Vault enrols one agent, of the machine "alpha", with the passphrase "once".
type Vault struct {
	t *testing.T
	// CA is its authority, Addr its host:port.
	CA   *identity.CA
	Addr string

	mu         sync.Mutex
	passphrase string
	registered []rest.AgentRegistration
	heartbeats int
	fail       int           // requests to answer with 503
	news       chan struct{} // capacity 100
}

// New starts a vault on a port of the loopback; it ends with the test.
func New(t *testing.T) *Vault {
	t.Helper()
	ca, err := identity.OpenCA(t.TempDir(), "vault-1")
	if err != nil {
		t.Fatal(err)
	}
	v := &Vault{t: t, CA: ca, passphrase: "once", news: make(chan struct{}, 100)}
	v.serve("127.0.0.1:0")
	return v
}

// State is what a Vault was told.
type State struct {
	Registered []rest.AgentRegistration
	Heartbeats int
	// Enrolled says that the passphrase was used up.
	Enrolled bool
}

func (v *Vault) state() State {
	return State{Registered: slices.Clone(v.registered), Heartbeats: v.heartbeats, Enrolled: v.passphrase == ""}
}

// State returns what the vault was told so far.
func (v *Vault) State() State {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.state()
}

// Fail makes the next n requests fail for a reason that passes.
func (v *Vault) Fail(n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.fail = n
}

// serve starts the server at an address.
func (v *Vault) serve(addr string) {
	v.t.Helper()
	b, err := v.CA.Issue(identity.RoleVault, "v", time.Hour)
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
	v.Addr = ln.Addr().String()
	v.t.Cleanup(s.Close)
}

func refuse(w http.ResponseWriter, status int, p *problem.Problem) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(p)
}

func (v *Vault) enroll(w http.ResponseWriter, r *http.Request) {
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
	cert, err := v.CA.Sign([]byte(req.CSR), identity.RoleAgent, req.Name, time.Hour)
	if err != nil {
		v.t.Error(err)
	}
	_ = json.NewEncoder(w).Encode(control.EnrollResponse{Certificate: string(cert), CA: string(v.CA.PEM()), Vault: v.CA.Vault()})
}

func (v *Vault) report(w http.ResponseWriter, r *http.Request) {
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

// Until waits until ok, which may look at the state that it is given.
func (v *Vault) Until(what string, ok func(State) bool) {
	v.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		v.mu.Lock()
		done := ok(v.state())
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
