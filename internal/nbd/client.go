package nbd

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"rebound/internal/block"
	"rebound/internal/extent"
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
	// server does not have are left out (see ExportInfo.Contexts).
	MetaContexts []string
	// MaxRequests bounds requests in flight. Default 64, at most 1024.
	MaxRequests int
	// MaxChunk bounds the payload of one request in bytes; larger reads and
	// writes are split. Default: the server's maximum, at most 1 MiB, so that
	// parts travel at the same time.
	MaxChunk int
	// HandshakeTimeout bounds dialling and negotiation. Default 10 s.
	HandshakeTimeout time.Duration
	// CancelGrace is how long a cancelled call waits for the half of its data
	// that is on the wire before it breaks the connection. Default 1 s.
	CancelGrace time.Duration
	// NoStructuredReply does not ask for structured replies: an old client.
	NoStructuredReply bool
	// NoGo chooses the export by EXPORT_NAME: a very old client.
	NoGo bool
}

func (o *Options) defaults() error {
	if o.TLS != nil && o.TLSMode == TLSOff {
		o.TLSMode = TLSRequire
	}
	if o.TLSMode != TLSOff && o.TLS == nil {
		return fmt.Errorf("nbd: TLS mode without a TLS configuration")
	}
	if len(o.Export) > MaxString || len(o.MetaContexts) > maxContexts {
		return fmt.Errorf("nbd: export name over %d bytes or more than %d contexts", MaxString, maxContexts)
	}
	if o.MetaContexts == nil {
		o.MetaContexts = []string{ContextAllocation}
	}
	if o.MaxRequests <= 0 {
		o.MaxRequests = 64
	}
	o.MaxRequests = min(o.MaxRequests, maxSlots)
	if o.HandshakeTimeout <= 0 {
		o.HandshakeTimeout = 10 * time.Second
	}
	if o.CancelGrace <= 0 {
		o.CancelGrace = time.Second
	}
	return nil
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

const (
	maxSlots  = 1 << 10 // the low bits of a cookie name the slot
	slotMask  = maxSlots - 1
	slotShift = 10
)

// Client is one connection to an export. All methods may be called
// concurrently. Once the connection has ended every call fails with the reason.
type Client struct {
	opts     Options
	info     ExportInfo
	contexts map[uint32]string
	maxChunk int64
	nc       net.Conn
	t        transport
	in       *input

	slots []*slot
	free  chan *slot
	// edges serialises writes that share a minimum block with bytes that they
	// do not write (held exclusively) against all others.
	edges sync.RWMutex

	lost   chan struct{} // closed once err is set
	exited chan struct{} // closed when the reader has returned

	mu       sync.Mutex
	err      error
	queue    []*slot // requests not yet taken by the writer
	writing  bool
	reading  bool
	leaving  bool // the server is shutting down
	inFlight int

	// Scratch of the one who writes.
	batch []*slot
	vec   vector
}

// slot is the place of one request in flight. Its fields are guarded by
// Client.mu, but for data while filling or sending is set.
type slot struct {
	cookie uint64
	op     Op
	off    int64
	length int64
	data   []byte // payload of a WRITE, destination of a READ
	head   [requestSize]byte
	// done gets true when the request was completed and false when its caller
	// is let go before that. Capacity 1.
	done chan bool

	active    bool // a reply is expected
	queued    bool
	sending   bool
	filling   bool
	replied   bool // the reply came while sending
	leave     bool // the caller waits to leave
	abandoned bool // the caller has left
	err       error
	cover     extent.Set // what a READ's reply has brought
	statuses  []contextStatus
}

type contextStatus struct {
	id   uint32
	runs []Status
}

var (
	_ block.Device = (*Client)(nil)
	_ block.Mapper = (*Client)(nil)
	_ block.Zeroer = (*Client)(nil)
)

// Dial connects to an export. network is "unix" or "tcp". Where o.TLS names no
// server, the host of addr is verified.
func Dial(ctx context.Context, network, addr string, o Options) (*Client, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.HandshakeTimeout)
	defer cancel()
	nc, err := dial(ctx, network, addr, &o)
	if err != nil {
		return nil, err
	}
	return NewClient(ctx, nc, o)
}

func dial(ctx context.Context, network, addr string, o *Options) (net.Conn, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, fmt.Errorf("dial nbd server: %w", err)
	}
	if o.TLS != nil && o.TLS.ServerName == "" {
		if host, _, err := net.SplitHostPort(addr); err == nil {
			o.TLS = o.TLS.Clone()
			o.TLS.ServerName = host
		}
	}
	return nc, nil
}

// NewClient negotiates on a connection, which it then owns; it is closed on
// failure too.
func NewClient(ctx context.Context, nc net.Conn, o Options) (*Client, error) {
	if err := o.defaults(); err != nil {
		nc.Close()
		return nil, err
	}
	h, err := newHandshake(ctx, nc, o)
	if err != nil {
		nc.Close()
		return nil, err
	}
	defer h.end()
	if err := h.open(); err != nil {
		nc.Close()
		return nil, fmt.Errorf("negotiate export %q: %w", o.Export, h.reason(err))
	}
	if !h.end() {
		nc.Close()
		return nil, fmt.Errorf("negotiate export %q: %w", o.Export, ctx.Err())
	}
	return h.client(), nil
}

// List returns the exports that a server offers: names and descriptions.
func List(ctx context.Context, network, addr string, o Options) ([]ExportInfo, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.HandshakeTimeout)
	defer cancel()
	nc, err := dial(ctx, network, addr, &o)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	h, err := newHandshake(ctx, nc, o)
	if err != nil {
		return nil, err
	}
	defer h.end()
	list, err := h.list()
	if err != nil {
		return nil, fmt.Errorf("list exports: %w", h.reason(err))
	}
	return list, nil
}

// client starts the transmission phase.
func (h *handshake) client() *Client {
	c := &Client{
		opts: h.o, info: h.info, contexts: h.contexts, nc: h.nc, t: h.t, in: h.in,
		free: make(chan *slot, h.o.MaxRequests),
		lost: make(chan struct{}), exited: make(chan struct{}), reading: true,
	}
	bs := c.info.BlockSize
	c.info.Size -= c.info.Size % int64(bs.Min)
	c.maxChunk = 1 << 20
	if c.opts.MaxChunk > 0 {
		c.maxChunk = int64(c.opts.MaxChunk)
	}
	c.maxChunk = min(c.maxChunk, int64(bs.Max), MaxPayload)
	c.maxChunk = max(c.maxChunk-c.maxChunk%int64(bs.Min), int64(bs.Min))
	for i := range c.opts.MaxRequests {
		s := &slot{cookie: uint64(i), done: make(chan bool, 1)}
		c.slots = append(c.slots, s)
		c.free <- s
	}
	go c.readReplies()
	return c
}

// Info returns what was negotiated.
func (c *Client) Info() ExportInfo {
	i := c.info
	i.Contexts = slices.Clone(i.Contexts)
	return i
}

// Size returns the export's size in bytes.
func (c *Client) Size() int64 { return c.info.Size }

// Lost is closed when the connection has ended, for whatever reason.
func (c *Client) Lost() <-chan struct{} { return c.lost }

// Err returns why the connection ended, or nil.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close says goodbye to the server and closes the connection; requests in
// flight fail with ErrClosed.
func (c *Client) Close() error {
	c.mu.Lock()
	if c.setErrLocked(ErrClosed) && !c.writing {
		c.writing = true
		c.mu.Unlock()
		c.goodbye()
		c.mu.Lock()
		c.writing = false
	}
	c.t.cut()
	c.failAllLocked()
	c.mu.Unlock()
	<-c.exited
	return nil
}

// goodbye sends NBD_CMD_DISC and ends a TLS session, if the server still reads.
func (c *Client) goodbye() {
	//nolint:errcheck // the connection is ending either way
	c.nc.SetWriteDeadline(time.Now().Add(time.Second))
	if c.t.write(vector{}.add(appendRequest(nil, reqHeader{op: opDisc}))) == nil {
		c.t.close()
	}
}

// setErrLocked ends the connection for new requests; the first reason stays.
func (c *Client) setErrLocked(err error) bool {
	if c.err != nil {
		return false
	}
	c.err = err
	close(c.lost)
	return true
}

// fail breaks the connection.
func (c *Client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setErrLocked(err)
	c.t.cut()
	c.failAllLocked()
}

// failAllLocked completes every request once nobody touches their data any
// more: the reader has returned and nothing is being written.
func (c *Client) failAllLocked() {
	if c.err == nil || c.reading || c.writing {
		return
	}
	c.queue = nil
	for _, s := range c.slots {
		if s.active {
			s.queued, s.sending, s.filling = false, false, false
			s.err = c.err
			c.completeLocked(s)
		}
	}
}
