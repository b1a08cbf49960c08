package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

// maxInBand is how many in-band commands a Client lets wait in QEMU. QEMU runs
// them one after the other and stops reading the socket, out-of-band commands
// included, once 8 wait (QMP_REQ_QUEUE_LEN_MAX in monitor/monitor.c).
const maxInBand = 4

// greetTimeout bounds Dial when its context has no deadline: a monitor socket
// that another client holds accepts and then says nothing.
const greetTimeout = 5 * time.Second

// writeTimeout bounds the sending of a command whose context has no deadline:
// a monitor that reads nothing fills the socket's buffer.
const writeTimeout = 30 * time.Second

// ErrClosed is returned by commands on a connection that was closed here.
var ErrClosed = errors.New("qmp: client closed")

// ErrNoOOB is returned by RunOOB when the server offers no out-of-band
// execution, as QEMU before 2.12 and chardevs without their own thread.
var ErrNoOOB = errors.New("qmp: server offers no out-of-band execution")

// ConnError is an error of the connection, not an answer. Whether the command
// ran is not known, except that it did not when Sent is false.
type ConnError struct {
	Command string
	Sent    bool
	Err     error
}

// Error prints the command and the cause.
func (e *ConnError) Error() string { return fmt.Sprintf("qmp %s: %v", e.Command, e.Err) }

// Unwrap returns the cause.
func (e *ConnError) Unwrap() error { return e.Err }

// Client is one connection to a monitor. All methods may be called at the same
// time.
type Client struct {
	conn     net.Conn
	greeting Greeting
	oob      bool
	slots    chan struct{} // in-band commands on their way
	done     chan struct{} // closed when the reader has ended

	writeMu sync.Mutex // one request on the wire at a time

	mu      sync.Mutex
	lastID  uint64
	waiting map[uint64]*call
	subs    map[*Subscription]struct{}
	err     error // why the connection ended
}

type call struct {
	reply chan *message // buffered: the reader never waits
	oob   bool
}

// Dial connects to a monitor's Unix socket and negotiates, with out-of-band
// execution when it is offered. Without a deadline in ctx it gives up after 5 s.
func Dial(ctx context.Context, path string) (*Client, error) {
	ctx, cancel := withDefaultTimeout(ctx, greetTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("dial monitor: %w", err)
	}
	c, err := NewClient(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("negotiate with monitor %s: %w", path, err)
	}
	return c, nil
}

func withDefaultTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, d)
}

// NewClient negotiates over a connection that stands and takes it over; it is
// closed when that fails.
func NewClient(ctx context.Context, conn net.Conn) (*Client, error) {
	c := &Client{
		conn:    conn,
		slots:   make(chan struct{}, maxInBand),
		done:    make(chan struct{}),
		waiting: map[uint64]*call{},
		subs:    map[*Subscription]struct{}{},
	}
	d := newDecoder(conn)
	if err := c.greet(ctx, d); err != nil {
		_ = conn.Close()
		return nil, err
	}
	d.wanted = c.wanted
	go c.read(d)
	var caps struct {
		Enable []string `json:"enable,omitempty"`
	}
	if slices.Contains(c.greeting.Capabilities, "oob") {
		caps.Enable = []string{"oob"}
	}
	if err := c.Run(ctx, "qmp_capabilities", caps, nil); err != nil {
		_ = c.Close()
		return nil, err
	}
	c.oob = len(caps.Enable) > 0
	return c, nil
}

func (c *Client) greet(ctx context.Context, d *decoder) error {
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	m, err := d.next()
	if ctx.Err() != nil {
		return fmt.Errorf("read greeting: %w", ctx.Err())
	}
	if err != nil {
		return fmt.Errorf("read greeting: %w", err)
	}
	if m.Greeting == nil {
		return errors.New("read greeting: the server is no QMP server")
	}
	if !stop() {
		return fmt.Errorf("read greeting: %w", ctx.Err())
	}
	c.greeting = *m.Greeting
	return nil
}

// Greeting returns what the server said first.
func (c *Client) Greeting() Greeting { return c.greeting }

// OOB reports whether out-of-band commands can be run.
func (c *Client) OOB() bool { return c.oob }

// Done is closed once the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns why the connection ended; nil while it stands.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the connection. Commands on their way fail with ErrClosed.
func (c *Client) Close() error {
	c.fail(ErrClosed)
	<-c.done
	return nil
}

// Run executes a command. args is encoded as its arguments (nil: none); the
// answer goes into result (nil: dropped). An error of QEMU is a *Error; one of
// the connection or of ctx is a *ConnError. When ctx ends first the command
// still runs in QEMU and its answer is dropped.
func (c *Client) Run(ctx context.Context, command string, args, result any) error {
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return &ConnError{Command: command, Err: context.Cause(ctx)}
	case <-c.done:
		return &ConnError{Command: command, Err: c.Err()}
	}
	return c.run(ctx, request{Execute: command, Arguments: args}, command, result)
}

// RunOOB executes a command out of band: at once, also while QEMU's main loop
// hangs. Only few commands can be (yank, query-yank, migrate-recover, …).
func (c *Client) RunOOB(ctx context.Context, command string, args, result any) error {
	if !c.oob {
		return &ConnError{Command: command, Err: ErrNoOOB}
	}
	return c.run(ctx, request{ExecOOB: command, Arguments: args}, command, result)
}

// Call is Run that returns the answer.
func Call[T any](ctx context.Context, r Runner, command string, args any) (T, error) {
	var v T
	err := r.Run(ctx, command, args, &v)
	return v, err
}

// Runner runs commands: a Client or a Monitor.
type Runner interface {
	Run(ctx context.Context, command string, args, result any) error
}

func (c *Client) run(ctx context.Context, req request, command string, result any) error {
	w := &call{reply: make(chan *message, 1), oob: req.ExecOOB != ""}
	if err := c.register(&req, w); err != nil {
		c.release(w)
		return &ConnError{Command: command, Err: err}
	}
	if sent, err := c.write(ctx, req); err != nil {
		if !sent {
			c.forget(req.ID, w)
		}
		return &ConnError{Command: command, Sent: sent, Err: err}
	}
	var m *message
	select {
	case m = <-w.reply:
	case <-ctx.Done():
		return &ConnError{Command: command, Sent: true, Err: context.Cause(ctx)}
	case <-c.done:
		select {
		case m = <-w.reply:
		default:
			return &ConnError{Command: command, Sent: true, Err: c.Err()}
		}
	}
	if m.Error != nil {
		m.Error.Command = command
		return m.Error
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(m.Return, result); err != nil {
		return fmt.Errorf("qmp %s: decode answer: %w", command, err)
	}
	return nil
}

func (c *Client) register(req *request, w *call) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	c.lastID++
	req.ID = c.lastID
	c.waiting[req.ID] = w
	return nil
}

// forget takes back a call that was never sent.
func (c *Client) forget(id uint64, w *call) {
	c.mu.Lock()
	_, mine := c.waiting[id]
	delete(c.waiting, id)
	c.mu.Unlock()
	if mine {
		c.release(w)
	}
}

func (c *Client) release(w *call) {
	if !w.oob {
		<-c.slots
	}
}

// write puts a request on the wire. A request that went out in part breaks the
// connection, because what follows could not be told from its rest.
func (c *Client) write(ctx context.Context, req request) (sent bool, err error) {
	text, err := json.Marshal(req)
	if err != nil {
		return false, fmt.Errorf("encode arguments: %w", err)
	}
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(writeTimeout)
	}
	if err := c.conn.SetWriteDeadline(deadline); err != nil {
		return false, fmt.Errorf("write: %w", err)
	}
	n, err := c.conn.Write(append(text, '\n'))
	if err == nil {
		return true, nil
	}
	if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		c.fail(fmt.Errorf("write: %w", err))
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return n > 0, err
}

// fail ends the connection; the first reason stays.
func (c *Client) fail(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	c.mu.Unlock()
	_ = c.conn.Close()
}

// read hands answers and events out until the connection ends.
func (c *Client) read(d *decoder) {
	defer close(c.done)
	for {
		m, err := d.next()
		if err != nil {
			c.fail(fmt.Errorf("read: %w", err))
			c.endSubscriptions()
			return
		}
		switch {
		case m.Event != "":
			c.publish(m.event())
		case m.ID != nil:
			c.deliver(*m.ID, m)
		case m.Error != nil:
			// QEMU could not parse what we sent: the fault is ours.
			c.fail(fmt.Errorf("server rejected our message: %s", m.Error.Desc))
		}
	}
}

func (c *Client) deliver(id uint64, m *message) {
	c.mu.Lock()
	w := c.waiting[id]
	delete(c.waiting, id)
	c.mu.Unlock()
	if w != nil {
		w.reply <- m
		c.release(w)
	}
}
