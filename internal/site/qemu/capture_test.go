package qemu

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"rebound/internal/block"
	"rebound/internal/dr"
	"rebound/internal/extent"
	"rebound/internal/nbd"
	"rebound/internal/problem"
	"rebound/internal/qmp"
	"rebound/internal/site"
)

// recorder is a capture process as far as QEMU sees it: it keeps what arrived.
type recorder struct {
	path   string
	server *nbd.Server
	l      net.Listener
	done   chan struct{}

	mu     sync.Mutex
	writes map[string][]extent.Range
	last   map[string][]byte
}

type recording struct {
	r    *recorder
	name string
	size int64
}

func (h *recording) Handle(r *nbd.Request) {
	h.r.mu.Lock()
	if r.Op == nbd.OpWrite {
		h.r.writes[h.name] = append(h.r.writes[h.name], extent.Range{Off: r.Offset, Len: r.Length})
		h.r.last[h.name] = bytes.Clone(r.Data)
	}
	h.r.mu.Unlock()
	r.Done(nil)
}

// startRecorder serves exports x0, x1, … of a size.
func startRecorder(t *testing.T, path string, disks int, size int64) *recorder {
	t.Helper()
	r := &recorder{path: path, writes: map[string][]extent.Range{}, last: map[string][]byte{}, done: make(chan struct{})}
	var err error
	r.server, err = nbd.NewServer(nbd.ServerOptions{})
	must(t, err)
	for i := range disks {
		name := fmt.Sprintf("x%d", i)
		must(t, r.server.Add(nbd.Export{Name: name, Handler: &recording{r, name, size}, Size: size, NoMultiConn: true, BlockSize: nbd.BlockSizes{Min: 1, Preferred: 4096, Max: 1 << 20}}))
	}
	_ = os.Remove(path)
	r.l, err = net.Listen("unix", path)
	must(t, err)
	r.l.(*net.UnixListener).SetUnlinkOnClose(false) // what SIGKILL leaves
	go func() { defer close(r.done); _ = r.server.Serve(context.Background(), r.l) }()
	t.Cleanup(r.die)
	return r
}

func (r *recorder) die() {
	_ = r.l.Close()
	_ = r.server.Close()
	<-r.done
}

func (r *recorder) count(export string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.writes[export])
}

func targetsAt(path string, disks int) []site.CaptureTarget {
	var out []site.CaptureTarget
	for i := range disks {
		out = append(out, site.CaptureTarget{Disk: dr.DiskID(fmt.Sprintf("disk%d", i)), Socket: path, Export: fmt.Sprintf("x%d", i)})
	}
	return out
}

// guestWrite writes through the device's own back end, as a guest does.
func guestWrite(t *testing.T, d *Driver, name dr.MachineName, disk dr.DiskID, pattern byte, off, length int64) {
	t.Helper()
	ctx := testContext(t)
	c, err := d.glance(ctx, name)
	must(t, err)
	disks, err := c.disks(ctx)
	must(t, err)
	out, err := qmp.HMP(ctx, c.mon, fmt.Sprintf("qemu-io -d %s \"write -P %d %d %d\"", disks[disk].Qdev, pattern, off, length))
	must(t, err)
	if out != "" {
		t.Fatalf("the guest saw an error: %s", out)
	}
}

func startTiny(t *testing.T, disks int) (*Driver, string) {
	t.Helper()
	needQEMU(t)
	dir, err := os.MkdirTemp("", "rbcap")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	d := openDriver(t, filepath.Join(dir, "s"))
	ctx := testContext(t)
	must(t, d.Create(ctx, tiny("web", disks)))
	must(t, d.Start(ctx, "web", site.StartOptions{Paused: true}))
	return d, filepath.Join(dir, "cap.sock")
}

func wantAttached(t *testing.T, d *Driver, want bool) {
	t.Helper()
	got, err := d.Attached(testContext(t), "web")
	must(t, err)
	if got != want {
		t.Fatalf("Attached = %v, want %v", got, want)
	}
}

func wantClean(t *testing.T, d *Driver) {
	t.Helper()
	ctx := testContext(t)
	c, err := d.glance(ctx, "web")
	must(t, err)
	targets, err := c.targets(ctx)
	must(t, err)
	jobs, err := c.jobs(ctx)
	must(t, err)
	if len(targets) != 0 || len(jobs) != 0 {
		t.Fatalf("left behind: targets %v, jobs %v", targets, jobs)
	}
}

func TestAttachSendsWritesUntilDetach(t *testing.T) {
	d, path := startTiny(t, 2)
	ctx := testContext(t)
	r := startRecorder(t, path, 2, 8<<20)
	wantAttached(t, d, false)
	for range 2 { // the second changes nothing
		must(t, d.Attach(ctx, "web", targetsAt(path, 2)))
		wantAttached(t, d, true)
	}
	must(t, d.Resume(ctx, "web"))
	guestWrite(t, d, "web", "disk1", 0x5a, 12345, 777)
	r.mu.Lock()
	if want := []extent.Range{{Off: 12345, Len: 777}}; !slices.Equal(r.writes["x1"], want) {
		t.Errorf("arrived %v, want %v", r.writes["x1"], want)
	}
	if !bytes.Equal(r.last["x1"], bytes.Repeat([]byte{0x5a}, 777)) {
		t.Error("other content arrived")
	}
	r.mu.Unlock()
	must(t, d.Detach(ctx, "web"))
	must(t, d.Detach(ctx, "web"))
	wantAttached(t, d, false)
	wantClean(t, d)
	n := r.count("x1")
	guestWrite(t, d, "web", "disk1", 1, 0, 512)
	if r.count("x1") != n {
		t.Error("a write arrived after Detach")
	}
}

func TestDeadCaptureNeverHurtsTheGuest(t *testing.T) {
	d, path := startTiny(t, 2)
	ctx := testContext(t)
	r := startRecorder(t, path, 2, 8<<20)
	must(t, d.Attach(ctx, "web", targetsAt(path, 2)))
	r.die()
	for i := range 20 {
		guestWrite(t, d, "web", "disk0", byte(i), int64(i)*4096, 4096)
	}
	wantAttached(t, d, false)
	must(t, d.Detach(ctx, "web"))
	wantClean(t, d)
	startRecorder(t, path, 2, 8<<20)
	must(t, d.Attach(ctx, "web", targetsAt(path, 2)))
	wantAttached(t, d, true)
	must(t, d.Detach(ctx, "web"))
}

func TestAttachRefuses(t *testing.T) {
	d, path := startTiny(t, 1)
	ctx := testContext(t)
	refused := func(code problem.Code, targets []site.CaptureTarget) {
		t.Helper()
		if err := d.Attach(ctx, "web", targets); !problem.HasCode(err, code) {
			t.Errorf("Attach = %v, want %s", err, code)
		}
		wantClean(t, d)
	}
	refused(problem.GatewayUnreachable, targetsAt(path, 1)) // nobody listens
	r := startRecorder(t, path, 2, 8<<20)
	refused(problem.UnknownDisk, targetsAt(path, 2))
	r.die()
	startRecorder(t, path, 1, 4<<20)
	refused(problem.DiskNotSupported, targetsAt(path, 1)) // other size
	if err := d.Attach(ctx, "nobody", nil); !problem.HasCode(err, problem.UnknownMachine) {
		t.Errorf("Attach of an unknown machine = %v", err)
	}

	hung := filepath.Join(filepath.Dir(path), "hung")
	l, err := net.Listen("unix", hung) // accepts and says nothing
	must(t, err)
	defer l.Close()
	begin := time.Now()
	refused(problem.GatewayUnreachable, targetsAt(hung, 1))
	if took := time.Since(begin); took > 2*proofTimeout {
		t.Errorf("a hung capture process held Attach for %v", took)
	}
}

func TestAttachRefusesForeignJob(t *testing.T) {
	d, path := startTiny(t, 1)
	ctx := testContext(t)
	startRecorder(t, path, 1, 8<<20)
	c, err := d.glance(ctx, "web")
	must(t, err)
	must(t, c.mon.Run(ctx, "blockdev-add", object{"driver": "null-co", "node-name": "sink", "size": 8 << 20}, nil))
	must(t, c.mon.Run(ctx, "blockdev-mirror", object{"job-id": "theirs", "device": "disk0", "target": "sink", "sync": "none"}, nil))
	if err := d.Attach(ctx, "web", targetsAt(path, 1)); !problem.HasCode(err, problem.DiskNotSupported) {
		t.Errorf("Attach beside a foreign job = %v", err)
	}
}

func TestBitmapsRotateUnderCapture(t *testing.T) {
	d, path := startTiny(t, 2)
	ctx := testContext(t)
	startRecorder(t, path, 2, 8<<20)
	must(t, d.BeginBitmap(ctx, "web", "rebound-1"))
	guestWrite(t, d, "web", "disk0", 1, 0, 4096)
	must(t, d.Attach(ctx, "web", targetsAt(path, 2)))
	guestWrite(t, d, "web", "disk0", 2, 1<<20, 512)
	must(t, d.BeginBitmap(ctx, "web", "rebound-2"))
	must(t, d.BeginBitmap(ctx, "web", "rebound-2"))
	guestWrite(t, d, "web", "disk0", 3, 2<<20, 8192)
	names, err := d.Bitmaps(ctx, "web")
	must(t, err)
	if want := []string{"rebound-1", "rebound-2"}; !slices.Equal(names, want) {
		t.Errorf("Bitmaps = %v, want %v", names, want)
	}
	dirty := func(want []extent.Range, bitmaps ...string) {
		t.Helper()
		set, err := d.Dirty(ctx, "web", "disk0", bitmaps)
		must(t, err)
		if !slices.Equal(set.Runs(), want) {
			t.Errorf("Dirty(%v) = %v, want %v", bitmaps, set.Runs(), want)
		}
	}
	first := []extent.Range{{Off: 0, Len: 4096}, {Off: 1 << 20, Len: 4096}, {Off: 2 << 20, Len: 8192}}
	dirty(first, "rebound-1", "rebound-2")
	dirty(first[2:], "rebound-2")
	must(t, d.DropBitmap(ctx, "web", "rebound-1"))
	must(t, d.DropBitmap(ctx, "web", "rebound-1"))
	dirty(first[2:], "rebound-2")
	if _, err := d.Dirty(ctx, "web", "disk0", []string{"rebound-1"}); err == nil {
		t.Error("a dropped bitmap was read")
	}
	must(t, d.Detach(ctx, "web"))
	dirty(first[2:], "rebound-2")
}

func TestOpenSourceShowsNewestWrites(t *testing.T) {
	d, path := startTiny(t, 1)
	ctx := testContext(t)
	startRecorder(t, path, 1, 8<<20)
	must(t, d.Attach(ctx, "web", targetsAt(path, 1)))
	guestWrite(t, d, "web", "disk0", 7, 65536, 4096)
	dev, err := d.OpenSource(ctx, "web", "disk0")
	must(t, err)
	if dev.Size() != 8<<20 {
		t.Errorf("size %d", dev.Size())
	}
	p := make([]byte, 4096)
	for _, b := range []byte{7, 8} {
		guestWrite(t, d, "web", "disk0", b, 65536, 4096)
		must(t, dev.ReadAt(ctx, p, 65536))
		if !bytes.Equal(p, bytes.Repeat([]byte{b}, 4096)) {
			t.Errorf("read %x, want %x", p[0], b)
		}
	}
	ext, err := dev.(block.Mapper).Extents(ctx, 0, 8<<20)
	must(t, err)
	if len(ext) < 2 {
		t.Errorf("holes are not told: %v", ext)
	}
	must(t, d.Detach(ctx, "web")) // while it is being read
	must(t, dev.ReadAt(ctx, p, 65536))
	must(t, dev.Close())
	c, err := d.glance(ctx, "web")
	must(t, err)
	left, err := qmp.Call[[]any](ctx, c.mon, "query-block-exports", nil)
	must(t, err)
	if len(left) != 0 {
		t.Errorf("exports left: %v", left)
	}
}
