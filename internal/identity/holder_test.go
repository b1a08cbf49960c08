package identity

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"rebound/internal/problem"
)

func hold(t *testing.T, b Bundle) *Holder {
	t.Helper()
	h, err := NewHolder(b)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// TestHolderShowsTheRenewedCertificate: the same configurations, made once, go
// by what is true at each handshake, and old and new are both good.
func TestHolderShowsTheRenewedCertificate(t *testing.T) {
	ca := testCA(t, "v1")
	home, cloud := hold(t, issue(t, ca, RoleGateway, "home")), hold(t, issue(t, ca, RoleGateway, "cloud"))
	client, server := home.ClientTLS(RoleGateway, "cloud"), cloud.ServerTLS(RoleGateway)
	old := home.Bundle()
	for range 2 {
		if _, cerr, serr := handshake(t, client, server); cerr != nil || serr != nil {
			t.Fatal(cerr, serr)
		}
		changed := home.Changed()
		if err := home.Replace(issue(t, ca, RoleGateway, "home")); err != nil {
			t.Fatal(err)
		}
		select {
		case <-changed:
		default:
			t.Error("nobody was told of the renewal")
		}
	}
	if string(home.Bundle().Cert) == string(old.Cert) {
		t.Error("the certificate is the old one")
	}
	former, err := old.ClientTLS(RoleGateway, "cloud")
	if err != nil {
		t.Fatal(err)
	}
	if _, cerr, serr := handshake(t, former, server); cerr != nil || serr != nil {
		t.Errorf("the old certificate, before its end: %v, %v", cerr, serr)
	}
}

// TestHolderRefusesTheRevoked, on both ends, also after it was read anew.
func TestHolderRefusesTheRevoked(t *testing.T) {
	ca, dir := testCA(t, "v1"), t.TempDir()
	bad := issue(t, ca, RoleGateway, "home")
	if err := issue(t, ca, RoleGateway, "cloud").Save(dir); err != nil {
		t.Fatal(err)
	}
	cloud, err := OpenHolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := parseCert(bad.Cert)
	if err != nil {
		t.Fatal(err)
	}
	list := []Revocation{{Sum(cert.Raw), cert.NotAfter}, {"ended", time.Now().Add(-time.Hour)}}
	for i, want := range []bool{true, false} {
		if fresh, err := cloud.Revoke(list, time.Now()); err != nil || fresh != want {
			t.Errorf("time %d: fresh %v, %v", i, fresh, err)
		}
	}
	if cloud, err = OpenHolder(dir); err != nil {
		t.Fatal(err)
	}
	if got := cloud.Revocations(); len(got) != 1 || got[0].Sum != Sum(cert.Raw) {
		t.Errorf("kept %v", got)
	}
	if _, _, serr := handshake(t, hold(t, bad).ClientTLS(RoleGateway, "cloud"), cloud.ServerTLS(RoleGateway)); !problem.HasCode(serr, problem.NotAuthenticated) {
		t.Errorf("as a server: %v", serr)
	}
	if _, cerr, _ := handshake(t, cloud.ClientTLS(RoleGateway, "home"), hold(t, bad).ServerTLS(RoleGateway)); !problem.HasCode(cerr, problem.NotAuthenticated) {
		t.Errorf("as a client: %v", cerr)
	}
	// Once it has ended by itself the revocation is forgotten.
	if _, err := cloud.Revoke(nil, cert.NotAfter.Add(time.Second)); err != nil || len(cloud.Revocations()) != 0 {
		t.Errorf("after the end: %v, %v", cloud.Revocations(), err)
	}
}

// TestSaveCutShort: whatever file was written last before a crash, the bundle
// that is read is one pair.
func TestSaveCutShort(t *testing.T) {
	ca, dir := testCA(t, "v1"), t.TempDir()
	old, next := issue(t, ca, RoleGateway, "home"), issue(t, ca, RoleGateway, "home")
	if err := old.Save(dir); err != nil {
		t.Fatal(err)
	}
	write := func(name string, b []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		name string
		part []byte
		want Bundle
	}{{nextKeyFile, next.Key, old}, {"cert.pem", next.Cert, next}} {
		write(step.name, step.part)
		got, err := LoadBundle(dir)
		if err != nil || string(got.Cert) != string(step.want.Cert) || string(got.Key) != string(step.want.Key) {
			t.Errorf("after %s: another pair, %v", step.name, err)
		}
		if _, err := NewHolder(got); err != nil {
			t.Errorf("after %s: %v", step.name, err)
		}
	}
}

func TestRenewAtTwoThirds(t *testing.T) {
	ca := testCA(t, "v1")
	b, err := ca.Issue(RoleAgent, "vm", 90*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(hold(t, b).RenewAt()); left < 59*time.Hour || left > 60*time.Hour {
		t.Errorf("renewed in %v, want 60 h", left)
	}
}
