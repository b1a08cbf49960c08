package fake_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"rebound/internal/block"
	"rebound/internal/dr"
	"rebound/internal/nbd"
	"rebound/internal/problem"
	"rebound/internal/site"
	"rebound/internal/site/fake"
	"rebound/internal/site/sitetest"
)

// serve offers devices over NBD on a Unix socket until the test ends.
func serve(t *testing.T, export string, dev block.Device, readOnly bool) (socket string, server *nbd.Server) {
	t.Helper()
	dir, err := os.MkdirTemp("", "nbd")
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server, err = nbd.NewServer(nbd.ServerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Add(nbd.Export{Name: export, Device: dev, ReadOnly: readOnly}); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(context.Background(), l)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
		_ = os.RemoveAll(dir)
	})
	return socket, server
}

func TestConformance(t *testing.T) {
	sitetest.Run(t, sitetest.Factory{
		Network: "default",
		View:    sitetest.View,
		New:     func(t sitetest.T) site.Driver { return fake.New(fake.Options{Dir: t.TempDir()}) },
	})
}

func web() dr.Definition {
	return dr.Definition{
		Name: "web", CPUs: 1, MemoryMiB: 64, Firmware: dr.BIOS,
		Disks: []dr.DiskSpec{{ID: "disk0", Bus: "virtio", SizeBytes: 1 << 20}},
	}
}

func TestCaptureSeesWritesUntilItFails(t *testing.T) {
	ctx := t.Context()
	d := fake.New(fake.Options{})
	must(t, d.Create(ctx, web()))
	must(t, d.Start(ctx, "web", site.StartOptions{Paused: true}))
	copyOf := block.NewFaulty(block.NewMemory(1 << 20))
	socket, server := serve(t, "disk0", copyOf, false)
	targets := []site.CaptureTarget{{Disk: "disk0", Socket: socket, Export: "disk0"}}
	must(t, d.BeginBitmap(ctx, "web", "b1"))
	must(t, d.Attach(ctx, "web", targets))
	must(t, d.Attach(ctx, "web", targets))
	attached(t, d, true)
	must(t, d.Resume(ctx, "web"))
	must(t, d.GuestWrite(ctx, "web", "disk0", []byte("first"), 5000))
	got := make([]byte, 5)
	must(t, copyOf.ReadAt(ctx, got, 5000))
	if string(got) != "first" {
		t.Fatalf("the capture holds %q", got)
	}
	must(t, server.Close())
	must(t, d.GuestWrite(ctx, "web", "disk0", []byte("later"), 500000)) // sees nothing of it
	attached(t, d, false)
	set, err := d.Dirty(ctx, "web", "disk0", []string{"b1"})
	must(t, err)
	if set.Bytes() != 2*4096 {
		t.Fatalf("the bitmap holds %v", set.Runs())
	}
	src, err := d.OpenSource(ctx, "web", "disk0")
	must(t, err)
	must(t, src.ReadAt(ctx, got, 500000))
	if string(got) != "later" || !errors.Is(src.WriteAt(ctx, got, 0), block.ErrReadOnly) {
		t.Fatalf("the source holds %q", got)
	}
	must(t, d.Detach(ctx, "web"))
	must(t, d.Crash("web"))
	_, err = d.Bitmaps(ctx, "web")
	if !problem.HasCode(err, problem.MachineNotRunning) {
		t.Fatalf("bitmaps of a crashed machine: %v", err)
	}
}

func attached(t *testing.T, d *fake.Driver, want bool) {
	t.Helper()
	got, err := d.Attached(t.Context(), "web")
	must(t, err)
	if got != want {
		t.Fatalf("attached: %v, want %v", got, want)
	}
}

func TestCommitKeepsGuestWrites(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	d := fake.New(fake.Options{Dir: dir})
	must(t, d.Create(ctx, web()))
	path, err := d.DiskPath(ctx, "web", "disk0")
	must(t, err)
	content := bytes.Repeat([]byte{7}, 1<<20)
	must(t, os.WriteFile(path, content, 0o600))
	socket, export := sitetest.View(t, content)
	spec := site.RecoveredSpec{Definition: web(), Disks: []site.ViewDisk{{Disk: "disk0", Socket: socket, Export: export}}}
	_, err = d.StartRecovered(ctx, spec)
	must(t, err)
	must(t, d.GuestWrite(ctx, "web", "disk0", []byte("new"), 99))
	copy(content[99:], "new")
	got := make([]byte, len(content))
	must(t, d.GuestRead(ctx, "web", "disk0", got, 0))
	if !bytes.Equal(got, content) {
		t.Fatal("view and overlay do not add up")
	}
	must(t, d.CommitRecovered(ctx, "web", map[dr.DiskID]string{"disk0": path}, nil))
	set, err := d.Dirty(ctx, "web", "disk0", []string{site.CommitBitmap})
	must(t, err)
	if set.Bytes() != 4096 {
		t.Errorf("the bitmap holds %v", set.Runs())
	}
	must(t, d.Stop(ctx, "web", site.Hard, 0))
	if got, err = os.ReadFile(path); err != nil || !bytes.Equal(got, content) {
		t.Fatalf("the base lacks what the guest wrote (%v)", err)
	}
}

func TestFaultsAndLatency(t *testing.T) {
	errBroken := errors.New("broken")
	d := fake.New(fake.Options{Latency: 5 * time.Millisecond, Fault: func(c fake.Call) error {
		if c.Method == "Start" && c.Machine == "web" {
			return errBroken
		}
		return nil
	}})
	ctx := t.Context()
	begin := time.Now()
	must(t, d.Create(ctx, web()))
	if time.Since(begin) < 5*time.Millisecond {
		t.Error("there was no latency")
	}
	if err := d.Start(ctx, "web", site.StartOptions{}); !errors.Is(err, errBroken) {
		t.Errorf("got %v, want the fault", err)
	}
	m, err := d.Machine(ctx, "web")
	must(t, err)
	if m.State != site.Off {
		t.Errorf("the machine is %s", m.State)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
