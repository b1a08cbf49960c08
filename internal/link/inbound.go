package link

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/segment"
)

// errPeerGone marks the end of a connection whose peer is not there to be told.
var errPeerGone = errors.New("link: peer gone")

// peerGone marks errors of reading from the network.
func peerGone(err error) error {
	if errors.Is(err, errWire) {
		return err
	}
	return fmt.Errorf("%w: %w", errPeerGone, err)
}

// inbound is one stream at the standby. One goroutine reads and appends,
// another writes acknowledgements.
type inbound struct {
	c    *conn
	cfg  *ServerConfig
	gen  dr.Generation
	epo  dr.Epoch
	sink StreamSink
	head *headMark

	kick chan struct{} // one token: there is something to acknowledge
	pong chan uint64
	bye  chan struct{} // closed when the source said that nothing follows

	finished atomic.Bool // after a bye, all was acknowledged

	mu       sync.Mutex
	appended dr.Seq
	durable  dr.Seq // as the sink says; may run ahead of appended
	queue    creditQueue
}

// describe fills the changing fields of info.
func (in *inbound) describe(info StreamInfo) StreamInfo {
	in.mu.Lock()
	defer in.mu.Unlock()
	info.Epoch = in.epo
	info.Appended, info.Durable = in.appended, min(in.durable, in.appended)
	return info
}

// serveStream opens the group's sink and fills it until the stream ends.
func (s *Server) serveStream(ctx context.Context, c *conn, peer Peer, hello *Hello, l *lease) error {
	in := &inbound{
		c: c, cfg: &s.cfg, gen: hello.Generation,
		kick: make(chan struct{}, 1), pong: make(chan uint64, 1), bye: make(chan struct{}),
	}
	w, sink, err := s.cfg.Handler.OpenStream(ctx, peer, hello, in.durableUpTo)
	if err != nil {
		return err
	}
	in.mu.Lock()
	in.sink, in.epo, in.appended, in.durable = sink, w.Epoch, w.Durable, max(in.durable, w.Durable)
	in.mu.Unlock()
	s.mu.Lock()
	l.st = in
	in.head = &s.groups[hello.Group].head
	s.mu.Unlock()
	in.head.set(w.Epoch, w.Durable)
	w.Version = best(hello.Versions)
	w.CreditBytes, w.CreditFrames = s.cfg.CreditBytes, s.cfg.CreditFrames
	w.StandbyClock = s.cfg.Now().UTC()
	err = in.run(ctx, &w)
	if cerr := sink.Close(); cerr != nil && err == nil {
		err = fmt.Errorf("close sink: %w", cerr)
	}
	return err
}

// run writes the welcome and serves until the connection ends.
func (in *inbound) run(ctx context.Context, w *Welcome) error {
	if err := in.c.writeJSON(msgWelcome, w); err != nil {
		return peerGone(err)
	}
	if err := in.c.sock.established(in.cfg.Timing.DeadAfter); err != nil {
		return peerGone(err)
	}
	if ctx.Err() != nil { // its stop may have come before established
		return context.Cause(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { in.writeLoop(ctx) })
	err := in.readLoop(ctx)
	cancel()
	in.c.sock.stop()
	wg.Wait()
	if in.finished.Load() {
		return nil
	}
	return err
}

// readLoop takes frames until the connection ends.
func (in *inbound) readLoop(ctx context.Context) error {
	ended := false
	for {
		typ, payload, err := in.c.read()
		if err != nil {
			return peerGone(err)
		}
		if ended && (typ == msgFrame || typ == msgBye) {
			return problem.New(problem.ProtocolError, "message of type %d after a bye", typ)
		}
		switch typ {
		case msgFrame:
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			if err := in.takeFrame(ctx, payload); err != nil {
				return err
			}
		case msgPing:
			if err := takePing(payload, in.pong); err != nil {
				return err
			}
		case msgPong:
			if _, err := parsePing(payload); err != nil {
				return err
			}
		case msgBye:
			close(in.bye)
			ended = true
		default:
			return problem.New(problem.ProtocolError, "message of type %d in a stream", typ)
		}
	}
}

// takeFrame checks that a frame is whole and the next one, and appends it.
func (in *inbound) takeFrame(ctx context.Context, buf []byte) error {
	f, err := segment.ParseFrame(buf)
	if err != nil {
		return problem.Wrap(err, problem.ProtocolError, "frame")
	}
	switch {
	case f.Size != len(buf):
		return problem.New(problem.ProtocolError, "frame of %d bytes in a message of %d", f.Size, len(buf))
	case f.Generation != in.gen:
		return problem.New(problem.ProtocolError, "frame of generation %d in a stream of %d", f.Generation, in.gen)
	case f.Epoch != in.epo:
		return problem.New(problem.ProtocolError, "frame of epoch %d in a stream of %d", f.Epoch, in.epo)
	case f.First != in.appended+1: // only this goroutine changes appended
		return problem.New(problem.ProtocolError, "frame begins at entry %d, the next one is %d", f.First, in.appended+1)
	}
	if err := in.admit(len(buf)); err != nil {
		return err
	}
	if err := in.sink.Append(ctx, buf); err != nil {
		return fmt.Errorf("append frame: %w", err)
	}
	in.mu.Lock()
	in.appended = f.Last()
	in.queue.push(f.Last(), uint64(len(buf)))
	ready := in.durable >= in.appended
	in.mu.Unlock()
	in.head.advance(f.Last())
	if ready {
		in.poke()
	}
	return nil
}

// admit checks that the source keeps to its credits.
func (in *inbound) admit(n int) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.queue.bytes+uint64(n) > in.cfg.CreditBytes || uint64(in.queue.len()) >= in.cfg.CreditFrames {
		return problem.New(problem.ProtocolError, "a frame beyond the credits")
	}
	return nil
}

// durableUpTo is the sink's report.
func (in *inbound) durableUpTo(seq dr.Seq) {
	in.mu.Lock()
	grew := seq > in.durable
	in.durable = max(in.durable, seq)
	in.mu.Unlock()
	if grew {
		in.poke()
	}
}

func (in *inbound) poke() {
	select {
	case in.kick <- struct{}{}:
	default:
	}
}

// acknowledge returns what is durable and the credits that follow from it.
func (in *inbound) acknowledge() (a ack, all bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	a.durable = min(in.durable, in.appended)
	in.queue.pop(a.durable)
	a.bytes = in.queue.freedBytes + in.cfg.CreditBytes
	a.frames = in.queue.freedFrames + in.cfg.CreditFrames
	return a, a.durable == in.appended
}

// writeLoop acknowledges, answers pings and keeps the connection alive. After
// a bye it ends once everything is acknowledged.
func (in *inbound) writeLoop(ctx context.Context) {
	tick := time.NewTicker(in.cfg.Timing.KeepAlive)
	defer tick.Stop()
	var ackBuf [ackSize]byte
	var pingBuf [pingSize]byte
	var last dr.Seq
	bye, ending := in.bye, false
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-bye:
			bye, ending = nil, true
		case <-in.kick:
		case v := <-in.pong:
			binary.LittleEndian.PutUint64(pingBuf[:], v)
			err = in.c.write(msgPong, pingBuf[:])
		case <-tick.C:
			err = in.c.write(msgPing, pingBuf[:])
		}
		a, all := in.acknowledge()
		if err == nil && a.durable > last {
			err = in.c.write(msgAck, a.put(&ackBuf))
			last = a.durable
		}
		if err == nil && ending && all {
			err = in.c.write(msgBye, nil)
			in.finished.Store(err == nil)
			in.c.sock.stop()
			return
		}
		if err != nil {
			in.c.sock.stop() // ends the reader
			return
		}
	}
}

// creditQueue remembers the frames that are appended and not durable.
type creditQueue struct {
	ring        []creditItem
	head, n     int
	bytes       uint64 // in the queue
	freedBytes  uint64
	freedFrames uint64
}

type creditItem struct {
	last  dr.Seq
	bytes uint64
}

func (q *creditQueue) len() int { return q.n }

func (q *creditQueue) push(last dr.Seq, n uint64) {
	if q.n == len(q.ring) {
		grown := make([]creditItem, max(64, 2*len(q.ring)))
		for i := range q.n {
			grown[i] = q.ring[(q.head+i)%len(q.ring)]
		}
		q.ring, q.head = grown, 0
	}
	q.ring[(q.head+q.n)%len(q.ring)] = creditItem{last, n}
	q.n++
	q.bytes += n
}

func (q *creditQueue) pop(durable dr.Seq) {
	for q.n > 0 && q.ring[q.head].last <= durable {
		q.bytes -= q.ring[q.head].bytes
		q.freedBytes += q.ring[q.head].bytes
		q.freedFrames++
		q.head = (q.head + 1) % len(q.ring)
		q.n--
	}
}

// headMark is how far a group's head view is, for compare requests to wait for.
type headMark struct {
	mu      sync.Mutex
	epoch   dr.Epoch
	seq     dr.Seq
	waiting int
	changed chan struct{}
}

func (m *headMark) init() { m.changed = make(chan struct{}) }

func (m *headMark) set(epoch dr.Epoch, seq dr.Seq) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.epoch, m.seq = epoch, seq
	m.wake()
}

func (m *headMark) advance(seq dr.Seq) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seq = seq
	m.wake()
}

func (m *headMark) wake() {
	if m.waiting > 0 {
		close(m.changed)
		m.changed = make(chan struct{})
		m.waiting = 0
	}
}

// wait returns whether the head view shows the entry, after at most timeout.
func (m *headMark) wait(ctx context.Context, epoch dr.Epoch, seq dr.Seq, timeout time.Duration) bool {
	var timer *time.Timer
	for {
		m.mu.Lock()
		shown := seq == 0 || (m.epoch == epoch && m.seq >= seq)
		if shown || m.epoch > epoch {
			m.mu.Unlock()
			return shown
		}
		m.waiting++
		changed := m.changed
		m.mu.Unlock()
		if timer == nil {
			timer = time.NewTimer(timeout)
			defer timer.Stop()
		}
		select {
		case <-changed:
		case <-timer.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}
