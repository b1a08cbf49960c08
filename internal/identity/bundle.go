package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// Bundle is one holder's identity: the vault's certificate, its own, and its
// key, all PEM.
type Bundle struct {
	CA   []byte `json:"ca"`
	Cert []byte `json:"cert"`
	Key  []byte `json:"key"`
}

// bundleFiles are the names Load and Save use.
var bundleFiles = [3]string{"vault-ca.pem", "cert.pem", "key.pem"}

// LoadBundle reads a bundle from dir; the error is fs.ErrNotExist when the
// holder has not enrolled.
func LoadBundle(dir string) (Bundle, error) {
	var parts [3][]byte
	for i, name := range bundleFiles {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return Bundle{}, fmt.Errorf("read identity: %w", err)
		}
		parts[i] = b
	}
	b := Bundle{CA: parts[0], Cert: parts[1], Key: parts[2]}
	// A renewal that was cut short after its certificate was written.
	if _, err := tls.X509KeyPair(b.Cert, b.Key); err != nil {
		if next, e := os.ReadFile(filepath.Join(dir, nextKeyFile)); e == nil {
			b.Key = next
		}
	}
	_, err := b.Self()
	return b, err
}

// nextKeyFile is the key of a certificate that is being written.
const nextKeyFile = "key.next.pem"

// Save writes the bundle to dir, the key readable by its owner only. A crash
// leaves the bundle before or this one; it is durable on return.
func (b Bundle) Save(dir string) error {
	next := filepath.Join(dir, nextKeyFile)
	for _, f := range []struct {
		path string
		part []byte
	}{{next, b.Key}, {filepath.Join(dir, bundleFiles[0]), b.CA}, {filepath.Join(dir, bundleFiles[1]), b.Cert}} {
		if err := renameio.WriteFile(f.path, f.part, 0o600); err != nil {
			return fmt.Errorf("write identity: %w", err)
		}
		if err := syncDir(dir); err != nil {
			return err
		}
	}
	if err := os.Rename(next, filepath.Join(dir, bundleFiles[2])); err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	return syncDir(dir)
}

// Self returns who the holder is.
func (b Bundle) Self() (Peer, error) {
	cert, err := parseCert(b.Cert)
	if err != nil {
		return Peer{}, err
	}
	return peerOfCert(cert)
}

// NewRequest makes a key and a signing request for it.
func NewRequest(name string) (keyPEM, csrPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key: %w", err)
	}
	keyPEM, err = encodeKey(key)
	if err != nil {
		return nil, nil, err
	}
	tmpl := &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}
	der, err := x509.CreateCertificateRequest(rand.Reader, tmpl, key)
	if err != nil {
		return nil, nil, fmt.Errorf("make certificate request: %w", err)
	}
	csrPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	return keyPEM, csrPEM, nil
}

// ClientTLS is the configuration to dial the named peer with; an empty name
// accepts any peer of the role.
func (b Bundle) ClientTLS(role Role, name string) (*tls.Config, error) {
	cfg, roots, self, err := b.base()
	if err != nil {
		return nil, err
	}
	// The peer's identity is its URI, not a host name, so the standard
	// verification by ServerName is replaced, not skipped.
	cfg.InsecureSkipVerify = true
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		return verify(state, roots, self.Vault, []Role{role}, name)
	}
	return cfg, nil
}

// ServerTLS is the configuration to accept peers of the given roles with.
func (b Bundle) ServerTLS(roles ...Role) (*tls.Config, error) {
	cfg, roots, self, err := b.base()
	if err != nil {
		return nil, err
	}
	cfg.ClientAuth = tls.RequireAnyClientCert
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		return verify(state, roots, self.Vault, roles, "")
	}
	return cfg, nil
}

// PublicServerTLS accepts callers without a certificate too (browsers, the
// command line, a gateway that enrols); one that shows a certificate must be
// of this vault.
func (b Bundle) PublicServerTLS() (*tls.Config, error) {
	cfg, roots, self, err := b.base()
	if err != nil {
		return nil, err
	}
	cfg.ClientAuth = tls.RequestClientCert
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 {
			return nil
		}
		return verify(state, roots, self.Vault, []Role{RoleGateway, RoleAgent, RoleVault}, "")
	}
	return cfg, nil
}

// PinnedTLS trusts the vault whose authority is caPEM and shows no
// certificate: for the command line and for enrolment.
func PinnedTLS(caPEM []byte) (*tls.Config, error) {
	ca, err := parseCert(caPEM)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // replaced by VerifyConnection, see ClientTLS
		VerifyConnection: func(state tls.ConnectionState) error {
			return verify(state, roots, ca.Subject.CommonName, []Role{RoleVault}, "")
		},
	}, nil
}

func (b Bundle) base() (*tls.Config, *x509.CertPool, Peer, error) {
	pair, err := tls.X509KeyPair(b.Cert, b.Key)
	if err != nil {
		return nil, nil, Peer{}, fmt.Errorf("use identity: %w", err)
	}
	ca, err := parseCert(b.CA)
	if err != nil {
		return nil, nil, Peer{}, err
	}
	self, err := b.Self()
	if err != nil {
		return nil, nil, Peer{}, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	cfg := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}}
	return cfg, roots, self, nil
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func parseCert(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errNoCertificate("PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	return cert, nil
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

func parseKey(text []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("no key in PEM")
	}
	return x509.ParseECPrivateKey(block.Bytes)
}
