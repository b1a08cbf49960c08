package link

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"time"

	"rebound/internal/identity"
	"rebound/internal/problem"
)

// Timing holds the times of a connection. The zero value means the defaults.
type Timing struct {
	// Handshake is how long all of the handshake may take; default 10 s.
	Handshake time.Duration
	// KeepAlive is how often an idle end sends a ping; default 1 s.
	KeepAlive time.Duration
	// DeadAfter is how long nothing at all may come before the peer is
	// taken for dead; default 5 s, at least 2 * KeepAlive.
	DeadAfter time.Duration
}

func (t Timing) withDefaults() Timing {
	if t.Handshake == 0 {
		t.Handshake = 10 * time.Second
	}
	if t.KeepAlive == 0 {
		t.KeepAlive = time.Second
	}
	if t.DeadAfter == 0 {
		t.DeadAfter = 5 * time.Second
	}
	t.DeadAfter = max(t.DeadAfter, 2*t.KeepAlive)
	return t
}

// DialConfig says whom to call and what to say.
type DialConfig struct {
	// Address is host:port of the standby's gateway.
	Address string
	// TLS is identity.Bundle.ClientTLS of the gateway to be reached.
	TLS *tls.Config
	// Identity, when not nil, is the holder that TLS was made from: a stream
	// ends when it is renewed, or when the standby's certificate is revoked.
	Identity *identity.Holder
	// Hello without Versions, Purpose and SourceClock, which Dial fills.
	Hello  Hello
	Timing Timing
	// Counters count the bytes of the connection; nil counts nowhere.
	Counters *Counters
	// Limiter bounds the bandwidth of frames; nil does not.
	Limiter Limiter
	// DialFunc opens the network connection; nil is net.Dialer.
	DialFunc func(ctx context.Context, network, address string) (net.Conn, error)
	// Now is the wall clock; nil is time.Now.
	Now func() time.Time
	// Log gets one line for each change of state; nil logs nothing.
	Log *slog.Logger
}

// Validate checks the configuration.
func (c *DialConfig) Validate() error {
	switch {
	case c.Address == "":
		return errors.New("link: no address")
	case c.TLS == nil:
		return errors.New("link: no TLS configuration")
	case len(c.TLS.Certificates) == 0 && c.TLS.GetClientCertificate == nil:
		return errors.New("link: no client certificate")
	}
	return nil
}

func (c *DialConfig) logger() *slog.Logger {
	if c.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Log
}

// dial connects and shakes hands for a purpose. Errors are a *RefusedError, a
// problem of the certificates, or GatewayUnreachable.
func dial(ctx context.Context, cfg *DialConfig, purpose Purpose) (*conn, *Welcome, error) {
	if err := cfg.Validate(); err != nil {
		return nil, nil, err
	}
	timing := cfg.Timing.withDefaults()
	ctx, cancel := context.WithTimeout(ctx, timing.Handshake)
	defer cancel()
	open := cfg.DialFunc
	if open == nil {
		open = (&net.Dialer{}).DialContext
	}
	raw, err := open(ctx, "tcp", cfg.Address)
	if err != nil {
		return nil, nil, problem.Wrap(err, problem.GatewayUnreachable, "connect to %s", cfg.Address)
	}
	// The handshake is not under the eyes of the watch for a dead peer;
	// its end closes the socket instead.
	release := context.AfterFunc(ctx, func() { _ = raw.Close() })
	c, w, err := shakeHands(ctx, raw, cfg, purpose)
	if !release() && err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = c.sock.established(timing.DeadAfter)
	}
	if err != nil {
		_ = raw.Close()
		if _, ok := errors.AsType[*problem.Problem](err); !ok {
			err = problem.Wrap(err, problem.GatewayUnreachable, "shake hands with %s", cfg.Address)
		}
		return nil, nil, err
	}
	return c, w, nil
}

func shakeHands(ctx context.Context, raw net.Conn, cfg *DialConfig, purpose Purpose) (*conn, *Welcome, error) {
	sock := newSocket(raw, cfg.Counters)
	t := tls.Client(sock, hardened(cfg.TLS))
	if err := handshakeTLS(ctx, t); err != nil {
		return nil, nil, err
	}
	now := cfg.Now
	if now == nil {
		now = time.Now
	}
	hello := cfg.Hello
	hello.Versions = versions()
	hello.Purpose = purpose
	hello.SourceClock = now().UTC()
	if err := hello.Validate(); err != nil {
		return nil, nil, problem.Wrap(err, problem.InvalidRequest, "")
	}
	c := newConn(sock, t)
	if err := c.writeJSON(msgHello, &hello); err != nil {
		// A standby that refuses our certificate may have closed before
		// the Hello was out; what it said is still to be read.
		if _, _, rerr := c.read(); rerr != nil {
			return nil, nil, tlsProblem(rerr)
		}
		return nil, nil, err
	}
	typ, payload, err := c.read()
	if err != nil {
		return nil, nil, tlsProblem(err)
	}
	switch typ {
	case msgRefusal:
		return nil, nil, readRefusal(payload)
	case msgWelcome:
		w, err := parseJSON[Welcome](payload)
		if err != nil {
			return nil, nil, problem.Wrap(err, problem.ProtocolError, "")
		}
		return c, w, checkWelcome(&hello, w)
	}
	return nil, nil, problem.New(problem.ProtocolError, "message of type %d instead of a welcome", typ)
}

func checkWelcome(h *Hello, w *Welcome) error {
	switch {
	case best([]uint16{w.Version}) == 0:
		return problem.New(problem.IncompatibleVersion, "the standby chose version %d", w.Version)
	case h.Purpose == PurposeCompare || h.Purpose == PurposeProbe:
		return nil
	case w.Epoch == 0 || (h.Epoch != 0 && w.Epoch != h.Epoch):
		return problem.New(problem.ProtocolError, "asked for epoch %d, got %d", h.Epoch, w.Epoch)
	case h.Epoch == 0 && w.Durable != 0:
		return problem.New(problem.ProtocolError, "a new epoch with %d durable entries", w.Durable)
	}
	return nil
}

// endProblem says in words how a connection ended. Problems and io.EOF after a
// bye stay what they are.
func endProblem(err error, deadAfter time.Duration) error {
	if _, ok := errors.AsType[*problem.Problem](err); ok || err == io.EOF {
		return err
	}
	if errors.Is(err, errWire) {
		return problem.Wrap(err, problem.ProtocolError, "")
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return problem.Wrap(err, problem.GatewayUnreachable, "nothing heard from the peer for %v", deadAfter)
	}
	return problem.Wrap(err, problem.GatewayUnreachable, "connection lost")
}
