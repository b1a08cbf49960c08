package nbd

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"time"

	"rebound/internal/block"
)

// Errors of servers and clients, for errors.Is.
var (
	// ErrExportExists: the name is being served already.
	ErrExportExists = errors.New("nbd: export exists")
	// ErrNoExport: the server has no export of that name.
	ErrNoExport = errors.New("nbd: no such export")
	// ErrClosed: the server, client or connection was closed by this side.
	ErrClosed = errors.New("nbd: closed")
	// ErrProtocol: the peer broke the protocol.
	ErrProtocol = errors.New("nbd: protocol violation")
	// ErrTLSRequired: one side insists on TLS and the other does not offer it.
	ErrTLSRequired = errors.New("nbd: TLS required")
	// ErrNoContext: the metadata context was not negotiated.
	ErrNoContext = errors.New("nbd: metadata context not available")
)

// TLSMode says whether an end uses TLS.
type TLSMode uint8

// The modes, for both ends.
const (
	// TLSOff never uses TLS; a server refuses STARTTLS.
	TLSOff TLSMode = iota
	// TLSAllow uses TLS if the other end wants or offers it.
	TLSAllow
	// TLSRequire refuses to go on without TLS.
	TLSRequire
)

// ServerOptions configure a Server. The zero value serves without TLS.
type ServerOptions struct {
	// TLS is the configuration for STARTTLS; needed unless TLSMode is TLSOff.
	TLS     *tls.Config
	TLSMode TLSMode
	// HandshakeTimeout bounds the whole negotiation. Default 10 s.
	HandshakeTimeout time.Duration
	// MaxConns bounds open connections (128 KiB of buffer each); more are closed
	// at once. Default 256.
	MaxConns int
	// Logger takes one line per connection at level Debug and one per
	// violation at level Warn. Default: discarded.
	Logger *slog.Logger
}

// Export is what a Server offers under a name. Exactly one of Device and
// Handler is set.
type Export struct {
	// Name is up to MaxString bytes of UTF-8. "" is the default export.
	Name        string
	Description string
	// Device is served with concurrent calls. The server never closes it.
	Device block.Device
	// Handler gets every request as it arrives; Size is then the export's.
	Handler Handler
	Size    int64
	// ReadOnly refuses writes with EPERM before they reach the back end.
	ReadOnly bool
	// Rotational sets the flag of that name.
	Rotational bool
	// NoMultiConn clears NBD_FLAG_CAN_MULTI_CONN. Device's contract (a Flush
	// covers every write that returned) holds over connections, so the flag is
	// set by default; a Handler must keep the same promise or set this.
	NoMultiConn bool
	// BlockSize is advertised and enforced. Zero fields become 1, 4096 and
	// MaxPayload.
	BlockSize BlockSizes
	// MaxRequests and MaxBytes bound what one connection may have in flight
	// (payloads and read buffers). Defaults 128 and 64 MiB; MaxBytes is raised
	// to BlockSize.Max.
	MaxRequests int
	MaxBytes    int64
	// BlockingIO serves a Unix or TCP socket without TLS with blocking system
	// calls on a thread of its own instead of the runtime's network poller,
	// whose wake-ups cost 5 to 10 % of a write at queue depth 1. One thread a
	// connection: for few connections with much traffic.
	BlockingIO bool
	// OnOpen is called when a client has entered the transmission phase, before
	// its first request is handled; OnClose once when that connection has
	// ended, with the reason (nil after an orderly NBD_CMD_DISC). Requests may
	// still be in flight then; their completion goes nowhere. Neither may
	// block.
	OnOpen  func(*Conn)
	OnClose func(*Conn, error)
	// OnRefuse is called before the server itself refuses a request, with an
	// error reply or, after a violation of the protocol, by closing the
	// socket. It may not block.
	OnRefuse func(*Conn, error)
}

// Handler is the low-level back end of an export.
//
// Handle is called on the connection's reading goroutine, in order of arrival,
// with the payload of a WRITE complete in r.Data; ranges, flags and read-only
// have been checked. It must not block: while it runs, no further request of
// this connection is read and replies completed meanwhile may wait for its
// return. The handler owns r until it calls r.Done, which it does exactly once,
// now or later, from any goroutine.
type Handler interface {
	Handle(r *Request)
}

// HandlerFunc is a Handler made of a function.
type HandlerFunc func(r *Request)

// Handle calls f.
func (f HandlerFunc) Handle(r *Request) { f(r) }
