package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// negotiation is the server's side of one handshake.
type negotiation struct {
	s          *Server
	ctx        context.Context
	nc         net.Conn
	t          transport
	in         *input
	secure     bool // TLS is up
	fixed      bool
	noZeroes   bool
	structured bool
	// What SET_META_CONTEXT chose, and for which export.
	metaExport string
	allocation bool
}

// errGoodbye ends a handshake in order.
var errGoodbye = errors.New("nbd: client aborted the negotiation")

// negotiate runs the handshake. A nil connection with a nil error means that
// the client said goodbye.
func (s *Server) negotiate(ctx context.Context, nc net.Conn) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.HandshakeTimeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	if err := nc.SetDeadline(deadline); err != nil {
		return nil, fmt.Errorf("set deadline: %w", err)
	}
	t := newNetTransport(nc)
	n := &negotiation{s: s, ctx: ctx, nc: nc, t: t, in: newInput(t)}
	c, err := n.run()
	if errors.Is(err, errGoodbye) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := c.enter(nc); err != nil {
		c.fail(err)
		s.detach(c, err)
		return nil, err
	}
	return c, nil
}

// enter prepares the transport for the transmission phase.
func (c *Conn) enter(nc net.Conn) error {
	if err := nc.SetDeadline(time.Time{}); err != nil {
		return fmt.Errorf("clear deadline: %w", err)
	}
	if _, plain := c.t.(*netTransport); !plain || !c.exp.BlockingIO {
		return nil
	}
	t, err := newBlockingTransport(nc)
	if err != nil {
		return fmt.Errorf("take over socket: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t, c.in.r = t, t
	if c.broken != nil {
		t.cut() // cut while the socket changed hands
	}
	return nil
}

func (n *negotiation) write(b []byte) error {
	if err := n.t.write(vector{}.add(b)); err != nil {
		return fmt.Errorf("write handshake: %w", err)
	}
	return nil
}

func (n *negotiation) reply(opt option, rep optReply, data []byte) error {
	return n.write(appendOptReply(nil, opt, rep, data))
}

func (n *negotiation) refuse(opt option, rep optReply, why string) error {
	return n.reply(opt, rep, []byte(why))
}

func (n *negotiation) run() (*Conn, error) {
	b := be.AppendUint64(nil, magicInit)
	b = be.AppendUint64(b, magicOption)
	if err := n.write(be.AppendUint16(b, flagFixedNewstyle|flagNoZeroes)); err != nil {
		return nil, err
	}
	f, err := n.in.next(4)
	if err != nil {
		return nil, fmt.Errorf("read client flags: %w", err)
	}
	flags := be.Uint32(f)
	if flags&^(flagFixedNewstyle|flagNoZeroes) != 0 {
		return nil, fmt.Errorf("%w: client flags %#x", ErrProtocol, flags)
	}
	n.fixed, n.noZeroes = flags&flagFixedNewstyle != 0, flags&flagNoZeroes != 0
	for range maxOptions {
		c, err := n.option()
		if err != nil || c != nil {
			return c, err
		}
	}
	return nil, fmt.Errorf("%w: more than %d options", ErrProtocol, maxOptions)
}

// option reads and answers one option; a connection ends the handshake.
func (n *negotiation) option() (*Conn, error) {
	head, err := n.in.next(optSize)
	if err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errGoodbye
		}
		return nil, fmt.Errorf("read option: %w", err)
	}
	h, err := parseOption(head)
	if err != nil {
		return nil, err
	}
	if !n.fixed && h.opt != optExportName {
		return nil, fmt.Errorf("%w: option %d without fixed newstyle", ErrProtocol, h.opt)
	}
	if h.length > maxOption {
		if h.length > maxOptionDrain || h.opt == optExportName {
			return nil, fmt.Errorf("%w: option of %d bytes", ErrProtocol, h.length)
		}
		if err := n.in.discard(int64(h.length)); err != nil {
			return nil, err
		}
		return nil, n.refuse(h.opt, repErrTooBig, "option is too long")
	}
	data := make([]byte, h.length)
	if err := n.in.full(data); err != nil {
		return nil, fmt.Errorf("read option: %w", err)
	}
	return n.answer(h.opt, data)
}

func (n *negotiation) answer(opt option, data []byte) (*Conn, error) {
	if n.s.opts.TLSMode == TLSRequire && !n.secure && opt != optStartTLS && opt != optAbort {
		if opt == optExportName {
			return nil, fmt.Errorf("%w: EXPORT_NAME in the clear", ErrTLSRequired)
		}
		return nil, n.refuse(opt, repErrTLSReqd, "TLS is required")
	}
	switch opt {
	case optExportName:
		return n.exportName(data)
	case optAbort:
		n.reply(opt, repAck, nil) //nolint:errcheck // the client may be gone already
		return nil, errGoodbye
	case optList:
		return nil, n.list(data)
	case optStartTLS:
		return nil, n.startTLS(data)
	case optInfo, optGo:
		return n.info(opt, data)
	case optStructuredReply:
		if len(data) != 0 || n.structured {
			return nil, n.refuse(opt, repErrInvalid, "structured replies asked for twice or with data")
		}
		n.structured = true
		return nil, n.reply(opt, repAck, nil)
	case optListMetaContext, optSetMetaContext:
		return nil, n.metaContext(opt, data)
	}
	return nil, n.refuse(opt, repErrUnsup, "unknown option")
}

func (n *negotiation) find(name string) *export {
	n.s.mu.Lock()
	defer n.s.mu.Unlock()
	return n.s.exports[name]
}

// conn makes the connection and attaches it to x, which may have gone.
func (n *negotiation) conn(x *export) *Conn {
	// The connection outlives the handshake's time limit.
	ctx, cancel := context.WithCancel(context.WithoutCancel(n.ctx))
	c := &Conn{
		s: n.s, t: n.t, in: n.in, remote: n.nc.RemoteAddr(), structured: n.structured,
		allocation: n.allocation && n.metaExport == x.Name,
		ctx:        ctx, cancel: cancel,
	}
	c.changed = sync.Cond{L: &c.mu}
	if !n.s.attach(c, x) {
		cancel()
		return nil
	}
	return c
}

// open attaches to x and tells the client by ack; a failure to do so ends c.
func (n *negotiation) open(x *export, ack []byte) (*Conn, error) {
	c := n.conn(x)
	if c == nil {
		return nil, fmt.Errorf("open export %q: %w", x.Name, ErrNoExport)
	}
	if err := n.write(ack); err != nil {
		c.fail(err)
		n.s.detach(c, err)
		return nil, err
	}
	return c, nil
}

// flagsFor returns the transmission flags as this client may see them.
func (n *negotiation) flagsFor(x *export) uint16 {
	f := x.flags
	if n.structured {
		f |= FlagSendDF
	}
	return uint16(f)
}

func (n *negotiation) exportName(data []byte) (*Conn, error) {
	if len(data) > MaxString || !utf8.Valid(data) {
		return nil, fmt.Errorf("%w: export name", ErrProtocol)
	}
	x := n.find(string(data))
	if x == nil {
		return nil, fmt.Errorf("open export %q: %w", data, ErrNoExport)
	}
	b := be.AppendUint64(nil, uint64(x.Size))
	b = be.AppendUint16(b, n.flagsFor(x))
	if !n.noZeroes {
		b = append(b, make([]byte, 124)...)
	}
	return n.open(x, b)
}

func (n *negotiation) list(data []byte) error {
	if len(data) != 0 {
		return n.refuse(optList, repErrInvalid, "list takes no data")
	}
	var b []byte
	n.s.mu.Lock()
	names := make([]string, 0, len(n.s.exports))
	for name := range n.s.exports {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		entry := append(appendString(nil, name), n.s.exports[name].Description...)
		b = appendOptReply(b, optList, repServer, entry)
	}
	n.s.mu.Unlock()
	return n.write(appendOptReply(b, optList, repAck, nil))
}

func (n *negotiation) startTLS(data []byte) error {
	switch {
	case n.s.opts.TLSMode == TLSOff:
		return n.refuse(optStartTLS, repErrPolicy, "TLS is off")
	case n.secure || len(data) != 0:
		return n.refuse(optStartTLS, repErrInvalid, "TLS asked for twice or with data")
	}
	// What was sent in the clear behind the option could pass for protected.
	if n.in.buffered() != 0 {
		return fmt.Errorf("%w: data between STARTTLS and the TLS handshake", ErrProtocol)
	}
	if err := n.reply(optStartTLS, repAck, nil); err != nil {
		return err
	}
	t, err := startTLS(n.ctx, n.nc, n.s.opts.TLS, tls.Server)
	if err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	n.t, n.in.r = t, t
	// Nothing agreed in the clear is kept.
	n.secure, n.structured, n.allocation, n.metaExport = true, false, false, ""
	return nil
}

// info answers INFO and GO.
func (n *negotiation) info(opt option, data []byte) (*Conn, error) {
	name, infos, ok := parseExportOpt(data)
	if !ok {
		return nil, n.refuse(opt, repErrInvalid, "malformed option")
	}
	x := n.find(name)
	if x == nil {
		return nil, n.refuse(opt, repErrUnknown, "no such export")
	}
	if (x.BlockSize.Min > 1 || x.BlockSize.Max < MaxPayload) && !slices.Contains(infos, infoBlockSize) {
		return nil, n.refuse(opt, repErrBlockSizeReq, "the export has block size constraints; ask for them")
	}
	b := n.infoReplies(opt, x, infos)
	b = appendOptReply(b, opt, repAck, nil)
	if opt == optInfo {
		return nil, n.write(b)
	}
	c, err := n.open(x, b)
	if errors.Is(err, ErrNoExport) {
		return nil, n.refuse(opt, repErrUnknown, "no such export")
	}
	return c, err
}

func (n *negotiation) infoReplies(opt option, x *export, infos []uint16) []byte {
	d := be.AppendUint16(nil, infoExport)
	d = be.AppendUint64(d, uint64(x.Size))
	d = be.AppendUint16(d, n.flagsFor(x))
	b := appendOptReply(nil, opt, repInfo, d)
	for _, i := range []uint16{infoName, infoDescription, infoBlockSize} {
		if !slices.Contains(infos, i) || (i == infoDescription && x.Description == "") {
			continue
		}
		d := be.AppendUint16(nil, i)
		switch i {
		case infoName:
			d = append(d, x.Name...)
		case infoDescription:
			d = append(d, x.Description...)
		case infoBlockSize:
			d = be.AppendUint32(d, x.BlockSize.Min)
			d = be.AppendUint32(d, x.BlockSize.Preferred)
			d = be.AppendUint32(d, x.BlockSize.Max)
		}
		b = appendOptReply(b, opt, repInfo, d)
	}
	return b
}

// metaContext answers LIST_META_CONTEXT and SET_META_CONTEXT. The one context
// is base:allocation; "base:" names the whole namespace, in a list only.
func (n *negotiation) metaContext(opt option, data []byte) error {
	if opt == optSetMetaContext {
		n.allocation, n.metaExport = false, "" // a failure leaves none
	}
	name, queries, ok := parseMetaOpt(data)
	if !ok || !n.structured {
		return n.refuse(opt, repErrInvalid, "malformed option, or structured replies were not negotiated first")
	}
	if n.find(name) == nil {
		return n.refuse(opt, repErrUnknown, "no such export")
	}
	found := opt == optListMetaContext && len(queries) == 0
	for _, q := range queries {
		if !strings.Contains(q, ":") {
			return n.refuse(opt, repErrInvalid, "query without a namespace")
		}
		found = found || q == ContextAllocation || (q == "base:" && opt == optListMetaContext)
	}
	var b []byte
	if found {
		id := uint32(0)
		if opt == optSetMetaContext {
			id, n.allocation, n.metaExport = contextAllocation, true, name
		}
		b = appendOptReply(b, opt, repMetaContext, append(be.AppendUint32(nil, id), ContextAllocation...))
	}
	return n.write(appendOptReply(b, opt, repAck, nil))
}
