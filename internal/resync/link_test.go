package resync

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/extent"
	"rebound/internal/identity"
	"rebound/internal/link"
	"rebound/internal/segment"
)

// logSource feeds a link.Sender from the reference sequencer.
type logSource struct {
	q     *refSequencer
	epoch dr.Epoch
	b     *segment.Builder
	rng   *rand.Rand
}

func (s *logSource) Next(ctx context.Context, after dr.Seq) ([]byte, dr.Seq, error) {
	release := context.AfterFunc(ctx, func() {
		s.q.mu.Lock()
		defer s.q.mu.Unlock()
		s.q.moved.Broadcast()
	})
	defer release()
	s.q.mu.Lock()
	for int(after) == len(s.q.log) && !s.q.sealed && ctx.Err() == nil {
		s.q.moved.Wait()
	}
	s.q.mu.Unlock()
	if ctx.Err() != nil {
		return nil, 0, context.Cause(ctx)
	}
	return s.q.next(s.b, s.epoch, after, 1+s.rng.IntN(30))
}

func (s *logSource) Trim(dr.Seq) {}

// linkStandby is a standby behind a link.Server. What was applied is durable
// at once or a little later; nothing is lost, as in a journal that survives.
type linkStandby struct {
	t    *testing.T
	mem  *memStandby
	open atomic.Int32
}

func (l *linkStandby) Admit(context.Context, link.Peer, *link.Hello) error { return nil }

func (l *linkStandby) OpenStream(_ context.Context, _ link.Peer, _ *link.Hello, durable func(dr.Seq)) (link.Welcome, link.StreamSink, error) {
	if l.open.Add(1) != 1 {
		l.t.Error("two streams")
	}
	l.mem.mu.Lock()
	defer l.mem.mu.Unlock()
	return link.Welcome{Epoch: 1, Durable: l.mem.seq}, &linkSink{l, durable}, nil
}

func (l *linkStandby) OpenCompare(context.Context, link.Peer, *link.Hello) (link.Comparer, error) {
	return NewStandby(l.mem.disk, nil), nil
}

type linkSink struct {
	l       *linkStandby
	durable func(dr.Seq)
}

func (s *linkSink) Append(_ context.Context, buf []byte) error {
	f, err := segment.ParseFrame(buf)
	if err != nil {
		return err
	}
	for m := range f.Entries() {
		e := segment.Entry{Seq: m.Seq, Kind: m.Kind, Disk: m.Disk, Offset: m.Offset, Length: m.Length}
		if m.Kind == segment.KindWrite {
			e.Data = make([]byte, m.PayloadLength)
			if err := f.ReadPayload(e.Data, m.PayloadOffset); err != nil {
				return err
			}
		}
		if e.Seq != s.l.mem.seq+1 {
			s.l.t.Errorf("entry %d after %d", e.Seq, s.l.mem.seq)
		}
		s.l.mem.apply(&e)
	}
	last := f.Last()
	time.AfterFunc(time.Millisecond, func() { s.durable(last) })
	return nil
}

func (s *linkSink) Close() error { s.l.open.Add(-1); return nil }

// cutter makes connections that break after a number of bytes, both ways
// counted, until it has cut often enough.
type cutter struct {
	mu   sync.Mutex
	rng  *rand.Rand
	cuts int
}

func (c *cutter) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cuts == 0 {
		return conn, nil
	}
	c.cuts--
	cut := &cutConn{Conn: conn}
	cut.left.Store(2000 + c.rng.Int64N(100_000))
	return cut, nil
}

type cutConn struct {
	net.Conn
	left atomic.Int64
}

func (c *cutConn) Write(p []byte) (int, error) {
	n := min(int64(len(p)), max(c.left.Load(), 0))
	w, err := c.Conn.Write(p[:n])
	if c.left.Add(-int64(w)) <= 0 && w < len(p) {
		_ = c.Conn.Close()
		return w, io.ErrClosedPipe
	}
	return w, err
}

func (c *cutConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.left.Add(-int64(n)) < 0 {
		_ = c.Conn.Close()
	}
	return n, err
}

// linkWorld runs a standby behind real TLS on loopback and returns how to dial
// it.
func linkWorld(t *testing.T, h link.Handler) link.DialConfig {
	t.Helper()
	ca, err := identity.OpenCA(t.TempDir(), "v1")
	if err != nil {
		t.Fatal(err)
	}
	home, err1 := ca.Issue(identity.RoleGateway, "home", time.Hour)
	cloud, err2 := ca.Issue(identity.RoleGateway, "cloud", time.Hour)
	client, err3 := home.ClientTLS(identity.RoleGateway, "cloud")
	server, err4 := cloud.ServerTLS(identity.RoleGateway)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	srv, err := link.NewServer(link.ServerConfig{TLS: server, Handler: h})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return link.DialConfig{
		Address: ln.Addr().String(), TLS: client,
		Hello: link.Hello{Group: "g", Generation: 1, Disks: []dr.GroupDisk{{Machine: "m", Disk: "disk0", SizeBytes: 1 << 20}}},
	}
}

// TestSyncOverTLSWithCuts runs the whole path: sequencer, sender, TLS, server,
// standby, comparing over a second connection, guests writing, and both
// connections cut at random bytes.
func TestSyncOverTLSWithCuts(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("RESYNC_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	t.Logf("RESYNC_SEED=%d", seed)
	w := newWorld(seed, 2, 12*Window+512*3, 10)
	dial := linkWorld(t, &linkStandby{t: t, mem: w.standby})
	cut := &cutter{rng: rand.New(rand.NewPCG(seed, 17)), cuts: 40}
	dial.DialFunc = cut.dial
	var counters link.Counters
	dial.Counters = &counters
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	snd, err := link.NewSender(link.SenderConfig{Dial: dial, BackoffMin: time.Millisecond, BackoffMax: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	welcome, err := snd.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		sent <- snd.Run(ctx, &logSource{w.seq, welcome.Epoch, segment.NewBuilder(segment.CodecNone), rand.New(rand.NewPCG(seed, 19))})
	}()
	stop := make(chan struct{})
	var guests sync.WaitGroup
	for i := range 2 {
		guests.Go(func() { w.slowGuest(seed+uint64(i), stop) })
	}
	w.injectWrites(seed)
	dial.Hello.Epoch = welcome.Epoch
	s, err := New(Config{
		Sources: w.sources(nil), Mode: ModeCompare, Sequencer: w.seq, Epoch: welcome.Epoch,
		Dial: func(ctx context.Context) (Asker, error) {
			c, err := link.DialCompare(ctx, dial)
			if err != nil {
				return nil, err
			}
			return c, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.Run(ctx)
	close(stop)
	guests.Wait()
	w.seq.seal()
	if serr := <-sent; serr != nil || err != nil {
		t.Fatalf("sync: %v; sender: %v", err, serr)
	}
	w.check(t, res.End)
	if cut.cuts > 20 {
		t.Errorf("only %d cuts", 40-cut.cuts)
	}
	t.Logf("compared %d, sent %d, sockets %d out %d in, status %+v", res.Compared, res.Copied, counters.Sent(), counters.Received(), snd.Status())
}

// slowGuest writes a few hundred times a second.
func (w *world) slowGuest(seed uint64, stop <-chan struct{}) {
	rng := rand.New(rand.NewPCG(seed, 23))
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		disk := rng.IntN(len(w.source))
		off := rng.Int64N(w.source[disk].Size()/512-16) * 512
		data := make([]byte, 512*(1+rng.IntN(16)))
		for i := range data {
			data[i] = byte(rng.Uint32())
		}
		w.seq.write(uint16(disk), off, data, func() { time.Sleep(time.Duration(rng.IntN(300)) * time.Microsecond) })
	}
}

// TestOnlyDifferencesTravel counts the bytes on the sockets of a comparison
// with few differences, the measure of a failback.
func TestOnlyDifferencesTravel(t *testing.T) {
	w := newWorld(8, 1, 32*Window, 0)
	rng := rand.New(rand.NewPCG(8, 8))
	changed := &extent.Set{}
	for range 80 { // 1 %
		off := rng.Int64N(32*Window/Block) * Block
		for i := range Block {
			w.source[0].data[off+int64(i)] = byte(rng.Uint32())
		}
		changed.Add(extent.Range{Off: off, Len: Block})
	}
	w.first[0] = w.source[0].clone()
	for _, mode := range []struct {
		name   Mode
		ranges []*extent.Set
		limit  float64 // sent + received, over the changed bytes
	}{{ModeBitmap, []*extent.Set{changed}, 1.15}, {ModeCompare, nil, 1.25}} {
		w.standby = newMemStandby([]*memDisk{w.base[0].clone()})
		w.seq = newRefSequencer(w.source)
		dial := linkWorld(t, &linkStandby{t: t, mem: w.standby})
		var counters link.Counters
		dial.Counters = &counters
		snd, err := link.NewSender(link.SenderConfig{Dial: dial})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := snd.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		sent := make(chan error, 1)
		go func() {
			sent <- snd.Run(t.Context(), &logSource{w.seq, 1, segment.NewBuilder(segment.CodecNone), rand.New(rand.NewPCG(1, 19))})
		}()
		s, err := New(Config{
			Sources: w.sources(mode.ranges), Mode: mode.name, Sequencer: w.seq, Epoch: 1,
			Dial: func(ctx context.Context) (Asker, error) {
				c, err := link.DialCompare(ctx, dial)
				if err != nil {
					return nil, err
				}
				return c, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		res, err := s.Run(t.Context())
		w.seq.seal()
		if serr := <-sent; serr != nil || err != nil {
			t.Fatalf("sync: %v; sender: %v", err, serr)
		}
		w.check(t, res.End)
		bytes := counters.Sent() + counters.Received()
		ratio := float64(bytes) / float64(changed.Bytes())
		t.Logf("%s: %d bytes changed, %d sent and %d received: %.3f", mode.name, changed.Bytes(), counters.Sent(), counters.Received(), ratio)
		if ratio > mode.limit || res.Copied != changed.Bytes() {
			t.Errorf("%s: %d copied, ratio %.3f, want at most %.2f", mode.name, res.Copied, ratio, mode.limit)
		}
	}
}
