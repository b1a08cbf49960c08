package control

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"rebound/internal/dr"
	"rebound/internal/problem"
)

// DefaultPatience is how long a command waits for a gateway that is not
// connected before it fails with GatewayUnreachable: longer than a gateway
// needs to restart and to dial again.
const DefaultPatience = 30 * time.Second

// Hub keeps the vault's ends of the gateways' connections. The Commands it
// hands out repeat a command with the same Origin when its connection breaks.
type Hub struct {
	mu    sync.Mutex
	links map[dr.GatewayID]*hubLink
}

type hubLink struct {
	wire *wire // nil while not connected
	// changed is closed and replaced whenever wire changes.
	changed chan struct{}
	last    error // why the last connection ended
}

// NewHub returns a hub without connections.
func NewHub() *Hub { return &Hub{links: map[dr.GatewayID]*hubLink{}} }

// Attach gives the hub a gateway's connection, which ends the gateway's
// earlier one. It returns when the connection has ended; ctx ends it.
func (h *Hub) Attach(ctx context.Context, id dr.GatewayID, conn net.Conn) error {
	watched := &watchedConn{Conn: conn, gone: make(chan struct{})}
	w := newWire(watched)
	old := h.set(id, w, nil)
	if old != nil {
		old.close()
	}
	select {
	case <-watched.gone:
	case <-ctx.Done():
	}
	w.close()
	h.clear(id, w, watched.err)
	return ctx.Err()
}

// Connected reports whether a gateway has a connection.
func (h *Hub) Connected(id dr.GatewayID) bool {
	w, _ := h.current(id)
	return w != nil
}

// Await waits up to patience for a gateway to be connected and reports whether
// it is.
func (h *Hub) Await(ctx context.Context, id dr.GatewayID, patience time.Duration) bool {
	_, err := (&hubSender{h, id}).await(ctx, patience)
	return err == nil
}

// Disconnect ends a gateway's connection, for example after its revocation.
func (h *Hub) Disconnect(id dr.GatewayID) {
	if w, _ := h.current(id); w != nil {
		w.close()
	}
}

type patienceKey struct{}

// WithPatience sets how long commands under ctx wait for a gateway that is not
// connected; 0 means not at all.
func WithPatience(ctx context.Context, d time.Duration) context.Context {
	return context.WithValue(ctx, patienceKey{}, d)
}

// Commands returns the gateway's commands, connected or not.
func (h *Hub) Commands(id dr.GatewayID) Commands { return &Client{via: &hubSender{h, id}} }

func (h *Hub) link(id dr.GatewayID) *hubLink {
	l, ok := h.links[id]
	if !ok {
		l = &hubLink{changed: make(chan struct{})}
		h.links[id] = l
	}
	return l
}

func (h *Hub) current(id dr.GatewayID) (*wire, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.link(id)
	return l.wire, l.changed
}

func (h *Hub) set(id dr.GatewayID, w *wire, err error) (old *wire) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.link(id)
	old, l.wire, l.last = l.wire, w, err
	close(l.changed)
	l.changed = make(chan struct{})
	return old
}

func (h *Hub) clear(id dr.GatewayID, w *wire, err error) {
	h.mu.Lock()
	mine := h.link(id).wire == w
	h.mu.Unlock()
	if mine {
		h.set(id, nil, err)
	}
}

func (w *wire) close() {
	w.conn.Close()
	w.h2.CloseIdleConnections()
}

// hubSender sends over whatever connection the gateway has at the moment.
type hubSender struct {
	hub *Hub
	id  dr.GatewayID
}

func (s *hubSender) send(ctx context.Context, name string, req request) (reply, error) {
	patience, ok := ctx.Value(patienceKey{}).(time.Duration)
	if !ok {
		patience = DefaultPatience
	}
	for {
		w, err := s.await(ctx, patience)
		if err != nil {
			return reply{}, err
		}
		rep, err := w.send(ctx, name, req)
		if err == nil || !errors.Is(err, errTransport) {
			return rep, err
		}
		if ctx.Err() != nil {
			return reply{}, err
		}
		// One failed exchange condemns the connection: the gateway
		// dials anew, and the repeated command is joined or answered
		// from the ledger.
		w.close()
		s.hub.clear(s.id, w, err)
	}
}

// await returns the gateway's connection, waiting for one up to patience.
func (s *hubSender) await(ctx context.Context, patience time.Duration) (*wire, error) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		w, changed := s.hub.current(s.id)
		if w != nil {
			return w, nil
		}
		select {
		case <-changed:
		case <-timer.C:
			return nil, problem.New(problem.GatewayUnreachable, "gateway %s is not connected", s.id)
		case <-ctx.Done():
			return nil, problem.Wrap(ctx.Err(), problem.GatewayUnreachable, "gateway %s is not connected", s.id)
		}
	}
}

// watchedConn tells when its connection has ended.
type watchedConn struct {
	net.Conn
	once sync.Once
	gone chan struct{}
	err  error
}

func (c *watchedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		c.end(err)
	}
	return n, err
}

func (c *watchedConn) Close() error {
	err := c.Conn.Close()
	c.end(net.ErrClosed)
	return err
}

func (c *watchedConn) end(err error) {
	c.once.Do(func() {
		c.err = err
		close(c.gone)
	})
}
