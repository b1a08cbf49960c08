package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"rebound/internal/identity"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
)

// requestTimeout bounds one report.
const requestTimeout = 10 * time.Second

// session reports for one boot under one identity.
type session struct {
	cfg    Config
	id     *identity.Holder
	booted time.Time
	client *http.Client
}

func newSession(cfg Config, id *identity.Holder, booted time.Time) *session {
	transport := &http.Transport{TLSClientConfig: id.ClientTLS(identity.RoleVault, "")}
	return &session{cfg: cfg, id: id, booted: booted, client: &http.Client{Transport: transport, Timeout: requestTimeout}}
}

func (s *session) close() { s.client.CloseIdleConnections() }

// report registers, then sends heartbeats, and begins again after a failure,
// until ctx ends.
func (s *session) report(ctx context.Context) {
	retry := newBackOff()
	registered := false
	renewed := s.id.Changed()
	for {
		select {
		case <-renewed:
			s.close() // the next report shows the renewed certificate
			renewed = s.id.Changed()
		default:
		}
		wait := s.cfg.Interval
		err := s.once(ctx, registered)
		s.cfg.Numbers.count(err)
		if err != nil {
			wait = retry.NextBackOff()
			s.cfg.Logger.Warn("report failed, will try again", "registered", registered, "wait", wait, "error", err)
			registered = false
		} else {
			if !registered {
				s.cfg.Logger.Info("registered", "machine", s.cfg.Machine, "boot", s.cfg.BootID)
			}
			registered = true
			retry.Reset()
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// once sends what is due: the registration or a heartbeat.
func (s *session) once(ctx context.Context, registered bool) error {
	if registered {
		return s.post(ctx, rest.AgentHeartbeatPath, rest.AgentHeartbeat{BootID: s.cfg.BootID})
	}
	return s.post(ctx, rest.AgentRegisterPath, rest.AgentRegistration{BootID: s.cfg.BootID, Booted: s.booted, Version: s.cfg.Version})
}

// post sends a body and wants a good status.
func (s *session) post(ctx context.Context, path string, body any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("marshal report: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+s.cfg.Vault+path, bytes.NewReader(b))
	if err != nil {
		return fmt.Errorf("make report: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := s.client.Do(req)
	if err != nil {
		return problem.Wrap(err, problem.VaultUnreachable, "report to %s", s.cfg.Vault)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("read the vault's answer: %w", err)
	}
	if res.StatusCode/100 == 2 {
		return nil
	}
	var p problem.Problem
	if json.Unmarshal(answer, &p) == nil && p.Code != "" {
		return &p
	}
	return problem.New(problem.ProtocolError, "the vault answered %s", res.Status)
}
