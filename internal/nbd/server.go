package nbd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"
)

// Server serves exports on any number of listeners.
type Server struct {
	opts     ServerOptions
	log      *slog.Logger
	requests sync.Pool // *Request
	buffers  bufferPool

	mu        sync.Mutex
	closed    bool
	exports   map[string]*export
	listeners map[net.Listener]struct{}
	sockets   map[net.Conn]struct{} // accepted, transmission phase included
	nextID    uint64
	serving   sync.WaitGroup
}

// export is an Export being served; conns is guarded by Server.mu.
type export struct {
	Export
	handler Handler
	flags   TransmissionFlags
	conns   map[*Conn]struct{}
}

// NewServer returns a server without exports.
func NewServer(opts ServerOptions) (*Server, error) {
	if opts.TLSMode != TLSOff && opts.TLS == nil {
		return nil, errors.New("nbd: TLS mode without a TLS configuration")
	}
	if opts.HandshakeTimeout == 0 {
		opts.HandshakeTimeout = 10 * time.Second
	}
	if opts.MaxConns == 0 {
		opts.MaxConns = 256
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{
		opts: opts, log: opts.Logger,
		exports:   map[string]*export{},
		listeners: map[net.Listener]struct{}{},
		sockets:   map[net.Conn]struct{}{},
	}, nil
}

// newExport checks e and fills in what it leaves open.
func newExport(e Export) (*export, error) {
	if len(e.Name) > MaxString || !utf8.ValidString(e.Name) ||
		len(e.Description) > MaxString || !utf8.ValidString(e.Description) {
		return nil, fmt.Errorf("nbd: export name or description is no UTF-8 of at most %d bytes", MaxString)
	}
	if (e.Device == nil) == (e.Handler == nil) {
		return nil, fmt.Errorf("nbd: export %q needs a device or a handler", e.Name)
	}
	if e.BlockSize.Min == 0 {
		e.BlockSize.Min = 1
	}
	if e.BlockSize.Preferred == 0 {
		e.BlockSize.Preferred = max(4096, e.BlockSize.Min)
	}
	if e.BlockSize.Max == 0 {
		e.BlockSize.Max = MaxPayload
	}
	if err := e.BlockSize.Validate(); err != nil {
		return nil, fmt.Errorf("nbd: export %q: %w", e.Name, err)
	}
	if e.BlockSize.Max > MaxPayload {
		return nil, fmt.Errorf("nbd: export %q: maximum block size %d is over %d", e.Name, e.BlockSize.Max, MaxPayload)
	}
	if e.Device != nil {
		e.Size = e.Device.Size()
	}
	if e.Size < 0 || e.Size%int64(e.BlockSize.Min) != 0 {
		return nil, fmt.Errorf("nbd: export %q: size %d is no multiple of the minimum block size", e.Name, e.Size)
	}
	if e.MaxRequests <= 0 {
		e.MaxRequests = 128
	}
	if e.MaxBytes <= 0 {
		e.MaxBytes = 64 << 20
	}
	e.MaxBytes = max(e.MaxBytes, int64(e.BlockSize.Max))
	x := &export{Export: e, handler: e.Handler, conns: map[*Conn]struct{}{}}
	x.flags = FlagHasFlags | FlagSendFlush | FlagSendFUA
	if e.ReadOnly {
		x.flags |= FlagReadOnly
	} else {
		x.flags |= FlagSendTrim | FlagSendWriteZeroes
	}
	if e.Rotational {
		x.flags |= FlagRotational
	}
	if !e.NoMultiConn {
		x.flags |= FlagCanMultiConn
	}
	if e.Device != nil {
		d := newDeviceHandler(e.Device)
		x.handler = d
		if d.zeroer != nil && !e.ReadOnly {
			x.flags |= FlagSendFastZero
		}
	}
	return x, nil
}

// Add offers an export from now on; ErrExportExists if the name is taken.
func (s *Server) Add(e Export) error {
	x, err := newExport(e)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	if s.exports[e.Name] != nil {
		return fmt.Errorf("add export %q: %w", e.Name, ErrExportExists)
	}
	s.exports[e.Name] = x
	return nil
}

// Remove stops offering the export at once, answers what its connections have
// in flight (new requests get ESHUTDOWN), closes them, and returns nil when
// none uses its back end any more. If ctx ends first the connections are cut
// and its error is returned; the back end may then still be in use.
// ErrNoExport if there is no such export.
func (s *Server) Remove(ctx context.Context, name string) error {
	s.mu.Lock()
	x := s.exports[name]
	delete(s.exports, name)
	conns := s.connsLocked(x)
	s.mu.Unlock()
	if x == nil {
		return fmt.Errorf("remove export %q: %w", name, ErrNoExport)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var wg sync.WaitGroup
		for _, c := range conns {
			wg.Go(c.drain)
		}
		wg.Wait()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	for _, c := range conns {
		c.fail(ErrClosed)
	}
	return fmt.Errorf("remove export %q: %w", name, ctx.Err())
}

func (s *Server) connsLocked(x *export) []*Conn {
	if x == nil {
		return nil
	}
	conns := make([]*Conn, 0, len(x.conns))
	for c := range x.conns {
		conns = append(conns, c)
	}
	return conns
}

// Conns returns the open connections of an export, in no order.
func (s *Server) Conns(name string) []*Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.connsLocked(s.exports[name])
}

// Serve accepts connections until l fails, ctx ends or the server is closed. It
// closes l, and when ctx ends it cuts the connections that it accepted and
// waits until they have ended. It returns nil unless l failed.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer l.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.listeners[l] = struct{}{}
	s.serving.Add(1)
	s.mu.Unlock()
	defer s.serving.Done()
	defer s.forget(l)
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		nc, err := l.Accept()
		if err != nil {
			s.mu.Lock()
			closed := s.closed
			s.mu.Unlock()
			if closed || ctx.Err() != nil {
				return nil
			}
			if !passing(err) {
				return fmt.Errorf("accept: %w", err)
			}
			s.log.Warn("accept failed, trying again", "err", err)
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
			continue
		}
		wg.Go(func() {
			//nolint:errcheck // logged where it arose
			s.ServeConn(ctx, nc)
		})
	}
}

func (s *Server) forget(l net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
}

// acceptPause is how long Serve waits when the system is out of something.
const acceptPause = 50 * time.Millisecond

// passing reports whether a failed accept is worth another try: the client went
// away, or the system is short of descriptors or memory.
func passing(err error) bool {
	for _, e := range []error{syscall.ECONNABORTED, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// ServeConn serves one connection that the caller accepted until it ends, and
// closes it. It returns nil if the client said goodbye, in either phase.
func (s *Server) ServeConn(ctx context.Context, nc net.Conn) error {
	defer nc.Close()
	if !s.register(nc) {
		return ErrClosed
	}
	defer s.unregister(nc)
	defer context.AfterFunc(ctx, func() { nc.Close() })()
	c, err := s.negotiate(ctx, nc)
	if err != nil || c == nil {
		if err != nil {
			s.log.Debug("negotiation ended", "remote", nc.RemoteAddr(), "err", err)
		}
		return err
	}
	// From here on the socket may no longer be nc's.
	defer context.AfterFunc(ctx, func() { c.fail(ErrClosed) })()
	if _, ok := c.t.(*blockingTransport); ok {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
	}
	err = c.serve()
	s.detach(c, err)
	return err
}

func (s *Server) register(nc net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.sockets) >= s.opts.MaxConns {
		return false
	}
	s.sockets[nc] = struct{}{}
	s.serving.Add(1)
	return true
}

func (s *Server) unregister(nc net.Conn) {
	s.mu.Lock()
	delete(s.sockets, nc)
	s.mu.Unlock()
	s.serving.Done()
}

// attach makes c a connection of the export named, unless it has gone.
func (s *Server) attach(c *Conn, x *export) bool {
	s.mu.Lock()
	if s.closed || s.exports[x.Name] != x {
		s.mu.Unlock()
		return false
	}
	s.nextID++
	c.id, c.exp = s.nextID, x
	x.conns[c] = struct{}{}
	s.mu.Unlock()
	c.alive.Store(true)
	s.log.Debug("client connected", "export", x.Name, "conn", c.id, "remote", c.remote)
	if x.OnOpen != nil {
		x.OnOpen(c)
	}
	return true
}

// detach takes c out again and reports its end.
func (s *Server) detach(c *Conn, reason error) {
	s.mu.Lock()
	delete(c.exp.conns, c)
	s.mu.Unlock()
	c.alive.Store(false)
	if errors.Is(reason, ErrProtocol) {
		s.log.Warn("client broke the protocol", "export", c.exp.Name, "conn", c.id, "remote", c.remote, "err", reason)
	} else {
		s.log.Debug("client gone", "export", c.exp.Name, "conn", c.id, "reason", reason)
	}
	if c.exp.OnClose != nil {
		c.exp.OnClose(c, reason)
	}
}

// Close closes listeners and connections and waits until their goroutines have
// ended and every back end has completed its requests.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	for l := range s.listeners {
		l.Close()
	}
	for nc := range s.sockets {
		nc.Close()
	}
	var conns []*Conn
	for _, x := range s.exports {
		conns = append(conns, s.connsLocked(x)...)
	}
	s.mu.Unlock()
	for _, c := range conns {
		c.fail(ErrClosed)
	}
	for _, c := range conns {
		c.awaitReleased()
	}
	s.serving.Wait()
	return nil
}
