package link

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"rebound/internal/problem"
)

// answering is one compare connection at the standby: the reader starts a
// goroutine for each request, at most CompareWorkers at a time, and the writer
// sends their answers in the order of the requests.
type answering struct {
	c    *conn
	cfg  *ServerConfig
	cmp  Comparer
	head *headMark

	order chan *reply
	pong  chan uint64
	pool  sync.Pool
}

type reply struct {
	buf []byte
	err error
	ok  chan struct{} // closed when buf or err is set
}

func (s *Server) serveCompare(ctx context.Context, c *conn, peer Peer, hello *Hello) error {
	cmp, err := s.cfg.Handler.OpenCompare(ctx, peer, hello)
	if err != nil {
		return err
	}
	s.mu.Lock()
	head := &s.groups[hello.Group].head
	s.mu.Unlock()
	an := &answering{
		c: c, cfg: &s.cfg, cmp: cmp, head: head,
		order: make(chan *reply, s.cfg.CompareWorkers-1), pong: make(chan uint64, 1),
	}
	err = an.run(ctx, &Welcome{Version: best(hello.Versions), StandbyClock: s.cfg.Now().UTC()})
	if cerr := cmp.Close(); cerr != nil && err == nil {
		err = fmt.Errorf("close comparer: %w", cerr)
	}
	return err
}

func (an *answering) run(ctx context.Context, w *Welcome) error {
	if err := an.c.writeJSON(msgWelcome, w); err != nil {
		return peerGone(err)
	}
	if err := an.c.sock.established(an.cfg.Timing.DeadAfter); err != nil {
		return peerGone(err)
	}
	if ctx.Err() != nil { // its stop may have come before established
		return context.Cause(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	var workers, writer sync.WaitGroup
	var werr error
	writer.Go(func() {
		werr = an.writeLoop(ctx)
		an.c.sock.stop()
		cancel()
	})
	err := an.readLoop(ctx, &workers)
	cancel()
	workers.Wait()
	writer.Wait()
	if werr != nil {
		return werr
	}
	return err
}

func (an *answering) readLoop(ctx context.Context, workers *sync.WaitGroup) error {
	for {
		typ, payload, err := an.c.read()
		if err != nil {
			return peerGone(err)
		}
		switch typ {
		case msgAsk:
			req, err := parseAsk(payload)
			if err != nil {
				return err
			}
			r := &reply{ok: make(chan struct{})}
			select {
			case an.order <- r: // waits while all workers are busy
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			workers.Go(func() { an.answer(ctx, req, r) })
		case msgPing:
			if err := takePing(payload, an.pong); err != nil {
				return err
			}
		case msgPong:
		default:
			return problem.New(problem.ProtocolError, "message of type %d in a compare connection", typ)
		}
	}
}

func (an *answering) answer(ctx context.Context, req *CompareRequest, r *reply) {
	defer close(r.ok)
	caught := an.head.wait(ctx, req.Epoch, req.After, an.cfg.HeadWait)
	buf, _ := an.pool.Get().(*[]byte)
	if buf == nil {
		buf = new([]byte)
	}
	head := appendAnswerHead((*buf)[:0], caught)
	r.buf, r.err = an.cmp.Hashes(ctx, req, head)
	if r.err == nil && len(r.buf) != 1+req.Units()*HashSize {
		r.err = fmt.Errorf("comparer gave %d bytes for %d hashes", len(r.buf)-1, req.Units())
	}
}

func (an *answering) writeLoop(ctx context.Context) error {
	tick := time.NewTicker(an.cfg.Timing.KeepAlive)
	defer tick.Stop()
	var b [pingSize]byte
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case v := <-an.pong:
			binary.LittleEndian.PutUint64(b[:], v)
			err = an.c.write(msgPong, b[:])
		case <-tick.C:
			err = an.c.write(msgPing, b[:])
		case r := <-an.order:
			err = an.send(ctx, r, tick)
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// send waits for one answer and sends it; while it waits, pings go on.
func (an *answering) send(ctx context.Context, r *reply, tick *time.Ticker) error {
	var b [pingSize]byte
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := an.c.write(msgPing, b[:]); err != nil {
				return peerGone(err)
			}
		case <-r.ok:
			if r.err != nil {
				if errors.Is(r.err, context.Canceled) {
					return nil
				}
				return r.err
			}
			if err := an.c.write(msgAnswer, r.buf); err != nil {
				return peerGone(err)
			}
			an.pool.Put(&r.buf)
			return nil
		}
	}
}
