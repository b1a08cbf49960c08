package capture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"rebound/internal/problem"
)

const (
	// maxPending is how many requests of one control connection may wait
	// for their answers.
	maxPending = 64
	// maxQueued is how many lines may wait to be written to a gateway that
	// does not read; events beyond it are dropped.
	maxQueued = 256
)

// server answers the control protocol.
type server struct {
	p *process
	// alone is told of the number of connections whenever it changes.
	alone chan int

	mu    sync.Mutex
	conns map[*controlConn]bool
	wg    sync.WaitGroup
}

// controlConn is one gateway's connection.
type controlConn struct {
	net  net.Conn
	out  chan reply
	done chan struct{}
}

func newServer(p *process) *server {
	return &server{p: p, alone: make(chan int, 1), conns: map[*controlConn]bool{}}
}

// serve accepts control connections until ctx ends, and waits for all to end.
func (s *server) serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	defer s.wg.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			s.closeAll()
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept control connection: %w", err)
		}
		c := &controlConn{net: conn, out: make(chan reply, maxQueued), done: make(chan struct{})}
		s.track(c, true)
		s.wg.Go(func() { c.write() })
		s.wg.Go(func() {
			defer s.track(c, false)
			s.read(ctx, c)
		})
	}
}

// track counts connections in and out.
func (s *server) track(c *controlConn, in bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if in {
		s.conns[c] = true
	} else {
		delete(s.conns, c)
	}
	select {
	case <-s.alone:
	default:
	}
	s.alone <- len(s.conns)
}

func (s *server) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.net.Close()
	}
}

// emit pushes an event to every connection; one that does not read misses it.
func (s *server) emit(e Event) {
	e.Time = time.Now().UTC()
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		select {
		case c.out <- reply{Event: &e}:
		default:
		}
	}
}

// write sends what is queued until the connection ends.
func (c *controlConn) write() {
	enc := json.NewEncoder(c.net)
	for {
		select {
		case r := <-c.out:
			if err := enc.Encode(r); err != nil {
				_ = c.net.Close()
				return
			}
		case <-c.done:
			return
		}
	}
}

// answer queues a reply.
func (c *controlConn) answer(r reply) {
	select {
	case c.out <- r:
	case <-c.done:
	}
}

// read takes requests until the connection ends. Each runs by itself: drain
// must not hold up a heartbeat.
func (s *server) read(ctx context.Context, c *controlConn) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	defer close(c.done)
	defer func() { _ = c.net.Close() }()
	slots := make(chan struct{}, maxPending)
	dec := json.NewDecoder(c.net)
	for {
		var req Request
		if err := dec.Decode(&req); err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				s.p.log.Debug("control connection ended", "error", err)
			}
			return
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			result, err := s.p.handle(ctx, &req)
			r := reply{ID: req.ID, Result: result}
			if err != nil {
				r = reply{ID: req.ID, Error: wire(err)}
			}
			c.answer(r)
			if req.Method == methodShutdown && err == nil {
				s.p.stop(errShutdown)
			}
		})
	}
}

// wire turns an error into the problem that travels; the text of what it wraps
// becomes its detail.
func wire(err error) *problem.Problem {
	p := *problem.From(err)
	if errors.Is(err, errNotOpen) || errors.Is(err, errRefused) {
		p = *problem.New(problem.OperationNotAllowed, "%v", err)
	}
	if p.Err != nil && p.Detail == "" {
		p.Detail = p.Err.Error()
	}
	return &p
}

// listenUnix opens a Unix socket in place of one that a dead process left.
func listenUnix(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove stale socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}
