package portal

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"rebound/internal/control"
	"rebound/internal/control/controltest"
	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/vault"
)

// place is a real vault with gateways that live in memory. Tests get nothing of
// it but its address and, on its disk, the first token.
type place struct {
	t     testing.TB
	dir   string
	url   string
	addr  string
	world *controltest.World
}

func newPlace(t testing.TB) *place {
	t.Helper()
	p := &place{t: t, dir: t.TempDir(), world: controltest.NewWorld()}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ready, done := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		done <- vault.Serve(ctx, vault.Config{Dir: p.dir, Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler), Version: "test", Ready: func(a net.Addr) { ready <- a }})
	}()
	select {
	case a := <-ready:
		p.addr, p.url = a.String(), "https://"+a.String()
	case err := <-done:
		t.Fatalf("the vault did not start: %v", err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the vault ended: %v", err)
		}
	})
	return p
}

// firstToken is what a person reads from the vault's disk, once.
func (p *place) firstToken() string {
	p.t.Helper()
	b, err := os.ReadFile(filepath.Join(p.dir, vault.TokenFile))
	if err != nil {
		p.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

var (
	commandArgs = regexp.MustCompile(`--name (\S+) --vault (\S+)`)
	commandPass = regexp.MustCompile(`--passphrase (\S+)`)
	commandCA   = regexp.MustCompile(`(?s)-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----`)
)

// paste runs the command that a page showed on the host of a gateway.
func (p *place) paste(command string, at dr.SiteID) *controltest.Gateway {
	p.t.Helper()
	args, pass, ca := commandArgs.FindStringSubmatch(command), commandPass.FindStringSubmatch(command), commandCA.FindString(command)
	if args == nil || pass == nil || ca == "" {
		p.t.Fatalf("no command to enrol a gateway: %q", command)
	}
	name, addr := args[1], args[2]
	key, csr, err := identity.NewRequest(name)
	must(p.t, err)
	pinned, err := identity.PinnedTLS([]byte(ca))
	must(p.t, err)
	res, err := control.Enroll(p.t.Context(), addr, pinned, control.EnrollRequest{Role: "gateway", Name: name, Passphrase: pass[1], CSR: string(csr)})
	must(p.t, err)
	bundle := identity.Bundle{CA: []byte(res.CA), Cert: []byte(res.Certificate), Key: key}
	cfg, err := bundle.ClientTLS(identity.RoleVault, "vault")
	must(p.t, err)
	g := p.world.NewGateway(dr.GatewayID(name), at, filepath.Join(p.t.TempDir(), "ledger"))
	must(p.t, g.Start(addr, cfg, slog.New(slog.DiscardHandler)))
	p.t.Cleanup(g.Stop)
	return g
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
