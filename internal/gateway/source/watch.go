package source

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/crc64"
	"time"

	"github.com/google/uuid"

	"rebound/internal/capture"
	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/problem"
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
	// silencePatience is for how long a hypervisor may fail to answer before
	// the stream is given up; nothing is confirmed meanwhile.
	silencePatience = 5 * time.Second
	// DefaultCrashInterval is the time between crash-consistent markers
	// where the policy says nothing.
	defaultCrashInterval = 5 * time.Second
)

// watchState is what the watch remembers between ticks.
type watchState struct {
	definitions map[dr.MachineName]uint64
	defined     time.Time
	marked      time.Time
	rotated     time.Time
	silent      time.Time // since when a hypervisor does not answer
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
	if _, err := a.beacon(ctx); err != nil {
		return err
	}
	if !a.streamed {
		return nil
	}
	now := time.Now()
	if now.Sub(a.watch.marked) >= a.crashInterval() {
		a.watch.marked = now
		if _, err := a.cl.Marker(ctx, newPointID(), dr.CrashConsistent, ""); err != nil {
			return fmt.Errorf("place marker: %w", err)
		}
	}
	if now.Sub(a.watch.defined) >= defineEvery {
		a.watch.defined = now
		if err := a.define(ctx); err != nil {
			return err
		}
	}
	if now.Sub(a.watch.rotated) >= rotateEvery {
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
	durable := st.Head
	durable.Seq = st.Durable
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
	if a.streamed {
		return nil
	}
	return a.lookAtSync(st, durable)
}

// lookAtSync moves from synchronising to streaming once the end of the
// synchronisation is durable.
func (a *attempt) lookAtSync(st capture.Status, durable dr.Position) error {
	s := st.Sync
	if s.Error != nil && !s.Running {
		return fmt.Errorf("synchronise: %w", s.Error)
	}
	if s.Ended == 0 || s.Epoch != st.Head.Epoch || st.Durable < s.Ended {
		return nil
	}
	ctx, cancel := context.WithTimeout(a.g.ctx, hypervisorPatience)
	defer cancel()
	old := a.g.state().Bitmaps.synchronised(a.first)
	if err := a.dropBitmaps(ctx, old); err != nil {
		return err
	}
	err := a.g.save(func(st *state) {
		st.Bitmaps.drop(len(old), durable)
		st.Compare = false
	})
	if err != nil {
		return err
	}
	a.streamed = true
	a.watch.rotated = time.Now()
	a.g.show(func(p *progress) { p.phase, p.problem = control.PhaseStreaming, "" })
	return nil
}

// beacon confirms the stream up to now: a moment is taken, then every
// hypervisor is asked whether it still sends us everything, then the moment is
// confirmed. It returns the beacon's position, zero when a hypervisor was
// silent.
func (a *attempt) beacon(ctx context.Context) (dr.Position, error) {
	probe, err := a.cl.Probe(ctx)
	if err != nil {
		return dr.Position{}, fmt.Errorf("probe stream: %w", err)
	}
	ask, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for _, m := range members(a.spec) {
		ok, err := a.g.cap.Attached(ask, m)
		if err != nil {
			return dr.Position{}, a.hypervisorSilent(m, err)
		}
		if !ok {
			return dr.Position{}, fmt.Errorf("the capture of %s has ended", m)
		}
	}
	a.watch.silent = time.Time{}
	pos, err := a.cl.Confirm(ctx, probe)
	if err != nil {
		return dr.Position{}, fmt.Errorf("confirm stream: %w", err)
	}
	return pos, nil
}

// hypervisorSilent tolerates a hypervisor that does not answer for a while.
func (a *attempt) hypervisorSilent(m dr.MachineName, err error) error {
	if a.watch.silent.IsZero() {
		a.watch.silent = time.Now()
	}
	if time.Since(a.watch.silent) > silencePatience {
		return fmt.Errorf("the hypervisor of %s does not answer: %w", m, err)
	}
	a.g.cfg.Log.Debug("hypervisor silent", "machine", m, "error", err)
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
		return fmt.Errorf("place marker: %w", err)
	}
	if err := a.g.save(func(s *state) { s.Bitmaps.marked(p.Position) }); err != nil {
		return err
	}
	a.g.mu.Lock()
	durable := a.g.last.durable
	a.g.mu.Unlock()
	old := a.g.state().Bitmaps.droppable(durable)
	if err := a.dropBitmaps(ctx, old); err != nil {
		return err
	}
	return a.g.save(func(s *state) { s.Bitmaps.drop(len(old), durable) })
}

// createPoint places a marker and waits until it can be chosen.
func (a *attempt) createPoint(ctx context.Context, r control.CreatePointRequest) (dr.Point, error) {
	if !a.streamed {
		return dr.Point{}, problem.New(problem.OperationNotAllowed, "group %s is being synchronised", a.g.cfg.Group)
	}
	p, err := a.cl.Marker(ctx, newPointID(), r.Kind, r.Name)
	if err != nil {
		return dr.Point{}, fmt.Errorf("place marker: %w", err)
	}
	if err := a.settleBeacon(ctx); err != nil {
		return dr.Point{}, err
	}
	return p, nil
}

// settleBeacon confirms all up to now and waits until that is durable.
func (a *attempt) settleBeacon(ctx context.Context) error {
	for {
		pos, err := a.beacon(ctx)
		if err != nil {
			return err
		}
		if !pos.IsZero() {
			break
		}
	}
	if _, err := a.cl.Drain(ctx); err != nil {
		return fmt.Errorf("wait for the standby: %w", err)
	}
	return nil
}
