package spool

import (
	"bytes"
	"context"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/link"
	"rebound/internal/problem"
	"rebound/internal/segment"
)

var disks = []dr.GroupDisk{{Machine: "m", Disk: "disk0", SizeBytes: 1 << 30}}

// standby is the far end: it takes entries in order and can be away.
type standby struct {
	t    *testing.T
	addr string
	ca   *identity.CA

	mu   sync.Mutex
	epo  dr.Epoch
	have dr.Seq
	data bytes.Buffer
	stop func()
}

func newStandby(t *testing.T) *standby {
	ca, err := identity.OpenCA(t.TempDir(), "v1")
	if err != nil {
		t.Fatal(err)
	}
	s := &standby{t: t, ca: ca, epo: 1, stop: func() {}}
	t.Cleanup(s.away)
	return s
}

func (s *standby) issue(name string) identity.Bundle {
	b, err := s.ca.Issue(identity.RoleGateway, name, time.Hour)
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

func (s *standby) Admit(context.Context, link.Peer, *link.Hello) error { return nil }

func (s *standby) OpenStream(_ context.Context, _ link.Peer, h *link.Hello, durable func(dr.Seq)) (link.Welcome, link.StreamSink, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.Epoch != s.epo {
		return link.Welcome{}, nil, problem.New(problem.StaleEpoch, "epoch %d", h.Epoch)
	}
	return link.Welcome{Epoch: s.epo, Durable: s.have}, &standbySink{s, durable}, nil
}

func (s *standby) OpenCompare(context.Context, link.Peer, *link.Hello) (link.Comparer, error) {
	return nil, problem.New(problem.InvalidRequest, "nothing to compare")
}

type standbySink struct {
	s       *standby
	durable func(dr.Seq)
}

func (k *standbySink) Append(_ context.Context, frame []byte) error {
	f, err := segment.ParseFrame(frame)
	if err != nil {
		return err
	}
	data := make([]byte, f.Payload)
	if err := f.ReadPayload(data, 0); err != nil {
		return err
	}
	k.s.mu.Lock()
	if f.First != k.s.have+1 {
		k.s.t.Errorf("got entry %d after %d", f.First, k.s.have)
	}
	k.s.data.Write(data)
	k.s.have = f.Last()
	k.s.mu.Unlock()
	k.durable(f.Last())
	return nil
}

func (*standbySink) Close() error { return nil }

// here lets the standby answer, always at the same address.
func (s *standby) here() {
	b := s.issue("cloud")
	conf, err := b.ServerTLS(identity.RoleGateway)
	if err != nil {
		s.t.Fatal(err)
	}
	srv, err := link.NewServer(link.ServerConfig{TLS: conf, Handler: s})
	if err != nil {
		s.t.Fatal(err)
	}
	if s.addr == "" {
		s.addr = "127.0.0.1:0"
	}
	ln, err := net.Listen("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = srv.Serve(ctx, ln)
	}()
	s.stop = func() {
		cancel()
		<-ended
	}
}

func (s *standby) away() {
	s.stop()
	s.stop = func() {}
}

// check demands exactly the entries 1..last.
func (s *standby) check(last dr.Seq) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var want []byte
	for seq := dr.Seq(1); seq <= last; seq++ {
		want = append(want, entryData(seq)...)
	}
	if s.have != last || !bytes.Equal(s.data.Bytes(), want) {
		s.t.Errorf("the standby has entries up to %d with %d bytes, want %d with %d", s.have, s.data.Len(), last, len(want))
	}
}

// ring is a FrameSource over the entries up to total, like the capture's.
type ring struct {
	t     *testing.T
	total dr.Seq
	mu    sync.Mutex
	kept  dr.Seq
}

func (r *ring) Next(_ context.Context, after dr.Seq) ([]byte, dr.Seq, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if after < r.kept {
		r.t.Errorf("asked for entry %d, %d is given back", after+1, r.kept)
	}
	if after == r.total {
		return nil, 0, io.EOF
	}
	last := min(after+5, r.total)
	return frameOf(r.t, 1, after+1, last), last, nil
}

func (r *ring) Trim(seq dr.Seq) {
	r.mu.Lock()
	r.kept = max(r.kept, seq)
	r.mu.Unlock()
}

func openSpool(t *testing.T, s *standby, dir string) *Spool {
	t.Helper()
	conf, err := s.issue("home").ServerTLS(identity.RoleGateway)
	if err != nil {
		t.Fatal(err)
	}
	sp, err := Open(context.Background(), Config{
		Group: "g", Gateway: "home", Dir: filepath.Join(dir, "spool"), Socket: filepath.Join(dir, "s"), TLS: conf,
		Limits: Limits{FileBytes: 16 << 10},
		Dial: func(to Target) (link.DialConfig, error) {
			conf, err := s.issue("home").ClientTLS(identity.RoleGateway, "cloud")
			return link.DialConfig{
				Address: to.StandbyAddr, TLS: conf,
				Hello: link.Hello{Group: "g", Generation: to.Generation, Disks: to.Disks, Gateway: "home"},
			}, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	sp.SetTarget(Target{Generation: 1, Disks: disks, Standby: "cloud", StandbyAddr: s.addr})
	return sp
}

// feed sends the ring's entries into the spool.
func feed(t *testing.T, s *standby, dir string, r *ring) error {
	t.Helper()
	conf, err := s.issue("home").ClientTLS(identity.RoleGateway, "home")
	if err != nil {
		t.Fatal(err)
	}
	sender, err := link.NewSender(link.SenderConfig{Dial: link.DialConfig{
		Address: filepath.Join(dir, "s"), TLS: conf,
		DialFunc: func(ctx context.Context, _, addr string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", addr)
		},
		Hello: link.Hello{Group: "g", Generation: 1, Disks: disks, Epoch: 1, After: r.kept, Gateway: "home"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if _, err := sender.Open(ctx); err != nil {
		return err
	}
	return sender.Run(ctx, r)
}

func finish(t *testing.T, sp *Spool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := sp.Finish(ctx); err != nil {
		t.Fatal(err)
	}
}

// TestOutage: what was sent while the standby was away reaches it in order when
// it is back, also across a restart of the spool's process, and the ring can go
// on after it.
func TestOutage(t *testing.T) {
	s, dir := newStandby(t), t.TempDir()
	s.here()
	s.away()
	sp := openSpool(t, s, dir)
	r := &ring{t: t, total: 200}
	if err := feed(t, s, dir, r); err != nil {
		t.Fatal(err)
	}
	if st := sp.State(); st.Durable != 200 || st.Delivered != 0 || st.Empty() {
		t.Errorf("the spool is at %+v", st)
	}
	sp.Close()

	sp = openSpool(t, s, dir)
	defer sp.Close()
	r.total = 300
	if err := feed(t, s, dir, r); err != nil {
		t.Fatal(err)
	}
	s.here()
	finish(t, sp)
	s.check(300)
	if st := sp.State(); !st.Empty() || st.Bytes > 64<<10 {
		t.Errorf("the spool is at %+v", st)
	}
}

// TestStandbyHasMore: the standby took entries from the ring that the ring still
// held when it turned to the spool. They come once.
func TestStandbyHasMore(t *testing.T) {
	s, dir := newStandby(t), t.TempDir()
	s.here()
	s.have = 13
	for seq := dr.Seq(1); seq <= 13; seq++ {
		s.data.Write(entryData(seq))
	}
	sp := openSpool(t, s, dir)
	defer sp.Close()
	if err := feed(t, s, dir, &ring{t: t, kept: 10, total: 40}); err != nil {
		t.Fatal(err)
	}
	finish(t, sp)
	s.check(40)
}

// TestGapIsRefused: a standby that lacks what neither ring nor spool has.
func TestGapIsRefused(t *testing.T) {
	s, dir := newStandby(t), t.TempDir()
	s.here()
	sp := openSpool(t, s, dir)
	defer sp.Close()
	if err := feed(t, s, dir, &ring{t: t, kept: 10, total: 40}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := sp.Finish(ctx); !problem.HasCode(err, problem.JournalDamaged) {
		t.Errorf("finish: %v", err)
	}
	if !sp.State().Permanent {
		t.Error("the spool goes on trying")
	}
	if err := sp.Discard(); err != nil {
		t.Fatal(err)
	}
	if st := sp.State(); !st.Empty() || st.Bytes != 0 || st.Permanent {
		t.Errorf("discarded: %+v", st)
	}
}

// TestForeignIsRefused: neither a gap nor an older generation gets in.
func TestForeignIsRefused(t *testing.T) {
	s, dir := newStandby(t), t.TempDir()
	s.here()
	s.away()
	sp := openSpool(t, s, dir)
	defer sp.Close()
	if err := feed(t, s, dir, &ring{t: t, total: 20}); err != nil {
		t.Fatal(err)
	}
	if err := feed(t, s, dir, &ring{t: t, kept: 30, total: 40}); !problem.HasCode(err, problem.JournalDamaged) {
		t.Errorf("a gap: %v", err)
	}
	sp.SetTarget(Target{Generation: 2, Disks: disks, Standby: "cloud", StandbyAddr: s.addr})
	if err := feed(t, s, dir, &ring{t: t, kept: 20, total: 40}); !problem.HasCode(err, problem.StaleGeneration) {
		t.Errorf("an older generation: %v", err)
	}
}
