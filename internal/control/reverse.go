package control

import (
	"net"
	"net/http"
	"sync"
)

// Inside the TLS connection that the gateway dialled, the ends change roles:
// the gateway serves HTTP/2 (with prior knowledge, as it is encrypted already)
// and the vault is its client.

func onlyHTTP2() *http.Protocols {
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	return &p
}

func pings() *http.HTTP2Config {
	return &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout}
}

// plainConn hides what else a connection is (TLS): what is inside of it speaks
// for itself.
type plainConn struct{ net.Conn }

// oneConn is a listener that accepts the one connection it was made with, and
// then nothing until it is closed.
type oneConn struct {
	addr  net.Addr
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newOneConn(c net.Conn) *oneConn {
	l := &oneConn{addr: c.LocalAddr(), conns: make(chan net.Conn, 1), done: make(chan struct{})}
	l.conns <- plainConn{c}
	return l
}

// Accept implements net.Listener.
func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *oneConn) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr implements net.Listener.
func (l *oneConn) Addr() net.Addr { return l.addr }
