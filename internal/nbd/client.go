package nbd

import (
	"context"
	"crypto/tls"
	"net"
	"time"

	"rebound/internal/block"
)

// Options configure a Client. The zero value connects to the default export
// without TLS and asks for base:allocation.
type Options struct {
	Export string
	// TLS is used by STARTTLS; needed unless TLSMode is TLSOff. A TLSMode of
	// TLSOff with a TLS configuration means TLSRequire.
	TLS     *tls.Config
	TLSMode TLSMode
	// MetaContexts to negotiate. Nil means ContextAllocation; those that the
	// server does not have are left out (see Info.Contexts).
	MetaContexts []string
	// MaxRequests bounds requests in flight. Default 64, at most 1024.
	MaxRequests int
	// MaxChunk bounds the payload of one request in bytes; larger reads and
	// writes are split. Default: the server's maximum, at most 1 MiB, so that
	// parts travel at the same time.
	MaxChunk int
	// HandshakeTimeout bounds dialling and negotiation. Default 10 s.
	HandshakeTimeout time.Duration
	// NoStructuredReply does not ask for structured replies (for tests).
	NoStructuredReply bool
}

// ExportInfo is what a server says about an export.
type ExportInfo struct {
	Name        string
	Description string
	Size        int64
	Flags       TransmissionFlags
	BlockSize   BlockSizes
	Structured  bool
	// Contexts are the negotiated metadata contexts.
	Contexts []string
}

// Status is a run of bytes with one state in a metadata context.
type Status struct {
	Length int64
	Flags  uint32
}

// Client is one connection to an export.
type Client struct{}

var (
	_ block.Device = (*Client)(nil)
	_ block.Mapper = (*Client)(nil)
	_ block.Zeroer = (*Client)(nil)
)

// Dial connects to an export. network is "unix" or "tcp".
func Dial(ctx context.Context, network, addr string, o Options) (*Client, error) {
	return nil, ErrClosed
}

// NewClient negotiates on a connection, which it then owns.
func NewClient(ctx context.Context, nc net.Conn, o Options) (*Client, error) { return nil, ErrClosed }

// List returns the exports that a server offers, without sizes.
func List(ctx context.Context, network, addr string, o Options) ([]ExportInfo, error) {
	return nil, ErrClosed
}

// Info returns what was negotiated.
func (c *Client) Info() ExportInfo { return ExportInfo{} }

// Size returns the export's size in bytes.
func (c *Client) Size() int64 { return 0 }

// Lost is closed when the connection has ended, for whatever reason.
func (c *Client) Lost() <-chan struct{} { return nil }

// Err returns why the connection ended, or nil.
func (c *Client) Err() error { return nil }

// ReadAt implements block.Device.
func (c *Client) ReadAt(ctx context.Context, p []byte, off int64) error { return ErrClosed }

// WriteAt implements block.Device.
func (c *Client) WriteAt(ctx context.Context, p []byte, off int64) error { return ErrClosed }

// WriteZeroes implements block.Device.
func (c *Client) WriteZeroes(ctx context.Context, off, length int64) error { return ErrClosed }

// WriteZeroesMode implements block.Zeroer.
func (c *Client) WriteZeroesMode(ctx context.Context, off, length int64, mode block.ZeroMode) error {
	return ErrClosed
}

// Trim implements block.Device; it does nothing where the server cannot.
func (c *Client) Trim(ctx context.Context, off, length int64) error { return ErrClosed }

// Flush implements block.Device.
func (c *Client) Flush(ctx context.Context) error { return ErrClosed }

// Extents implements block.Mapper by base:allocation; without that context
// everything is data.
func (c *Client) Extents(ctx context.Context, off, length int64) ([]block.Extent, error) {
	return nil, ErrClosed
}

// BlockStatus asks for the state of a range in a negotiated context. It returns
// at least one run, in order from off; it may cover less than asked.
func (c *Client) BlockStatus(ctx context.Context, metaContext string, off, length int64) ([]Status, error) {
	return nil, ErrClosed
}

// Close says goodbye to the server and closes the connection; requests in
// flight fail with ErrClosed.
func (c *Client) Close() error { return nil }
