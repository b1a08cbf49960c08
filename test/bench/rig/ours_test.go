package rig

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"rebound/internal/extent"
	"rebound/internal/resync"
)

// TestMain lets this program be the processes that a Rig starts from itself.
func TestMain(m *testing.M) {
	var err error
	switch {
	case len(os.Args) == 2 && os.Args[1] == StandbyCommand:
		err = Serve(context.Background())
	case len(os.Args) == 4 && os.Args[1] == CaptureCommand:
		err = Capture(context.Background(), os.Args[2], os.Args[3])
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// newOurs sets a captured disk up, without the shipped binary.
func newOurs(t *testing.T) (*Rig, *Host, *Ours) {
	t.Helper()
	if testing.Short() {
		t.Skip("runs qemu-storage-daemon")
	}
	if _, err := exec.LookPath("qemu-storage-daemon"); err != nil {
		if os.Getenv("REBOUND_REQUIRE_TOOLS") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	r, err := New("", t.TempDir(), t.TempDir(), "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	r.Profiles = t.TempDir()
	standby, err := r.NewStandby(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	host, err := r.NewHost(t.Context(), "vm", 16<<20, "")
	if err != nil {
		t.Fatal(err)
	}
	u, err := r.NewOurs(t.Context(), host, standby, Options{Codec: "s2", BackPressure: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r, host, u
}

// scribble writes at random to the disk, as the guest.
func scribble(t *testing.T, h *Host, writes int) {
	t.Helper()
	c, err := h.Guest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range writes {
		data := []byte(strings.Repeat(fmt.Sprintf("%016d", i), 1+rng.IntN(512)))
		if err := c.WriteAt(t.Context(), data, rng.Int64N(h.Size-int64(len(data)))); err != nil {
			t.Fatal(err)
		}
	}
}

// TestVerify: what was captured is found equal, folded or not; one byte that was
// not captured is noticed, and put right by the next synchronisation.
func TestVerify(t *testing.T) {
	_, host, u := newOurs(t)
	ctx := t.Context()
	for range 2 {
		scribble(t, host, 100)
		if err := u.Verify(ctx); err != nil {
			t.Fatal(err)
		}
		if err := u.Fold(ctx); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.OpenFile(host.Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const at = 5 << 20
	one := make([]byte, 1)
	if _, err := f.ReadAt(one, at); err != nil {
		t.Fatal(err)
	}
	one[0]++
	if _, err := f.WriteAt(one, at); err != nil {
		t.Fatal(err)
	}
	if err := u.Verify(ctx); err == nil || !strings.Contains(err.Error(), "differs from the source") {
		t.Fatalf("a byte that was not captured: %v", err)
	}
	if err := u.Detach(ctx); err != nil {
		t.Fatal(err)
	}
	if err := u.Attach(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Sync(ctx, resync.ModeBitmap, []extent.Range{{Off: at, Len: 4096}}); err != nil {
		t.Fatal(err)
	}
	if err := u.Verify(ctx); err != nil {
		t.Error(err)
	}
}

// TestBrokenStream: a mirror that has ended is never taken for a result.
func TestBrokenStream(t *testing.T) {
	_, host, u := newOurs(t)
	if err := host.Unmirror(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := u.Drain(ctx); err == nil {
		t.Error("the drain succeeded")
	}
}
