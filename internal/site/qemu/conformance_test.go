package qemu_test

import (
	"context"
	"os/exec"
	"testing"
	"time"

	"rebound/internal/site"
	"rebound/internal/site/qemu"
	"rebound/internal/site/sitetest"
)

func open(t sitetest.T, dir string) *qemu.Driver {
	t.Helper()
	d, err := qemu.New(qemu.Config{Dir: dir, Accel: "tcg"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// stopAll stops what a test left, with a driver of its own.
func stopAll(t sitetest.T, dir string) {
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
		View:    sitetest.View,
		New: func(t sitetest.T) site.Driver {
			dir := t.TempDir()
			t.Cleanup(func() { stopAll(t, dir) })
			return open(t, dir)
		},
		Reopen: func(t sitetest.T, d site.Driver) site.Driver {
			old := d.(*qemu.Driver)
			if err := old.Close(); err != nil {
				t.Fatal(err)
			}
			return open(t, old.Dir())
		},
	})
}
