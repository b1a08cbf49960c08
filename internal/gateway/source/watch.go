package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc64"
	"time"

	"github.com/google/uuid"

	"rebound/internal/capture"
	"rebound/internal/control"
	"rebound/internal/dr"
)

// The pace of the watch.
const (
	// beaconEvery is the time between beacons, also when idle; it is what
	// the RPO of a healthy stream comes to.
	beaconEvery = 100 * time.Millisecond
	// rotateEvery is the time between bitmaps: each rotation drains the
	// members' disks for a moment.
	rotateEvery = 45 * time.Second
	// defineEvery is how often the members' definitions are looked at.
	defineEvery = 2 * time.Second
	// silencePatience is for how long a hypervisor may fail to answer, or the
	// ring have no room, before the stream is given up; nothing is confirmed
	// meanwhile.
	silencePatience = 5 * time.Second
	// defaultCrashInterval is the time between crash-consistent markers
	// where the policy says nothing.
	defaultCrashInterval = 5 * time.Second
)

// watchState is what the watch remembers between ticks.
type watchState struct {
	definitions map[dr.MachineName]uint64
	defined     time.Time
	marked      time.Time
	rotated     time.Time
	silent      time.Time // since when nothing can be confirmed
	spooled     bool      // the stream was last seen in the spool
}

// newDefinition reports whether def differs from the last one seen of the
// machine, and remembers it.
func (w *watchState) newDefinition(def dr.Definition) bool {
	b, err := json.Marshal(def)
	if err != nil {
		return true
	}
	sum := crc64.Checksum(b, crc64.MakeTable(crc64.ECMA))
	if old, ok := w.definitions[def.Name]; ok && old == sum {
		return false
	}
	if w.definitions == nil {
		w.definitions = map[dr.MachineName]uint64{}
	}
	w.definitions[def.Name] = sum
	return true
}

// watchStream keeps the stream alive until it breaks; commands run in between.
func (a *attempt) watchStream(ctx context.Context) error {
	tick := time.NewTicker(beaconEvery)
	defer tick.Stop()
	events := a.cl.Events()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-a.proc.Done():
			return fmt.Errorf("capture ended: %w", orGone(a.proc.Err()))
		case c := <-a.r.calls:
			c.done <- c.do(ctx, a)
		case _, ok := <-events:
			if !ok {
				events = nil
				continue
			}
			if err := a.look(ctx); err != nil {
				return err
			}
		case <-tick.C:
			if err := a.tick(ctx); err != nil {
				return err
			}
		}
	}
}

func orGone(err error) error {
	if err == nil {
		return capture.ErrGone
	}
	return err
}

func (a *attempt) tick(ctx context.Context) error {
	if err := a.look(ctx); err != nil {
		return err
	}
	if err := a.followPolicy(ctx); err != nil {
		return err
	}
	if err := a.renew(ctx); err != nil {
		return err
	}
	if _, err := a.beacon(ctx); err != nil {
		return err
	}
	if !a.streamed {
		return nil
	}
	now := time.Now()
	if now.Sub(a.watch.marked) >= a.crashInterval() {
		if _, err := a.cl.Marker(ctx, newPointID(), dr.CrashConsistent, ""); err != nil {
			return a.tolerate(ctx, "place marker", err) // again with the next tick
		}
		a.watch.marked = now
	}
	a.startAppPoint(now)
	if now.Sub(a.watch.defined) >= defineEvery {
		a.watch.defined = now
		ask, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if err := a.define(ask); err != nil {
			return a.tolerate(ctx, "record definitions", err)
		}
	}
	if now.Sub(a.watch.rotated) >= a.g.cfg.RotateEvery && a.g.quiescing.Load() == 0 {
		a.watch.rotated = now
		return a.rotate(ctx)
	}
	return nil
}

func (a *attempt) crashInterval() time.Duration {
	if a.spec.CrashInterval > 0 {
		return a.spec.CrashInterval
	}
	return defaultCrashInterval
}

func newPointID() dr.PointID { return dr.PointID(uuid.Must(uuid.NewV7()).String()) }

// look reads the capture's state and draws the conclusions.
func (a *attempt) look(ctx context.Context) error {
	st, err := a.cl.Status(ctx)
	if err != nil {
		return fmt.Errorf("ask capture: %w", err)
	}
	durable := a.standbyHas(st)
	a.g.show(func(p *progress) {
		p.durable, p.counters = durable, st.Counters
		p.sync = control.Progress{Done: st.Sync.Done, Total: st.Sync.Total, Unit: "bytes"}
	})
	if st.State != capture.StateOpen {
		return fmt.Errorf("the stream was sealed: %s", st.Reason)
	}
	if st.Link.Error != nil && st.Link.Permanent {
		return fmt.Errorf("the standby refuses the stream: %w", st.Link.Error)
	}
	if err := a.followSpool(ctx, st); err != nil {
		return err
	}
	if a.streamed {
		return nil
	}
	return a.lookAtSync(ctx, st, durable)
}

// lookAtSync moves from synchronising to streaming once the end of the
// synchronisation is durable.
func (a *attempt) lookAtSync(ctx context.Context, st capture.Status, durable dr.Position) error {
	s := st.Sync
	if s.Error != nil && !s.Running {
		return fmt.Errorf("synchronise: %w", s.Error)
	}
	if s.Ended == 0 || s.Epoch != st.Head.Epoch || durable.Seq < s.Ended {
		return nil
	}
	old := a.g.state().Bitmaps.synchronised(a.first)
	err := a.letBitmapsGo(ctx, old, durable, func(s *state) {
		s.Compare, s.Synced = false, epochOf(st.Head)
	})
	if err != nil {
		return err
	}
	a.streaming()
	return a.dropCommitBitmap(a.g.ctx)
}

// streaming is called once the synchronisation is durable.
func (a *attempt) streaming() {
	a.streamed = true
	a.watch.rotated = time.Now()
	a.g.show(func(p *progress) { p.phase, p.problem = control.PhaseStreaming, "" })
}

// epochOf is the position before the first entry of p's epoch.
func epochOf(p dr.Position) dr.Position {
	p.Seq = 0
	return p
}

// beacon confirms the stream up to now: a moment is taken, then every
// hypervisor is asked whether it still sends us everything, then the moment is
// confirmed. It returns the beacon's position, zero when nothing can be
// confirmed for the moment.
func (a *attempt) beacon(ctx context.Context) (dr.Position, error) {
	probe, err := a.cl.Probe(ctx)
	if err != nil {
		return dr.Position{}, a.tolerate(ctx, "probe stream", err)
	}
	ask, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for _, m := range members(a.spec) {
		ok, err := a.g.cap.Attached(ask, m)
		if err != nil {
			return dr.Position{}, a.tolerate(ctx, "ask the hypervisor of "+string(m), err)
		}
		if !ok {
			return dr.Position{}, fmt.Errorf("the capture of %s has ended", m)
		}
	}
	pos, err := a.cl.Confirm(ctx, probe)
	if err != nil {
		return dr.Position{}, a.tolerate(ctx, "confirm stream", err)
	}
	a.watch.silent = time.Time{}
	return pos, nil
}

// tolerate bears for a while that something does not answer, or that the ring
// has no room (the link is slow): nothing is confirmed meanwhile. Whether the
// stream still stands is look's to find out.
func (a *attempt) tolerate(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil || errors.Is(err, capture.ErrGone) {
		return fmt.Errorf("%s: %w", what, err)
	}
	if a.watch.silent.IsZero() {
		a.watch.silent = time.Now()
	}
	if time.Since(a.watch.silent) > silencePatience {
		return fmt.Errorf("%s: no success for %s: %w", what, silencePatience, err)
	}
	a.g.cfg.Log.Debug("not confirmed", "doing", what, "error", err)
	return nil
}

// rotate begins a new bitmap and lets old ones go that nothing needs.
func (a *attempt) rotate(ctx context.Context) error {
	var t tracked
	if err := a.g.save(func(s *state) { t = s.Bitmaps.begin() }); err != nil {
		return err
	}
	if err := a.putBitmap(ctx, t); err != nil {
		return err
	}
	p, err := a.cl.Marker(ctx, newPointID(), dr.CrashConsistent, "")
	if err != nil {
		// Without its marker the bitmap only makes the others stay longer.
		return a.tolerate(ctx, "place marker", err)
	}
	if err := a.g.save(func(s *state) { s.Bitmaps.marked(p.Position) }); err != nil {
		return err
	}
	a.g.mu.Lock()
	durable := a.g.last.durable
	a.g.mu.Unlock()
	old := a.g.state().Bitmaps.droppable(durable)
	return a.letBitmapsGo(ctx, old, durable, func(*state) {})
}
