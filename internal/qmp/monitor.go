package qmp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
)

// Monitor is a monitor socket that outlives its connections: it dials at the
// first command and again after a broken connection. It never repeats a
// command. All methods may be called at the same time.
type Monitor struct {
	path string

	dialing chan struct{} // a lock that a context can give up on

	mu     sync.Mutex
	client *Client
	closed bool
}

// NewMonitor returns the monitor at a Unix socket; it does not dial.
func NewMonitor(path string) *Monitor {
	return &Monitor{path: path, dialing: make(chan struct{}, 1)}
}

// Path returns the socket's path.
func (m *Monitor) Path() string { return m.path }

// Client returns the present connection, made when there is none.
func (m *Monitor) Client(ctx context.Context) (*Client, error) {
	if c, err := m.current(); c != nil || err != nil {
		return c, err
	}
	select {
	case m.dialing <- struct{}{}:
		defer func() { <-m.dialing }()
	case <-ctx.Done():
		return nil, fmt.Errorf("dial monitor %s: %w", m.path, context.Cause(ctx))
	}
	if c, err := m.current(); c != nil || err != nil {
		return c, err
	}
	c, err := Dial(ctx, m.path)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		_ = c.Close()
		return nil, ErrClosed
	}
	m.client = c
	return c, nil
}

func (m *Monitor) current() (*Client, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, ErrClosed
	}
	if m.client == nil || m.client.Err() != nil {
		return nil, nil
	}
	return m.client, nil
}

// Run is Client.Run on the present connection. Failing to connect is a
// *ConnError with Sent false.
func (m *Monitor) Run(ctx context.Context, command string, args, result any) error {
	c, err := m.Client(ctx)
	if err != nil {
		return &ConnError{Command: command, Err: err}
	}
	return c.Run(ctx, command, args, result)
}

// RunOOB is Client.RunOOB on the present connection.
func (m *Monitor) RunOOB(ctx context.Context, command string, args, result any) error {
	c, err := m.Client(ctx)
	if err != nil {
		return &ConnError{Command: command, Err: err}
	}
	return c.RunOOB(ctx, command, args, result)
}

// Close ends the connection for good.
func (m *Monitor) Close() error {
	m.mu.Lock()
	m.closed = true
	c := m.client
	m.mu.Unlock()
	if c == nil {
		return nil
	}
	return c.Close()
}

// Gone reports whether err proves that nobody listens at the socket: QEMU has
// ended, or was never started.
func Gone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

// PeerPID returns the process that listens at the other end of the connection,
// as the kernel recorded it.
func (c *Client) PeerPID() (int, error) {
	u, ok := c.conn.(*net.UnixConn)
	if !ok {
		return 0, fmt.Errorf("peer's process: %T has none", c.conn)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("peer's process: %w", err)
	}
	var cred *syscall.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err = errors.Join(err, credErr); err != nil {
		return 0, fmt.Errorf("peer's process: %w", err)
	}
	return int(cred.Pid), nil
}
