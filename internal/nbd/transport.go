package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// transport carries the bytes of one connection. One goroutine reads, one at a
// time writes; cut may be called by any.
type transport interface {
	Read(p []byte) (int, error)
	// try writes what can be written without waiting and returns the rest,
	// which may be all of v.
	try(v vector) (vector, error)
	// write writes all of v.
	write(v vector) error
	// cut makes every present and later Read and write fail; idempotent.
	cut()
	// close frees the socket. No other call may be under way.
	close()
}

// vector is a list of buffers that are written as one.
type vector []unix.Iovec

func (v vector) add(b []byte) vector {
	if len(b) == 0 {
		return v
	}
	e := unix.Iovec{Base: &b[0]}
	e.SetLen(len(b))
	return append(v, e)
}

func bytesOf(e unix.Iovec) []byte { return unsafe.Slice(e.Base, int(e.Len)) }

// drop removes the first n bytes; v's array is changed.
func (v vector) drop(n int) vector {
	for n > 0 {
		have := int(v[0].Len)
		if n < have {
			v[0].Base = &bytesOf(v[0])[n]
			v[0].SetLen(have - n)
			return v
		}
		n -= have
		v = v[1:]
	}
	return v
}

// maxVector is the kernel's limit of buffers in one call (IOV_MAX).
const maxVector = 1024

// sender holds the header of sendmsg, so that a call allocates nothing.
type sender struct{ msg unix.Msghdr }

// send is one sendmsg; EINTR is tried again.
func (s *sender) send(fd int, v vector, flags int) (int, error) {
	s.msg.Iov = &v[0]
	s.msg.SetIovlen(min(len(v), maxVector))
	for {
		n, _, e := unix.Syscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&s.msg)), uintptr(flags|unix.MSG_NOSIGNAL))
		switch e {
		case 0:
			s.msg.Iov = nil
			return int(n), nil
		case unix.EINTR:
		default:
			s.msg.Iov = nil
			return 0, e
		}
	}
}

// sendAll calls send until v is empty or an error comes.
func (s *sender) sendAll(fd int, v vector, flags int) (vector, error) {
	for len(v) > 0 {
		n, err := s.send(fd, v, flags)
		if err != nil {
			return v, err
		}
		v = v.drop(n)
	}
	return v, nil
}

// blockingTransport is a stream socket in blocking mode, outside the runtime's
// poller.
type blockingTransport struct {
	fd   int
	mu   sync.Mutex
	gone bool
	s    sender
}

// newBlockingTransport takes the socket out of nc, which is closed. It returns
// nil if nc is no plain stream socket.
func newBlockingTransport(nc net.Conn) (*blockingTransport, error) {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return nil, nil
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, dupErr := -1, error(nil)
	err = rc.Control(func(orig uintptr) {
		fd, dupErr = unix.FcntlInt(orig, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err = errors.Join(err, dupErr); err != nil {
		return nil, err
	}
	nc.Close()
	// The mode belongs to the open socket, shared with nc until now.
	if err := unix.SetNonblock(fd, false); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &blockingTransport{fd: fd}, nil
}

func (t *blockingTransport) Read(p []byte) (int, error) {
	for {
		n, err := unix.Read(t.fd, p)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

func (t *blockingTransport) try(v vector) (vector, error) {
	rest, err := t.s.sendAll(t.fd, v, unix.MSG_DONTWAIT)
	if err == unix.EAGAIN {
		err = nil
	}
	return rest, err
}

func (t *blockingTransport) write(v vector) error {
	_, err := t.s.sendAll(t.fd, v, 0)
	return err
}

func (t *blockingTransport) cut() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.gone {
		unix.Shutdown(t.fd, unix.SHUT_RDWR) //nolint:errcheck // the peer may have done it
	}
}

func (t *blockingTransport) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.gone {
		t.gone = true
		unix.Close(t.fd)
	}
}

// netTransport is a stream socket under the runtime's poller.
type netTransport struct {
	net.Conn
	rc syscall.RawConn
	s  sender
	// In and out of the callback, which is made once.
	v      vector
	err    error
	wait   bool
	onWait func(fd uintptr) bool
}

// newNetTransport returns a transport for a socket, or for anything else that
// is a net.Conn (such as net.Pipe in tests).
func newNetTransport(nc net.Conn) transport {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return &streamTransport{conn: nc, base: nc}
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return &streamTransport{conn: nc, base: nc}
	}
	t := &netTransport{Conn: nc, rc: rc}
	t.onWait = t.ready
	return t
}

// ready runs with the socket writable, or thought so.
func (t *netTransport) ready(fd uintptr) bool {
	t.v, t.err = t.s.sendAll(int(fd), t.v, unix.MSG_DONTWAIT)
	if t.err == unix.EAGAIN {
		t.err = nil
		return !t.wait
	}
	return true
}

func (t *netTransport) send(v vector, wait bool) (vector, error) {
	t.v, t.err, t.wait = v, nil, wait
	err := t.rc.Write(t.onWait)
	rest, sendErr := t.v, t.err
	t.v, t.err = nil, nil
	if err == nil {
		err = sendErr
	}
	return rest, err
}

func (t *netTransport) try(v vector) (vector, error) { return t.send(v, false) }

func (t *netTransport) write(v vector) error {
	_, err := t.send(v, true)
	return err
}

func (t *netTransport) cut()   { t.Conn.Close() }
func (t *netTransport) close() { t.Conn.Close() }

// streamTransport writes buffer by buffer: TLS, pipes. flush, if set, sends
// what the layer below has gathered.
type streamTransport struct {
	conn, base net.Conn
	gather     *gatherConn
	flush      func() error
}

func (t *streamTransport) Read(p []byte) (int, error) { return t.conn.Read(p) }

// try writes nothing: such a layer cannot stop in the middle.
func (t *streamTransport) try(v vector) (vector, error) { return v, nil }

func (t *streamTransport) write(v vector) error {
	for _, e := range v {
		if _, err := t.conn.Write(bytesOf(e)); err != nil {
			return err
		}
	}
	if t.flush != nil {
		return t.flush()
	}
	return nil
}

func (t *streamTransport) cut() { t.base.Close() }

// close ends a TLS session in order, as the document asks.
func (t *streamTransport) close() {
	if t.flush != nil {
		t.flush() //nolint:errcheck // the connection is ending anyway
		t.gather.stop()
		t.conn.Close()
	}
	t.base.Close()
}

// gatherSize is how many bytes of TLS records go into one system call.
const gatherSize = 256 << 10

// gatherConn lies below TLS and joins records, which TLS writes one by one.
type gatherConn struct {
	net.Conn
	mu     sync.Mutex
	buf    []byte
	gather bool
}

func (g *gatherConn) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.gather {
		return g.Conn.Write(p)
	}
	if len(g.buf)+len(p) > gatherSize {
		if err := g.flushLocked(); err != nil {
			return 0, err
		}
	}
	g.buf = append(g.buf, p...)
	return len(p), nil
}

func (g *gatherConn) flushLocked() error {
	if len(g.buf) == 0 {
		return nil
	}
	_, err := g.Conn.Write(g.buf)
	g.buf = g.buf[:0]
	return err
}

// stop lets later writes through at once.
func (g *gatherConn) stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gather = false
}

func (g *gatherConn) flush() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.flushLocked()
}

// startTLS runs the TLS handshake over nc with wrap (tls.Server or tls.Client).
func startTLS(ctx context.Context, nc net.Conn, cfg *tls.Config, wrap func(net.Conn, *tls.Config) *tls.Conn) (*streamTransport, error) {
	cfg = cfg.Clone()
	// Small first records help interactive traffic; here they cost calls.
	cfg.DynamicRecordSizingDisabled = true
	g := &gatherConn{Conn: nc}
	tc := wrap(g, cfg)
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	g.mu.Lock()
	g.gather = true
	g.mu.Unlock()
	return &streamTransport{conn: tc, base: nc, gather: g, flush: g.flush}, nil
}

// inSize is the size of a connection's read buffer in bytes: some thirty requests
// of 4 KiB come with one call; payloads of that size and more are read into
// their place. (Reading smaller ones, 64 KiB, into their place was measured to
// cost a quarter more CPU by its second call than the copy does.)
const inSize = 128 << 10

// input is the read buffer of a connection.
type input struct {
	r    io.Reader
	buf  []byte
	a, b int // buf[a:b] is unread
	// before and after, if set, run around each call to r.
	before, after func()
}

func newInput(r io.Reader) *input { return &input{r: r, buf: make([]byte, inSize)} }

func (in *input) read(p []byte) (int, error) {
	if in.before != nil {
		in.before()
	}
	n, err := in.r.Read(p)
	if in.after != nil {
		in.after()
	}
	return n, err
}

// peek returns the next n <= inSize bytes, valid until the next call.
func (in *input) peek(n int) ([]byte, error) {
	if in.b-in.a >= n {
		return in.buf[in.a : in.a+n], nil
	}
	if len(in.buf)-in.a < n || in.a == in.b {
		in.b = copy(in.buf, in.buf[in.a:in.b])
		in.a = 0
	}
	for in.b-in.a < n {
		m, err := in.read(in.buf[in.b:])
		in.b += m
		if err != nil && in.b-in.a < n {
			if err == io.EOF && in.b > in.a {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	return in.buf[in.a : in.a+n], nil
}

// next is peek, and the bytes are taken.
func (in *input) next(n int) ([]byte, error) {
	p, err := in.peek(n)
	if err == nil {
		in.a += n
	}
	return p, err
}

// full fills p.
func (in *input) full(p []byte) error {
	n := copy(p, in.buf[in.a:in.b])
	in.a += n
	for n < len(p) {
		if len(p)-n < inSize {
			q, err := in.peek(min(len(p)-n, inSize))
			if err != nil {
				return noEOF(err)
			}
			n += copy(p[n:], q)
			in.a += len(q)
			continue
		}
		m, err := in.read(p[n:])
		n += m
		if err != nil && n < len(p) {
			return noEOF(err)
		}
	}
	return nil
}

// discard skips n bytes.
func (in *input) discard(n int64) error {
	for n > 0 {
		k := int(min(n, int64(len(in.buf))))
		if have := in.b - in.a; have > 0 {
			k = min(k, have)
		}
		if _, err := in.next(k); err != nil {
			return noEOF(err)
		}
		n -= int64(k)
	}
	return nil
}

func (in *input) buffered() int { return in.b - in.a }

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
