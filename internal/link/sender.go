package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"rebound/internal/dr"
	"rebound/internal/problem"
)

// FrameSource is where a Sender takes its frames from: the capture's ring.
//
// Contract:
//   - Next returns a whole frame whose first entry is after + 1, and the seq of
//     its last entry; it waits until there is one. The frame stays as it is
//     until the next call of Next. io.EOF means that the stream was sealed and
//     nothing follows after. after is never below the last Trim, and goes back
//     to it when a connection broke: frames may then be cut anew.
//   - Trim says that all up to seq is durable at the standby. It is called
//     from another goroutine than Next.
type FrameSource interface {
	Next(ctx context.Context, after dr.Seq) (frame []byte, last dr.Seq, err error)
	Trim(seq dr.Seq)
}

// SenderConfig configures a Sender.
type SenderConfig struct {
	Dial DialConfig
	// BackoffMin and BackoffMax bound the wait between two attempts to
	// connect; it doubles each time, with jitter. Defaults 50 ms and 5 s.
	BackoffMin, BackoffMax time.Duration
	// OnState is told of each change of Connected, nil-safe. It does not
	// block.
	OnState func(SenderStatus)
}

// SenderStatus is what a Sender can tell of itself.
type SenderStatus struct {
	Connected bool
	Epoch     dr.Epoch
	Durable   dr.Seq // newest acknowledged
	Sent      dr.Seq // newest sent
	// Connects counts the connections made, Failures the attempts and
	// connections that failed.
	Connects, Failures int
	RoundTrip          time.Duration
	LastError          error
}

// Sender keeps a stream going: it sends what the source has, trims the source
// to what is durable, and dials again when a connection breaks. Open first,
// then Run, once each.
type Sender struct {
	cfg    SenderConfig
	stream *Stream // from Open to Run

	mu     sync.Mutex
	status SenderStatus
	cur    *Stream
}

// NewSender returns a Sender for a stream.
func NewSender(cfg SenderConfig) (*Sender, error) {
	if err := cfg.Dial.Validate(); err != nil {
		return nil, err
	}
	if cfg.BackoffMin <= 0 {
		cfg.BackoffMin = 50 * time.Millisecond
	}
	if cfg.BackoffMax <= 0 {
		cfg.BackoffMax = 5 * time.Second
	}
	return &Sender{cfg: cfg}, nil
}

// Status returns the present state.
func (s *Sender) Status() SenderStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.status
	if s.cur != nil {
		st.RoundTrip = s.cur.RoundTrip()
		st.Durable = max(st.Durable, s.cur.Durable())
	}
	return st
}

// Open connects, trying again until it succeeds, ctx ends or the standby
// refuses for good, and returns the epoch that the frames belong to.
func (s *Sender) Open(ctx context.Context) (Welcome, error) {
	st, err := s.connect(ctx, s.newBackoff())
	if err != nil {
		return Welcome{}, err
	}
	w := st.Welcome()
	s.cfg.Dial.Hello.Epoch = w.Epoch
	s.sent(w.Durable)
	s.durable(w.Durable)
	s.stream = st
	return w, nil
}

// Close ends a Sender that was opened and will not Run.
func (s *Sender) Close() error {
	if st := s.stream; st != nil {
		s.stream = nil
		return st.Close()
	}
	return nil
}

// Run sends frames until the source says io.EOF and all of it is durable
// (nil), until ctx ends, or until going on is pointless: the standby refuses
// for good, or it has lost what it acknowledged.
func (s *Sender) Run(ctx context.Context, src FrameSource) error {
	if s.stream == nil {
		return errors.New("link: sender is not open")
	}
	st := s.stream
	s.stream = nil
	back := s.newBackoff()
	for {
		before := s.Status().Durable
		err := s.checkResume(st.Welcome())
		if err != nil {
			_ = st.Close()
			return err
		}
		err = s.pump(ctx, st, src)
		_ = st.Close()
		s.ended(st, err)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case Permanent(err):
			return err
		}
		if s.Status().Durable > before {
			back = s.newBackoff()
		}
		if err := back.wait(ctx); err != nil {
			return err
		}
		if st, err = s.connect(ctx, back); err != nil {
			return err
		}
	}
}

// checkResume refuses to go on with a standby that does not stand where the
// acknowledgements say: entries would be missing or foreign.
func (s *Sender) checkResume(w Welcome) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.Durable < s.status.Durable {
		return problem.New(problem.JournalDamaged, "the standby acknowledged entry %d of epoch %d and has only %d", s.status.Durable, w.Epoch, w.Durable)
	}
	if w.Durable > s.status.Sent {
		return fmt.Errorf("resume stream: %w", problem.New(problem.StaleEpoch, "the standby has entry %d of epoch %d, sent were %d", w.Durable, w.Epoch, s.status.Sent))
	}
	return nil
}

// pump moves frames over one connection until it breaks or the source ends.
func (s *Sender) pump(ctx context.Context, st *Stream, src FrameSource) error {
	ctx, cancel := context.WithCancelCause(ctx)
	// A send that blocks in the socket ends with ctx, too.
	release := context.AfterFunc(ctx, func() { st.fail(errStopped) })
	var wg sync.WaitGroup
	defer func() {
		cancel(nil)
		release()
		_ = st.Close()
		wg.Wait()
	}()
	after := st.Welcome().Durable
	s.durable(after)
	src.Trim(after)
	wg.Go(func() {
		for seq := range st.Acks() {
			s.durable(seq)
			src.Trim(seq)
		}
		cancel(st.Err())
	})
	cut := sabotage{}
	for {
		frame, last, err := src.Next(ctx, after)
		if errors.Is(err, io.EOF) {
			if err := st.Finish(ctx); err != nil {
				return err
			}
			wg.Wait()
			if n := st.Durable(); n != after {
				return problem.New(problem.ProtocolError, "the stream ended with %d of %d entries durable", n, after)
			}
			return nil
		}
		if err == nil {
			s.sent(last)
			err = cut.send(ctx, st, frame)
			after = last
		}
		if err != nil {
			if end := st.Err(); end != nil && !errors.Is(end, errStopped) {
				return end
			}
			return err
		}
	}
}

func (s *Sender) durable(seq dr.Seq) {
	s.mu.Lock()
	s.status.Durable = max(s.status.Durable, seq)
	s.mu.Unlock()
}

func (s *Sender) sent(seq dr.Seq) {
	s.mu.Lock()
	s.status.Sent = max(s.status.Sent, seq)
	s.mu.Unlock()
}

// connect dials until it succeeds.
func (s *Sender) connect(ctx context.Context, back *backoff) (*Stream, error) {
	for {
		st, err := Dial(ctx, s.cfg.Dial)
		if err == nil {
			s.connected(st)
			return st, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		s.failed(err)
		if Permanent(err) {
			return nil, err
		}
		if err := back.wait(ctx); err != nil {
			return nil, err
		}
	}
}

func (s *Sender) connected(st *Stream) {
	s.mu.Lock()
	s.cur = st
	s.status.Connected = true
	s.status.Connects++
	s.status.Epoch = st.Welcome().Epoch
	s.mu.Unlock()
	s.cfg.Dial.logger().Info("stream connected", "group", s.cfg.Dial.Hello.Group, "epoch", st.Welcome().Epoch, "durable", st.Welcome().Durable)
	s.tell()
}

func (s *Sender) ended(st *Stream, err error) {
	s.mu.Lock()
	s.status.Durable = max(s.status.Durable, st.Durable())
	s.cur = nil
	s.status.Connected = false
	s.mu.Unlock()
	if err == nil {
		s.tell()
		return
	}
	s.failed(err)
}

func (s *Sender) failed(err error) {
	s.mu.Lock()
	s.status.Failures++
	s.status.LastError = err
	s.mu.Unlock()
	s.cfg.Dial.logger().Warn("stream not connected", "group", s.cfg.Dial.Hello.Group, "error", err)
	s.tell()
}

func (s *Sender) tell() {
	if s.cfg.OnState != nil {
		s.cfg.OnState(s.Status())
	}
}

func (s *Sender) newBackoff() *backoff {
	return &backoff{next: s.cfg.BackoffMin, limit: s.cfg.BackoffMax}
}

// backoff waits twice as long each time, up to a limit, with a jitter of half.
type backoff struct{ next, limit time.Duration }

func (b *backoff) wait(ctx context.Context) error {
	d := b.next/2 + rand.N(b.next/2+1)
	b.next = min(2*b.next, b.limit)
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
