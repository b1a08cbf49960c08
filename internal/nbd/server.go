package nbd

import (
	"context"
	"net"
)

// Server serves exports on any number of listeners.
type Server struct{ opts ServerOptions }

// NewServer returns a server without exports.
func NewServer(opts ServerOptions) (*Server, error) { return &Server{opts: opts}, nil }

// Add offers an export from now on; ErrExportExists if the name is taken.
func (s *Server) Add(e Export) error { return nil }

// Remove stops offering the export, closes its connections after the requests
// in flight were answered (at once when ctx ends), and returns when none uses
// its back end any more. ErrNoExport if there is no such export.
func (s *Server) Remove(ctx context.Context, name string) error { return nil }

// Conns returns the open connections of an export, in no order.
func (s *Server) Conns(name string) []*Conn { return nil }

// Serve accepts connections until l fails, ctx ends or the server is closed; it
// closes l. It returns nil in the latter two cases. Open connections live on
// until Close.
func (s *Server) Serve(ctx context.Context, l net.Listener) error { return nil }

// ServeConn serves one connection that the caller accepted, until it ends.
func (s *Server) ServeConn(ctx context.Context, nc net.Conn) error { return nil }

// Close closes listeners and connections and waits for their requests.
func (s *Server) Close() error { return nil }

// Conn is one client's connection to one export.
type Conn struct{}

// Export returns the name of the export.
func (c *Conn) Export() string { return "" }

// ID is unique within the server, from 1.
func (c *Conn) ID() uint64 { return 0 }

// RemoteAddr returns the client's address.
func (c *Conn) RemoteAddr() net.Addr { return nil }

// Alive reports whether the socket is open and no side has broken it.
func (c *Conn) Alive() bool { return false }

// InFlight returns the number of requests not yet answered.
func (c *Conn) InFlight() int { return 0 }

// Close cuts the connection at once, without waiting for anything. Requests in
// flight must still be completed. Safe from any goroutine.
func (c *Conn) Close() error { return nil }

func (c *Conn) finish(r *Request, err error, mayBlock bool) {}
