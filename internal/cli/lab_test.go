package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"rebound/internal/control"
	"rebound/internal/control/controltest"
	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/vault"
	"rebound/internal/vault/rest"
)

// lab is a real vault over HTTPS, two gateways that live in memory, and a
// person at a command line who has logged in.
type lab struct {
	t           *testing.T
	addr        string
	ca          string // file
	world       *controltest.World
	home, cloud *controltest.Gateway
}

// result is how one command line ended.
type result struct {
	code     int
	out, err string
}

// lockedBuffer lets a test read what a running command has written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// noProfile makes the commands find no profile and no environment.
func noProfile(t *testing.T) {
	t.Helper()
	t.Setenv(envConfig, filepath.Join(t.TempDir(), "profile.json"))
	for _, e := range []string{envVault, envToken, envCA} {
		t.Setenv(e, "")
	}
}

// run is one command line with nothing on its standard input.
func run(t *testing.T, args ...string) result {
	t.Helper()
	var out, errOut lockedBuffer
	code := Run(t.Context(), args, Streams{In: strings.NewReader(""), Out: &out, Err: &errOut})
	return result{code, out.String(), errOut.String()}
}

// want runs a command line and demands its exit code.
func want(t *testing.T, code int, args ...string) result {
	t.Helper()
	r := run(t, args...)
	if r.code != code {
		t.Fatalf("rebound %s: exit %d, want %d\nstdout: %s\nstderr: %s", strings.Join(args, " "), r.code, code, r.out, r.err)
	}
	return r
}

// read runs a command with -o json, demands success and decodes its output.
func read[T any](t *testing.T, args ...string) T {
	t.Helper()
	r := want(t, exitOK, append(args, "-o", "json")...)
	var v T
	dec := json.NewDecoder(strings.NewReader(r.out))
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("rebound %v: %v in %s", args, err, r.out)
	}
	if dec.More() {
		t.Fatalf("rebound %v wrote more than one value: %s", args, r.out)
	}
	return v
}

// failure is what -o json writes to the error stream.
type failure struct {
	Error struct {
		Code              string   `json:"code"`
		Detail            string   `json:"detail"`
		PossibleCauses    []string `json:"possibleCauses"`
		RecommendedAction string   `json:"recommendedAction"`
	} `json:"error"`
	ExitCode int `json:"exitCode"`
}

// refused runs a command with -o json and demands an exit code and a problem.
func refused(t *testing.T, exit int, code string, args ...string) failure {
	t.Helper()
	r := want(t, exit, append(args, "-o", "json")...)
	var f failure
	if err := json.Unmarshal([]byte(r.err), &f); err != nil {
		t.Fatalf("rebound %v: %v in %q", args, err, r.err)
	}
	if f.Error.Code != code || f.ExitCode != exit {
		t.Fatalf("rebound %v: %s, exit %d; want %s, exit %d", args, f.Error.Code, f.ExitCode, code, exit)
	}
	return f
}

// answer runs a command as if at a terminal where a person types text.
func answer(t *testing.T, text string, args ...string) result {
	t.Helper()
	var out, errOut lockedBuffer
	a := newApp(Streams{In: strings.NewReader(text), Out: &out, Err: &errOut})
	a.interactive = func() bool { return true }
	code := a.execute(t.Context(), args)
	return result{code, out.String(), errOut.String()}
}

func newLab(t *testing.T) *lab {
	t.Helper()
	noProfile(t)
	l := &lab{t: t, world: controltest.NewWorld()}
	dir := t.TempDir()
	l.startVault(dir)
	l.ca = filepath.Join(dir, vault.CAFile)
	want(t, exitOK, "login", l.addr, "--ca", l.ca, "--token-file", filepath.Join(dir, vault.TokenFile))
	l.home, l.cloud = l.gateway("gw-home", "home"), l.gateway("gw-cloud", "cloud")
	l.home.AddMachine("web")
	l.home.AddMachine("db")
	l.until("the gateways' machines", func() bool {
		return len(read[[]rest.Machine](t, "machine", "list", "--site", "home")) == 2 &&
			read[rest.Status](t, "status").GatewaysConnected == 2
	})
	return l
}

func (l *lab) startVault(dir string) {
	l.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		done <- vault.Serve(ctx, vault.Config{Dir: dir, Listen: "127.0.0.1:0", Version: "test", Ready: func(a net.Addr) { ready <- a }})
	}()
	select {
	case a := <-ready:
		l.addr = a.String()
	case err := <-done:
		l.t.Fatalf("vault did not start: %v", err)
	}
	l.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			l.t.Errorf("vault ended: %v", err)
		}
	})
}

// gateway makes a site and enrols a gateway, by the commands a person uses.
func (l *lab) gateway(id dr.GatewayID, at string) *controltest.Gateway {
	l.t.Helper()
	read[rest.Site](l.t, "site", "create", at, "--description", "the "+at)
	e := read[rest.Enrollment](l.t, "gateway", "enroll", string(id), "--site", at)
	key, csr, err := identity.NewRequest(string(id))
	if err != nil {
		l.t.Fatal(err)
	}
	pinned, err := identity.PinnedTLS([]byte(e.CA))
	if err != nil {
		l.t.Fatal(err)
	}
	res, err := control.Enroll(l.t.Context(), l.addr, pinned, control.EnrollRequest{Role: "gateway", Name: string(id), Passphrase: e.Passphrase, CSR: string(csr)})
	if err != nil {
		l.t.Fatal(err)
	}
	cfg, err := identity.Bundle{CA: []byte(res.CA), Cert: []byte(res.Certificate), Key: key}.ClientTLS(identity.RoleVault, "vault")
	if err != nil {
		l.t.Fatal(err)
	}
	g := l.world.NewGateway(id, dr.SiteID(at), filepath.Join(l.t.TempDir(), "ledger"))
	if err := g.Start(l.addr, cfg, slog.New(slog.DiscardHandler)); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(g.Stop)
	return g
}

// protected protects both machines as the group "shop".
func (l *lab) protected() *lab {
	l.t.Helper()
	want(l.t, exitOK, "machine", "protect", "web", "db", "--to", "cloud", "--group", "shop")
	l.state("Protected")
	return l
}

// state waits until the group rests in a state.
func (l *lab) state(want string) {
	l.t.Helper()
	l.until("group shop in state "+want, func() bool {
		g := read[rest.Group](l.t, "group", "show", "shop")
		return string(g.State) == want && g.RunningJob == ""
	})
}

func (l *lab) until(what string, f func() bool) {
	l.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !f() {
		if time.Now().After(deadline) {
			l.t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q is missing in:\n%s", p, text)
		}
	}
}

func mustRead(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
