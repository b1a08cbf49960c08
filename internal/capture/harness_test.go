package capture

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/link"
	"rebound/internal/nbd"
	"rebound/internal/problem"
	"rebound/internal/segment"
)

// testSeed returns the seed of a random test, printed, and taken back from SEED.
func testSeed(t *testing.T) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	t.Logf("SEED=%d", seed)
	return seed
}

func testLog(t *testing.T) *slog.Logger {
	if os.Getenv("TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil)).With("test", t.Name())
}

// storedEntry is an entry as the standby got it.
type storedEntry struct {
	segment.Meta
	data []byte
}

// standby is a link server with its journal in memory.
type standby struct {
	t        testing.TB
	addr     string
	identity identity.Bundle // of the source's gateway

	mu      sync.Mutex
	epoch   dr.Epoch
	gen     dr.Generation
	entries []storedEntry // of the newest epoch
	past    map[dr.Epoch][]storedEntry
	durable dr.Seq
	lazy    bool          // nothing becomes durable
	delay   time.Duration // before it does
	forget  bool          // what is not durable is lost with its connection
	null    bool          // keep nothing
	images  []*ramDisk    // what the entries make, if somebody wants to compare
	changed chan struct{}
}

func newStandby(t testing.TB) *standby {
	t.Helper()
	ca, err := identity.OpenCA(t.TempDir(), "testvault")
	if err != nil {
		t.Fatal(err)
	}
	issue := func(name string) identity.Bundle {
		b, err := ca.Issue(identity.RoleGateway, name, time.Hour, "127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	s := &standby{t: t, identity: issue("gw-source"), past: map[dr.Epoch][]storedEntry{}, changed: make(chan struct{})}
	conf, err := issue("gw-standby").ServerTLS(identity.RoleGateway)
	if err != nil {
		t.Fatal(err)
	}
	server, err := link.NewServer(link.ServerConfig{TLS: conf, Handler: s})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(ctx, l); err != nil {
			t.Errorf("standby: %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return s
}

func (s *standby) Admit(_ context.Context, _ link.Peer, h *link.Hello) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.Generation < s.gen {
		return problem.New(problem.StaleGeneration, "generation %d, now %d", h.Generation, s.gen)
	}
	return nil
}

func (s *standby) OpenCompare(context.Context, link.Peer, *link.Hello) (link.Comparer, error) {
	return s.comparer(), nil
}

func (s *standby) OpenStream(_ context.Context, _ link.Peer, h *link.Hello, durable func(dr.Seq)) (link.Welcome, link.StreamSink, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.Epoch == 0 {
		s.past[s.epoch] = s.entries
		s.epoch++
		s.entries, s.durable = nil, 0
	} else if h.Epoch != s.epoch {
		return link.Welcome{}, nil, problem.New(problem.StaleGeneration, "epoch %d, now %d", h.Epoch, s.epoch)
	}
	sink := &memSink{s: s, epoch: s.epoch, report: durable, next: s.durable, done: make(chan struct{}), work: make(chan dr.Seq, 8192)}
	go sink.run()
	return link.Welcome{Epoch: s.epoch, Durable: s.durable}, sink, nil
}

// memSink is one stream into the standby.
type memSink struct {
	s      *standby
	epoch  dr.Epoch
	report func(dr.Seq)
	next   dr.Seq
	work   chan dr.Seq
	done   chan struct{}
}

func (k *memSink) Append(_ context.Context, frame []byte) error {
	f, err := segment.ParseFrame(frame)
	if err != nil {
		return err
	}
	if f.Epoch != k.epoch || f.First != k.next+1 {
		return errors.New("frame out of order")
	}
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	for m := range f.Entries() {
		if k.s.null {
			break
		}
		e := storedEntry{Meta: m, data: make([]byte, m.PayloadLength)}
		if err := f.ReadPayload(e.data, m.PayloadOffset); err != nil {
			return err
		}
		k.s.entries = append(k.s.entries, e)
		if k.s.images != nil {
			apply(k.s.t, k.s.images, &e)
		}
	}
	k.next = f.Last()
	k.work <- k.next
	return nil
}

// run makes durable what was appended.
func (k *memSink) run() {
	defer close(k.done)
	for seq := range k.work {
		if d := k.s.pause(); d > 0 {
			time.Sleep(d) // the standby's disk is slow
		}
		if k.s.advance(seq) {
			k.report(seq)
		}
	}
}

func (s *standby) pause() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.delay == 0 {
		return 0
	}
	return rand.N(s.delay)
}

func (s *standby) advance(seq dr.Seq) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lazy {
		return false
	}
	s.durable = seq
	close(s.changed)
	s.changed = make(chan struct{})
	return true
}

func (k *memSink) Close() error {
	close(k.work)
	<-k.done
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	if k.s.forget && !k.s.null {
		k.s.entries = k.s.entries[:k.s.durable]
	} else if !k.s.lazy {
		k.s.durable = k.next
	} else if !k.s.null {
		k.s.entries = k.s.entries[:k.s.durable]
	}
	return nil
}

// set changes the standby's behaviour.
func (s *standby) set(f func(*standby)) {
	s.mu.Lock()
	f(s)
	s.mu.Unlock()
}

// awaitBreak waits until the newest epoch's break is durable.
func (s *standby) awaitBreak() []storedEntry {
	s.t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		s.mu.Lock()
		entries, changed := s.entries[:min(len(s.entries), int(s.durable))], s.changed
		s.mu.Unlock()
		if n := len(entries); n > 0 && entries[n-1].Kind == segment.KindBreak {
			return entries
		}
		select {
		case <-changed:
		case <-deadline:
			s.t.Fatal("no break arrived at the standby")
		}
	}
}

// proxy is a TCP link that can be cut.
type proxy struct {
	addr string
	mu   sync.Mutex
	open []net.Conn
	down bool
}

func newProxy(t testing.TB, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: l.Addr().String()}
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); p.cut(); wg.Wait() })
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", target)
			if err != nil || !p.keep(in, out) {
				_ = in.Close()
				continue
			}
			for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
				wg.Go(func() {
					_, _ = io.Copy(pair[0], pair[1])
					_ = pair[0].Close()
					_ = pair[1].Close()
				})
			}
		}
	})
	return p
}

func (p *proxy) keep(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		for _, c := range conns {
			_ = c.Close()
		}
		return false
	}
	p.open = append(p.open, conns...)
	return true
}

// cut breaks all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.open {
		_ = c.Close()
	}
	p.open = nil
}

// setDown refuses new connections, and breaks the open ones, or ends that.
func (p *proxy) setDown(down bool) {
	p.mu.Lock()
	p.down = down
	p.mu.Unlock()
	if down {
		p.cut()
	}
}

const testDiskSize = 1 << 20

// bench is a capture process in this one, with its control client.
type rig struct {
	t       testing.TB
	dir     string
	standby *standby
	proxy   *proxy
	client  *Client
	config  GroupConfig
	cancel  context.CancelFunc
	ended   chan error
}

// newRig runs a capture process for disks of two members.
func newRig(t testing.TB, disks int, limits Limits) *rig {
	t.Helper()
	s := newStandby(t)
	p := newProxy(t, s.addr)
	dir, err := os.MkdirTemp("", "cap")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r := &rig{t: t, dir: dir, standby: s, proxy: p, ended: make(chan error, 1)}
	r.config = GroupConfig{
		Group: "grp", Generation: 1, Gateway: "gw-source", Standby: "gw-standby", StandbyAddr: p.addr,
		Identity: s.identity, Limits: limits,
	}
	for i := range disks {
		r.config.Disks = append(r.config.Disks, dr.GroupDisk{
			Machine: dr.MachineName("vm" + strconv.Itoa(i%2)), Disk: dr.DiskID("disk" + strconv.Itoa(i/2)), SizeBytes: testDiskSize,
		})
	}
	var ctx context.Context
	ctx, r.cancel = context.WithCancel(context.Background())
	cfg := Config{Dir: dir}
	if tt, ok := t.(*testing.T); ok {
		cfg.Logger = testLog(tt)
	}
	go func() { r.ended <- Run(ctx, cfg) }()
	r.client = r.dial()
	t.Cleanup(func() {
		_ = r.client.Close()
		r.cancel()
		if err := <-r.ended; err != nil {
			t.Errorf("capture ended with: %v", err)
		}
	})
	if err := r.client.Configure(r.ctx(), r.config); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	r.t.Cleanup(cancel)
	return ctx
}

// dial connects to the control socket once it is there.
func (r *rig) dial() *Client {
	r.t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		c, err := Dial(r.ctx(), ControlSocket(r.dir))
		if err == nil {
			return c
		}
		if time.Now().After(deadline) {
			r.t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
}

// disk connects to a disk's export.
func (r *rig) disk(i int) *nbd.Client {
	r.t.Helper()
	c, err := nbd.Dial(r.ctx(), "unix", NBDSocket(r.dir), nbd.Options{Export: ExportName(i)})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	return c
}

// disks connects to all.
func (r *rig) disks() []*nbd.Client {
	r.t.Helper()
	var all []*nbd.Client
	for i := range r.config.Disks {
		all = append(all, r.disk(i))
	}
	return all
}

// open begins an epoch.
func (r *rig) open() OpenResult {
	r.t.Helper()
	o, err := r.client.Open(r.ctx())
	if err != nil {
		r.t.Fatal(err)
	}
	return o
}

func (r *rig) status() Status {
	r.t.Helper()
	s, err := r.client.Status(r.ctx())
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// await polls the status until cond holds.
func (r *rig) await(what string, cond func(Status) bool) Status {
	r.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		s := r.status()
		if cond(s) {
			return s
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("no %s: %+v", what, s)
		}
		time.Sleep(time.Millisecond)
	}
}
