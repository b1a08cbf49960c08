package link

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"rebound/internal/problem"
)

// recordSize is the most plain text of one TLS record.
const recordSize = 16 << 10

// conn sends and receives messages. One goroutine reads; any number write.
type conn struct {
	sock  *socket
	plain io.ReadWriter // TLS over sock

	readHead [headerSize]byte
	readBuf  []byte
	received uint64

	wmu   sync.Mutex
	first []byte // header and what of the payload fits into one record
	sent  uint64
}

// hardened returns cfg as this package uses it: TLS 1.3 only, no resumption
// (each connection proves its certificate), full-size records from the start.
func hardened(cfg *tls.Config) *tls.Config {
	cfg = cfg.Clone()
	cfg.MinVersion = tls.VersionTLS13
	cfg.SessionTicketsDisabled = true
	cfg.ClientSessionCache = nil
	cfg.DynamicRecordSizingDisabled = true
	return cfg
}

func newConn(sock *socket, t *tls.Conn) *conn {
	return &conn{sock: sock, plain: t, first: make([]byte, 0, recordSize)}
}

// write sends one message. A write that blocks is ended by closing the
// connection.
func (c *conn) write(typ msgType, payload []byte) error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	c.sent++
	c.first = c.first[:headerSize]
	putHeader(c.first, typ, c.sent, payload)
	n := min(len(payload), recordSize-headerSize)
	c.first = append(c.first, payload[:n]...)
	if _, err := c.plain.Write(c.first); err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	if n < len(payload) {
		if _, err := c.plain.Write(payload[n:]); err != nil {
			return fmt.Errorf("send message: %w", err)
		}
	}
	if err := c.sock.Flush(); err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	return nil
}

func (c *conn) writeJSON(typ msgType, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	if len(b) > typ.maxPayload() {
		return fmt.Errorf("encode message: %d bytes", len(b))
	}
	return c.write(typ, b)
}

// read returns the next message; the payload is valid until the next read.
func (c *conn) read() (msgType, []byte, error) {
	if _, err := io.ReadFull(c.plain, c.readHead[:]); err != nil {
		return 0, nil, fmt.Errorf("receive message: %w", err)
	}
	h, err := parseHeader(c.readHead[:])
	if err != nil {
		return 0, nil, err
	}
	if h.number != c.received+1 {
		return 0, nil, fmt.Errorf("%w: message %d after %d", errWire, h.number, c.received)
	}
	if cap(c.readBuf) < h.length {
		c.readBuf = make([]byte, h.length+h.length/2)
	}
	payload := c.readBuf[:h.length]
	if _, err := io.ReadFull(c.plain, payload); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, fmt.Errorf("receive message: %w", err)
	}
	if err := h.checkSum(c.readHead[:], payload); err != nil {
		return 0, nil, err
	}
	c.received = h.number
	return h.typ, payload, nil
}

// readRefusal makes an error of a refusal's payload.
func readRefusal(payload []byte) error {
	m, err := parseJSON[refusalMsg](payload)
	if err != nil {
		return err
	}
	return &RefusedError{knownProblem(m.Code, m.Detail)}
}

// knownProblem returns the registered problem of a code that a peer sent, or
// an InternalError that names it: a newer peer may know more codes.
func knownProblem(code problem.Code, detail string) *problem.Problem {
	for _, p := range problem.All() {
		if p.Code == code {
			return problem.New(code, "%s", detail)
		}
	}
	return problem.New(problem.InternalError, "%s: %s", code, detail)
}

// refuse tells the peer why this end ends the connection.
func (c *conn) refuse(cause error) {
	p := problem.From(cause)
	if errors.Is(cause, errWire) {
		p = problem.Wrap(cause, problem.ProtocolError, "")
	}
	detail := p.Detail
	if p.Err != nil {
		detail = strings.TrimPrefix(detail+": "+p.Err.Error(), ": ")
	}
	if len(detail) > 4096 {
		detail = detail[:4096]
	}
	_ = c.writeJSON(msgRefusal, refusalMsg{p.Code, detail})
}

// linger lets the peer read what was sent last before the socket closes: a
// close with unread input would reset the connection and discard it.
func (c *conn) linger(timeout time.Duration) {
	if tcp, ok := c.sock.Conn.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
		_ = tcp.SetReadDeadline(time.Now().Add(timeout))
		_, _ = io.Copy(io.Discard, tcp)
	}
	_ = c.sock.Close()
}

// handshakeTLS runs the TLS handshake within the deadline and translates its
// errors.
func handshakeTLS(ctx context.Context, t *tls.Conn) error {
	err := t.HandshakeContext(ctx)
	if err != nil {
		return tlsProblem(err)
	}
	return nil
}

// tlsProblem finds the problem in an error of TLS: the peer's certificate is
// not of our vault, or ours is not of the peer's. Alerts have no exported type,
// so those about certificates are known by their word.
func tlsProblem(err error) error {
	if _, ok := errors.AsType[*problem.Problem](err); ok {
		return err
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return problem.Wrap(err, problem.WrongVault, "the peer's certificate")
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" && strings.Contains(op.Err.Error(), "certificate") {
		return problem.Wrap(err, problem.WrongVault, "the peer does not accept our certificate")
	}
	return err
}
