package capture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"

	"rebound/internal/dr"
	"rebound/internal/problem"
)

// ErrGone means that the control connection has ended: the process died, was
// killed, or closed it.
var ErrGone = errors.New("capture: the control connection has ended")

// Client is the gateway's end of a control connection. All methods may be
// called from any goroutine; they fail with a *problem.Problem that the process
// answered, or with ErrGone in the chain.
type Client struct {
	conn   net.Conn
	events chan Event
	done   chan struct{}

	writeMu sync.Mutex

	mu      sync.Mutex
	last    uint64
	waiting map[uint64]chan answer
	err     error
}

type answer struct {
	result json.RawMessage
	err    error
}

// Dial connects to the control socket of a capture process and says hello. It
// fails when the process speaks another version of the protocol.
func Dial(ctx context.Context, socket string) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("dial capture: %w", err)
	}
	c := &Client{
		conn: conn, events: make(chan Event, 256), done: make(chan struct{}), waiting: map[uint64]chan answer{},
	}
	go c.read()
	s, err := c.hello(ctx)
	if err == nil && s.Version != ProtocolVersion {
		err = fmt.Errorf("capture speaks version %d of the control protocol, want %d", s.Version, ProtocolVersion)
	}
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("greet capture: %w", err)
	}
	return c, nil
}

// Close ends the connection; the process goes on.
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.done
	return err
}

// Done is closed once the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Events yields what the process tells by itself. It is closed with the
// connection. When nobody reads it, the oldest events stay and newer ones are
// dropped.
func (c *Client) Events() <-chan Event { return c.events }

func (c *Client) read() {
	defer close(c.done)
	defer close(c.events)
	dec := json.NewDecoder(c.conn)
	for {
		var m struct {
			ID     uint64           `json:"id"`
			Result json.RawMessage  `json:"result"`
			Error  *problem.Problem `json:"error"`
			Event  *Event           `json:"event"`
		}
		if err := dec.Decode(&m); err != nil {
			c.fail(fmt.Errorf("%w: %w", ErrGone, err))
			return
		}
		if m.Event != nil {
			select {
			case c.events <- *m.Event:
			default:
			}
			continue
		}
		a := answer{result: m.Result}
		if m.Error != nil {
			a.err = m.Error
		}
		c.deliver(m.ID, a)
	}
}

func (c *Client) deliver(id uint64, a answer) {
	c.mu.Lock()
	w := c.waiting[id]
	delete(c.waiting, id)
	c.mu.Unlock()
	if w != nil {
		w <- a
	}
}

func (c *Client) fail(err error) {
	_ = c.conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
	for id, w := range c.waiting {
		delete(c.waiting, id)
		w <- answer{err: err}
	}
}

// call sends one request and decodes its answer into result, which may be nil.
func (c *Client) call(ctx context.Context, method string, params, result any) error {
	req := Request{Method: method}
	if params != nil {
		raw, err := json.Marshal(params)
		if err != nil {
			return fmt.Errorf("encode %s: %w", method, err)
		}
		req.Params = raw
	}
	w := make(chan answer, 1)
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return fmt.Errorf("%s: %w", method, c.err)
	}
	c.last++
	req.ID = c.last
	c.waiting[req.ID] = w
	c.mu.Unlock()
	if err := c.send(req); err != nil {
		c.fail(fmt.Errorf("%w: %w", ErrGone, err))
	}
	select {
	case a := <-w:
		if a.err != nil {
			return fmt.Errorf("%s: %w", method, a.err)
		}
		if result == nil {
			return nil
		}
		if err := json.Unmarshal(a.result, result); err != nil {
			return fmt.Errorf("decode answer of %s: %w", method, err)
		}
		return nil
	case <-ctx.Done():
		c.mu.Lock()
		delete(c.waiting, req.ID)
		c.mu.Unlock()
		return fmt.Errorf("%s: %w", method, ctx.Err())
	}
}

func (c *Client) send(req Request) error {
	line, err := json.Marshal(req)
	if err != nil {
		return err
	}
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	_, err = c.conn.Write(append(line, '\n'))
	return err
}

func (c *Client) hello(ctx context.Context) (s Status, err error) {
	err = c.call(ctx, methodHello, nil, &s)
	return s, err
}

// Heartbeat asks for a sign of life.
func (c *Client) Heartbeat(ctx context.Context) error {
	return c.call(ctx, methodHeartbeat, nil, nil)
}

// Status returns the present state.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	err = c.call(ctx, methodStatus, nil, &s)
	return s, err
}

// Configure names the group and begins to serve its exports. Repeating it with
// the same disks while an epoch is open changes the standby's address and the
// identity for the next epoch, and the compression for the next frame; with other disks, another generation or other
// limits it is refused until the epoch is sealed.
func (c *Client) Configure(ctx context.Context, g GroupConfig) error {
	return c.call(ctx, methodConfigure, g, nil)
}

// Open connects to the standby, which hands out a new epoch, and begins it:
// from its return on every write that arrives is recorded. All disks must be
// attached.
func (c *Client) Open(ctx context.Context) (r OpenResult, err error) {
	err = c.call(ctx, methodOpen, nil, &r)
	return r, err
}

// Sync starts a synchronisation; EventSync and Status tell how it goes.
func (c *Client) Sync(ctx context.Context, r SyncRequest) error {
	return c.call(ctx, methodSync, r, nil)
}

// CancelSync ends a running synchronisation and waits for its end.
func (c *Client) CancelSync(ctx context.Context) error {
	return c.call(ctx, methodCancelSync, nil, nil)
}

// Probe takes a moment of the open stream; see Confirm.
func (c *Client) Probe(ctx context.Context) (p Probe, err error) {
	err = c.call(ctx, methodProbe, nil, &p)
	return p, err
}

// Confirm appends the beacon of a probe. The caller has asked the hypervisors,
// after the probe, whether all members are still being captured.
func (c *Client) Confirm(ctx context.Context, p Probe) (dr.Position, error) {
	return c.position(ctx, methodConfirm, p)
}

// Marker places a recovery point at the present moment.
func (c *Client) Marker(ctx context.Context, id dr.PointID, kind dr.PointKind, name string) (p dr.Point, err error) {
	err = c.call(ctx, methodMarker, markerParams{id, kind, name}, &p)
	return p, err
}

// Thawed labels the point of a marker of the open epoch as application-
// consistent, by its Name. The caller has found the file systems of all members
// frozen before and after the marker. A standby that knows no such label, or
// another epoch, is OperationNotAllowed.
func (c *Client) Thawed(ctx context.Context, p dr.Point) (dr.Position, error) {
	return c.position(ctx, methodThawed, thawedParams{p})
}

// Define records a machine's definition as of the present moment.
func (c *Client) Define(ctx context.Context, def dr.Definition) (dr.Position, error) {
	return c.position(ctx, methodDefinition, def)
}

// Seal ends the epoch with a break entry and returns that entry's position. A
// sealed or idle stream stays as it is. Guests' writes are answered with
// success and dropped from then on: detach them next.
func (c *Client) Seal(ctx context.Context, reason string) (dr.Position, error) {
	return c.position(ctx, methodSeal, sealParams{reason})
}

// Drain waits until everything up to the newest entry as of now has left the
// ring (see Status.Durable), and returns its position.
func (c *Client) Drain(ctx context.Context) (dr.Position, error) {
	return c.position(ctx, methodDrain, nil)
}

// LeaveSpool ends feeding the gateway's spool and returns the position of the
// newest entry that has left the ring; all up to it is in the spool or at the
// standby. The caller lets the spool deliver its rest and then calls GoDirect;
// if that takes too long, the spool is fed again.
func (c *Client) LeaveSpool(ctx context.Context) (dr.Position, error) {
	return c.position(ctx, methodLeaveSpool, nil)
}

// GoDirect lets the stream go to the standby again: the spool is empty.
func (c *Client) GoDirect(ctx context.Context) error {
	return c.call(ctx, methodGoDirect, nil, nil)
}

// Shutdown seals the stream and lets the process end; it returns once the
// process has closed the connection.
func (c *Client) Shutdown(ctx context.Context) error {
	if err := c.call(ctx, methodShutdown, nil, nil); err != nil && !errors.Is(err, ErrGone) {
		return err
	}
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for capture to end: %w", ctx.Err())
	}
}

func (c *Client) position(ctx context.Context, method string, params any) (dr.Position, error) {
	var r positionResult
	err := c.call(ctx, method, params, &r)
	return r.Position, err
}
