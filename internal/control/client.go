package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site"
)

// A silent connection is pinged after pingAfter and given up pingTimeout
// later, so a partition is noticed within five seconds.
const (
	pingAfter   = 2 * time.Second
	pingTimeout = 3 * time.Second
)

// errTransport marks failures of the connection, as against answers: the
// command may or may not run, and repeating it is right.
var errTransport = errors.New("control connection failed")

// sender carries one envelope to a gateway and brings back the answer.
type sender interface {
	send(ctx context.Context, name string, req request) (reply, error)
}

// Client is Commands over the wire. Long commands are waited for by asking
// again; progress goes to the function of WithProgress in the caller's ctx.
type Client struct{ via sender }

var _ Commands = (*Client)(nil)

// NewClient speaks to the gateway at the other end of conn, which runs Serve.
// It takes conn over; the client is unusable once conn breaks. A Hub gives
// clients that survive that.
func NewClient(conn net.Conn) *Client { return &Client{via: newWire(conn)} }

// wire is one reversed HTTP/2 connection.
type wire struct {
	conn net.Conn
	h2   *http.Transport
}

func newWire(conn net.Conn) *wire {
	first := make(chan net.Conn, 1)
	first <- plainConn{conn}
	return &wire{conn, &http.Transport{
		Protocols: onlyHTTP2(), HTTP2: pings(), MaxConnsPerHost: 1,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			select {
			case c := <-first:
				return c, nil
			default:
				return nil, net.ErrClosed
			}
		},
	}}
}

func (w *wire) send(ctx context.Context, name string, req request) (reply, error) {
	body, err := json.Marshal(req)
	if err != nil {
		return reply{}, fmt.Errorf("encode command %s: %w", name, err)
	}
	hr, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://gateway"+commandPrefix+name, bytes.NewReader(body))
	if err != nil {
		return reply{}, fmt.Errorf("make command %s: %w", name, err)
	}
	hr.Header.Set("Content-Type", "application/json")
	resp, err := w.h2.RoundTrip(hr)
	if err != nil {
		return reply{}, fmt.Errorf("%w: send %s: %w", errTransport, name, err)
	}
	defer resp.Body.Close()
	var rep reply
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(&rep); err != nil {
		return reply{}, fmt.Errorf("%w: read answer to %s: %w", errTransport, name, err)
	}
	return rep, nil
}

// call runs one command to its end.
func call[R any](ctx context.Context, c *Client, name string, o *Origin, args any) (R, error) {
	var zero R
	raw, err := encode(args)
	if err != nil {
		return zero, err
	}
	req := request{Origin: o, Args: raw, WaitMillis: maxWait.Milliseconds()}
	if ctx.Value(progressKey{}) != nil {
		req.WaitMillis = progressEvery.Milliseconds()
	}
	for {
		rep, err := c.via.send(ctx, name, req)
		switch {
		case err != nil:
			return zero, err
		case rep.Problem != nil:
			return zero, known(rep.Problem)
		case rep.Running:
			ReportProgress(ctx, rep.Progress)
			if err := ctx.Err(); err != nil {
				return zero, fmt.Errorf("wait for %s: %w", name, err)
			}
		default:
			var out R
			if err := json.Unmarshal(rep.Result, &out); err != nil {
				return zero, problem.Wrap(err, problem.ProtocolError, "cannot read the result of %s", name)
			}
			return out, nil
		}
	}
}

// progressEvery is how often a command is asked for its progress when the
// caller wants it.
const progressEvery = time.Second

// known returns p with its registered kind and texts, when this binary knows
// the code, and p itself when the gateway is newer.
func known(p *problem.Problem) error {
	for _, q := range problem.All() {
		if q.Code == p.Code {
			q.Detail = p.Detail
			return &q
		}
	}
	return p
}

func (c *Client) act(ctx context.Context, name string, o Origin, args any) error {
	_, err := call[struct{}](ctx, c, name, &o, args)
	return err
}

// Inventory implements Commands.
func (c *Client) Inventory(ctx context.Context) (Inventory, error) {
	return call[Inventory](ctx, c, "Inventory", nil, struct{}{})
}

// Probe implements Commands.
func (c *Client) Probe(ctx context.Context, addr string) error {
	_, err := call[*struct{}](ctx, c, "Probe", nil, addr)
	return err
}

// ImportMachine implements Commands.
func (c *Client) ImportMachine(ctx context.Context, o Origin, r ImportRequest) (site.Machine, error) {
	return call[site.Machine](ctx, c, "ImportMachine", &o, r)
}

// StartMachine implements Commands.
func (c *Client) StartMachine(ctx context.Context, o Origin, r MachineRequest) error {
	return c.act(ctx, "StartMachine", o, r)
}

// StopMachine implements Commands.
func (c *Client) StopMachine(ctx context.Context, o Origin, r StopRequest) error {
	return c.act(ctx, "StopMachine", o, r)
}

// DeleteMachine implements Commands.
func (c *Client) DeleteMachine(ctx context.Context, o Origin, r DeleteRequest) (Deleted, error) {
	return call[Deleted](ctx, c, "DeleteMachine", &o, r)
}

// ValidateSite implements Commands.
func (c *Client) ValidateSite(ctx context.Context, o Origin, r ValidateRequest) (ValidateResult, error) {
	return call[ValidateResult](ctx, c, "ValidateSite", &o, r)
}

// StartReplication implements Commands.
func (c *Client) StartReplication(ctx context.Context, o Origin, r ReplicationSpec) error {
	return c.act(ctx, "StartReplication", o, r)
}

// StopReplication implements Commands.
func (c *Client) StopReplication(ctx context.Context, o Origin, r StopReplicationRequest) (StopReplicationResult, error) {
	return call[StopReplicationResult](ctx, c, "StopReplication", &o, r)
}

// Fence implements Commands.
func (c *Client) Fence(ctx context.Context, o Origin, r FenceRequest) error {
	return c.act(ctx, "Fence", o, r)
}

// CreatePoint implements Commands.
func (c *Client) CreatePoint(ctx context.Context, o Origin, r CreatePointRequest) (dr.Point, error) {
	return call[dr.Point](ctx, c, "CreatePoint", &o, r)
}

// Resync implements Commands.
func (c *Client) Resync(ctx context.Context, o Origin, r ResyncRequest) error {
	return c.act(ctx, "Resync", o, r)
}

// CreateJournal implements Commands.
func (c *Client) CreateJournal(ctx context.Context, o Origin, r CreateJournalRequest) (CreateJournalResult, error) {
	return call[CreateJournalResult](ctx, c, "CreateJournal", &o, r)
}

// DeleteJournal implements Commands.
func (c *Client) DeleteJournal(ctx context.Context, o Origin, r DeleteJournalRequest) error {
	return c.act(ctx, "DeleteJournal", o, r)
}

// Seal implements Commands.
func (c *Client) Seal(ctx context.Context, o Origin, r SealRequest) (SealResult, error) {
	return call[SealResult](ctx, c, "Seal", &o, r)
}

// Points implements Commands.
func (c *Client) Points(ctx context.Context, r PointsRequest) (Points, error) {
	return call[Points](ctx, c, "Points", nil, r)
}

// ResolvePoint implements Commands.
func (c *Client) ResolvePoint(ctx context.Context, r ResolveRequest) (Resolved, error) {
	return call[Resolved](ctx, c, "ResolvePoint", nil, r)
}

// MachineEvidence implements Commands.
func (c *Client) MachineEvidence(ctx context.Context, r EvidenceRequest) (Evidence, error) {
	return call[Evidence](ctx, c, "MachineEvidence", nil, r)
}

// StartRecovered implements Commands.
func (c *Client) StartRecovered(ctx context.Context, o Origin, r StartRecoveredRequest) (Recovered, error) {
	return call[Recovered](ctx, c, "StartRecovered", &o, r)
}

// DiscardRecovered implements Commands.
func (c *Client) DiscardRecovered(ctx context.Context, o Origin, r DiscardRecoveredRequest) error {
	return c.act(ctx, "DiscardRecovered", o, r)
}

// CommitRecovered implements Commands.
func (c *Client) CommitRecovered(ctx context.Context, o Origin, r CommitRequest) (CommitResult, error) {
	return call[CommitResult](ctx, c, "CommitRecovered", &o, r)
}

// Verify implements Commands.
func (c *Client) Verify(ctx context.Context, o Origin, group dr.GroupID) (VerifyResult, error) {
	return call[VerifyResult](ctx, c, "Verify", &o, group)
}
