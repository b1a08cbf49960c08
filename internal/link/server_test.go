package link

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/segment"
)

func TestRefusals(t *testing.T) {
	other := newCA(t, "v2")
	cases := []struct {
		name      string
		change    func(*site)
		code      problem.Code
		permanent bool
	}{
		{"stale generation", func(s *site) { s.standby.gen = 2 }, problem.StaleGeneration, true},
		{"unknown group", func(s *site) { s.dial.Hello.Group = "x" }, problem.UnknownGroup, true},
		{"older epoch", func(s *site) { s.standby.epoch = 3; s.dial.Hello.Epoch = 2 }, problem.StaleEpoch, true},
		{"clock an hour ahead", func(s *site) { s.dial.Now = func() time.Time { return time.Now().Add(time.Hour) } }, problem.ClockSkew, true},
		{"clock an hour behind", func(s *site) { s.dial.Now = func() time.Time { return time.Now().Add(-time.Hour) } }, problem.ClockSkew, true},
		{"no disks", func(s *site) { s.dial.Hello.Disks = nil }, problem.InvalidRequest, true},
		{"no generation", func(s *site) { s.dial.Hello.Generation = 0 }, problem.InvalidRequest, true},
		{"standby full", func(s *site) { s.standby.admitErr = problem.New(problem.NoRoom, "full") }, problem.NoRoom, false},
		{"standby has a defect", func(s *site) { s.standby.admitErr = errBoom }, problem.InternalError, false},
		{"source of another vault", func(s *site) {
			// It trusts the standby's authority, but shows its own.
			s.dial.TLS = clientTLS(t, s.ca)
			s.dial.TLS.Certificates = clientTLS(t, other).Certificates
		}, problem.WrongVault, true},
		{"standby of another vault", func(s *site) { s.dial.TLS = clientTLS(t, other) }, problem.WrongVault, true},
		{"nobody listens", func(s *site) { s.stop() }, problem.GatewayUnreachable, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t, nil)
			c.change(s)
			st, err := Dial(t.Context(), s.dial)
			if err == nil {
				_ = st.Close()
			}
			wantCode(t, err, c.code)
			if err != nil && Permanent(err) != c.permanent {
				t.Errorf("permanent %v, want %v: %v", !c.permanent, c.permanent, err)
			}
			if s.standby.opened != 0 {
				t.Error("a stream was opened")
			}
		})
	}
}

// TestRefusalIsNotRetried demands that a Sender reports what no retry mends.
func TestRefusalIsNotRetried(t *testing.T) {
	s := newSite(t, nil)
	s.standby.gen = 9
	snd, err := NewSender(SenderConfig{Dial: s.dial})
	if err != nil {
		t.Fatal(err)
	}
	_, err = snd.Open(t.Context())
	wantCode(t, err, problem.StaleGeneration)
	if st := snd.Status(); st.Failures != 1 {
		t.Errorf("status %+v", st)
	}
}

// TestDamagedFramesAreRefused sends what a sender never may. The sink must not
// see it and the connection must end.
func TestDamagedFramesAreRefused(t *testing.T) {
	good := func(first, last dr.Seq) []byte { return buildFrame(t, 1, 1, first, last) }
	flipped := func(at int) []byte {
		f := good(4, 6)
		f[(at+len(f))%len(f)] ^= 0x10
		return f
	}
	cases := map[string][]byte{
		"repeated":             good(1, 3),
		"overlapping":          good(3, 5),
		"gap":                  good(5, 6),
		"other generation":     buildFrame(t, 2, 1, 4, 6),
		"other epoch":          buildFrame(t, 1, 2, 4, 6),
		"truncated":            good(4, 6)[:100],
		"longer than it says":  append(good(4, 6), 0),
		"empty":                {},
		"flipped header":       flipped(10),
		"flipped payload":      flipped(segment.HeaderSize + 3),
		"flipped entry table":  flipped(-40),
		"flipped block table":  flipped(-2),
		"two frames in one":    append(good(4, 5), good(6, 7)...),
		"not a frame":          make([]byte, 200),
		"frame of frame size0": good(4, 6)[:segment.HeaderSize],
	}
	for name, bad := range cases {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, nil)
			st := mustDial(t, s.dial)
			if err := st.Send(t.Context(), good(1, 3)); err != nil {
				t.Fatal(err)
			}
			if err := st.c.write(msgFrame, bad); err != nil {
				t.Fatal(err)
			}
			_ = st.c.write(msgFrame, good(4, 6)) // too late: the stream is over
			<-st.Done()
			wantCode(t, st.Err(), problem.ProtocolError)
			s.stop()
			s.standby.checkPayload(3)
		})
	}
}

// TestDamagedMessagesAreRefused breaks the layer below the frames.
func TestDamagedMessagesAreRefused(t *testing.T) {
	frame := buildFrame(t, 1, 1, 1, 3)
	message := func(typ msgType, number uint64, payload []byte) []byte {
		b := make([]byte, headerSize, headerSize+len(payload))
		putHeader(b, typ, number, payload)
		return append(b, payload...)
	}
	flip := func(b []byte, at int) []byte { b[at] ^= 1; return b }
	cases := map[string][]byte{
		"repeated number":  message(msgFrame, 1, frame),
		"skipped number":   message(msgFrame, 3, frame),
		"flipped length":   flip(message(msgFrame, 2, frame), 4),
		"flipped type":     flip(message(msgFrame, 2, frame), 2),
		"flipped checksum": flip(message(msgFrame, 2, frame), 17),
		"flipped ping":     flip(message(msgPing, 2, make([]byte, 8)), headerSize),
		"too long":         flip(message(msgFrame, 2, frame), 7),
		"second hello":     message(msgHello, 2, []byte("{}")),
		"an ack":           message(msgAck, 2, make([]byte, ackSize)),
		"a question":       message(msgAsk, 2, appendAsk(nil, &CompareRequest{Runs: []CompareRun{{0, 4096, 4096}}})),
		"noise":            []byte("GET / HTTP/1.1\r\nHost: standby.example\r\n\r\n"),
	}
	for name, bad := range cases {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, nil)
			st := mustDial(t, s.dial)
			st.c.wmu.Lock()
			_, err := st.c.plain.Write(bad)
			if err == nil {
				err = st.c.sock.Flush()
			}
			st.c.wmu.Unlock()
			if err != nil {
				t.Fatal(err)
			}
			<-st.Done()
			wantCode(t, st.Err(), problem.ProtocolError)
			s.stop()
			s.standby.checkPayload(0)
		})
	}
}

func TestNewerStreamReplacesOlder(t *testing.T) {
	s := newSite(t, nil)
	older := mustDial(t, s.dial)
	if err := older.Send(t.Context(), buildFrame(t, 1, 1, 1, 3)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "durable", func() bool { return older.Durable() == 3 })
	s.dial.Hello.Epoch = 1
	newer := mustDial(t, s.dial) // fakeStandby objects to two open sinks
	if w := newer.Welcome(); w.Durable != 3 {
		t.Errorf("welcome %+v", w)
	}
	<-older.Done()
	wantCode(t, older.Err(), problem.StreamReplaced)
	if !Permanent(older.Err()) {
		t.Error("a replaced stream would fight for its place")
	}
	// One that is not admitted replaces nobody.
	s.dial.Hello.Generation = 7
	s.standby.mu.Lock()
	s.standby.admitErr = problem.New(problem.StaleGeneration, "no")
	s.standby.mu.Unlock()
	if _, err := Dial(t.Context(), s.dial); !problem.HasCode(err, problem.StaleGeneration) {
		t.Errorf("dial: %v", err)
	}
	if err := newer.Send(t.Context(), buildFrame(t, 1, 1, 4, 5)); err != nil {
		t.Fatal(err)
	}
	if err := newer.Finish(t.Context()); err != nil {
		t.Error(err)
	}
	s.standby.checkPayload(5)
}

// TestFenceEndsTheStream raises the generation while frames pour in: once
// Fence has returned, nothing is taken.
func TestFenceEndsTheStream(t *testing.T) {
	s := newSite(t, nil)
	var fenced atomic.Bool
	s.standby.onAppend = func() error {
		if fenced.Load() {
			t.Error("a frame was taken after the fence")
		}
		time.Sleep(time.Millisecond) // let Fence come in the middle of an append
		if fenced.Load() {
			t.Error("Fence returned in the middle of an append")
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
	ended := make(chan error, 1)
	src := &ringSource{t: t, epoch: w.Epoch, total: 1 << 40, cut: func() dr.Seq { return 3 }}
	go func() { ended <- snd.Run(t.Context(), src) }()
	eventually(t, "frames arrive", func() bool { return snd.Status().Durable > 20 })
	s.standby.mu.Lock()
	s.standby.gen = 2
	s.standby.mu.Unlock()
	if err := s.server.Fence(t.Context(), "g", 2); err != nil {
		t.Fatal(err)
	}
	fenced.Store(true)
	wantCode(t, <-ended, problem.StaleGeneration)
	// The server refuses by itself, even if the handler would not.
	s.standby.mu.Lock()
	s.standby.gen = 1
	s.standby.mu.Unlock()
	if _, err := Dial(t.Context(), s.dial); !problem.HasCode(err, problem.StaleGeneration) {
		t.Errorf("dial: %v", err)
	}
	if len(s.server.Streams()) != 0 {
		t.Error("a stream is open")
	}
}

// TestStopTellsThePeer ends the server under an open stream.
func TestStopTellsThePeer(t *testing.T) {
	s := newSite(t, nil)
	st := mustDial(t, s.dial)
	s.stop()
	<-st.Done()
	wantCode(t, st.Err(), problem.GatewayUnreachable)
}

func TestServerDemandsCertificates(t *testing.T) {
	for _, cfg := range []*tls.Config{nil, {}, {ClientAuth: tls.RequireAnyClientCert}, {ClientAuth: tls.RequestClientCert}} {
		if _, err := NewServer(ServerConfig{TLS: cfg, Handler: &fakeStandby{}}); err == nil {
			t.Errorf("accepted %+v", cfg)
		}
	}
}

// TestSilentPeerIsDropped connects and says nothing.
func TestSilentPeerIsDropped(t *testing.T) {
	s := newSite(t, func(c *ServerConfig) { c.Timing.Handshake = 100 * time.Millisecond })
	c, err := net.Dial("tcp", s.dial.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, err := c.Read(make([]byte, 1))
	if ne, ok := err.(net.Error); n != 0 || err == nil || (ok && ne.Timeout()) {
		t.Errorf("read %d, %v", n, err)
	}
}

// echoComparer answers with the request's disk in every byte.
type echoComparer struct {
	mu   sync.Mutex
	busy int
	peak int
	fail error
}

func (e *echoComparer) Hashes(_ context.Context, req *CompareRequest, dst []byte) ([]byte, error) {
	e.mu.Lock()
	e.busy++
	e.peak = max(e.peak, e.busy)
	fail := e.fail
	e.mu.Unlock()
	time.Sleep(time.Duration(req.Disk%5) * time.Millisecond)
	defer func() {
		e.mu.Lock()
		e.busy--
		e.mu.Unlock()
	}()
	if fail != nil {
		return nil, fail
	}
	for range req.Units() * HashSize {
		dst = append(dst, byte(req.Disk))
	}
	return dst, nil
}

func (e *echoComparer) Close() error { return nil }

func TestCompareAnswersInOrder(t *testing.T) {
	s := newSite(t, nil)
	echo := &echoComparer{}
	s.standby.comparer = echo
	cc, err := DialCompare(t.Context(), s.dial)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			a, err := cc.Hashes(t.Context(), &CompareRequest{Disk: uint16(i), Runs: []CompareRun{{0, int64(i%9+1) * 5000, 4096}}})
			if err != nil || len(a.Hashes) == 0 || a.Hashes[0] != byte(i) || !a.Caught {
				t.Errorf("question %d: %+v, %v", i, a, err)
			}
		})
	}
	wg.Wait()
	if echo.peak < 2 {
		t.Error("the questions were answered one after the other")
	}
	echo.mu.Lock()
	echo.fail = problem.New(problem.UnknownDisk, "disk 9")
	echo.mu.Unlock()
	_, err = cc.Hashes(t.Context(), &CompareRequest{Runs: []CompareRun{{0, 4096, 4096}}})
	wantCode(t, err, problem.UnknownDisk)
	_ = cc.Close()
}

// TestCompareWaitsForTheHead asks for an entry that comes while it waits.
func TestCompareWaitsForTheHead(t *testing.T) {
	s := newSite(t, func(c *ServerConfig) { c.HeadWait = 300 * time.Millisecond })
	s.standby.comparer = &echoComparer{}
	st := mustDial(t, s.dial)
	cc, err := DialCompare(t.Context(), s.dial)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cc.Close() }()
	ask := func(after dr.Seq) bool {
		a, err := cc.Hashes(t.Context(), &CompareRequest{Epoch: 1, After: after, Runs: []CompareRun{{0, 4096, 4096}}})
		if err != nil {
			t.Fatal(err)
		}
		return a.Caught
	}
	if ask(3) {
		t.Error("caught up with an entry that was never sent")
	}
	got := make(chan bool, 1)
	go func() { got <- ask(3) }()
	if err := st.Send(t.Context(), buildFrame(t, 1, 1, 1, 3)); err != nil {
		t.Fatal(err)
	}
	if !<-got || !ask(2) {
		t.Error("not caught up")
	}
}

func TestFenceEndsComparing(t *testing.T) {
	s := newSite(t, nil)
	s.standby.comparer = &echoComparer{}
	cc, err := DialCompare(t.Context(), s.dial)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cc.Close() }()
	if err := s.server.Fence(t.Context(), "g", 2); err != nil {
		t.Fatal(err)
	}
	_, err = cc.Hashes(t.Context(), &CompareRequest{Runs: []CompareRun{{0, 4096, 4096}}})
	wantCode(t, err, problem.StaleGeneration)
}
