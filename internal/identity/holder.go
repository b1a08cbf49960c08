package identity

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/renameio/v2"

	"rebound/internal/problem"
)

// revokedFile keeps the revocations that a holder knows.
const revokedFile = "revoked.json"

// Revocation names one certificate that is not to be accepted any more.
type Revocation struct {
	// Sum is the SHA-256 of the certificate's DER, in hexadecimal (Sum).
	Sum string `json:"sum"`
	// Ends is when the certificate ends by itself; the revocation is
	// forgotten then.
	Ends time.Time `json:"ends"`
}

// Sum names a certificate by the SHA-256 of its DER, in hexadecimal.
func Sum(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// Holder is an identity while it is in use: it can be replaced by a renewed
// one, and it knows which certificates of others were revoked. Configurations
// made from it show and accept what is true at each handshake. Safe for use by
// several goroutines.
type Holder struct {
	dir string

	mu      sync.RWMutex
	bundle  Bundle
	pair    tls.Certificate
	roots   *x509.CertPool
	self    Peer
	revoked map[string]time.Time // by Sum: its end
	changed chan struct{}
}

// NewHolder holds an identity in memory only.
func NewHolder(b Bundle) (*Holder, error) { return newHolder("", b) }

// OpenHolder holds the identity in dir and keeps there what changes. The error
// is fs.ErrNotExist when the holder has not enrolled.
func OpenHolder(dir string) (*Holder, error) {
	b, err := LoadBundle(dir)
	if err != nil {
		return nil, err
	}
	h, err := newHolder(dir, b)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(dir, revokedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read revocations: %w", err)
	}
	var list []Revocation
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("read revocations %s: %w", filepath.Join(dir, revokedFile), err)
	}
	for _, r := range list {
		h.revoked[r.Sum] = r.Ends
	}
	return h, nil
}

func newHolder(dir string, b Bundle) (*Holder, error) {
	h := &Holder{dir: dir, revoked: map[string]time.Time{}, changed: make(chan struct{})}
	return h, h.use(b)
}

// use takes a bundle on; the caller holds mu, or the only reference.
func (h *Holder) use(b Bundle) error {
	cfg, roots, self, err := b.base()
	if err != nil {
		return err
	}
	h.bundle, h.pair, h.roots, h.self = b, cfg.Certificates[0], roots, self
	return nil
}

// Bundle returns the identity of now.
func (h *Holder) Bundle() Bundle {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.bundle
}

// Self returns who the holder is.
func (h *Holder) Self() Peer {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.self
}

// Changed returns a channel that is closed when the identity or the
// revocations change next.
func (h *Holder) Changed() <-chan struct{} {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.changed
}

func (h *Holder) wake() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// Replace goes over to a renewed identity; it is durable on return. Connections
// that stand are left alone.
func (h *Holder) Replace(b Bundle) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.dir != "" {
		if _, _, _, err := b.base(); err != nil {
			return err
		}
		if err := b.Save(h.dir); err != nil {
			return err
		}
	}
	if err := h.use(b); err != nil {
		return err
	}
	h.wake()
	return nil
}

// Revoke adds revocations and drops those whose certificate has ended by now.
// It reports whether one was new; that is durable on return.
func (h *Holder) Revoke(list []Revocation, now time.Time) (fresh bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	next := maps.Clone(h.revoked)
	maps.DeleteFunc(next, func(_ string, ends time.Time) bool { return ends.Before(now) })
	for _, r := range list {
		if _, known := h.revoked[r.Sum]; !known && !r.Ends.Before(now) {
			next[r.Sum], fresh = r.Ends, true
		}
	}
	if !fresh && len(next) == len(h.revoked) {
		return false, nil
	}
	if h.dir != "" {
		text, err := json.Marshal(sorted(next))
		if err != nil {
			return false, fmt.Errorf("encode revocations: %w", err)
		}
		if err := renameio.WriteFile(filepath.Join(h.dir, revokedFile), text, 0o600); err != nil {
			return false, fmt.Errorf("keep revocations: %w", err)
		}
		if err := syncDir(h.dir); err != nil {
			return false, err
		}
	}
	h.revoked = next
	h.wake()
	return fresh, nil
}

func sorted(m map[string]time.Time) []Revocation {
	out := make([]Revocation, 0, len(m))
	for sum, ends := range m {
		out = append(out, Revocation{sum, ends.UTC()})
	}
	slices.SortFunc(out, func(a, b Revocation) int { return strings.Compare(a.Sum, b.Sum) })
	return out
}

// Revocations returns what is revoked, sorted.
func (h *Holder) Revocations() []Revocation {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return sorted(h.revoked)
}

// Digest names a set of revocations, whatever its order.
func Digest(list []Revocation) string {
	sums := make([]string, len(list))
	for i, r := range list {
		sums[i] = r.Sum
	}
	slices.Sort(sums)
	return Sum([]byte(strings.Join(sums, " ")))
}

// RenewAt is when the identity should be renewed: after two thirds of its life.
func (h *Holder) RenewAt() time.Time {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return renewAt(h.pair.Leaf)
}

func renewAt(c *x509.Certificate) time.Time {
	issued := Issued(c)
	return issued.Add(c.NotAfter.Sub(issued) / 3 * 2)
}

// Issued is when a certificate of ours was signed; its NotBefore is backdated.
func Issued(c *x509.Certificate) time.Time { return c.NotBefore.Add(backdate) }

// Refuses says what stands, at now, against a connection that was accepted
// earlier: the peer's certificate was revoked, or has ended. Nil: nothing.
func (h *Holder) Refuses(state tls.ConnectionState, now time.Time) error {
	if len(state.PeerCertificates) == 0 {
		return problem.New(problem.NotAuthenticated, "the peer showed no certificate")
	}
	cert := state.PeerCertificates[0]
	if now.After(cert.NotAfter) {
		return problem.New(problem.NotAuthenticated, "the certificate of %q ended at %s", cert.Subject.CommonName, cert.NotAfter.UTC().Format(time.RFC3339))
	}
	h.mu.RLock()
	_, revoked := h.revoked[Sum(cert.Raw)]
	h.mu.RUnlock()
	if revoked {
		return problem.New(problem.NotAuthenticated, "the certificate of %q was revoked", cert.Subject.CommonName)
	}
	return nil
}

// ClientTLS is Bundle.ClientTLS with what is true at each handshake.
func (h *Holder) ClientTLS(role Role, name string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The peer's identity is its URI, not a host name, so the standard
		// verification by ServerName is replaced, not skipped.
		InsecureSkipVerify:   true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return h.certificate(), nil },
		VerifyConnection:     func(s tls.ConnectionState) error { return h.verify(s, []Role{role}, name) },
	}
}

// ServerTLS is Bundle.ServerTLS with what is true at each handshake.
func (h *Holder) ServerTLS(roles ...Role) *tls.Config {
	return &tls.Config{
		MinVersion:       tls.VersionTLS13,
		ClientAuth:       tls.RequireAnyClientCert,
		GetCertificate:   func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return h.certificate(), nil },
		VerifyConnection: func(s tls.ConnectionState) error { return h.verify(s, roles, "") },
	}
}

// PublicServerTLS is Bundle.PublicServerTLS with what is true at each handshake.
func (h *Holder) PublicServerTLS() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		ClientAuth:     tls.RequestClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return h.certificate(), nil },
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return nil
			}
			return h.verify(s, []Role{RoleGateway, RoleAgent, RoleVault}, "")
		},
	}
}

func (h *Holder) certificate() *tls.Certificate {
	h.mu.RLock()
	defer h.mu.RUnlock()
	pair := h.pair
	return &pair
}

func (h *Holder) verify(s tls.ConnectionState, roles []Role, name string) error {
	h.mu.RLock()
	roots, vault := h.roots, h.self.Vault
	h.mu.RUnlock()
	if err := verify(s, roots, vault, roles, name); err != nil {
		return err
	}
	return h.Refuses(s, time.Now())
}
