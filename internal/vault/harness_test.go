package vault_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"rebound/internal/control"
	"rebound/internal/control/controltest"
	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/vault"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// lab is a real vault over HTTPS with two gateways that live in memory.
type lab struct {
	life time.Duration // of the certificates that are issued; 0: the default
	// guards of the life cycle; nil: the real ones. clock is the vault's, when set.
	guards map[lifecycle.GuardName]lifecycle.Guard
	clock  atomic.Pointer[time.Time]

	t     testing.TB
	dir   string
	addr  string
	log   *slog.Logger
	hook  func(job dr.JobID, task, moment string)
	world *controltest.World
	home  *controltest.Gateway
	cloud *controltest.Gateway
	ids   map[*controltest.Gateway]identity.Bundle
	c     *client.Client
	http  *http.Client // for requests that the client does not make
	stop  func()
}

func testLog(t testing.TB) *slog.Logger {
	if os.Getenv("REBOUND_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

func freeAddr(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func newLab(t testing.TB) *lab {
	t.Helper()
	return newLabWith(t, nil)
}

// newLabWith is a lab whose vault decides with other guards; nil: the real ones.
func newLabWith(t testing.TB, guards map[lifecycle.GuardName]lifecycle.Guard) *lab {
	t.Helper()
	l := &lab{guards: guards, t: t, dir: t.TempDir(), addr: freeAddr(t), log: testLog(t), world: controltest.NewWorld(), ids: map[*controltest.Gateway]identity.Bundle{}}
	l.startVault()
	t.Cleanup(func() {
		if l.home != nil {
			l.home.Stop()
			l.cloud.Stop()
		}
		if l.stop != nil {
			l.stop()
		}
	})
	l.home = l.enroll("gw-home", "home")
	l.cloud = l.enroll("gw-cloud", "cloud")
	l.startGateway(l.home)
	l.startGateway(l.cloud)
	return l
}

// startVault starts the vault on the lab's directory and address.
func (l *lab) startVault() {
	l.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- vault.Serve(ctx, vault.Config{
			Dir: l.dir, Listen: l.addr, Log: l.log, Version: "test", Guards: l.guards, Now: l.now, CertificateLife: l.life, Ready: func(net.Addr) { close(ready) },
			Hook: func(j dr.JobID, task, moment string) {
				if l.hook != nil {
					l.hook(j, task, moment)
				}
			},
		})
	}()
	select {
	case <-ready:
	case err := <-done:
		l.t.Fatalf("vault did not start: %v", err)
	}
	l.stop = func() {
		cancel()
		if err := <-done; err != nil {
			l.t.Errorf("vault ended: %v", err)
		}
		l.stop = nil
	}
	l.c = l.client(l.token())
}

// now is the vault's clock: the true one until a test sets it.
func (l *lab) now() time.Time {
	if t := l.clock.Load(); t != nil {
		return *t
	}
	return time.Now()
}

func (l *lab) token() string {
	b, err := os.ReadFile(filepath.Join(l.dir, vault.TokenFile))
	if err != nil {
		l.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func (l *lab) ca() []byte {
	b, err := os.ReadFile(filepath.Join(l.dir, vault.CAFile))
	if err != nil {
		l.t.Fatal(err)
	}
	return b
}

func (l *lab) client(token string) *client.Client {
	l.t.Helper()
	c, err := client.New(client.Config{URL: "https://" + l.addr, Token: token, CA: l.ca()})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(c.Close)
	return c
}

// enroll makes the site, announces the gateway and enrols it over HTTPS.
func (l *lab) enroll(id dr.GatewayID, at dr.SiteID) *controltest.Gateway {
	l.t.Helper()
	ctx := l.t.Context()
	if _, err := l.c.CreateSite(ctx, rest.NewSite{ID: at}); err != nil {
		l.t.Fatal(err)
	}
	e, err := l.c.EnrollGateway(ctx, rest.NewGateway{ID: id, Site: at})
	if err != nil {
		l.t.Fatal(err)
	}
	g := l.world.NewGateway(id, at, filepath.Join(l.t.TempDir(), "ledger"))
	l.ids[g] = l.identity("gateway", string(id), e)
	return g
}

func (l *lab) identity(role, name string, e rest.Enrollment) identity.Bundle {
	l.t.Helper()
	key, csr, err := identity.NewRequest(name)
	if err != nil {
		l.t.Fatal(err)
	}
	pinned, err := identity.PinnedTLS([]byte(e.CA))
	if err != nil {
		l.t.Fatal(err)
	}
	res, err := control.Enroll(l.t.Context(), l.addr, pinned, control.EnrollRequest{Role: role, Name: name, Passphrase: e.Passphrase, CSR: string(csr)})
	if err != nil {
		l.t.Fatal(err)
	}
	return identity.Bundle{CA: []byte(res.CA), Cert: []byte(res.Certificate), Key: key}
}

func (l *lab) startGateway(g *controltest.Gateway) {
	l.t.Helper()
	cfg, err := l.ids[g].ClientTLS(identity.RoleVault, "vault")
	if err != nil {
		l.t.Fatal(err)
	}
	if err := g.Start(l.addr, cfg, l.log); err != nil {
		l.t.Fatal(err)
	}
	self, err := l.ids[g].Self()
	if err != nil {
		l.t.Fatal(err)
	}
	l.until("gateway "+self.Name, func() bool {
		seen, err := l.c.Gateway(l.t.Context(), dr.GatewayID(self.Name))
		return err == nil && seen.Connected
	})
}

// until waits for a condition and fails the test when it does not come.
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

func (l *lab) untilState(id dr.GroupID, want lifecycle.State) rest.Group {
	l.t.Helper()
	var g rest.Group
	var err error
	deadline := time.Now().Add(20 * time.Second)
	for {
		g, err = l.c.Group(l.t.Context(), id)
		if err == nil && g.State == want && g.RunningJob == "" {
			return g
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("group %s is %s (job %q, %v), want %s", id, g.State, g.RunningJob, err, want)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// finish follows a job and demands its end state.
func (l *lab) finish(job rest.Job, err error, want ...rest.JobState) rest.Job {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(l.t.Context(), 40*time.Second)
	defer cancel()
	job, err = l.c.WaitJob(ctx, job.ID, nil)
	if err != nil {
		l.t.Fatalf("wait for job: %v", err)
	}
	if len(want) == 0 {
		want = []rest.JobState{rest.JobSucceeded}
	}
	for _, s := range want {
		if job.State == s {
			return job
		}
	}
	text := ""
	for _, t := range job.Tasks {
		text += fmt.Sprintf("\n  %s: %s %v %v", t.Name, t.State, t.Problem, t.Warnings)
	}
	l.t.Fatalf("job %s of %s is %s, want %v:%s", job.Operation, job.Group, job.State, want, text)
	return job
}

func (l *lab) operate(op lifecycle.Operation, req rest.OperationRequest, want ...rest.JobState) rest.Job {
	l.t.Helper()
	job, err := l.c.Operate(l.t.Context(), client.GroupTarget("app"), op, req)
	return l.finish(job, err, want...)
}

// protected puts two machines at home and protects them as the group "app".
func (l *lab) protected() {
	l.t.Helper()
	l.home.AddMachine("vm1")
	l.home.AddMachine("vm2")
	l.known("home", "vm2")
	l.finish(l.c.Protect(l.t.Context(), rest.ProtectRequest{Machines: []dr.MachineName{"vm1", "vm2"}, To: "cloud", Group: "app"}))
	l.untilState("app", lifecycle.Protected)
}

// known waits until the vault lists a machine.
func (l *lab) known(at dr.SiteID, name dr.MachineName) {
	l.t.Helper()
	l.until(fmt.Sprintf("%s at %s", name, at), func() bool {
		_, err := l.c.Machine(l.t.Context(), at, name)
		if err != nil && !problem.HasCode(err, problem.UnknownMachine) {
			l.t.Fatal(err)
		}
		return err == nil
	})
}
