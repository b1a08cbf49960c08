package capture

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/link"
	"rebound/internal/problem"
	"rebound/internal/segment"
)

// openTimeout bounds how long Open tries to reach the standby.
const openTimeout = 3 * time.Second

// group is everything that runs for the configured group: exports, sequencer,
// the sender of the present epoch, a synchronisation.
type group struct {
	q       *sequencer
	exports *exports
	log     *slog.Logger
	emit    func(Event)
	sockets link.Counters
	limit   link.Throttle
	payload atomic.Int64
	packed  atomic.Int64
	cancel  context.CancelFunc
	ctx     context.Context // ends with the group
	wg      sync.WaitGroup
	nbdPath string

	// opening serialises open and close.
	opening sync.Mutex

	mu     sync.Mutex
	cfg    GroupConfig
	holder *identity.Holder // of cfg.Identity
	codec  segment.Codec
	frames *frameSource // of the epoch that was opened last
	opened OpenResult
	link   LinkStatus
	sender *epochSender
	route  *route // of the present epoch
	going  Route
	sync   *syncRun
	synced SyncStatus // of the last synchronisation
	redial int64
}

// epochSender is the running sender of one epoch.
type epochSender struct {
	cancel context.CancelCauseFunc
	done   chan struct{}
}

var errEpochOver = errors.New("capture: the epoch is over")

// Validate reports the first thing that is wrong with a configuration.
func (g *GroupConfig) Validate() error {
	switch {
	case g.Group == "":
		return errors.New("no group")
	case g.Generation == 0:
		return errors.New("no generation")
	case len(g.Disks) == 0 || len(g.Disks) > 1<<16:
		return fmt.Errorf("%d disks: want 1 to 65536", len(g.Disks))
	case g.StandbyAddr == "" || g.Standby == "":
		return errors.New("no standby")
	}
	for i, d := range g.Disks {
		if d.SizeBytes <= 0 || d.SizeBytes%512 != 0 {
			return fmt.Errorf("disk %d of %d bytes: want a positive multiple of 512", i, d.SizeBytes)
		}
	}
	if _, err := codecOf(g.Compression); err != nil {
		return err
	}
	if _, err := g.Bandwidth.Parse(); err != nil {
		return err
	}
	return g.Limits.Validate()
}

func codecOf(name string) (segment.Codec, error) {
	switch name {
	case "", "none":
		return segment.CodecNone, nil
	case "s2":
		return segment.CodecS2, nil
	}
	return 0, fmt.Errorf("compression %q: want none or s2", name)
}

// sameStream reports whether b can take a's place while an epoch is open.
func sameStream(a, b *GroupConfig) bool {
	return a.Group == b.Group && a.Generation == b.Generation &&
		a.Limits == b.Limits && slices.Equal(a.Disks, b.Disks)
}

// startGroup begins to serve a group's exports.
func startGroup(ctx context.Context, cfg GroupConfig, nbdPath string, clock Clock, emit func(Event), log *slog.Logger) (*group, error) {
	codec, err := codecOf(cfg.Compression)
	if err != nil {
		return nil, err
	}
	g := &group{cfg: cfg, codec: codec, log: log.With("group", cfg.Group), emit: emit, nbdPath: nbdPath}
	stamps := &stamper{clock: clock, stepped: func(by time.Duration) {
		g.log.Warn("clock stepped", "by", by)
		emit(Event{Kind: EventClock, By: by, Text: fmt.Sprintf("the clock of the source was stepped by %v", by)})
	}}
	g.q = newSequencer(cfg.Limits, clock, stamps)
	g.q.onSeal = g.sealed
	for _, d := range cfg.Disks {
		g.q.disks = append(g.q.disks, diskState{name: string(d.Machine) + "/" + string(d.Disk)})
	}
	if err := g.takeIdentity(&cfg); err != nil {
		return nil, err
	}
	if err := g.takeBandwidth(cfg.Bandwidth); err != nil {
		return nil, err
	}
	if g.exports, err = newExports(g.q, cfg.Disks, g.log); err != nil {
		return nil, err
	}
	g.q.sockets = g.exports.whole
	l, err := listenUnix(nbdPath)
	if err != nil {
		return nil, err
	}
	g.ctx, g.cancel = context.WithCancel(context.WithoutCancel(ctx))
	g.wg.Go(func() { g.q.runHeld(g.ctx) })
	g.wg.Go(func() {
		if err := g.exports.serve(g.ctx, l); err != nil && g.ctx.Err() == nil {
			g.log.Error("exports not served", "error", err)
			g.q.seal("the exports' socket failed: " + err.Error())
		}
	})
	return g, nil
}

// close ends the group. It seals the stream first and gives what is in the
// ring until ctx ends to reach the standby.
func (g *group) close(ctx context.Context, reason string) {
	g.opening.Lock()
	defer g.opening.Unlock()
	g.q.seal(reason)
	g.cancelSync()
	g.deliverRest(ctx)
	g.stopSender()
	g.cancel()
	if err := g.exports.close(); err != nil {
		g.log.Warn("exports not closed", "error", err)
	}
	g.wg.Wait()
}

// deliverRest gives what is left of a sealed epoch a moment to reach the
// standby, if it can be reached: points in it stay.
func (g *group) deliverRest(ctx context.Context) {
	if !g.connected() && g.way() != RouteSpool {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, farewell)
	defer cancel()
	if _, err := g.q.drain(ctx); err != nil {
		g.log.Warn("not all of the ring reached the standby", "error", err)
	}
}

func (g *group) connected() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.link.Connected
}

// sealed tells the gateway of a break.
func (g *group) sealed(at dr.Position, reason string) {
	g.log.Warn("stream sealed", "position", at, "reason", reason)
	g.emit(Event{Kind: EventSealed, Position: at, Text: reason})
}

// open begins a new epoch: the standby hands it out, then the sequencer opens.
func (g *group) open(ctx context.Context) (OpenResult, error) {
	g.opening.Lock()
	defer g.opening.Unlock()
	if state := g.q.stateNow(); state == StateOpen {
		return OpenResult{}, problem.New(problem.OperationNotAllowed, "an epoch is open")
	}
	if name, ok := g.q.missingNow(); ok {
		return OpenResult{}, problem.New(problem.OperationNotAllowed, "disk %s is not attached", name)
	}
	g.cancelSync()
	g.deliverRest(ctx)
	g.stopSender()
	sender, err := g.newSender()
	if err != nil {
		return OpenResult{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	w, err := sender.Open(ctx)
	if err != nil {
		if last := sender.Status().LastError; last != nil && ctx.Err() != nil {
			err = last
		}
		g.setLink(link.SenderStatus{LastError: err})
		return OpenResult{}, fmt.Errorf("open stream: %w", err)
	}
	if err := g.q.open(g.generation(), w.Epoch); err != nil {
		_ = sender.Close()
		return OpenResult{}, problem.Wrap(err, problem.OperationNotAllowed, "%v", err)
	}
	r := OpenResult{Epoch: w.Epoch, PreviousDurable: w.PreviousDurable, Fresh: w.Fresh, LinkVersion: w.Version}
	g.startSender(sender, r)
	return r, nil
}

func (g *group) generation() dr.Generation {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.cfg.Generation
}

// dialConfig says how the standby is reached now.
func (g *group) dialConfig() (link.DialConfig, error) {
	g.mu.Lock()
	cfg := g.cfg
	g.mu.Unlock()
	dial := dialConfigWith(&cfg, g.holder.ClientTLS(identity.RoleGateway, string(cfg.Standby)), &g.sockets, g.log)
	dial.Identity, dial.Limiter = g.holder, &g.limit
	return dial, nil
}

func dialConfigWith(cfg *GroupConfig, conf *tls.Config, counters *link.Counters, log *slog.Logger) link.DialConfig {
	return link.DialConfig{
		Address: cfg.StandbyAddr, TLS: conf, Counters: counters, Log: log,
		Hello: link.Hello{Group: cfg.Group, Generation: cfg.Generation, Disks: cfg.Disks, Gateway: cfg.Gateway},
	}
}

func (g *group) newSender() (*link.Sender, error) {
	dial, err := g.dialConfig()
	if err != nil {
		return nil, err
	}
	s, err := link.NewSender(link.SenderConfig{Dial: dial, OnState: g.setLink})
	if err != nil {
		return nil, fmt.Errorf("make sender: %w", err)
	}
	return s, nil
}

// startSender ships the epoch until it was sealed and delivered.
func (g *group) startSender(s *link.Sender, r OpenResult) {
	ctx, cancel := context.WithCancelCause(g.ctx)
	run := &epochSender{cancel: cancel, done: make(chan struct{})}
	g.mu.Lock()
	g.sender, g.opened = run, r
	src := newFrameSource(g.q, g.cfg.Generation, r.Epoch, g.codec, &g.payload, &g.packed)
	g.frames = src
	g.mu.Unlock()
	g.log.Info("epoch open", "epoch", r.Epoch)
	way := newRoute(g, src)
	g.mu.Lock()
	g.route = way
	g.mu.Unlock()
	g.setRoute(RouteDirect)
	g.wg.Go(func() {
		defer close(run.done)
		defer cancel(nil)
		err := way.ship(ctx, s)
		if err == nil || ctx.Err() != nil {
			return
		}
		g.q.seal("the standby refuses the stream: " + err.Error())
		g.setLink(link.SenderStatus{LastError: err})
	})
}

// stopSender ends the sender of the epoch before, at once.
func (g *group) stopSender() {
	g.mu.Lock()
	run := g.sender
	g.sender = nil
	g.mu.Unlock()
	if run != nil {
		run.cancel(errEpochOver)
		<-run.done
	}
}

// setLink keeps the state of the connection and tells of changes.
func (g *group) setLink(s link.SenderStatus) {
	next := LinkStatus{Connected: s.Connected}
	if !s.Connected && s.LastError != nil {
		next.Error = problem.From(s.LastError)
		next.Permanent = link.Permanent(s.LastError)
	}
	g.mu.Lock()
	changed := next.Connected != g.link.Connected || next.Permanent != g.link.Permanent ||
		(next.Error != nil) != (g.link.Error != nil)
	g.link = next
	if s.Connected {
		g.redial = max(g.redial, int64(s.Connects-1))
	}
	g.mu.Unlock()
	if changed {
		g.emit(Event{Kind: EventLink, Link: &next})
	}
}

// reconfigure takes a new address and identity for the next connection, and
// another compression for the next frame.
func (g *group) reconfigure(cfg GroupConfig) error {
	codec, err := codecOf(cfg.Compression)
	if err != nil {
		return err
	}
	if err := g.takeIdentity(&cfg); err != nil {
		return err
	}
	if err := g.takeBandwidth(cfg.Bandwidth); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.cfg, g.codec = cfg, codec
	if g.frames != nil {
		g.frames.setCodec(codec)
	}
	return nil
}

// takeBandwidth follows another schedule from now on.
func (g *group) takeBandwidth(b dr.Bandwidth) error {
	s, err := b.Parse()
	if err != nil {
		return err
	}
	g.limit.Set(s)
	return nil
}
