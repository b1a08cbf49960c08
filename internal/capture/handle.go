package capture

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"sync"

	"golang.org/x/sys/unix"
)

// handle is a process that cannot be mistaken for another one that got its
// number later: all signals go through a pidfd.
type handle struct {
	pid  int
	fd   int
	done chan struct{} // closed when the process has ended

	mu     sync.Mutex
	closed bool
	err    error
}

// openHandle takes hold of a process that is known to live.
func openHandle(pid int) (*handle, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("hold process %d: %w", pid, err)
	}
	return &handle{pid: pid, fd: fd, done: make(chan struct{})}, nil
}

// childHandle takes hold of a child and reaps it.
func childHandle(cmd *exec.Cmd) (*handle, error) {
	h, err := openHandle(cmd.Process.Pid)
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, err
	}
	go func() {
		err := cmd.Wait()
		h.ended(err)
	}()
	return h, nil
}

// peerOf takes hold of the process that listens on a Unix socket.
func peerOf(ctx context.Context, socket string) (*handle, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("dial capture: %w", err)
	}
	defer func() { _ = conn.Close() }()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("look at the peer of %s: %w", socket, err)
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, credErr); err != nil {
		return nil, fmt.Errorf("look at the peer of %s: %w", socket, err)
	}
	h, err := openHandle(int(cred.Pid))
	if err != nil {
		return nil, err
	}
	go h.await()
	return h, nil
}

// await waits for the end of a process that is no child of ours.
func (h *handle) await() {
	fds := []unix.PollFd{{Fd: int32(h.fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, -1)
		if n > 0 || (err != nil && !errors.Is(err, unix.EINTR)) {
			h.ended(nil)
			return
		}
	}
}

func (h *handle) ended(err error) {
	h.mu.Lock()
	h.closed, h.err = true, err
	_ = unix.Close(h.fd)
	h.mu.Unlock()
	close(h.done)
}

// kill sends SIGKILL.
func (h *handle) kill() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		_ = unix.PidfdSendSignal(h.fd, unix.SIGKILL, nil, 0)
	}
}

// exitErr returns how the process ended, as far as is known.
func (h *handle) exitErr() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}
