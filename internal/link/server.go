package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/segment"
)

// ServerConfig configures a Server. Zero fields mean the defaults.
type ServerConfig struct {
	// TLS is identity.Bundle.ServerTLS; it must demand a certificate.
	TLS     *tls.Config
	Handler Handler
	Timing  Timing
	// CreditBytes and CreditFrames are how far a source may be ahead of
	// what is durable. Defaults 64 MiB and 8192; at least one frame.
	CreditBytes, CreditFrames uint64
	// MaxClockSkew is how far a source's clock may be off; default 1 min,
	// negative does not look.
	MaxClockSkew time.Duration
	// HeadWait is how long a compare request waits for the head view to
	// show what it names; default 1 s.
	HeadWait time.Duration
	// CompareWorkers is how many requests of a connection are worked on at
	// the same time; default 4.
	CompareWorkers int
	// MaxConns bounds the open connections; default 1024.
	MaxConns int
	Counters *Counters
	// Refuses says what stands, at a moment, against a connection that was
	// accepted earlier (identity.Holder.Refuses); nil: nothing ever does.
	Refuses func(tls.ConnectionState, time.Time) error
	Now     func() time.Time
	Log     *slog.Logger
}

func (c *ServerConfig) setDefaults() error {
	switch {
	case c.TLS == nil || c.TLS.ClientAuth < tls.RequireAnyClientCert:
		return errors.New("link: the server's TLS configuration does not demand certificates")
	case c.TLS.ClientAuth < tls.VerifyClientCertIfGiven && c.TLS.VerifyConnection == nil:
		return errors.New("link: the server's TLS configuration does not verify certificates")
	case c.Handler == nil:
		return errors.New("link: no handler")
	}
	c.Timing = c.Timing.withDefaults()
	if c.CreditBytes == 0 {
		c.CreditBytes = 64 << 20
	}
	c.CreditBytes = max(c.CreditBytes, segment.MaxFrame)
	if c.CreditFrames == 0 {
		c.CreditFrames = 8192
	}
	if c.MaxClockSkew == 0 {
		c.MaxClockSkew = time.Minute
	}
	if c.HeadWait == 0 {
		c.HeadWait = time.Second
	}
	if c.CompareWorkers <= 0 {
		c.CompareWorkers = 4
	}
	if c.MaxConns <= 0 {
		c.MaxConns = 1024
	}
	if c.Counters == nil {
		c.Counters = &Counters{}
	}
	if c.Refuses == nil {
		c.Refuses = func(tls.ConnectionState, time.Time) error { return nil }
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Server is the standby's end: it accepts connections on one listener and
// hands them to the Handler.
type Server struct {
	cfg   ServerConfig
	slots chan struct{}

	mu      sync.Mutex
	groups  map[dr.GroupID]*group
	refused map[problem.Code]int
}

// group is what the server knows of a group's connections.
type group struct {
	fence  dr.Generation // nothing older is taken
	stream *lease        // the newest one; the older ones are ending
	leases []*lease      // all, compare connections and ending ones too
	head   headMark
}

// lease is a connection's right to a group.
type lease struct {
	gen    dr.Generation
	peer   tls.ConnectionState
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when it and all before it touch nothing any more
	info   StreamInfo
	st     *inbound
}

// StreamInfo describes an open stream.
type StreamInfo struct {
	Group      dr.GroupID
	Generation dr.Generation
	Epoch      dr.Epoch
	Remote     string
	Since      time.Time
	Appended   dr.Seq
	Durable    dr.Seq
}

// NewServer returns a Server; Serve runs it.
func NewServer(cfg ServerConfig) (*Server, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	return &Server{
		cfg: cfg, slots: make(chan struct{}, cfg.MaxConns),
		groups: make(map[dr.GroupID]*group), refused: make(map[problem.Code]int),
	}, nil
}

// Serve accepts connections until ctx ends (nil) or the listener fails. It
// closes the listener and returns when every connection has ended.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	release := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer release()
	for {
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		raw, err := ln.Accept()
		if err != nil {
			<-s.slots
			if ctx.Err() != nil {
				return nil
			}
			if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
				continue
			}
			_ = ln.Close()
			return fmt.Errorf("accept connection: %w", err)
		}
		wg.Go(func() {
			defer func() { <-s.slots }()
			s.ServeConn(ctx, raw)
		})
	}
}

// ServeConn serves one accepted network connection, before TLS, until it ends,
// and closes it.
func (s *Server) ServeConn(ctx context.Context, raw net.Conn) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	sock := newSocket(raw, s.cfg.Counters)
	defer func() { _ = sock.Close() }()
	_ = sock.SetDeadline(time.Now().Add(s.cfg.Timing.Handshake))
	t := tls.Server(sock, hardened(s.cfg.TLS))
	if err := handshakeTLS(ctx, t); err != nil {
		s.refusal(raw, err)
		return
	}
	// From here on the end of ctx ends reading, not writing, so that the
	// peer can be told.
	release := context.AfterFunc(ctx, sock.stop)
	defer release()
	c := newConn(sock, t)
	err := s.serveHello(ctx, cancel, c, Peer{State: t.ConnectionState(), Remote: raw.RemoteAddr()})
	if err == nil {
		c.linger(time.Second)
		return
	}
	if cause := context.Cause(ctx); cause != nil {
		if _, ok := errors.AsType[*problem.Problem](cause); !ok {
			cause = problem.Wrap(cause, problem.GatewayUnreachable, "the standby's gateway is stopping")
		}
		err = cause
	}
	if worthSaying(err) {
		s.refusal(raw, err)
		_ = sock.SetWriteDeadline(time.Now().Add(time.Second))
		c.refuse(err)
		c.linger(time.Second)
	}
}

// worthSaying reports whether the peer can still hear why its connection ends.
func worthSaying(err error) bool {
	_, isNet := errors.AsType[net.Error](err)
	return !isNet && !errors.Is(err, errPeerGone)
}

// refusal logs and counts a refused connection.
func (s *Server) refusal(raw net.Conn, err error) {
	code := problem.From(err).Code
	if errors.Is(err, errWire) {
		code = problem.ProtocolError
	}
	s.mu.Lock()
	s.refused[code]++
	s.mu.Unlock()
	s.cfg.Log.Warn("connection refused", "remote", raw.RemoteAddr(), "code", code, "error", err)
}

// Refused returns how many connections were refused or ended for a reason, by
// code.
func (s *Server) Refused() map[problem.Code]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := make(map[problem.Code]int, len(s.refused))
	for k, v := range s.refused {
		m[k] = v
	}
	return m
}

// serveHello does the handshake above TLS and serves what was asked for.
func (s *Server) serveHello(ctx context.Context, cancel context.CancelCauseFunc, c *conn, peer Peer) error {
	typ, payload, err := c.read()
	if err != nil {
		return peerGone(err)
	}
	if typ != msgHello {
		return problem.New(problem.ProtocolError, "message of type %d instead of a hello", typ)
	}
	hello, err := parseJSON[Hello](payload)
	if err != nil {
		return err
	}
	if err := s.checkHello(hello); err != nil {
		return err
	}
	if hello.Purpose == PurposeProbe {
		return s.serveProbe(c)
	}
	if err := s.cfg.Handler.Admit(ctx, peer, hello); err != nil {
		return err
	}
	l := &lease{gen: hello.Generation, peer: peer.State, cancel: cancel, done: make(chan struct{})}
	defer close(l.done)
	l.info = StreamInfo{Group: hello.Group, Generation: hello.Generation, Remote: peer.Remote.String(), Since: s.cfg.Now()}
	defer s.yield(hello, l)
	if err := s.claim(ctx, hello, l); err != nil {
		return err
	}
	// Again, now that Recheck finds the connection.
	if err := s.cfg.Refuses(peer.State, s.cfg.Now()); err != nil {
		return err
	}
	defer s.endWithCertificate(peer.State, cancel)()
	if hello.Purpose == PurposeCompare {
		return s.serveCompare(ctx, c, peer, hello)
	}
	return s.serveStream(ctx, c, peer, hello, l)
}

func (s *Server) checkHello(h *Hello) error {
	if err := h.Validate(); err != nil {
		return problem.Wrap(err, problem.InvalidRequest, "")
	}
	if best(h.Versions) == 0 {
		return problem.New(problem.IncompatibleVersion, "the source speaks %v, the standby %v", h.Versions, versions())
	}
	skew := h.SourceClock.Sub(s.cfg.Now())
	if s.cfg.MaxClockSkew > 0 && skew.Abs() > s.cfg.MaxClockSkew {
		return problem.New(problem.ClockSkew, "the clock of the source gateway %q is %v off the standby's, at most %v is allowed", h.Gateway, skew.Round(time.Millisecond), s.cfg.MaxClockSkew)
	}
	return nil
}

// claim registers a connection with its group. A stream replaces the one
// before it and waits until that one's sink is closed; so the leases of a
// group's streams end in the order in which they were claimed.
func (s *Server) claim(ctx context.Context, h *Hello, l *lease) error {
	s.mu.Lock()
	g := s.group(h.Group)
	if l.gen < g.fence {
		fence := g.fence
		s.mu.Unlock()
		return staleGeneration(h.Group, l.gen, fence)
	}
	g.leases = append(g.leases, l)
	if h.Purpose == PurposeCompare {
		s.mu.Unlock()
		return nil
	}
	prev := g.stream
	g.stream = l
	s.mu.Unlock()
	if prev != nil {
		prev.cancel(problem.New(problem.StreamReplaced, "group %s", h.Group))
		<-prev.done
	}
	return context.Cause(ctx)
}

// group returns the group's record; the caller holds mu.
func (s *Server) group(id dr.GroupID) *group {
	g := s.groups[id]
	if g == nil {
		g = &group{}
		g.head.init()
		s.groups[id] = g
	}
	return g
}

func (s *Server) yield(h *Hello, l *lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.group(h.Group)
	if g.stream == l {
		g.stream = nil
	}
	g.leases = slices.DeleteFunc(g.leases, func(x *lease) bool { return x == l })
}

func staleGeneration(id dr.GroupID, have, want dr.Generation) error {
	return problem.New(problem.StaleGeneration, "group %s is at generation %d, the peer at %d", id, want, have)
}

// Fence ends every connection of the group whose generation is below gen, with
// StaleGeneration, and returns when their sinks are closed: nothing of theirs
// is taken after it. From then on the server refuses older generations itself,
// besides Admit. ctx bounds the wait only.
func (s *Server) Fence(ctx context.Context, id dr.GroupID, gen dr.Generation) error {
	s.mu.Lock()
	g := s.group(id)
	g.fence = max(g.fence, gen)
	var stale []*lease
	for _, l := range g.leases {
		if l.gen < gen {
			stale = append(stale, l)
		}
	}
	s.mu.Unlock()
	for _, l := range stale {
		l.cancel(staleGeneration(id, l.gen, gen))
	}
	for _, l := range stale {
		select {
		case <-l.done:
		case <-ctx.Done():
			return fmt.Errorf("fence group %s: %w", id, context.Cause(ctx))
		}
	}
	return nil
}

// Streams returns the open streams, by group.
func (s *Server) Streams() []StreamInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []StreamInfo
	for _, g := range s.groups {
		if g.stream == nil || g.stream.st == nil {
			continue
		}
		out = append(out, g.stream.st.describe(g.stream.info))
	}
	slices.SortFunc(out, func(a, b StreamInfo) int {
		if a.Group < b.Group {
			return -1
		}
		return 1
	})
	return out
}
