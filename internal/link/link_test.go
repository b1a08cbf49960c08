package link

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/problem"
	"rebound/internal/segment"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testSeed returns the seed of a random test: LINK_SEED, or the clock.
func testSeed(t *testing.T) uint64 {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("LINK_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	t.Logf("LINK_SEED=%d", seed)
	return seed
}

// fakeStandby is a Handler that keeps what it is given in memory and checks
// the contract of the link on the way.
type fakeStandby struct {
	t testing.TB

	mu       sync.Mutex
	gen      dr.Generation // what Admit accepts
	admitErr error
	epoch    dr.Epoch
	appended dr.Seq
	durable  dr.Seq
	payload  bytes.Buffer // all entries' data, in order
	open     int
	opened   int
	hold     bool // nothing becomes durable
	report   func(dr.Seq)
	onAppend func() error
	comparer Comparer
}

func (f *fakeStandby) Admit(_ context.Context, peer Peer, h *Hello) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if who, err := identity.PeerOf(peer.State); err != nil || who.Name != "home" {
		f.t.Errorf("peer %v, %v", who, err)
	}
	if f.admitErr != nil {
		return f.admitErr
	}
	if h.Group != "g" {
		return problem.New(problem.UnknownGroup, "%s", h.Group)
	}
	if h.Generation < f.gen {
		return staleGeneration(h.Group, h.Generation, f.gen)
	}
	return nil
}

func (f *fakeStandby) OpenStream(_ context.Context, _ Peer, h *Hello, durable func(dr.Seq)) (Welcome, StreamSink, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open != 0 {
		f.t.Errorf("a second stream is opened while one is open")
	}
	if h.Epoch == 0 {
		f.epoch++
		f.appended, f.durable = 0, 0
	} else if h.Epoch != f.epoch {
		return Welcome{}, nil, problem.New(problem.StaleEpoch, "epoch %d", h.Epoch)
	}
	// What was appended and not durable is lost with the connection, as
	// after a crash of the standby: the harder case.
	if lost := int(f.appended - f.durable); lost > 0 {
		f.payload.Truncate(f.payload.Len() - 8*lost)
	}
	f.appended = f.durable
	f.open++
	f.opened++
	f.report = durable
	return Welcome{Epoch: f.epoch, Durable: f.durable, Fresh: f.opened == 1}, &fakeSink{f: f, gen: h.Generation}, nil
}

func (f *fakeStandby) OpenCompare(context.Context, Peer, *Hello) (Comparer, error) {
	if f.comparer == nil {
		return nil, problem.New(problem.UnknownGroup, "nothing to compare")
	}
	return f.comparer, nil
}

// sync makes all that was appended durable and reports it.
func (f *fakeStandby) sync() {
	f.mu.Lock()
	f.durable = f.appended
	n, report := f.durable, f.report
	f.mu.Unlock()
	report(n)
}

type fakeSink struct {
	f      *fakeStandby
	gen    dr.Generation
	frames int
}

func (s *fakeSink) Append(_ context.Context, buf []byte) error {
	f := s.f
	fr, err := segment.ParseFrame(buf)
	if err != nil {
		f.t.Errorf("the sink got a damaged frame: %v", err)
		return err
	}
	f.mu.Lock()
	if f.onAppend != nil {
		hook := f.onAppend
		f.mu.Unlock()
		if err := hook(); err != nil {
			return err
		}
		f.mu.Lock()
	}
	if fr.First != f.appended+1 || fr.Epoch != f.epoch || fr.Generation != s.gen {
		f.t.Errorf("the sink got entry %d of epoch %d after %d of %d", fr.First, fr.Epoch, f.appended, f.epoch)
	}
	data := make([]byte, fr.Payload)
	if err := fr.ReadPayload(data, 0); err != nil {
		f.t.Errorf("payload: %v", err)
	}
	f.payload.Write(data)
	f.appended = fr.Last()
	s.frames++
	hold := f.hold
	f.mu.Unlock()
	if !hold && s.frames%3 == 0 {
		f.sync()
	} else if !hold {
		time.AfterFunc(time.Millisecond, f.sync)
	}
	return nil
}

func (s *fakeSink) Close() error {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	s.f.open--
	return nil
}

// site is a standby with a running server, and what is needed to dial it.
type site struct {
	t       testing.TB
	standby *fakeStandby
	server  *Server
	dial    DialConfig
	ca      *identity.CA
	stop    func()
}

var fastTiming = Timing{Handshake: 5 * time.Second, KeepAlive: 50 * time.Millisecond, DeadAfter: time.Second}

func newCA(t testing.TB, vault string) *identity.CA {
	ca, err := identity.OpenCA(t.TempDir(), vault)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func clientTLS(t testing.TB, ca *identity.CA) *tls.Config {
	b, err := ca.Issue(identity.RoleGateway, "home", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := b.ClientTLS(identity.RoleGateway, "cloud")
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func newSite(t testing.TB, change func(*ServerConfig)) *site {
	t.Helper()
	s := &site{t: t, standby: &fakeStandby{t: t, gen: 1}, ca: newCA(t, "v1")}
	b, err := s.ca.Issue(identity.RoleGateway, "cloud", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	serverTLS, err := b.ServerTLS(identity.RoleGateway)
	if err != nil {
		t.Fatal(err)
	}
	cfg := ServerConfig{TLS: serverTLS, Handler: s.standby, Timing: fastTiming}
	if change != nil {
		change(&cfg)
	}
	if s.server, err = NewServer(cfg); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.server.Serve(ctx, ln) }()
	var once sync.Once
	s.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("serve: %v", err)
			}
		})
	}
	t.Cleanup(s.stop)
	s.dial = DialConfig{
		Address: ln.Addr().String(), TLS: clientTLS(t, s.ca), Timing: fastTiming,
		Hello: Hello{Group: "g", Generation: 1, Gateway: "home", Disks: []dr.GroupDisk{{Machine: "m", Disk: "disk0", SizeBytes: 1 << 30}}},
	}
	return s
}

// entryData is the 8 bytes that entry seq of these tests carries.
func entryData(seq dr.Seq) []byte {
	return binary.LittleEndian.AppendUint64(nil, uint64(seq)*0x9e3779b97f4a7c15)
}

// buildFrame makes a frame of entries first..last; every write has 8 bytes.
func buildFrame(t testing.TB, gen dr.Generation, epoch dr.Epoch, first, last dr.Seq) []byte {
	b := segment.NewBuilder(segment.CodecNone)
	b.Reset(gen, epoch)
	for seq := first; seq <= last; seq++ {
		if !b.Add(segment.Entry{Seq: seq, Kind: segment.KindWrite, Offset: int64(seq) * 512, Data: entryData(seq)}) {
			t.Fatal("frame full")
		}
	}
	frame, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(frame)
}

// checkPayload demands that exactly entries 1..last arrived.
func (f *fakeStandby) checkPayload(last dr.Seq) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	var want []byte
	for seq := dr.Seq(1); seq <= last; seq++ {
		want = append(want, entryData(seq)...)
	}
	if !bytes.Equal(f.payload.Bytes(), want) {
		f.t.Errorf("the standby has %d bytes of payload, want the %d of entries 1 to %d", f.payload.Len(), len(want), last)
	}
}

// ringSource is a FrameSource over entries 1..total; cut says how many entries
// the next frame has.
type ringSource struct {
	t       testing.TB
	epoch   dr.Epoch
	total   dr.Seq
	cut     func() dr.Seq
	mu      sync.Mutex
	trimmed dr.Seq
}

func (r *ringSource) Next(ctx context.Context, after dr.Seq) ([]byte, dr.Seq, error) {
	r.mu.Lock()
	trimmed := r.trimmed
	r.mu.Unlock()
	if after < trimmed {
		r.t.Errorf("asked for %d, which is trimmed to %d", after+1, trimmed)
	}
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	if after == r.total {
		return nil, 0, io.EOF
	}
	last := min(r.total, after+r.cut())
	return buildFrame(r.t, 1, r.epoch, after+1, last), last, nil
}

func (r *ringSource) Trim(seq dr.Seq) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if seq < r.trimmed {
		r.t.Errorf("trimmed to %d after %d", seq, r.trimmed)
	}
	r.trimmed = seq
}

func mustDial(t testing.TB, cfg DialConfig) *Stream {
	t.Helper()
	st, err := Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	return st
}

func wantCode(t testing.TB, err error, code problem.Code) {
	t.Helper()
	if !problem.HasCode(err, code) {
		t.Errorf("error %v, want %s", err, code)
	}
}

// eventually waits for cond, which something else makes true, at most 5 s.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

var errBoom = errors.New("boom")
