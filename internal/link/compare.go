package link

import (
	"context"
	"encoding/binary"
	"sync"
	"time"

	"rebound/internal/problem"
)

// CompareConn asks the standby for hashes. It may be used by many goroutines;
// their requests are on the way at the same time and answered in order.
type CompareConn struct {
	c      *conn
	timing Timing

	wmu sync.Mutex // held while a request is queued and written, for one order
	buf []byte

	mu      sync.Mutex
	pending []*question
	err     error
	done    chan struct{}
	pong    chan uint64
	wg      sync.WaitGroup
}

type question struct {
	units  int
	answer chan CompareAnswer // holds one
}

// DialCompare opens a compare connection; errors are those of Dial.
func DialCompare(ctx context.Context, cfg DialConfig) (*CompareConn, error) {
	c, _, err := dial(ctx, &cfg, PurposeCompare)
	if err != nil {
		return nil, err
	}
	cc := &CompareConn{c: c, timing: cfg.Timing.withDefaults(), done: make(chan struct{}), pong: make(chan uint64, 1)}
	cc.wg.Go(cc.readLoop)
	cc.wg.Go(cc.pingLoop)
	return cc, nil
}

// Hashes asks and waits for the answer. An error other than ctx's ends the
// connection for all its users.
func (cc *CompareConn) Hashes(ctx context.Context, req *CompareRequest) (CompareAnswer, error) {
	if err := req.Validate(); err != nil {
		return CompareAnswer{}, problem.Wrap(err, problem.InvalidRequest, "")
	}
	q := &question{units: req.Units(), answer: make(chan CompareAnswer, 1)}
	if err := cc.ask(req, q); err != nil {
		return CompareAnswer{}, err
	}
	select {
	case a := <-q.answer:
		return a, nil
	case <-cc.done:
		return CompareAnswer{}, cc.Err()
	case <-ctx.Done():
		return CompareAnswer{}, context.Cause(ctx)
	}
}

func (cc *CompareConn) ask(req *CompareRequest, q *question) error {
	cc.wmu.Lock()
	defer cc.wmu.Unlock()
	cc.mu.Lock()
	err := cc.err
	if err == nil {
		cc.pending = append(cc.pending, q)
	}
	cc.mu.Unlock()
	if err != nil {
		return err
	}
	cc.buf = appendAsk(cc.buf[:0], req)
	if err := cc.c.write(msgAsk, cc.buf); err != nil {
		return cc.writeFailed(err)
	}
	return nil
}

// writeFailed prefers the refusal that the reader may find.
func (cc *CompareConn) writeFailed(err error) error {
	t := time.NewTimer(time.Second)
	defer t.Stop()
	select {
	case <-cc.done:
	case <-t.C:
		cc.fail(problem.Wrap(err, problem.GatewayUnreachable, ""))
	}
	return cc.Err()
}

// Err returns why the connection ended; nil while it stands.
func (cc *CompareConn) Err() error {
	cc.mu.Lock()
	defer cc.mu.Unlock()
	return cc.err
}

// Close ends the connection and waits for its goroutines.
func (cc *CompareConn) Close() error {
	cc.fail(errStopped)
	cc.wg.Wait()
	return nil
}

func (cc *CompareConn) fail(err error) {
	cc.mu.Lock()
	first := cc.err == nil
	if first {
		cc.err = err
		cc.pending = nil
		close(cc.done)
	}
	cc.mu.Unlock()
	if first {
		_ = cc.c.sock.Close()
	}
}

func (cc *CompareConn) readLoop() {
	for {
		typ, payload, err := cc.c.read()
		if err == nil {
			err = cc.take(typ, payload)
		}
		if err != nil {
			cc.fail(endProblem(err, cc.timing.DeadAfter))
			return
		}
	}
}

func (cc *CompareConn) take(typ msgType, payload []byte) error {
	switch typ {
	case msgAnswer:
		cc.mu.Lock()
		defer cc.mu.Unlock()
		if len(cc.pending) == 0 {
			return problem.New(problem.ProtocolError, "an answer that nobody asked for")
		}
		q := cc.pending[0]
		a, err := parseAnswer(payload, q.units)
		if err != nil {
			return err
		}
		a.Hashes = append([]byte(nil), a.Hashes...)
		cc.pending = cc.pending[1:]
		q.answer <- a
		return nil
	case msgPing:
		return takePing(payload, cc.pong)
	case msgPong:
		return nil
	case msgRefusal:
		return readRefusal(payload)
	}
	return problem.New(problem.ProtocolError, "message of type %d in a compare connection", typ)
}

func (cc *CompareConn) pingLoop() {
	tick := time.NewTicker(cc.timing.KeepAlive)
	defer tick.Stop()
	var b [pingSize]byte
	for {
		typ := msgPing
		select {
		case <-cc.done:
			return
		case v := <-cc.pong:
			typ = msgPong
			binary.LittleEndian.PutUint64(b[:], v)
		case <-tick.C:
		}
		if err := cc.c.write(typ, b[:]); err != nil {
			_ = cc.writeFailed(err)
			return
		}
	}
}
