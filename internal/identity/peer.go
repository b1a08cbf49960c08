package identity

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"strings"

	"rebound/internal/problem"
)

// Role is what the holder of a certificate may act as.
type Role string

// The roles.
const (
	RoleVault   Role = "vault"
	RoleGateway Role = "gateway"
	RoleAgent   Role = "agent"
)

// Peer is the identity in a certificate.
type Peer struct {
	Vault string // the vault's id
	Role  Role
	Name  string
}

// String prints the certificate's URI.
func (p Peer) String() string { return p.uri().String() }

func (p Peer) uri() *url.URL {
	return &url.URL{Scheme: "rebound", Host: p.Vault, Path: "/" + string(p.Role) + "/" + p.Name}
}

// peerOfCert reads the identity of a certificate; it does not verify it.
func peerOfCert(cert *x509.Certificate) (Peer, error) {
	for _, u := range cert.URIs {
		parts := strings.Split(u.Path, "/")
		if u.Scheme == "rebound" && u.Host != "" && len(parts) == 3 && parts[0] == "" {
			return Peer{Vault: u.Host, Role: Role(parts[1]), Name: parts[2]}, nil
		}
	}
	return Peer{}, problem.New(problem.WrongVault, "the certificate of %q names nobody of a vault", cert.Subject)
}

// PeerOf returns the verified identity of a connection's other end. Both
// configurations of a Bundle verify before the handshake ends, so a connection
// made by them always has one.
func PeerOf(state tls.ConnectionState) (Peer, error) {
	if len(state.PeerCertificates) == 0 {
		return Peer{}, problem.New(problem.NotAuthenticated, "the peer showed no certificate")
	}
	return peerOfCert(state.PeerCertificates[0])
}

// verify checks that cert belongs to want's vault and holds one of the roles.
// An empty name accepts any.
func verify(state tls.ConnectionState, roots *x509.CertPool, vault string, roles []Role, name string) error {
	if len(state.PeerCertificates) == 0 {
		return problem.New(problem.NotAuthenticated, "the peer showed no certificate")
	}
	cert := state.PeerCertificates[0]
	peer, err := peerOfCert(cert)
	if err != nil {
		return err
	}
	if peer.Vault != vault {
		return problem.New(problem.WrongVault, "the peer %s belongs to vault %q, this process to %q", peer, peer.Vault, vault)
	}
	inter := x509.NewCertPool()
	for _, c := range state.PeerCertificates[1:] {
		inter.AddCert(c)
	}
	opts := x509.VerifyOptions{Roots: roots, Intermediates: inter, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	if _, err := cert.Verify(opts); err != nil {
		return problem.Wrap(err, problem.WrongVault, "the certificate of %s", peer)
	}
	for _, r := range roles {
		if r == peer.Role && (name == "" || name == peer.Name) {
			return nil
		}
	}
	return problem.New(problem.NotAuthenticated, "the peer is %s, want %v %s", peer, roles, name)
}

// errNoCertificate is what parsing reports for PEM text without a certificate.
func errNoCertificate(what string) error {
	return fmt.Errorf("read %s: no certificate in it", what)
}
