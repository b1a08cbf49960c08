package identity

import (
	"crypto/tls"
	"errors"
	"io/fs"
	"net"
	"testing"
	"time"

	"rebound/internal/problem"
)

func testCA(t *testing.T, vault string) *CA {
	t.Helper()
	ca, err := OpenCA(t.TempDir(), vault)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func issue(t *testing.T, ca *CA, role Role, name string) Bundle {
	t.Helper()
	b, err := ca.Issue(role, name, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// handshake returns what each end says of the connection.
func handshake(t *testing.T, client, server *tls.Config) (peer Peer, clientErr, serverErr error) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	srv := tls.Server(b, server)
	done := make(chan error, 1)
	go func() {
		err := srv.Handshake()
		if err != nil {
			b.Close()
		} else {
			_, err = srv.Write([]byte{1})
		}
		done <- err
	}()
	cli := tls.Client(a, client)
	if clientErr = cli.Handshake(); clientErr == nil {
		// In TLS 1.3 the client learns of its refusal with the first read.
		_, clientErr = cli.Read(make([]byte, 1))
	} else {
		a.Close()
	}
	serverErr = <-done
	if serverErr == nil {
		peer, serverErr = PeerOf(srv.ConnectionState())
	}
	return peer, clientErr, serverErr
}

func configs(t *testing.T, client Bundle, want Role, name string, server Bundle, accept ...Role) (*tls.Config, *tls.Config) {
	t.Helper()
	c, err := client.ClientTLS(want, name)
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.ServerTLS(accept...)
	if err != nil {
		t.Fatal(err)
	}
	return c, s
}

func TestHandshakeSameVault(t *testing.T) {
	ca := testCA(t, "v1")
	c, s := configs(t, issue(t, ca, RoleGateway, "home"), RoleGateway, "cloud", issue(t, ca, RoleGateway, "cloud"), RoleGateway)
	peer, cerr, serr := handshake(t, c, s)
	if cerr != nil || serr != nil {
		t.Fatal(cerr, serr)
	}
	if want := (Peer{"v1", RoleGateway, "home"}); peer != want {
		t.Errorf("peer %v, want %v", peer, want)
	}
}

func TestHandshakeRefusals(t *testing.T) {
	ca, other := testCA(t, "v1"), testCA(t, "v2")
	impostor := testCA(t, "v1") // another authority under the same name
	gw := issue(t, ca, RoleGateway, "home")
	cases := map[string]struct {
		client, server Bundle
		name           string
		accept         Role
		clientRefuses  bool
	}{
		"client of another vault":     {issue(t, other, RoleGateway, "home"), issue(t, ca, RoleGateway, "cloud"), "cloud", RoleGateway, true},
		"server of another vault":     {gw, issue(t, other, RoleGateway, "cloud"), "cloud", RoleGateway, true},
		"vault of the same name":      {gw, issue(t, impostor, RoleGateway, "cloud"), "cloud", RoleGateway, true},
		"server of another name":      {gw, issue(t, ca, RoleGateway, "else"), "cloud", RoleGateway, true},
		"client of a role not wanted": {issue(t, ca, RoleAgent, "vm"), issue(t, ca, RoleGateway, "cloud"), "cloud", RoleGateway, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			cc, sc := configs(t, c.client, RoleGateway, c.name, c.server, c.accept)
			_, cerr, serr := handshake(t, cc, sc)
			if c.clientRefuses {
				if p := problem.From(cerr); cerr == nil || (p.Code != problem.WrongVault && p.Code != problem.NotAuthenticated) {
					t.Errorf("client error %v, want WrongVault or NotAuthenticated", cerr)
				}
			} else if !problem.HasCode(serr, problem.NotAuthenticated) {
				t.Errorf("server error %v, want NotAuthenticated", serr)
			}
		})
	}
}

func TestPinnedAndPublic(t *testing.T) {
	ca := testCA(t, "v1")
	server, err := issue(t, ca, RoleVault, "vault").PublicServerTLS()
	if err != nil {
		t.Fatal(err)
	}
	pin, err := PinnedTLS(ca.PEM())
	if err != nil {
		t.Fatal(err)
	}
	_, cerr, serr := handshake(t, pin, server)
	if cerr != nil || !problem.HasCode(serr, problem.NotAuthenticated) {
		t.Errorf("got %v and %v; want a connection without a peer", cerr, serr)
	}
	wrong, err := PinnedTLS(testCA(t, "v1").PEM())
	if err != nil {
		t.Fatal(err)
	}
	if _, cerr, _ := handshake(t, wrong, server); !problem.HasCode(cerr, problem.WrongVault) {
		t.Errorf("wrong pin: %v, want WrongVault", cerr)
	}
}

func TestFilesRoundTrip(t *testing.T) {
	dir := t.TempDir()
	if _, err := LoadBundle(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("LoadBundle of nothing: %v", err)
	}
	ca := testCA(t, "v1")
	if err := issue(t, ca, RoleGateway, "home").Save(dir); err != nil {
		t.Fatal(err)
	}
	b, err := LoadBundle(dir)
	if err != nil {
		t.Fatal(err)
	}
	if self, err := b.Self(); err != nil || self.Name != "home" {
		t.Errorf("Self = %v, %v", self, err)
	}
	caDir := t.TempDir()
	first, err := OpenCA(caDir, "v9")
	if err != nil {
		t.Fatal(err)
	}
	again, err := OpenCA(caDir, "ignored")
	if err != nil || again.Vault() != "v9" || string(again.PEM()) != string(first.PEM()) {
		t.Errorf("reopened CA %v: %v", again, err)
	}
}

// TestPendingRequestIsTheSameAgain: an enrolment cut short asks the same.
func TestPendingRequestIsTheSameAgain(t *testing.T) {
	dir := t.TempDir()
	key, csr, err := PendingRequest(dir, "web")
	if err != nil {
		t.Fatal(err)
	}
	key2, csr2, err := PendingRequest(dir, "web")
	if err != nil || string(key) != string(key2) || string(csr) != string(csr2) {
		t.Fatalf("the second request differs: %v", err)
	}
	ca := testCA(t, "v1")
	cert, err := ca.Sign(csr2, RoleAgent, "web", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (Bundle{CA: ca.PEM(), Cert: cert, Key: key2}).ServerTLS(RoleVault); err != nil {
		t.Errorf("key and certificate do not fit: %v", err)
	}
	if err := ClearPending(dir); err != nil {
		t.Fatal(err)
	}
	if _, csr3, err := PendingRequest(dir, "web"); err != nil || string(csr3) == string(csr) {
		t.Errorf("a new enrolment asks the old: %v", err)
	}
}
