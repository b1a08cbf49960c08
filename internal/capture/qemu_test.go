package capture

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"rebound/internal/nbd"
	"rebound/internal/qmp"
	"rebound/internal/resync"
)

// hypervisor is a qemu-storage-daemon with raw disks, each exported once for
// the "guest" and mirrored to capture on request.
type hypervisor struct {
	t      *testing.T
	dir    string
	qmp    *qmp.Client
	disks  int
	socket string // of the guest's exports
}

func newHypervisor(t *testing.T, dir string, disks int) *hypervisor {
	t.Helper()
	if testing.Short() {
		t.Skip("runs qemu-storage-daemon")
	}
	bin, err := exec.LookPath("qemu-storage-daemon")
	if err != nil {
		if os.Getenv("REBOUND_REQUIRE_TOOLS") != "" {
			t.Fatal(err)
		}
		t.Skip("qemu-storage-daemon is not installed")
	}
	h := &hypervisor{t: t, dir: dir, disks: disks, socket: filepath.Join(dir, "guest.sock")}
	monitor := filepath.Join(dir, "qmp.sock")
	args := []string{
		"--chardev", "socket,id=mon,path=" + monitor + ",server=on,wait=off", "--monitor", "chardev=mon",
		"--nbd-server", "addr.type=unix,addr.path=" + h.socket,
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range disks {
		content := make([]byte, testDiskSize)
		for off := 0; off < len(content); off += 8192 { // half of it is a hole
			copy(content[off:off+4096], pattern(rng.IntN(1<<30), 4096))
		}
		path := filepath.Join(dir, fmt.Sprintf("disk%d.raw", i))
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args,
			"--blockdev", fmt.Sprintf("driver=file,node-name=file%d,filename=%s", i, path),
			"--blockdev", fmt.Sprintf("driver=raw,node-name=disk%d,file=file%d", i, i),
			"--export", fmt.Sprintf("type=nbd,id=exp%d,node-name=disk%d,writable=on,name=guest%d", i, i, i))
	}
	cmd := exec.Command(bin, args...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	deadline := time.Now().Add(10 * time.Second)
	for {
		if h.qmp, err = qmp.Dial(t.Context(), monitor); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Cleanup(func() { _ = h.qmp.Close() })
	return h
}

type args map[string]any

func (h *hypervisor) run(command string, a args) {
	h.t.Helper()
	if err := h.qmp.Run(bg(), command, a, nil); err != nil {
		h.t.Fatal(err)
	}
}

// attach mirrors all disks to a capture process.
func (h *hypervisor) attach(dir string) {
	h.t.Helper()
	for i := range h.disks {
		node := fmt.Sprint("rebound", i)
		h.run("blockdev-add", args{
			"driver": "nbd", "node-name": node, "export": ExportName(i), "reconnect-delay": 0,
			"server": args{"type": "unix", "path": NBDSocket(dir)},
		})
		h.run("blockdev-mirror", args{
			"job-id": fmt.Sprint("job", i), "device": fmt.Sprint("disk", i), "target": node, "sync": "none",
			"copy-mode": "write-blocking", "on-target-error": "report", "granularity": 4096,
			"filter-node-name": fmt.Sprint("filter", i),
		})
	}
}

// attached asks whether all mirrors run.
func (h *hypervisor) attached() bool {
	h.t.Helper()
	jobs, err := qmp.Call[[]struct {
		Device string `json:"device"`
		Ready  bool   `json:"ready"`
	}](bg(), h.qmp, "query-block-jobs", nil)
	if err != nil {
		h.t.Fatal(err)
	}
	return len(jobs) == h.disks
}

// guest connects to a disk as the guest sees it.
func (h *hypervisor) guest(i int) *nbd.Client {
	h.t.Helper()
	c, err := nbd.Dial(h.t.Context(), "unix", h.socket, nbd.Options{Export: fmt.Sprint("guest", i)})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = c.Close() })
	return c
}

// load writes at random, each writer in its own part, until stop is closed. It
// returns the number of writes and the longest one.
func (h *hypervisor) load(stop chan struct{}) (func(), *atomic.Int64, *atomic.Int64) {
	var wg sync.WaitGroup
	var count, longest atomic.Int64
	for i := range h.disks {
		c := h.guest(i)
		for w := range 4 {
			rng := rand.New(rand.NewPCG(uint64(i), uint64(w)))
			wg.Go(func() {
				for id := 1; ; id++ {
					select {
					case <-stop:
						return
					default:
					}
					n := 512 * (1 + rng.Int64N(64))
					off := int64(w)*testDiskSize/4 + 512*rng.Int64N((testDiskSize/4-n)/512)
					start := time.Now()
					var err error
					if rng.IntN(10) == 0 {
						err = c.WriteZeroes(bg(), off, n)
					} else {
						err = c.WriteAt(bg(), pattern(id, n), off)
					}
					if err != nil {
						h.t.Errorf("the guest sees an error: %v", err)
						return
					}
					count.Add(1)
					took := int64(time.Since(start))
					for old := longest.Load(); took > old && !longest.CompareAndSwap(old, took); old = longest.Load() {
					}
				}
			})
		}
	}
	return wg.Wait, &count, &longest
}

// TestQEMUMirror replicates disks with content under load from a real mirror:
// the standby ends up equal, also after a break, and the guest notices nothing.
func TestQEMUMirror(t *testing.T) {
	r := newRig(t, 2, Limits{})
	h := newHypervisor(t, r.dir, 2)
	images := []*ramDisk{{data: make([]byte, testDiskSize)}, {data: make([]byte, testDiskSize)}}
	r.standby.seed(images)
	stop := make(chan struct{})
	wait, count, longest := h.load(stop)
	for round, mode := range []resync.Mode{resync.ModeCopy, resync.ModeCompare} {
		h.attach(r.dir)
		r.await("attached disks", func(s Status) bool { return s.Disks[0].Conns == 1 && s.Disks[1].Conns == 1 })
		r.open()
		req := SyncRequest{Mode: mode}
		for i := range 2 {
			req.Disks = append(req.Disks, SyncDisk{Index: uint16(i), Socket: h.socket, Export: fmt.Sprint("guest", i), All: true})
		}
		if err := r.client.Sync(r.ctx(), req); err != nil {
			t.Fatal(err)
		}
		st := r.await("end of the synchronisation", func(s Status) bool { return !s.Sync.Running })
		if st.Sync.Error != nil || st.State != StateOpen {
			t.Fatalf("round %d: %+v", round, st)
		}
		time.Sleep(100 * time.Millisecond) // some more live writes
		p, err := r.client.Probe(r.ctx())
		if err != nil || !h.attached() {
			t.Fatalf("probe: %v, attached %v", err, h.attached())
		}
		if _, err := r.client.Confirm(r.ctx(), p); err != nil {
			t.Fatal(err)
		}
		if round == 1 {
			close(stop)
			wait()
			if _, err := r.client.Drain(r.ctx()); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := r.client.Seal(r.ctx(), "detach"); err != nil {
			t.Fatal(err)
		}
		for i := range 2 { // everything in flight is answered: cancel is safe
			h.run("block-job-cancel", args{"device": fmt.Sprint("job", i)})
		}
		h.awaitDetached()
		for i := range 2 {
			h.run("blockdev-del", args{"node-name": fmt.Sprint("rebound", i)})
		}
		r.await("detached disks", func(s Status) bool { return s.Disks[0].Conns+s.Disks[1].Conns == 0 })
	}
	for i := range images {
		got := make([]byte, testDiskSize)
		if err := h.guest(i).ReadAt(bg(), got, 0); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, images[i].data) {
			t.Errorf("disk %d differs at the standby", i)
		}
	}
	if c := r.status().Counters; c.Writes == 0 || c.SyncBytes == 0 {
		t.Errorf("counters %+v", c)
	}
	t.Logf("%d guest writes, longest %v", count.Load(), time.Duration(longest.Load()))
}

func (h *hypervisor) awaitDetached() {
	h.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		jobs, err := qmp.Call[[]any](bg(), h.qmp, "query-block-jobs", nil)
		if err != nil {
			h.t.Fatal(err)
		}
		if len(jobs) == 0 {
			return
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("jobs that do not end: %v", jobs)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestQEMUStall stops the capture process under a running mirror: the watchdog
// kills it, and the guest stalls at most a second and sees no error.
func TestQEMUStall(t *testing.T) {
	s := newSupervised(t, 2, time.Minute)
	h := newHypervisor(t, s.dir, 2)
	h.attach(s.dir)
	if _, err := s.process.Client().Open(s.ctx()); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	wait, count, longest := h.load(stop)
	time.Sleep(300 * time.Millisecond)
	before := count.Load()
	if before == 0 {
		t.Fatal("no load")
	}
	longest.Store(0)
	if err := syscall.Kill(s.process.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	<-s.process.Done()
	killed := count.Load()
	time.Sleep(500 * time.Millisecond)
	close(stop)
	wait()
	if h.attached() {
		t.Error("the mirrors survived")
	}
	if count.Load() == killed {
		t.Error("the guest did not go on after the kill")
	}
	stall := time.Duration(longest.Load())
	t.Logf("%d writes before, %d in all; longest stall %v", before, count.Load(), stall)
	if stall > time.Second || stall < 300*time.Millisecond {
		t.Errorf("the guest stalled for %v, want between 300ms and 1s", stall)
	}
}
