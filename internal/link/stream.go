package link

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/segment"
)

// Stream is one connection that carries frames to the standby. Send and Finish
// are called by one goroutine at a time; the other methods by any.
type Stream struct {
	c       *conn
	welcome Welcome
	timing  Timing
	limiter Limiter

	lastSent atomic.Uint64 // seq of the last entry of the last frame sent
	durable  atomic.Uint64
	rtt      atomic.Int64 // nanoseconds of the last ping; 0: none yet
	start    time.Time    // pings carry the time since
	pong     chan uint64  // a ping to be answered

	acks chan dr.Seq // holds the newest one not taken

	mu          sync.Mutex
	limitBytes  uint64
	limitFrames uint64
	err         error
	credit      chan struct{} // one token: the limits were raised
	sentBytes   uint64        // owned by Send
	sentFrames  uint64

	done chan struct{} // closed once err is set
	wg   sync.WaitGroup
}

// Dial opens a stream. Its errors hold a problem: the standby's refusal
// (*RefusedError), WrongVault, or GatewayUnreachable; Permanent tells whether
// to try again.
func Dial(ctx context.Context, cfg DialConfig) (*Stream, error) {
	var shown []byte
	if cfg.Identity != nil {
		shown = cfg.Identity.Bundle().Cert
	}
	c, w, err := dial(ctx, &cfg, PurposeStream)
	if err != nil {
		return nil, err
	}
	s := &Stream{
		c: c, welcome: *w, timing: cfg.Timing.withDefaults(), limiter: cfg.Limiter,
		acks: make(chan dr.Seq, 1), credit: make(chan struct{}, 1), done: make(chan struct{}),
		limitBytes: w.CreditBytes, limitFrames: w.CreditFrames,
		start: time.Now(), pong: make(chan uint64, 1),
	}
	s.lastSent.Store(uint64(w.Durable))
	s.durable.Store(uint64(w.Durable))
	s.wg.Go(s.readLoop)
	s.wg.Go(s.pingLoop)
	if t, ok := c.plain.(*tls.Conn); ok && cfg.Identity != nil {
		s.wg.Go(func() { s.watchIdentity(cfg.Identity, shown, t.ConnectionState()) })
	}
	return s, nil
}

// Welcome returns the standby's answer.
func (s *Stream) Welcome() Welcome { return s.welcome }

// Acks delivers the newest durable seq each time that it grew; one that was
// not taken in time is replaced by the next. It is closed when the stream
// ends.
func (s *Stream) Acks() <-chan dr.Seq { return s.acks }

// Durable returns the newest durable seq.
func (s *Stream) Durable() dr.Seq { return dr.Seq(s.durable.Load()) }

// RoundTrip returns the time of the last ping, or 0 before the first.
func (s *Stream) RoundTrip() time.Duration { return time.Duration(s.rtt.Load()) }

// Done is closed when the stream has ended; Err then says why.
func (s *Stream) Done() <-chan struct{} { return s.done }

// Err returns why the stream ended, nil while it stands. A stream that was
// finished and confirmed ends with io.EOF.
func (s *Stream) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Send sends one frame, after waiting for credits and for the limiter. ctx
// ends those waits; a write that blocks ends when the peer is found dead or on
// Close. The frame may be reused after Send returns.
func (s *Stream) Send(ctx context.Context, frame []byte) error {
	h, err := segment.ParseHeader(frame)
	if err != nil {
		return fmt.Errorf("send frame: %w", err)
	}
	if err := s.waitCredit(ctx, uint64(len(frame))); err != nil {
		return err
	}
	if s.limiter != nil {
		if err := s.limiter.Wait(ctx, len(frame)); err != nil {
			return fmt.Errorf("wait for bandwidth: %w", err)
		}
	}
	s.sentBytes += uint64(len(frame))
	s.sentFrames++
	s.lastSent.Store(uint64(h.Last()))
	if err := s.c.write(msgFrame, frame); err != nil {
		return s.writeFailed(err)
	}
	return nil
}

// waitCredit returns once n bytes and one frame more may be sent.
func (s *Stream) waitCredit(ctx context.Context, n uint64) error {
	for {
		s.mu.Lock()
		err := s.err
		ok := s.sentBytes+n <= s.limitBytes && s.sentFrames < s.limitFrames
		s.mu.Unlock()
		if err != nil {
			return err
		}
		if ok {
			return nil
		}
		select {
		case <-s.credit:
		case <-s.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// writeFailed waits a moment for the reader, which may find the refusal that
// explains why the peer closed, and returns why the stream ended.
func (s *Stream) writeFailed(err error) error {
	t := time.NewTimer(time.Second)
	defer t.Stop()
	select {
	case <-s.done:
	case <-t.C:
		s.fail(problem.Wrap(err, problem.GatewayUnreachable, ""))
	}
	return s.Err()
}

// Finish says that nothing follows, and waits until all that was sent is
// durable. The stream has ended when it returns.
func (s *Stream) Finish(ctx context.Context) error {
	if err := s.c.write(msgBye, nil); err != nil {
		return s.writeFailed(err)
	}
	select {
	case <-s.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := s.Err(); !errors.Is(err, io.EOF) {
		return err
	}
	if s.durable.Load() != s.lastSent.Load() {
		return problem.New(problem.ProtocolError, "the standby ended the stream at %d of %d", s.durable.Load(), s.lastSent.Load())
	}
	return nil
}

// Close ends the stream at once and waits for its goroutines. It may be called
// again.
func (s *Stream) Close() error {
	s.fail(errStopped)
	s.wg.Wait()
	return nil
}

func (s *Stream) fail(err error) {
	s.mu.Lock()
	first := s.err == nil
	if first {
		s.err = err
		close(s.done)
	}
	s.mu.Unlock()
	if first {
		_ = s.c.sock.Close()
	}
}

func (s *Stream) readLoop() {
	defer close(s.acks)
	for {
		typ, payload, err := s.c.read()
		if err == nil {
			err = s.take(typ, payload)
		}
		if err != nil {
			s.fail(endProblem(err, s.timing.DeadAfter))
			return
		}
	}
}

// take handles one message of the standby.
func (s *Stream) take(typ msgType, payload []byte) error {
	switch typ {
	case msgAck:
		return s.takeAck(payload)
	case msgPing:
		return takePing(payload, s.pong)
	case msgPong:
		sent, err := parsePing(payload)
		if err == nil {
			s.rtt.Store(max(1, int64(time.Since(s.start))-int64(sent)))
		}
		return err
	case msgBye:
		return io.EOF
	case msgRefusal:
		return readRefusal(payload)
	}
	return problem.New(problem.ProtocolError, "message of type %d in a stream", typ)
}

func (s *Stream) takeAck(payload []byte) error {
	a, err := parseAck(payload)
	if err != nil {
		return err
	}
	if a.durable < s.Durable() || uint64(a.durable) > s.lastSent.Load() {
		return problem.New(problem.ProtocolError, "acknowledged %d after %d, of %d sent", a.durable, s.Durable(), s.lastSent.Load())
	}
	s.mu.Lock()
	s.limitBytes = max(s.limitBytes, a.bytes)
	s.limitFrames = max(s.limitFrames, a.frames)
	s.mu.Unlock()
	select {
	case s.credit <- struct{}{}:
	default:
	}
	if a.durable == s.Durable() {
		return nil
	}
	s.durable.Store(uint64(a.durable))
	// This goroutine is the only one that puts, so the second put fits.
	select {
	case s.acks <- a.durable:
	default:
		select {
		case <-s.acks:
		default:
		}
		s.acks <- a.durable
	}
	return nil
}

// takePing leaves a ping for the goroutine that writes: the one that reads
// never writes, so two ends can never wait for each other. A second ping before
// the first was answered needs no answer of its own.
func takePing(payload []byte, pong chan<- uint64) error {
	v, err := parsePing(payload)
	if err != nil {
		return err
	}
	select {
	case pong <- v:
	default:
	}
	return nil
}

func (s *Stream) pingLoop() {
	tick := time.NewTicker(s.timing.KeepAlive)
	defer tick.Stop()
	var b [pingSize]byte
	for {
		typ := msgPing
		select {
		case <-s.done:
			return
		case v := <-s.pong:
			typ = msgPong
			binary.LittleEndian.PutUint64(b[:], v)
		case <-tick.C:
			binary.LittleEndian.PutUint64(b[:], uint64(time.Since(s.start)))
		}
		if err := s.c.write(typ, b[:]); err != nil {
			_ = s.writeFailed(err)
			return
		}
	}
}
