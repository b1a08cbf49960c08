package qemu_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"rebound/internal/block"
	"rebound/internal/nbd"
	"rebound/internal/site"
	"rebound/internal/site/qemu"
	"rebound/internal/site/sitetest"
)

// view serves content with the project's own NBD server, as the journal does.
func view(t *testing.T, content []byte) (socket, export string) {
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
	dev := block.NewMemory(int64(len(content)))
	if err := dev.WriteAt(context.Background(), content, 0); err != nil {
		t.Fatal(err)
	}
	server, err := nbd.NewServer(nbd.ServerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Add(nbd.Export{Name: "view", Device: dev, ReadOnly: true}); err != nil {
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
	return socket, "view"
}

func open(t *testing.T, dir string) *qemu.Driver {
	t.Helper()
	d, err := qemu.New(qemu.Config{Dir: dir, Accel: "tcg"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// stopAll stops what a test left, with a driver of its own.
func stopAll(t *testing.T, dir string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	d, err := qemu.New(qemu.Config{Dir: dir, Accel: "tcg"})
	if err != nil {
		t.Error(err)
		return
	}
	defer d.Close()
	machines, err := d.Machines(ctx)
	if err != nil {
		t.Error(err)
	}
	for _, m := range machines {
		if err := d.Stop(ctx, m.Definition.Name, site.Hard, 0); err != nil {
			t.Error(err)
		}
	}
}

func TestConformance(t *testing.T) {
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("QEMU is missing")
	}
	sitetest.Run(t, sitetest.Factory{
		Network: "default",
		View:    view,
		New: func(t *testing.T) site.Driver {
			dir := t.TempDir()
			t.Cleanup(func() { stopAll(t, dir) })
			return open(t, dir)
		},
		Reopen: func(t *testing.T, d site.Driver) site.Driver {
			old := d.(*qemu.Driver)
			if err := old.Close(); err != nil {
				t.Fatal(err)
			}
			return open(t, old.Dir())
		},
	})
}
