package control

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/http"
	"time"

	"rebound/internal/identity"
)

// The pause after a renewal that failed grows from the first to the last.
const (
	firstRenewRetry = time.Second
	lastRenewRetry  = time.Hour
)

// KeepRenewed renews the certificate of h with the vault at addr after two
// thirds of its life, and goes on trying until it succeeds, until ctx ends.
func KeepRenewed(ctx context.Context, addr string, h *identity.Holder, log *slog.Logger) error {
	retry := firstRenewRetry
	for {
		changed := h.Changed()
		timer := time.NewTimer(time.Until(h.RenewAt()))
		select {
		case <-timer.C:
		case <-changed: // renewed by somebody else, perhaps
			timer.Stop()
			continue
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		err := Renew(ctx, addr, h)
		if err == nil {
			retry = firstRenewRetry
			log.Info("certificate renewed", "holder", h.Self().String(), "renewAgain", h.RenewAt())
			continue
		}
		log.Warn("renew certificate", "holder", h.Self().String(), "error", err, "wait", retry)
		select {
		case <-time.After(retry):
		case <-ctx.Done():
			return ctx.Err()
		}
		retry = min(2*retry, lastRenewRetry)
	}
}

// Renew gets a certificate for a new key and goes over to it. The old one stays
// valid until it ends, so whatever uses it goes on.
func Renew(ctx context.Context, addr string, h *identity.Holder) error {
	self := h.Self()
	key, csr, err := identity.NewRequest(self.Name)
	if err != nil {
		return err
	}
	t := &http.Transport{TLSClientConfig: h.ClientTLS(identity.RoleVault, "")}
	defer t.CloseIdleConnections()
	var res EnrollResponse
	err = postJSON(ctx, &http.Client{Transport: t, Timeout: 30 * time.Second}, "https://"+addr+RenewPath, RenewRequest{CSR: string(csr)}, &res)
	if err != nil {
		return err
	}
	return h.Replace(identity.Bundle{CA: []byte(res.CA), Cert: []byte(res.Certificate), Key: key})
}

// RunRenewed is Run for an identity that is renewed: the connection is made
// anew after each renewal. Commands in flight go on and are joined.
func (s *Server) RunRenewed(ctx context.Context, addr string, h *identity.Holder) error {
	cfg := h.ClientTLS(identity.RoleVault, "")
	for {
		if err := s.untilRenewed(ctx, addr, h, cfg); ctx.Err() != nil {
			return err
		}
	}
}

func (s *Server) untilRenewed(ctx context.Context, addr string, h *identity.Holder, cfg *tls.Config) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	shown := string(h.Bundle().Cert)
	go func() {
		for {
			changed := h.Changed()
			if string(h.Bundle().Cert) != shown {
				cancel()
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return s.Run(ctx, addr, cfg)
}
