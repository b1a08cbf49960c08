package capture

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/link"
	"rebound/internal/problem"
)

// Route is where the entries of the ring go.
type Route string

// The routes. In all of them the order is the same, and nothing leaves the ring
// before it is safe somewhere else.
const (
	// RouteDirect: to the standby.
	RouteDirect Route = "direct"
	// RouteSpool: into the gateway's spool, which delivers them.
	RouteSpool Route = "spool"
	// RouteBetween: nowhere, while the spool delivers its rest and the
	// stream is about to go direct again.
	RouteBetween Route = "between"
)

const (
	// spoolAbove is the fill of the ring, in percent, from which a standby
	// that is slow is given up for the spool. Acknowledgements have been
	// delayed for a while by then (Limits.DelayAbove).
	spoolAbove = 75
	// spoolAfter is how long a standby that cannot be reached is waited for.
	spoolAfter = time.Second
	// betweenPatience is how long the gateway may take to empty the spool
	// once nothing goes into it, and directPatience how long a connection
	// may take then, before the spool is used again.
	betweenPatience = 5 * time.Second
	directPatience  = 2 * time.Second
	// spoolPatience is how long a spool may be away before the standby is
	// tried instead, refusedPause the pause after it has refused the stream.
	spoolPatience = 3 * time.Second
	refusedPause  = 500 * time.Millisecond
	// routeLook is how often link and ring are looked at.
	routeLook = 50 * time.Millisecond
)

var (
	errToSpool  = errors.New("capture: the standby does not keep up")
	errToDirect = errors.New("capture: the stream goes direct")
	errBetween  = errors.New("capture: the spool is being emptied")
)

// route is the way that one epoch's entries take. Its goroutine alone changes
// it; the gateway asks through the channels.
type route struct {
	g   *group
	src *frameSource
	// asks ends feeding the spool, direct goes on to the standby.
	asks, direct chan struct{}
}

func newRoute(g *group, src *frameSource) *route {
	return &route{g: g, src: src, asks: make(chan struct{}, 1), direct: make(chan struct{}, 1)}
}

// ship sends an epoch's entries until it was sealed and everything of it has
// left the ring (nil), until ctx ends, or until no way is left.
func (r *route) ship(ctx context.Context, s *link.Sender) error {
	way := RouteDirect
	for {
		var err error
		switch way {
		case RouteDirect:
			err = r.shipDirect(ctx, s)
			s = nil
		case RouteSpool:
			err = r.shipSpool(ctx)
		case RouteBetween:
			err = r.between(ctx)
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, errToSpool):
			way = RouteSpool
		case errors.Is(err, errBetween):
			way = RouteBetween
		case errors.Is(err, errToDirect):
			way = RouteDirect
		default:
			return err
		}
		r.g.setRoute(way)
	}
}

// shipDirect sends to the standby; s is open, or nil to open one.
func (r *route) shipDirect(ctx context.Context, s *link.Sender) error {
	if s == nil {
		var err error
		if s, err = r.openDirect(ctx); err != nil {
			return err
		}
	}
	if r.g.spoolSocket() == "" {
		return s.Run(ctx, r.src)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan struct{})
	defer func() { <-ended }()
	defer cancel(nil)
	go func() {
		defer close(ended)
		r.watchDirect(ctx, cancel)
	}()
	return s.Run(ctx, r.src)
}

// openDirect goes on with the epoch at the standby. One that lacks what has left
// the ring is to get it from the spool first.
func (r *route) openDirect(ctx context.Context) (*link.Sender, error) {
	dial, err := r.g.dialConfig()
	if err != nil {
		return nil, err
	}
	kept := r.g.q.released()
	dial.Hello.Epoch, dial.Hello.After = r.src.epoch, kept
	s, err := link.NewSender(link.SenderConfig{Dial: dial, OnState: r.g.setLink})
	if err != nil {
		return nil, fmt.Errorf("make sender: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, directPatience, errToSpool)
	defer cancel()
	w, err := s.Open(ctx)
	if err == nil && w.Durable < kept {
		_ = s.Close()
		err = errToSpool
	}
	return s, err
}

// watchDirect turns to the spool when the standby is away, or so slow that the
// ring fills.
func (r *route) watchDirect(ctx context.Context, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(routeLook)
	defer tick.Stop()
	var away time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			switch {
			case r.g.connected():
				away = time.Time{}
			case away.IsZero():
				away = now
			}
			if (!away.IsZero() && now.Sub(away) >= spoolAfter) || r.g.q.fullness() >= spoolAbove {
				cancel(errToSpool)
				return
			}
		}
	}
}

// shipSpool sends into the gateway's spool until the gateway asks for the way
// back, or the spool is not there.
func (r *route) shipSpool(ctx context.Context) error {
	s, err := r.openSpool(ctx)
	if err != nil {
		return r.spoolRefused(ctx, err)
	}
	r.src.pause(false)
	ctx, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	defer func() {
		cancel(nil)
		<-ended
		r.src.pause(false)
	}()
	go func() {
		defer close(ended)
		r.watchSpool(ctx, cancel, s)
	}()
	err = s.Run(ctx, r.src)
	if err == nil && r.src.pausing() {
		return errBetween // if the stream was sealed meanwhile, the rest goes direct too
	}
	return r.spoolRefused(ctx, err)
}

// spoolRefused goes on after a spool that is not there, or does not take the
// stream (its volume failed, it holds other entries): with the standby, if that
// has everything. If it has not, the ring fills, and the stream breaks.
func (r *route) spoolRefused(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil || errors.Is(err, errToDirect) {
		return err
	}
	r.g.log.Warn("the spool does not take the stream", "error", err)
	timer := time.NewTimer(refusedPause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return errToDirect
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (r *route) openSpool(ctx context.Context) (*link.Sender, error) {
	dial := r.g.spoolDial()
	dial.Hello.Epoch, dial.Hello.After = r.src.epoch, r.g.q.released()
	s, err := link.NewSender(link.SenderConfig{Dial: dial, BackoffMax: 200 * time.Millisecond})
	if err != nil {
		return nil, fmt.Errorf("make sender to the spool: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, spoolPatience, errToDirect)
	defer cancel()
	if _, err := s.Open(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// watchSpool ends feeding the spool when the gateway asks, and gives a spool up
// that cannot be reached.
func (r *route) watchSpool(ctx context.Context, cancel context.CancelCauseFunc, s *link.Sender) {
	tick := time.NewTicker(routeLook)
	defer tick.Stop()
	var away time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.asks:
			r.src.pause(true)
			r.g.q.signal()
		case now := <-tick.C:
			switch {
			case s.Status().Connected:
				away = time.Time{}
			case away.IsZero():
				away = now
			case now.Sub(away) >= spoolPatience:
				cancel(errToDirect)
				return
			}
		}
	}
}

// between waits until the gateway has emptied the spool.
func (r *route) between(ctx context.Context) error {
	timer := time.NewTimer(betweenPatience)
	defer timer.Stop()
	select {
	case <-r.direct:
		return errToDirect
	case <-timer.C:
		return errToSpool
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// leaveSpool ends feeding the spool: once it has returned, everything that has
// left the ring is safe in the spool or at the standby, and nothing follows
// until goDirect.
func (g *group) leaveSpool(ctx context.Context) (dr.Position, error) {
	r := g.routeNow()
	if r == nil || g.way() != RouteSpool {
		return dr.Position{}, problem.New(problem.OperationNotAllowed, "the stream does not go into the spool")
	}
	drainToken(r.direct)
	select {
	case r.asks <- struct{}{}:
	default: // asked already
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for g.way() == RouteSpool {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return dr.Position{}, fmt.Errorf("leave the spool: %w", ctx.Err())
		}
	}
	if way := g.way(); way != RouteBetween {
		return dr.Position{}, problem.New(problem.OperationNotAllowed, "the stream goes %s", way)
	}
	at := g.q.breakPosition()
	at.Seq = g.q.released()
	return at, nil
}

// goDirect ends the pause after leaveSpool: the spool is empty.
func (g *group) goDirect() error {
	r := g.routeNow()
	if r == nil || g.way() != RouteBetween {
		return problem.New(problem.OperationNotAllowed, "the stream is not between two ways")
	}
	select {
	case r.direct <- struct{}{}:
	default:
	}
	return nil
}

func drainToken(c chan struct{}) {
	select {
	case <-c:
	default:
	}
}

func (g *group) routeNow() *route {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.route
}

// way returns where entries go now; direct when there is no epoch.
func (g *group) way() Route {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.going == "" {
		return RouteDirect
	}
	return g.going
}

func (g *group) setRoute(way Route) {
	g.mu.Lock()
	before := g.going
	g.going = way
	g.mu.Unlock()
	g.q.divert(way != RouteDirect)
	if before == way {
		return
	}
	g.log.Info("the stream takes another way", "route", way)
	g.emit(Event{Kind: EventRoute, Text: string(way)})
}

func (g *group) spoolSocket() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.cfg.Spool
}

// spoolDial says how the gateway's spool is reached.
func (g *group) spoolDial() link.DialConfig {
	g.mu.Lock()
	cfg := g.cfg
	g.mu.Unlock()
	dial := dialConfigWith(&cfg, g.holder.ClientTLS(identity.RoleGateway, string(cfg.Gateway)), nil, g.log)
	dial.Address = cfg.Spool
	dial.DialFunc = func(ctx context.Context, _, socket string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return dial
}

// released returns the newest entry that has left the ring.
func (q *sequencer) released() dr.Seq {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.durable
}

// fullness returns how full the ring is, in percent.
func (q *sequencer) fullness() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return int(q.used * 100 / q.throttle.size)
}

// divert tells the sequencer that the stream does not go to the standby: a
// synchronisation adds nothing then, for it would fill the spool.
func (q *sequencer) divert(on bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.diverted = on
	q.stirred()
}
