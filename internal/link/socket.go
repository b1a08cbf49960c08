package link

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Counters count the bytes on sockets, TLS and all, over any number of
// connections. The zero value is ready; it is safe for concurrent use.
type Counters struct{ sent, received atomic.Int64 }

// Sent returns how many bytes were written to sockets.
func (c *Counters) Sent() int64 { return c.sent.Load() }

// Received returns how many bytes were read from sockets.
func (c *Counters) Received() int64 { return c.received.Load() }

// Limiter holds the sender back to a bandwidth.
type Limiter interface {
	// Wait returns once bytes more may be sent, or with ctx's error.
	Wait(ctx context.Context, bytes int) error
}

// errStopped ends a read on a socket that was stopped.
var errStopped = errors.New("link: connection stopped")

const (
	// readBuffer and writeBuffer gather TLS records: package tls reads and
	// writes one record, at most 16 KiB, with each system call.
	readBuffer  = 64 << 10
	writeBuffer = 256 << 10
)

// socket is the network connection below TLS: it counts bytes, gathers writes
// until Flush, and ends a read when nothing at all came for deadAfter.
type socket struct {
	net.Conn
	counters *Counters

	deadAfter   time.Duration // 0: not yet
	deadlineSet time.Time
	stopped     atomic.Bool
	rbuf        []byte // what was read and not yet asked for: rbuf[r:w]
	r, w        int

	wmu       sync.Mutex
	gathering bool
	wbuf      []byte
}

func newSocket(c net.Conn, counters *Counters) *socket {
	if counters == nil {
		counters = &Counters{}
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetNoDelay(true) // the default; writes are gathered here
	}
	return &socket{Conn: c, counters: counters, rbuf: make([]byte, readBuffer)}
}

// established begins gathering of writes and the watch for a dead peer; the
// deadlines of the handshake end.
func (s *socket) established(deadAfter time.Duration) error {
	s.wmu.Lock()
	s.gathering = true
	s.wmu.Unlock()
	s.deadAfter = deadAfter
	return s.SetDeadline(time.Time{})
}

// Read fills p with what came.
func (s *socket) Read(p []byte) (int, error) {
	if s.r < s.w {
		n := copy(p, s.rbuf[s.r:s.w])
		s.r += n
		return n, nil
	}
	if s.deadAfter > 0 {
		now := time.Now()
		if now.Sub(s.deadlineSet) > s.deadAfter/8 {
			s.deadlineSet = now
			if err := s.SetReadDeadline(now.Add(s.deadAfter)); err != nil {
				return 0, err
			}
		}
	}
	// stop sets the flag before its deadline, so one of the two is seen.
	if s.stopped.Load() {
		return 0, errStopped
	}
	if len(p) >= len(s.rbuf) {
		n, err := s.Conn.Read(p)
		s.counters.received.Add(int64(n))
		return n, err
	}
	n, err := s.Conn.Read(s.rbuf)
	s.counters.received.Add(int64(n))
	s.r, s.w = copy(p, s.rbuf[:n]), n
	return s.r, err
}

// Write sends p, or keeps it for Flush.
func (s *socket) Write(p []byte) (int, error) {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	if !s.gathering {
		n, err := s.Conn.Write(p)
		s.counters.sent.Add(int64(n))
		return n, err
	}
	if len(s.wbuf)+len(p) > writeBuffer {
		if err := s.flush(); err != nil {
			return 0, err
		}
	}
	s.wbuf = append(s.wbuf, p...)
	return len(p), nil
}

// Flush sends what Write kept.
func (s *socket) Flush() error {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	return s.flush()
}

func (s *socket) flush() error {
	if len(s.wbuf) == 0 {
		return nil
	}
	n, err := s.Conn.Write(s.wbuf)
	s.counters.sent.Add(int64(n))
	s.wbuf = s.wbuf[:0]
	return err
}

// stop ends a read that waits, and all later ones, and gives writes a second
// more.
func (s *socket) stop() {
	s.stopped.Store(true)
	_ = s.SetReadDeadline(time.Unix(1, 0))
	_ = s.SetWriteDeadline(time.Now().Add(time.Second))
}
