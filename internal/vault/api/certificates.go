package api

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

const (
	// certificateLife is how long gateways' and agents' certificates last
	// where the configuration says nothing; they renew them after two thirds.
	certificateLife = 90 * 24 * time.Hour
	// pushTimeout bounds telling the connected gateways of a revocation; the
	// answers to their reports tell the others.
	pushTimeout = 3 * time.Second
)

func (s *Server) life() time.Duration {
	if s.CertificateLife > 0 {
		return s.CertificateLife
	}
	return certificateLife
}

// checkCertificate refuses a certificate of ours that was revoked, or that the
// vault never issued. A vault that was restored does not know what it issued
// after its backup: that is taken over.
func (s *Server) checkCertificate(ctx context.Context, role identity.Role, name string, cert *x509.Certificate) error {
	refused := problem.New(problem.NotAuthenticated, "the certificate of %s %s is not valid any more", role, name)
	if s.Now().After(cert.NotAfter) {
		return refused
	}
	var row store.Certificate
	var restored *store.Restored
	sum := identity.Sum(cert.Raw)
	err := s.view(ctx, func(tx *store.Tx) (err error) {
		if restored, err = tx.Restored(); err != nil {
			return err
		}
		row, err = tx.Certificate(sum)
		return err
	})
	switch issued := identity.Issued(cert); {
	case errors.Is(err, store.ErrNotFound) && restored != nil && issued.After(restored.BackupAt.Add(-time.Minute)) && issued.Before(restored.At.Add(time.Minute)):
		return s.Store.Update(ctx, func(tx *store.Tx) error {
			return tx.PutCertificate(store.Certificate{Sum: sum, Role: role, Name: name, Issued: issued, Ends: cert.NotAfter})
		})
	case errors.Is(err, store.ErrNotFound):
		return refused
	case err != nil:
		return err
	case row.Revoked || row.Role != role || row.Name != name:
		return refused
	}
	return nil
}

// sign issues a certificate and notes it in tx.
func (s *Server) sign(tx *store.Tx, role identity.Role, name string, certPEM []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(certPEM)
	if block == nil {
		return nil, errors.New("the certificate that was signed cannot be read")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read signed certificate: %w", err)
	}
	return cert, tx.PutCertificate(store.Certificate{
		Sum: identity.Sum(cert.Raw), Role: role, Name: name, Issued: s.Now(), Ends: cert.NotAfter,
	})
}

// renew answers the holder of a valid certificate with the next one. The old
// one stays valid until it ends by itself or is revoked.
func (s *Server) renew(w http.ResponseWriter, r *http.Request) {
	res, who, err := s.renewed(r)
	s.auditDirect(r, who, err)
	if err != nil {
		writeProblem(w, err)
		return
	}
	writeJSON(w, res)
}

func (s *Server) renewed(r *http.Request) (res control.EnrollResponse, who string, err error) {
	if r.TLS == nil {
		return res, "", problem.New(problem.NotAuthenticated, "the connection is not encrypted")
	}
	p, err := identity.PeerOf(*r.TLS)
	if err != nil {
		return res, "", err
	}
	who = string(p.Role) + " " + p.Name
	switch p.Role {
	case identity.RoleGateway:
		g, err := s.gatewayOf(r)
		if err != nil {
			return res, who, err
		}
		res.Site = g.Site
	case identity.RoleAgent:
		if _, err := s.agentOf(r); err != nil {
			return res, who, err
		}
	default:
		return res, who, problem.New(problem.NotAuthenticated, "%s renews nothing here", p)
	}
	var req control.RenewRequest
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&req); err != nil {
		return res, who, problem.Wrap(err, problem.InvalidRequest, "cannot read the request")
	}
	cert, err := s.CA.Sign([]byte(req.CSR), p.Role, p.Name, s.life())
	if err != nil {
		return res, who, problem.Wrap(err, problem.InvalidRequest, "the certificate request cannot be signed: %v", err)
	}
	err = s.Store.Update(r.Context(), func(tx *store.Tx) error {
		x, err := s.sign(tx, p.Role, p.Name, cert)
		if err != nil {
			return err
		}
		return holds(tx, p, x)
	})
	res.Certificate, res.CA, res.Vault = string(cert), string(s.CA.PEM()), s.CA.Vault()
	return res, who, err
}

// holds notes the newest certificate of a holder in its row.
func holds(tx *store.Tx, p identity.Peer, x *x509.Certificate) error {
	if p.Role == identity.RoleAgent {
		a, err := tx.Agent(dr.MachineName(p.Name))
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		a.Machine, a.CertificateSum, a.CertificateEnds = dr.MachineName(p.Name), identity.Sum(x.Raw), x.NotAfter.UTC()
		return tx.PutAgent(a)
	}
	g, err := tx.Gateway(dr.GatewayID(p.Name))
	if err != nil {
		return err
	}
	g.State, g.CertificateSum, g.CertificateEnds = "enrolled", identity.Sum(x.Raw), x.NotAfter.UTC()
	return tx.PutGateway(g)
}

// auditDirect writes down a request that does not come through the REST API.
func (s *Server) auditDirect(r *http.Request, who string, failure error) {
	row := rest.AuditRow{Time: s.Now().UTC(), Who: who, From: r.RemoteAddr, Method: r.Method, Path: r.URL.Path, Status: http.StatusOK}
	if failure != nil {
		row.Status = documentOf(failure).Status
	}
	if err := s.Store.Update(context.WithoutCancel(r.Context()), func(tx *store.Tx) error { return tx.InsertAudit(row) }); err != nil {
		s.Log.Error("write audit log", "error", err)
	}
}

// revokeHolder ends all certificates of a gateway or an agent, in tx.
func (s *Server) revokeHolder(tx *store.Tx, role identity.Role, name string) error {
	now := s.Now().UTC()
	if err := tx.RevokeCertificates(role, name, now); err != nil {
		return err
	}
	e := rest.Event{Time: now, Code: "CertificatesRevoked", Severity: "warning", Text: fmt.Sprintf("the certificates of %s %s were revoked", role, name)}
	if role == identity.RoleGateway {
		e.Gateway = dr.GatewayID(name)
	}
	return tx.InsertEvent(e)
}

// pushRevocations tells every connected gateway at once what is revoked; each
// ends its connections with whom that hits before it answers.
func (s *Server) pushRevocations(ctx context.Context) {
	var list []identity.Revocation
	var gateways []store.Gateway
	err := s.view(ctx, func(tx *store.Tx) (err error) {
		if list, err = tx.Revocations(s.Now()); err != nil {
			return err
		}
		gateways, err = tx.Gateways("")
		return err
	})
	if err != nil {
		s.Log.Error("list revocations", "error", err)
		return
	}
	ctx, cancel := context.WithTimeout(control.WithPatience(ctx, 0), pushTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, g := range gateways {
		if !s.Hub.Connected(g.ID) {
			continue
		}
		wg.Go(func() {
			if err := s.Hub.Commands(g.ID).SetRevoked(ctx, list); err != nil {
				s.Log.Warn("tell of revocations", "gateway", g.ID, "error", err)
			}
		})
	}
	wg.Wait()
}

// unknownRevocations is what the answer to a report says of revocations: nil
// when the gateway knows them all.
func (s *Server) unknownRevocations(tx *store.Tx, known string) (*[]identity.Revocation, error) {
	list, err := tx.Revocations(s.Now())
	if err != nil || identity.Digest(list) == known || len(list) == 0 && known == "" {
		return nil, err
	}
	return &list, nil
}

type agentPathIn struct {
	Machine dr.MachineName `path:"machine"`
}

// revokeAgent ends an agent's access at once.
func (s *Server) revokeAgent(ctx context.Context, in *agentPathIn) (*struct{}, error) {
	return nil, s.Store.Update(ctx, func(tx *store.Tx) error {
		a, err := tx.Agent(in.Machine)
		if err != nil {
			return notFound(err, problem.UnknownMachine, "machine %q has no agent", in.Machine)
		}
		a.CertificateSum, a.CertificateEnds = "", time.Time{}
		if err := tx.PutAgent(a); err != nil {
			return err
		}
		return s.revokeHolder(tx, identity.RoleAgent, string(in.Machine))
	})
}
