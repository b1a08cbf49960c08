package link

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/problem"
)

// TestSenderDeliversOnceInOrder sends over a clean connection. The standby
// must have had nothing to refuse and the sender no reason to connect twice:
// a dropped, swapped or repeated frame shows here.
func TestSenderDeliversOnceInOrder(t *testing.T) {
	s := newSite(t, func(c *ServerConfig) { c.Timing = Timing{} })
	s.dial.Timing = Timing{} // a loaded machine is no dead peer
	snd, err := NewSender(SenderConfig{Dial: s.dial, BackoffMin: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	w, err := snd.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if w.Epoch != 1 || !w.Fresh || w.Durable != 0 {
		t.Errorf("welcome %+v", w)
	}
	src := &ringSource{t: t, epoch: w.Epoch, total: 5000, cut: func() dr.Seq { return 7 }}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := snd.Run(ctx, src); err != nil {
		t.Errorf("run: %v", err)
	}
	s.stop()
	s.standby.checkPayload(5000)
	if src.trimmed != 5000 {
		t.Errorf("trimmed to %d", src.trimmed)
	}
	if st := snd.Status(); st.Connects != 1 || st.Failures != 0 || st.Durable != 5000 {
		t.Errorf("status %+v", st)
	}
	if n := s.server.Refused(); len(n) != 0 {
		t.Errorf("the standby refused %v", n)
	}
}

// cutConn closes itself after a number of bytes in either direction.
type cutConn struct {
	net.Conn
	left *atomic.Int64
}

func (c *cutConn) spend(p []byte) []byte {
	if left := c.left.Load(); int64(len(p)) > left {
		return p[:max(left, 0)]
	}
	return p
}

func (c *cutConn) Write(p []byte) (int, error) {
	q := c.spend(p)
	n, err := c.Conn.Write(q)
	if c.left.Add(-int64(n)) <= 0 && len(q) < len(p) {
		_ = c.Conn.Close()
		return n, io.ErrClosedPipe
	}
	return n, err
}

func (c *cutConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.left.Add(-int64(n)) < 0 {
		_ = c.Conn.Close()
	}
	return n, err
}

// TestSenderSurvivesCuts breaks connections at random bytes; what was not
// durable is lost at the standby each time.
func TestSenderSurvivesCuts(t *testing.T) {
	rng := rand.New(rand.NewPCG(testSeed(t), 1))
	s := newSite(t, nil)
	var mu sync.Mutex
	cuts := 0
	s.dial.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		mu.Lock()
		defer mu.Unlock()
		if cuts++; cuts > 60 {
			return c, nil
		}
		cut := &cutConn{Conn: c, left: &atomic.Int64{}}
		cut.left.Store(rng.Int64N(20000))
		return cut, nil
	}
	snd, err := NewSender(SenderConfig{Dial: s.dial, BackoffMin: time.Millisecond, BackoffMax: 2 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	w, err := snd.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	sizes := rand.New(rand.NewPCG(rng.Uint64(), 2))
	const total = 30000
	src := &ringSource{t: t, epoch: w.Epoch, total: total, cut: func() dr.Seq { return dr.Seq(1 + sizes.IntN(40)) }}
	if err := snd.Run(ctx, src); err != nil {
		t.Fatalf("run: %v", err)
	}
	s.stop()
	s.standby.checkPayload(total)
	if n := s.server.Refused()[problem.ProtocolError]; n != 0 {
		t.Errorf("%d connections were ended for a broken protocol", n)
	}
	if st := snd.Status(); st.Failures < 20 || st.Durable != total {
		t.Errorf("status %+v: were there no cuts?", st)
	}
}

func TestFinishWaitsUntilDurable(t *testing.T) {
	s := newSite(t, nil)
	s.standby.hold = true
	st := mustDial(t, s.dial)
	if err := st.Send(t.Context(), buildFrame(t, 1, 1, 1, 3)); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- st.Finish(t.Context()) }()
	select {
	case err := <-ended:
		t.Fatalf("finish returned %v with nothing durable", err)
	case <-time.After(1300 * time.Millisecond): // longer than DeadAfter: keep-alives hold the line
	}
	s.standby.sync()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	var last dr.Seq
	for seq := range st.Acks() {
		last = seq
	}
	if last != 3 || st.Durable() != 3 || st.RoundTrip() <= 0 {
		t.Errorf("acknowledged %d, durable %d, round trip %v", last, st.Durable(), st.RoundTrip())
	}
}

func TestCreditsBoundTheSender(t *testing.T) {
	s := newSite(t, func(c *ServerConfig) { c.CreditFrames = 10 })
	s.standby.hold = true
	st := mustDial(t, s.dial)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	seq := dr.Seq(0)
	var err error
	for err == nil && seq < 100 {
		if err = st.Send(ctx, buildFrame(t, 1, 1, seq+1, seq+1)); err == nil {
			seq++
		}
	}
	if seq != 10 || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("sent %d frames, then %v", seq, err)
	}
	eventually(t, "all frames appended", func() bool {
		st := s.server.Streams()
		return len(st) == 1 && st[0].Appended == 10
	})
	s.standby.sync()
	for ; seq < 20; seq++ {
		if err := st.Send(t.Context(), buildFrame(t, 1, 1, seq+1, seq+1)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestByteCreditsBoundTheSender(t *testing.T) {
	s := newSite(t, func(c *ServerConfig) { c.CreditBytes = 1 }) // raised to one frame
	s.standby.hold = true
	st := mustDial(t, s.dial)
	frame := buildFrame(t, 1, 1, 1, 8000)
	next := buildFrame(t, 1, 1, 8001, 16000)
	var total int
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var err error
	for i, seq := 0, dr.Seq(0); i < 100 && err == nil; i++ {
		if i > 1 {
			next = buildFrame(t, 1, 1, seq+1, seq+8000)
		}
		f := frame
		if i > 0 {
			f = next
		}
		if err = st.Send(ctx, f); err == nil {
			total += len(f)
			seq += 8000
		}
	}
	if limit := int(st.Welcome().CreditBytes); total > limit || total < limit/2 || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("sent %d bytes with a credit of %d, then %v", total, limit, err)
	}
}

// TestDeadPeerIsNoticed lets the network swallow everything without a word.
func TestDeadPeerIsNoticed(t *testing.T) {
	s := newSite(t, nil)
	var hole atomic.Bool
	s.dial.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		return &holeConn{Conn: c, hole: &hole}, err
	}
	st := mustDial(t, s.dial)
	if err := st.Send(t.Context(), buildFrame(t, 1, 1, 1, 1)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "acknowledged", func() bool { return st.Durable() == 1 })
	hole.Store(true)
	select {
	case <-st.Done():
		wantCode(t, st.Err(), problem.GatewayUnreachable)
		if Permanent(st.Err()) {
			t.Error("a dead peer is taken for permanent")
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the source did not notice")
	}
	eventually(t, "the standby noticed", func() bool { return len(s.server.Streams()) == 0 })
}

// holeConn discards writes and never reads while hole is set.
type holeConn struct {
	net.Conn
	hole *atomic.Bool
}

func (c *holeConn) Write(p []byte) (int, error) {
	if c.hole.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *holeConn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if !c.hole.Load() || err != nil {
			return n, err
		}
	}
}

func TestSinkErrorReachesTheSource(t *testing.T) {
	s := newSite(t, nil)
	s.standby.onAppend = func() error { return problem.New(problem.NoRoom, "volume full") }
	st := mustDial(t, s.dial)
	if err := st.Send(t.Context(), buildFrame(t, 1, 1, 1, 1)); err != nil {
		t.Fatal(err)
	}
	<-st.Done()
	wantCode(t, st.Err(), problem.NoRoom)
	if Permanent(st.Err()) {
		t.Error("no room is permanent")
	}
}

// TestSenderRetriesUntilRoom meets a refusal that passes by itself.
func TestSenderRetriesUntilRoom(t *testing.T) {
	s := newSite(t, nil)
	var tries atomic.Int32
	s.standby.onAppend = func() error {
		if tries.Add(1) < 4 {
			return problem.New(problem.NoRoom, "volume full")
		}
		return nil
	}
	snd, err := NewSender(SenderConfig{Dial: s.dial, BackoffMin: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	w, err := snd.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	src := &ringSource{t: t, epoch: w.Epoch, total: 100, cut: func() dr.Seq { return 50 }}
	if err := snd.Run(t.Context(), src); err != nil {
		t.Fatal(err)
	}
	s.stop()
	s.standby.checkPayload(100)
	wantCode(t, snd.Status().LastError, problem.NoRoom)
}

// TestSenderStopsWhenTheStandbyForgot demands that a lost acknowledged entry
// is never papered over.
func TestSenderStopsWhenTheStandbyForgot(t *testing.T) {
	s := newSite(t, nil)
	snd, err := NewSender(SenderConfig{Dial: s.dial, BackoffMin: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	w, err := snd.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	src := &ringSource{t: t, epoch: w.Epoch, total: 1 << 40, cut: func() dr.Seq { return 5 }}
	ended := make(chan error, 1)
	go func() { ended <- snd.Run(t.Context(), src) }()
	eventually(t, "acknowledged", func() bool { return snd.Status().Durable > 100 })
	s.standby.mu.Lock()
	s.standby.onAppend = func() error {
		s.standby.mu.Lock()
		defer s.standby.mu.Unlock()
		s.standby.durable, s.standby.appended = 50, 50
		s.standby.payload.Truncate(50 * 8)
		return errBoom
	}
	s.standby.mu.Unlock()
	err = <-ended
	wantCode(t, err, problem.JournalDamaged)
}

func TestRunEndsWithContext(t *testing.T) {
	s := newSite(t, nil)
	s.standby.hold = true
	snd, err := NewSender(SenderConfig{Dial: s.dial})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	w, err := snd.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	src := &ringSource{t: t, epoch: w.Epoch, total: 1 << 40, cut: func() dr.Seq { return 5 }}
	go func() { ended <- snd.Run(ctx, src) }()
	eventually(t, "frames out of credit", func() bool {
		st := s.server.Streams()
		return len(st) == 1 && st[0].Appended > 1000
	})
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("run: %v", err)
	}
}
