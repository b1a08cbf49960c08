package qga_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rebound/internal/qga"
	"rebound/internal/qga/qgatest"
)

func start(t *testing.T) (*qgatest.Guest, *qga.Agent) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	return qgatest.Serve(t, path), qga.New(path)
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestFreezeAndThaw(t *testing.T) {
	guest, a := start(t)
	ctx := within(t, 20*time.Second)
	if err := a.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	if n, err := a.Freeze(ctx); err != nil || n != 2 {
		t.Fatalf("froze %d, %v", n, err)
	}
	if is, err := a.Frozen(ctx); err != nil || !is {
		t.Fatalf("frozen %v, %v", is, err)
	}
	if n, err := a.Thaw(ctx); err != nil || n != 2 {
		t.Fatalf("thawed %d, %v", n, err)
	}
	if n, err := a.Thaw(ctx); err != nil || n != 0 {
		t.Fatalf("thawed again %d, %v", n, err)
	}
	guest.Lock()
	guest.Refuse = "hook failed with status 1"
	guest.Unlock()
	var refused *qga.RefusedError
	if _, err := a.Freeze(ctx); !errors.As(err, &refused) || refused.Desc != "hook failed with status 1" || errors.Is(err, qga.ErrSilent) {
		t.Fatalf("refused freeze: %v", err)
	}
}

// TestHang: an agent that hangs costs its caller no more than the caller's
// time, and what it was told meanwhile is done in order once it goes on.
func TestHang(t *testing.T) {
	guest, a := start(t)
	hang := make(chan struct{})
	guest.Lock()
	guest.Hang = hang
	guest.Unlock()
	for range 2 {
		if _, err := a.Freeze(within(t, 50*time.Millisecond)); !errors.Is(err, qga.ErrSilent) {
			t.Fatalf("freeze of a hung agent: %v", err)
		}
	}
	guest.Lock()
	guest.Hang = nil
	guest.Unlock()
	close(hang)
	if n, err := a.Thaw(within(t, 10*time.Second)); err != nil {
		t.Fatalf("thawed %d, %v", n, err)
	}
	if is, err := a.Frozen(within(t, 10*time.Second)); err != nil || is {
		t.Fatalf("frozen %v, %v", is, err)
	}
}

func TestOneUserAtATime(t *testing.T) {
	_, a := start(t)
	b := qga.New(filepath.Join(t.TempDir(), "none"))
	if err := b.Ping(within(t, time.Second)); !qga.Gone(err) || errors.Is(err, qga.ErrSilent) {
		t.Errorf("no socket: %v", err)
	}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if err := a.Ping(within(t, 20*time.Second)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestNoRoom: a socket whose queue is full, as QEMU's is with two clients, costs
// time and no error.
func TestNoRoom(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, full := fullSocket(t, path)
	if err := qga.New(path).Ping(within(t, 50*time.Millisecond)); !errors.Is(err, qga.ErrSilent) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("ping at a full socket: %v", err)
	}
	pinged := make(chan error, 1)
	ctx := within(t, 20*time.Second)
	go func() { pinged <- qga.New(path).Ping(ctx) }()
	qgatest.ServeOn(t, l)
	for _, conn := range full {
		_ = conn.Close()
	}
	if err := <-pinged; err != nil {
		t.Fatal(err)
	}
}

// fullSocket listens at a socket and fills its queue.
func fullSocket(t *testing.T, path string) (net.Listener, []net.Conn) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	l, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	var full []net.Conn
	for {
		conn, err := net.Dial("unix", path)
		if errors.Is(err, unix.EAGAIN) {
			return l, full
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		full = append(full, conn)
	}
}
