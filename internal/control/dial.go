package control

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"

	"rebound/internal/problem"
)

// Dial connects a gateway to the vault at addr (host:port) and turns the
// connection round; the result is for Server.Serve.
func Dial(ctx context.Context, addr string, cfg *tls.Config) (net.Conn, error) {
	cfg = cfg.Clone()
	cfg.NextProtos = []string{"http/1.1"}
	d := tls.Dialer{Config: cfg}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, dialProblem(err, addr)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	text := "GET " + ConnectPath + " HTTP/1.1\r\nHost: " + addr + "\r\nConnection: Upgrade\r\nUpgrade: " + upgradeToken + "\r\n\r\n"
	if _, err := io.WriteString(conn, text); err != nil {
		conn.Close()
		return nil, dialProblem(err, addr)
	}
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		conn.Close()
		return nil, dialProblem(err, addr)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer conn.Close()
		return nil, readProblem(resp)
	}
	return &bufferedConn{conn, br}, nil
}

func dialProblem(err error, addr string) error {
	if p := problem.From(err); p.Code != problem.InternalError {
		return p
	}
	// A vault that does not take our certificate says so by a TLS alert.
	if s := err.Error(); strings.Contains(s, "bad certificate") || strings.Contains(s, "unknown certificate") {
		return problem.Wrap(err, problem.WrongVault, "the vault at %s does not accept this certificate", addr)
	}
	return problem.Wrap(err, problem.VaultUnreachable, "vault %s", addr)
}

// bufferedConn is a connection whose first bytes were read ahead.
type bufferedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c *bufferedConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// Run keeps a gateway connected to the vault at addr until ctx ends: it dials,
// serves, and dials again (after 100 ms, doubling up to 2 s).
func (s *Server) Run(ctx context.Context, addr string, cfg *tls.Config) error {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = 100*time.Millisecond, 2*time.Second
	for {
		conn, err := Dial(ctx, addr, cfg)
		if err == nil {
			s.log.Info("connected to vault", "addr", addr)
			wait.Reset()
			err = s.Serve(ctx, conn)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.log.Warn("no connection to vault", "addr", addr, "error", err)
		select {
		case <-time.After(wait.NextBackOff()):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Accept is the vault's half of Dial: it turns the connection of an upgrade
// request round. The result is for Hub.Attach.
func Accept(w http.ResponseWriter, r *http.Request) (net.Conn, error) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), upgradeToken) {
		w.Header().Set("Upgrade", upgradeToken)
		w.WriteHeader(http.StatusUpgradeRequired)
		return nil, problem.New(problem.ProtocolError, "want an upgrade to %s", upgradeToken)
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return nil, fmt.Errorf("take connection over: %w", err)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		conn.Close()
		return nil, fmt.Errorf("take connection over: %w", err)
	}
	_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+upgradeToken+"\r\n\r\n")
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("turn connection round: %w", err)
	}
	return &bufferedConn{conn, rw.Reader}, nil
}

// Reporter pushes a gateway's reports to the vault.
type Reporter struct {
	url string
	hc  *http.Client
}

// NewReporter returns a reporter to the vault at addr (host:port).
func NewReporter(addr string, cfg *tls.Config) *Reporter {
	t := &http.Transport{TLSClientConfig: cfg.Clone(), ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 2, IdleConnTimeout: time.Minute}
	return &Reporter{url: "https://" + addr + ReportPath, hc: &http.Client{Transport: t, Timeout: 5 * time.Second}}
}

// Report sends one report and returns what the gateway must know.
func (r *Reporter) Report(ctx context.Context, rep Report) (Desired, error) {
	var d Desired
	err := postJSON(ctx, r.hc, r.url, rep, &d)
	return d, err
}

// Close lets the reporter's connections go.
func (r *Reporter) Close() { r.hc.CloseIdleConnections() }

// Enroll asks the vault at addr for a certificate. cfg pins the vault's CA
// (identity.PinnedTLS) and shows no certificate.
func Enroll(ctx context.Context, addr string, cfg *tls.Config, req EnrollRequest) (EnrollResponse, error) {
	t := &http.Transport{TLSClientConfig: cfg.Clone()}
	defer t.CloseIdleConnections()
	var res EnrollResponse
	err := postJSON(ctx, &http.Client{Transport: t, Timeout: 30 * time.Second}, "https://"+addr+EnrollPath, req, &res)
	return res, err
}

func postJSON(ctx context.Context, hc *http.Client, url string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode %T: %w", in, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := hc.Do(req)
	if err != nil {
		return dialProblem(err, req.URL.Host)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return readProblem(resp)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(out); err != nil {
		return problem.Wrap(err, problem.ProtocolError, "cannot read the vault's answer")
	}
	return nil
}

// readProblem reads a problem document.
func readProblem(resp *http.Response) error {
	var p problem.Problem
	err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&p)
	if err != nil || p.Code == "" {
		return problem.New(problem.ProtocolError, "the vault answered %s", resp.Status)
	}
	return known(&p)
}
