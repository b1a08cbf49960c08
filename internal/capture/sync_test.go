package capture

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rebound/internal/block"
	"rebound/internal/extent"
	"rebound/internal/link"
	"rebound/internal/nbd"
	"rebound/internal/resync"
	"rebound/internal/segment"
)

// ramDisk is a disk in memory.
type ramDisk struct {
	mu   sync.Mutex
	data []byte
}

func (d *ramDisk) Size() int64 { return int64(len(d.data)) }

func (d *ramDisk) at(off, n int64, f func(b []byte)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := block.CheckRange(off, n, d.Size()); err != nil {
		return err
	}
	f(d.data[off : off+n])
	return nil
}

func (d *ramDisk) ReadAt(_ context.Context, p []byte, off int64) error {
	return d.at(off, int64(len(p)), func(b []byte) { copy(p, b) })
}

func (d *ramDisk) WriteAt(_ context.Context, p []byte, off int64) error {
	return d.at(off, int64(len(p)), func(b []byte) { copy(b, p) })
}

func (d *ramDisk) WriteZeroes(_ context.Context, off, n int64) error {
	return d.at(off, n, func(b []byte) { clear(b) })
}

func (d *ramDisk) Trim(context.Context, int64, int64) error { return nil }
func (d *ramDisk) Flush(context.Context) error              { return nil }
func (d *ramDisk) Close() error                             { return nil }

// apply does to images what a stream's entry says.
func apply(t testing.TB, images []*ramDisk, e *storedEntry) {
	t.Helper()
	var err error
	switch e.Kind {
	case segment.KindWrite:
		err = images[e.Disk].WriteAt(bg(), e.data, e.Offset)
	case segment.KindZero:
		err = images[e.Disk].WriteZeroes(bg(), e.Offset, e.Length)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// seedStandby gives the standby images, which compare connections are answered from.
func (s *standby) seed(images []*ramDisk) {
	s.set(func(s *standby) { s.images = images })
}

func (s *standby) comparer() link.Comparer {
	return resync.NewStandby(func(i uint16) (block.Device, error) { return s.images[i], nil }, nil)
}

// serveSources exports disks as a hypervisor does; it returns the socket.
func serveSources(t *testing.T, dir string, disks []*ramDisk) string {
	t.Helper()
	server, err := nbd.NewServer(nbd.ServerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range disks {
		if err := server.Add(nbd.Export{Name: ExportName(i), Device: d, ReadOnly: true}); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "source.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(ctx, l); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { cancel(); _ = server.Close(); <-done })
	return path
}

// TestSyncUnderLoad makes standbys equal that have nothing, something or almost
// everything, while guests write and the link breaks.
func TestSyncUnderLoad(t *testing.T) {
	seed := testSeed(t)
	for i, mode := range []resync.Mode{resync.ModeCopy, resync.ModeCompare, resync.ModeBitmap} {
		t.Run(string(mode), func(t *testing.T) {
			syncUnderLoad(t, rand.New(rand.NewPCG(seed, uint64(i))), mode)
		})
	}
}

func syncUnderLoad(t *testing.T, rng *rand.Rand, mode resync.Mode) {
	r := newRig(t, 2, Limits{RingBytes: 2 << 20, MaxTotalDelay: time.Hour, MaxWriteDelay: time.Second})
	r.standby.set(func(s *standby) { s.delay = 2 * time.Millisecond })
	var sources, images []*ramDisk
	req := SyncRequest{Mode: mode}
	for i := range 2 {
		src, img := &ramDisk{data: make([]byte, testDiskSize)}, &ramDisk{data: make([]byte, testDiskSize)}
		for off := 0; off < testDiskSize; off += 4096 {
			if rng.IntN(4) > 0 {
				copy(src.data[off:off+4096], pattern(1<<40+off, 4096))
			}
		}
		d := SyncDisk{Index: uint16(i), Export: ExportName(i), All: mode != resync.ModeBitmap}
		if mode != resync.ModeCopy {
			copy(img.data, src.data)
			for range 40 { // what the standby lacks
				off := 4096 * rng.Int64N(testDiskSize/4096)
				copy(img.data[off:off+4096], pattern(7, 4096))
				d.Ranges = append(d.Ranges, extent.Range{Off: off, Len: 4096})
			}
		}
		sources, images = append(sources, src), append(images, img)
		req.Disks = append(req.Disks, d)
	}
	r.standby.seed(images)
	socket := serveSources(t, r.dir, sources)
	for i := range req.Disks {
		req.Disks[i].Socket = socket
	}
	disks := r.disks()
	r.open()
	if err := r.client.Sync(r.ctx(), req); err != nil {
		t.Fatal(err)
	}
	if err := r.client.Sync(r.ctx(), req); err == nil {
		t.Error("two synchronisations at a time")
	}

	var stop atomic.Bool
	var wg sync.WaitGroup
	var id atomic.Int64
	for i := range disks {
		for w := range 2 {
			own := rand.New(rand.NewPCG(rng.Uint64(), uint64(w)))
			wg.Go(func() {
				for !stop.Load() {
					n := 512 * (1 + own.Int64N(32))
					off := int64(w)*testDiskSize/2 + 512*own.Int64N((testDiskSize/2-n)/512)
					p := pattern(int(id.Add(1))+1<<20, n)
					if err := sources[i].WriteAt(bg(), p, off); err != nil { // the source first, as QEMU does
						t.Error(err)
					}
					if err := disks[i].WriteAt(bg(), p, off); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
	}
	wg.Go(func() {
		for range 3 {
			time.Sleep(10 * time.Millisecond)
			r.proxy.cut()
		}
	})
	st := r.await("end of the synchronisation", func(s Status) bool { return !s.Sync.Running })
	stop.Store(true)
	wg.Wait()
	if st.Sync.Error != nil || st.Sync.Ended == 0 {
		t.Fatalf("synchronisation: %+v", st.Sync)
	}
	if _, err := r.client.Drain(r.ctx()); err != nil {
		t.Fatal(err)
	}
	for i := range sources {
		if !bytes.Equal(sources[i].data, images[i].data) {
			t.Errorf("disk %d differs after the synchronisation", i)
		}
	}
	if mode == resync.ModeBitmap && st.Sync.Sent > 4*80*4096 {
		t.Errorf("%d bytes sent for %d that were named", st.Sync.Sent, 80*4096)
	}
	verify(t, r, req, images)
}

// verify checks that a verification finds what differs, and nothing else.
func verify(t *testing.T, r *rig, req SyncRequest, images []*ramDisk) {
	t.Helper()
	req.Mode, req.Verify = resync.ModeCompare, true
	for i := range req.Disks {
		req.Disks[i].All = true
	}
	for _, want := range []int64{0, 4096} {
		if err := r.client.Sync(r.ctx(), req); err != nil {
			t.Fatal(err)
		}
		st := r.await("end of the verification", func(s Status) bool { return !s.Sync.Running })
		if st.Sync.Error != nil || st.Sync.Differing != want || st.Sync.Unsettled != 0 || st.Sync.Done != 2*testDiskSize {
			t.Errorf("verification found %+v, want %d bytes", st.Sync, want)
		}
		if err := images[1].WriteAt(bg(), pattern(99, 4096), 77824); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSyncEndsWithTheStream: a break ends a synchronisation, and the next epoch
// can have another.
func TestSyncEndsWithTheStream(t *testing.T) {
	r := newRig(t, 1, Limits{RingBytes: 2 << 20, SyncBelow: 1})
	r.standby.set(func(s *standby) { s.lazy = true })
	src := &ramDisk{data: bytes.Repeat([]byte{1}, testDiskSize)}
	req := SyncRequest{Mode: resync.ModeCopy, Disks: []SyncDisk{{Socket: serveSources(t, r.dir, []*ramDisk{src}), Export: ExportName(0), All: true}}}
	r.disk(0)
	r.open()
	if err := r.client.Sync(r.ctx(), req); err != nil {
		t.Fatal(err)
	}
	r.await("ring at the mark", func(s Status) bool { return s.Counters.SyncBytes > 0 })
	if _, err := r.client.Seal(r.ctx(), "test"); err != nil {
		t.Fatal(err)
	}
	st := r.await("end", func(s Status) bool { return !s.Sync.Running })
	if st.Sync.Ended != 0 || st.Sync.Error == nil {
		t.Errorf("synchronisation of a broken stream: %+v", st.Sync)
	}
	r.standby.set(func(s *standby) { s.lazy = false; s.images = []*ramDisk{{data: make([]byte, testDiskSize)}} })
	r.open()
	if err := r.client.Sync(r.ctx(), req); err != nil {
		t.Fatal(err)
	}
	st = r.await("end", func(s Status) bool { return !s.Sync.Running })
	if st.Sync.Error != nil || st.Sync.Ended == 0 {
		t.Errorf("second synchronisation: %+v", st.Sync)
	}
}

func TestBadSyncRequests(t *testing.T) {
	r := newRig(t, 1, Limits{})
	r.disk(0)
	good := SyncDisk{Socket: filepath.Join(r.dir, "nobody"), Export: "x", All: true}
	if err := r.client.Sync(r.ctx(), SyncRequest{Mode: resync.ModeCopy, Disks: []SyncDisk{good}}); err == nil {
		t.Error("synchronisation without an epoch")
	}
	r.open()
	for name, req := range map[string]SyncRequest{
		"mode":    {Mode: "x", Disks: []SyncDisk{good}},
		"unknown": {Mode: resync.ModeCopy, Disks: []SyncDisk{{Index: 1}}},
		"twice":   {Mode: resync.ModeCopy, Disks: []SyncDisk{good, good}},
		"verify":  {Mode: resync.ModeCopy, Verify: true},
	} {
		if err := r.client.Sync(r.ctx(), req); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := r.client.Sync(r.ctx(), SyncRequest{Mode: resync.ModeCopy, Disks: []SyncDisk{good}}); err != nil {
		t.Fatal(err)
	}
	st := r.await("end", func(s Status) bool { return !s.Sync.Running })
	if st.Sync.Error == nil || st.State != StateOpen {
		t.Errorf("a source that nobody serves: %+v in state %s", st.Sync, st.State)
	}
}
