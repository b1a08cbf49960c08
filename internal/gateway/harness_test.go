package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"rebound/internal/capture"
	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/extent"
	"rebound/internal/gateway/source"
	"rebound/internal/gateway/standby"
	"rebound/internal/identity"
	"rebound/internal/link"
	"rebound/internal/site"
	"rebound/internal/site/fake"
)

// TestMain is also the capture process that sources start.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "capture" && os.Args[2] == "--dir" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		err := capture.Run(ctx, capture.Config{Dir: os.Args[3]})
		stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const (
	mib   = 1 << 20
	group = dr.GroupID("grp")
	web   = dr.MachineName("web")
	db    = dr.MachineName("db")
)

// world is two sites with gateways, and what the guests' disks must hold.
type world struct {
	t           *testing.T
	ctx         context.Context
	rng         *rand.Rand
	home, cloud *place
	disks       []dr.GroupDisk

	mu    sync.Mutex
	model map[dr.GroupDisk][]byte
}

// places counts the data ports of all tests.
var places atomic.Int32

// place is one site: its driver, and its gateway's two roles.
type place struct {
	w        *world
	name     dr.GatewayID
	dir, run string
	driver   *fake.Driver
	identity *identity.Holder
	addr     string

	rotate  time.Duration // between bitmaps
	src     *source.Group
	srcStop context.CancelFunc
	seed    func(context.Context) dr.Position // of the source that was here
	host    *standby.Host
	stop    func()

	mu     sync.Mutex
	events []control.Event
	fault  func(fake.Call) error
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldOf(t, definition)
}

// newWorldOf is newWorld with machines of one's own.
func newWorldOf(t *testing.T, definition func(dr.MachineName, int) dr.Definition) *world {
	t.Helper()
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("SEED"); s != "" {
		if _, err := fmt.Sscan(s, &seed); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SEED=%d", seed)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	ca, err := identity.OpenCA(t.TempDir(), "vault")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, ctx: ctx, rng: rand.New(rand.NewPCG(seed, 1)), model: map[dr.GroupDisk][]byte{}}
	w.home, w.cloud = w.newPlace("gw-home", ca), w.newPlace("gw-cloud", ca)
	for i, m := range []dr.MachineName{web, db} {
		def := definition(m, i)
		w.must(w.home.driver.Create(ctx, def))
		w.must(w.home.driver.Start(ctx, m, site.StartOptions{}))
		for _, d := range def.Disks {
			g := dr.GroupDisk{Machine: m, Disk: d.ID, SizeBytes: d.SizeBytes}
			w.disks = append(w.disks, g)
			w.model[g] = make([]byte, d.SizeBytes)
			w.write(w.home, g, 0, 64<<10)
		}
	}
	return w
}

func definition(m dr.MachineName, i int) dr.Definition {
	return dr.Definition{
		Name: m, UUID: fmt.Sprintf("00000000-0000-4000-8000-%012d", i), CPUs: 1, MemoryMiB: 64, Firmware: dr.BIOS, MachineType: "q35",
		NICs:  []dr.NIC{{MAC: fmt.Sprintf("52:54:00:00:00:%02x", i), Network: "default", Model: "virtio-net-pci"}},
		Disks: []dr.DiskSpec{{ID: "sys", Bus: "virtio", SizeBytes: mib}, {ID: "data", Bus: "virtio", SizeBytes: 2 * mib}},
	}
}

func (w *world) newPlace(name dr.GatewayID, ca *identity.CA) *place {
	run, err := os.MkdirTemp("", "gw") // socket paths are short
	w.must(err)
	w.t.Cleanup(func() { _ = os.RemoveAll(run) })
	p := &place{w: w, name: name, dir: w.t.TempDir(), run: run}
	bundle, err := ca.Issue(identity.RoleGateway, string(name), time.Hour, "127.0.0.1")
	w.must(err)
	p.identity, err = identity.NewHolder(bundle)
	w.must(err)
	p.driver = fake.New(fake.Options{Dir: filepath.Join(p.dir, "site"), Fault: p.ask})
	w.t.Cleanup(func() {
		if p.src != nil {
			p.src.Close()
			_, _ = p.src.Stop(context.Background(), control.StopReplicationRequest{Group: group})
			p.closeSource()
		}
		p.endCapture()
		p.closeHost()
		for _, m := range []dr.MachineName{web, db} {
			_ = p.driver.Crash(m)
		}
	})
	return p
}

func (p *place) ask(c fake.Call) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fault == nil {
		return nil
	}
	return p.fault(c)
}

func (p *place) setFault(f func(fake.Call) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = f
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) log(name string) *slog.Logger {
	if os.Getenv("TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("at", name)
}

func (p *place) event(e control.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events = append(p.events, e)
}

func (p *place) count(code string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, e := range p.events {
		if e.Code == code {
			n++
		}
	}
	return n
}

// openSource starts the source role, as a gateway's start does.
func (p *place) openSource() {
	p.w.t.Helper()
	exe, err := os.Executable()
	p.w.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	p.srcStop = cancel
	p.src, err = source.Open(ctx, source.Config{
		Group: group, Dir: filepath.Join(p.dir, "source"), RunDir: p.run, SpoolDir: filepath.Join(p.dir, "spool"), Gateway: p.name, Driver: p.driver, Identity: p.identity,
		CaptureArgv: []string{exe, "capture"}, RotateEvery: p.rotate, Committed: p.committed, Log: p.w.log(string(p.name)), Event: p.event, Changed: func() {},
	})
	p.w.must(err)
}

// closeSource ends the source role; its capture goes on by itself.
func (p *place) closeSource() {
	if p.src == nil {
		return
	}
	p.src.Close()
	p.srcStop()
	p.src = nil
}

func (p *place) captureDir() string { return filepath.Join(p.run, "c-"+string(group)) }

// killCapture kills the capture process with SIGKILL.
func (p *place) killCapture() {
	p.w.t.Helper()
	p.w.must(syscall.Kill(p.w.captureStatus(p).PID, syscall.SIGKILL))
}

// endCapture ends a capture process that nobody supervises.
func (p *place) endCapture() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := capture.Dial(ctx, capture.ControlSocket(p.captureDir()))
	if err != nil {
		return
	}
	_ = c.Shutdown(ctx)
	_ = c.Close()
}

// openHost starts the standby role and its data port, always on one address.
func (p *place) openHost() {
	p.w.t.Helper()
	host, err := standby.Open(p.w.ctx, standby.Config{
		Dir: filepath.Join(p.dir, "journals"), RunDir: p.run, Driver: p.driver, Log: p.w.log(string(p.name)), Event: p.event, Changed: func() {},
	})
	p.w.must(err)
	conf := p.identity.ServerTLS(identity.RoleGateway)
	srv, err := link.NewServer(link.ServerConfig{TLS: conf, Handler: host, Log: p.w.log(string(p.name))})
	p.w.must(err)
	host.SetFence(srv.Fence)
	addr := p.addr
	if addr == "" {
		// An address of its own: its port stays free while it is closed.
		n := places.Add(1)
		addr = fmt.Sprintf("127.%d.%d.%d:0", 1+os.Getpid()%250, n/250, 1+n%250)
	}
	// A process that another test forks just then holds the old listener
	// until its exec.
	var l net.Listener
	p.w.eventually("listening on "+addr, func() bool {
		l, err = net.Listen("tcp", addr)
		return err == nil
	})
	p.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx, l) }()
	p.host = host
	p.stop = func() {
		cancel()
		if err := <-done; err != nil {
			p.w.t.Errorf("serve data: %v", err)
		}
	}
}

func (p *place) closeHost() {
	if p.host == nil {
		return
	}
	p.stop()
	if err := p.host.Close(); err != nil {
		p.w.t.Errorf("close host: %v", err)
	}
	p.host = nil
}

// write lets a guest write random bytes and remembers them.
func (w *world) write(p *place, d dr.GroupDisk, off, n int64) {
	w.t.Helper()
	buf := make([]byte, n)
	w.mu.Lock()
	for i := range buf {
		buf[i] = byte(w.rng.Uint32())
	}
	w.mu.Unlock()
	w.must(p.driver.GuestWrite(w.ctx, d.Machine, d.Disk, buf, off))
	w.mu.Lock()
	copy(w.model[d][off:], buf)
	w.mu.Unlock()
}

// scribble writes a few blocks to every disk.
func (w *world) scribble(p *place) {
	w.t.Helper()
	for _, d := range w.disks {
		for range 3 {
			w.write(p, d, 4096*w.rng.Int64N(d.SizeBytes/4096), 4096)
		}
	}
}

// snapshot is what the guests' disks hold now.
func (w *world) snapshot() map[dr.GroupDisk][]byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[dr.GroupDisk][]byte{}
	for d, b := range w.model {
		out[d] = bytes.Clone(b)
	}
	return out
}

// read returns a disk of a running machine.
func (w *world) read(p *place, m dr.MachineName, d dr.GroupDisk) []byte {
	w.t.Helper()
	buf := make([]byte, d.SizeBytes)
	w.must(p.driver.GuestRead(w.ctx, m, d.Disk, buf, 0))
	return buf
}

// holds fails unless the machines that run at p hold exactly want.
func (w *world) holds(p *place, suffix dr.MachineName, want map[dr.GroupDisk][]byte) {
	w.t.Helper()
	for _, d := range w.disks {
		got := w.read(p, d.Machine+suffix, d)
		for off := 0; off < len(got); off += 4096 {
			if !bytes.Equal(got[off:off+4096], want[d][off:off+4096]) {
				w.t.Fatalf("disk %s of %s differs at %d", d.Disk, d.Machine, off)
			}
		}
	}
}

// eventually waits until ok holds.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			w.t.Fatalf("not within 20 s: %s (source: %+v)", what, w.sourceReport())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (w *world) sourceReport() any {
	for _, p := range []*place{w.home, w.cloud} {
		if p.src != nil {
			return p.src.Report()
		}
	}
	return nil
}

func (w *world) streams(p *place) {
	w.t.Helper()
	w.eventually("streaming", func() bool { return p.src.Report().Phase == control.PhaseStreaming })
}

// seedOrNone is what the place's former source knows of its disks.
func (p *place) seedOrNone() func(context.Context) dr.Position {
	if p.seed != nil {
		return p.seed
	}
	return func(context.Context) dr.Position { return dr.Position{} }
}

func (w *world) create(p *place, r control.CreateJournalRequest) (control.CreateJournalResult, error) {
	return p.host.Create(w.ctx, r, p.seedOrNone())
}

// committed is what the place's journal left behind.
func (p *place) committed() (dr.Position, map[dr.GroupDisk]*extent.Set, bool) {
	if p.host == nil {
		return dr.Position{}, nil, false
	}
	return p.host.Committed(group)
}

// journal makes the group's journal at to, for a stream from from.
func (w *world) journal(from, to *place, gen dr.Generation) control.CreateJournalResult {
	w.t.Helper()
	req := control.CreateJournalRequest{Group: group, Generation: gen, Source: from.name, Disks: w.disks}
	for _, m := range []dr.MachineName{web, db} {
		def, err := from.driver.Definition(w.ctx, m)
		w.must(err)
		req.Definitions = append(req.Definitions, def)
	}
	res, err := w.create(to, req)
	w.must(err)
	return res
}

func (w *world) spec(to *place, gen dr.Generation) control.ReplicationSpec {
	return control.ReplicationSpec{
		Group: group, Generation: gen, Disks: w.disks, Standby: to.name, StandbyAddr: to.addr, Mode: control.SyncAuto,
		CrashInterval: 200 * time.Millisecond, Compression: "none",
	}
}

// protectRotating is protect with bitmaps that rotate all the time.
func protectRotating(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.home.rotate = time.Millisecond
	w.protect()
	return w
}

// protect brings home -> cloud up to streaming, at generation 1.
func protect(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.protect()
	return w
}

func (w *world) protect() {
	w.t.Helper()
	w.cloud.openHost()
	w.journal(w.home, w.cloud, 1)
	w.home.openSource()
	w.must(w.home.src.Start(w.ctx, w.spec(w.cloud, 1)))
	w.streams(w.home)
}

// rotates waits until n more bitmaps were begun.
func (w *world) rotates(p *place, n int) {
	w.t.Helper()
	newest := func() (max int) {
		names, err := p.driver.Bitmaps(w.ctx, web)
		w.must(err)
		for _, name := range names {
			var k int
			if _, err := fmt.Sscanf(name, "rebound-dirty-%d", &k); err == nil && k > max {
				max = k
			}
		}
		return max
	}
	goal := newest() + n
	w.eventually("rotation", func() bool { return newest() >= goal })
}

// point makes a bookmark at the source.
func (w *world) point(p *place) dr.Point {
	w.t.Helper()
	pt, err := p.src.CreatePoint(w.ctx, control.CreatePointRequest{Group: group, Kind: dr.Bookmark, Name: "here"})
	w.must(err)
	return pt
}

// start starts the members on views at a position.
func (w *world) start(p *place, pos dr.Position, test bool) {
	w.t.Helper()
	for _, m := range []dr.MachineName{web, db} {
		r := control.StartRecoveredRequest{Group: group, Machine: m, Position: pos, Test: test}
		if test {
			r.Network = "bubble"
		}
		_, err := p.host.StartRecovered(w.ctx, r)
		w.must(err)
	}
}

func (w *world) discard(p *place, test bool) {
	w.t.Helper()
	for _, m := range []dr.MachineName{web, db} {
		w.must(p.host.DiscardRecovered(w.ctx, control.DiscardRecoveredRequest{Group: group, Machine: m, Test: test}))
	}
}

// recovers fails unless test machines at pos hold want.
func (w *world) recovers(p *place, pos dr.Position, want map[dr.GroupDisk][]byte) {
	w.t.Helper()
	w.start(p, pos, true)
	w.holds(p, "-test", want)
	w.discard(p, true)
}

// upToDate fails unless a point made now holds what the guests wrote.
func (w *world) upToDate(from, to *place) {
	w.t.Helper()
	w.recovers(to, w.point(from).Position, w.snapshot())
}

// quiesce stops the members as a planned failover does.
func (w *world) quiesce(p *place) {
	w.t.Helper()
	for _, m := range []dr.MachineName{web, db} {
		w.must(p.src.Quiesce(w.ctx, m, site.GracefulThenHard, time.Second))
	}
}

// syncStatus is the capture's word on its last synchronisation.
func (w *world) captureStatus(p *place) capture.Status {
	w.t.Helper()
	c, err := capture.Dial(w.ctx, capture.ControlSocket(p.captureDir()))
	w.must(err)
	defer c.Close()
	st, err := c.Status(w.ctx)
	w.must(err)
	return st
}

// plant changes a disk's file behind everybody's back.
func (p *place) plant(d dr.GroupDisk, off int64, data []byte) error {
	path, err := p.driver.DiskPath(p.w.ctx, d.Machine, d.Disk)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt(data, off)
	return err
}

// failing makes a method fail for a machine, as if the gateway had died there.
func failing(method string, m dr.MachineName) func(fake.Call) error {
	return func(c fake.Call) error {
		if c.Method == method && c.Machine == m {
			return errors.New("the gateway died here")
		}
		return nil
	}
}
