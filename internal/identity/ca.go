package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"
)

const (
	// caLife is how long a vault's root lasts.
	caLife = 20 * 365 * 24 * time.Hour
	// backdate lets certificates be used by processes whose clock is
	// behind: a wrong clock is reported as ClockSkew by the handshakes
	// above TLS, not as a certificate that is not valid yet.
	backdate = 48 * time.Hour
)

// CA is a vault's certificate authority.
type CA struct {
	vault string
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	pem   []byte
}

// OpenCA reads the authority in dir, or makes one for the vault id when there
// is none. The key file is readable by its owner only.
func OpenCA(dir, vault string) (*CA, error) {
	keyPEM, err := os.ReadFile(filepath.Join(dir, "ca.key"))
	if errors.Is(err, fs.ErrNotExist) {
		return createCA(dir, vault)
	}
	if err != nil {
		return nil, fmt.Errorf("read CA key: %w", err)
	}
	certPEM, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return nil, fmt.Errorf("read CA certificate: %w", err)
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("read CA key: %w", err)
	}
	cert, err := parseCert(certPEM)
	if err != nil {
		return nil, fmt.Errorf("read CA certificate: %w", err)
	}
	return &CA{vault: cert.Subject.CommonName, cert: cert, key: key, pem: certPEM}, nil
}

func createCA(dir, vault string) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make CA key: %w", err)
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: vault, Organization: []string{"Rebound"}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make CA certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make CA certificate: %w", err)
	}
	ca := &CA{vault: vault, cert: cert, key: key, pem: encodeCert(der)}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	// The certificate first: a key without its certificate would be taken
	// for a whole authority by the next start.
	if err := renameio.WriteFile(filepath.Join(dir, "ca.pem"), ca.pem, 0o644); err != nil {
		return nil, fmt.Errorf("write CA certificate: %w", err)
	}
	if err := renameio.WriteFile(filepath.Join(dir, "ca.key"), keyPEM, 0o600); err != nil {
		return nil, fmt.Errorf("write CA key: %w", err)
	}
	return ca, nil
}

// Vault returns the id of the vault.
func (ca *CA) Vault() string { return ca.vault }

// Ends returns when the authority's certificate ends.
func (ca *CA) Ends() time.Time { return ca.cert.NotAfter }

// PEM returns the authority's certificate, for peers to pin.
func (ca *CA) PEM() []byte { return ca.pem }

// Sign issues a certificate for the key of a request. The request's own names
// are ignored: role and name are the vault's decision. hosts (DNS names or IP
// addresses) are added so that browsers and the command line can verify a
// vault; they are nil for all others.
func (ca *CA) Sign(csrPEM []byte, role Role, name string, life time.Duration, hosts ...string) ([]byte, error) {
	block, _ := pem.Decode(csrPEM)
	if block == nil {
		return nil, errors.New("sign certificate: the request is not PEM")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: name, Organization: []string{"Rebound"}},
		URIs:         []*url.URL{Peer{Vault: ca.vault, Role: role, Name: name}.uri()},
		NotBefore:    now.Add(-backdate),
		NotAfter:     now.Add(life),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, csr.PublicKey, ca.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return encodeCert(der), nil
}

// Issue makes a key and its certificate at once, for the vault itself and for
// tests.
func (ca *CA) Issue(role Role, name string, life time.Duration, hosts ...string) (Bundle, error) {
	keyPEM, csrPEM, err := NewRequest(name)
	if err != nil {
		return Bundle{}, err
	}
	certPEM, err := ca.Sign(csrPEM, role, name, life, hosts...)
	if err != nil {
		return Bundle{}, err
	}
	return Bundle{CA: ca.pem, Cert: certPEM, Key: keyPEM}, nil
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err) // crypto/rand never fails on Linux
	}
	return n
}
