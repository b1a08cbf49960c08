// Package live holds what gateways and agents said last, in memory: reports of
// groups, clock offsets, heartbeats. It answers how far a standby is behind
// (RPO) without touching a disk, often and cheaply. It is rebuilt by the next
// reports when the vault restarts. The vault's API feeds and reads it, the
// orchestrator reads it.
package live

import (
	"math"
	"sync"
	"time"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

const (
	// SkewRefuse is the clock difference from which new protections are
	// refused.
	SkewRefuse = 5 * time.Minute
	// offsetSamples is over how many reports the offset is the least seen:
	// the delay on the way only ever adds to a sample.
	offsetSamples = 32
	// offsetFloor: a positive offset up to this is as well explained by a
	// delay, and taking it for one makes the shown RPO larger, not smaller.
	offsetFloor = 250 * time.Millisecond
	// gatewayQuiet is how long a gateway may be silent before it is taken
	// to be away although its connection stands.
	gatewayQuiet = 15 * time.Second
)

// State is the memory. Safe for use by several goroutines.
type State struct {
	mu       sync.RWMutex
	gateways map[dr.GatewayID]*gatewayState
	groups   map[dr.GroupID]*groupState
	beats    map[dr.MachineName]beat
	stale    map[dr.GroupID]stale
	changed  chan struct{}
}

type beat struct {
	boot string
	at   time.Time
}

type gatewayState struct {
	lastSeen time.Time
	samples  []time.Duration
	host     control.HostReport
}

// groupState holds the last report of each gateway that speaks of a group.
type groupState map[dr.GatewayID]Said

// Said is one gateway's last word on a group.
type Said struct {
	Report   control.GroupReport
	Received time.Time
	// Offset is the vault's clock minus the gateway's.
	Offset time.Duration
	// SyncMoved is when the synchronisation last made progress.
	SyncMoved time.Time
}

// stale is a source that came back with an older generation.
type stale struct {
	gateway dr.GatewayID
	at      time.Time
}

// New returns an empty memory.
func New() *State {
	return &State{
		gateways: map[dr.GatewayID]*gatewayState{}, groups: map[dr.GroupID]*groupState{},
		beats: map[dr.MachineName]beat{}, stale: map[dr.GroupID]stale{}, changed: make(chan struct{}),
	}
}

// Outcome says what a report changed in the memory.
type Outcome struct {
	// First: nothing was known of the gateway before.
	First  bool
	Offset time.Duration
}

// Report takes in a gateway's report, received at now (the vault's clock).
func (s *State) Report(gw dr.GatewayID, rep control.Report, now time.Time) Outcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, known := s.gateways[gw]
	if !known {
		g = &gatewayState{}
		s.gateways[gw] = g
	}
	g.lastSeen, g.host = now, rep.Host
	g.sample(now.Sub(rep.Time))
	out := Outcome{First: !known, Offset: g.offset()}
	for _, r := range rep.Groups {
		gs, ok := s.groups[r.Group]
		if !ok {
			gs = &groupState{}
			s.groups[r.Group] = gs
		}
		said := Said{Report: r, Received: now, Offset: out.Offset, SyncMoved: now}
		if old := (*gs)[gw]; old.Report.Phase == r.Phase && old.Report.Sync.Done == r.Sync.Done && !old.SyncMoved.IsZero() {
			said.SyncMoved = old.SyncMoved
		}
		(*gs)[gw] = said
	}
	s.wake()
	return out
}

func (s *State) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Changed returns a channel that is closed at the next report or heartbeat.
func (s *State) Changed() <-chan struct{} {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.changed
}

func (g *gatewayState) sample(d time.Duration) {
	if n := len(g.samples); n > 0 && (d-g.offset()).Abs() > 2*time.Second {
		g.samples = g.samples[:0] // the clock was stepped
	}
	if len(g.samples) == offsetSamples {
		g.samples = append(g.samples[:0], g.samples[1:]...)
	}
	g.samples = append(g.samples, d)
}

func (g *gatewayState) offset() time.Duration {
	least := time.Duration(math.MaxInt64)
	for _, d := range g.samples {
		least = min(least, d)
	}
	if len(g.samples) == 0 || (least >= 0 && least <= offsetFloor) {
		return 0
	}
	return least
}

// Gateway returns when a gateway was last heard of (zero: never) and its clock
// offset (the vault's clock minus the gateway's).
func (s *State) Gateway(gw dr.GatewayID) (lastSeen time.Time, offset time.Duration) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	g, ok := s.gateways[gw]
	if !ok {
		return time.Time{}, 0
	}
	return g.lastSeen, g.offset()
}

// Host returns what a gateway last said of its host.
func (s *State) Host(gw dr.GatewayID) (control.HostReport, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	g, ok := s.gateways[gw]
	if !ok {
		return control.HostReport{}, false
	}
	return g.host, true
}

// SawStale notes that a gateway spoke as the source of an older generation.
func (s *State) SawStale(id dr.GroupID, gw dr.GatewayID, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stale[id] = stale{gw, now}
}

// Stale returns the gateway that last spoke as the source of an older generation
// of a group, and when; a zero time for never.
func (s *State) Stale(id dr.GroupID) (dr.GatewayID, time.Time) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.stale[id].gateway, s.stale[id].at
}

// Quiet reports whether a gateway has reported before and then fell silent.
func (s *State) Quiet(gw dr.GatewayID, now time.Time) bool {
	seen, _ := s.Gateway(gw)
	return !seen.IsZero() && now.Sub(seen) > gatewayQuiet
}

// Group returns a gateway's last word on a group.
func (s *State) Group(id dr.GroupID, gw dr.GatewayID) (Said, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	gs, ok := s.groups[id]
	if !ok {
		return Said{}, false
	}
	said, ok := (*gs)[gw]
	return said, ok
}

// Restore puts a kept snapshot back after a restart, unless the standby has
// spoken since.
func (s *State) Restore(id dr.GroupID, standby dr.GatewayID, snap store.Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gs, ok := s.groups[id]
	if !ok {
		gs = &groupState{}
		s.groups[id] = gs
	}
	if _, spoke := (*gs)[standby]; !spoke {
		(*gs)[standby] = Said{Report: snap.Report, Received: snap.Received, Offset: time.Duration(snap.Offset * float64(time.Second))}
	}
}

// Forget drops a group.
func (s *State) Forget(id dr.GroupID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.groups, id)
	delete(s.stale, id)
}

// Heartbeat takes in an agent's heartbeat.
func (s *State) Heartbeat(m dr.MachineName, boot string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.beats[m] = beat{boot, now}
	s.wake()
}

// LastHeartbeat returns an agent's last boot id and when it was heard.
func (s *State) LastHeartbeat(m dr.MachineName) (boot string, at time.Time) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	b := s.beats[m]
	return b.boot, b.at
}

// RPO computes a group's recovery point objective at now; see rest.RPO.
func (s *State) RPO(g *store.Group, threshold int64, now time.Time) rest.RPO {
	out := rest.RPO{Basis: "none", AsOf: now.UTC(), ThresholdSeconds: threshold}
	said, ok := s.Group(g.ID, g.Standby())
	if !ok {
		return out
	}
	// The moment is of the source's clock: correct by the source's offset,
	// or by the one kept with the report when the source is not known.
	offset := said.Offset
	if seen, o := s.Gateway(g.Source()); !seen.IsZero() {
		offset = o
	}
	rep := said.Report
	out.ReportAge = max(0, now.Sub(said.Received).Seconds())
	out.Confirmed, out.ConfirmedTime = rep.Confirmed, rep.ConfirmedTime
	age := func(t time.Time) *float64 {
		if t.IsZero() {
			return nil
		}
		// Never less than the time since the report: what was confirmed
		// by then cannot be newer than the report itself.
		v := max(now.Sub(t.Add(offset)).Seconds(), out.ReportAge)
		return &v
	}
	out.NewestPointSeconds = age(rep.NewestPointTime)
	if g.State == lifecycle.Protected {
		if out.Seconds = age(rep.ConfirmedTime); out.Seconds != nil {
			out.Basis = "stream"
		}
	}
	if out.Seconds == nil && out.NewestPointSeconds != nil {
		out.Seconds, out.Basis = out.NewestPointSeconds, "point"
	}
	out.Exceeded = threshold > 0 && out.Seconds != nil && *out.Seconds > float64(threshold)
	return out
}

// Observation is what the two gateways' reports say of a stream.
type Observation struct {
	Known, Synced, Broken, Syncing bool
	Points                         int
}

// Observe reads the reports of a group's two ends. Words from before the
// group's last change, of another generation or direction, do not count.
func (s *State) Observe(g *store.Group) Observation {
	src, ok1 := s.Group(g.ID, g.Source())
	stb, ok2 := s.Group(g.ID, g.Standby())
	fresh := func(x Said) bool { return x.Report.Generation == g.Generation && x.Received.After(g.ChangedAt) }
	if !ok1 || !ok2 || !fresh(src) || !fresh(stb) || !src.Report.Source {
		return Observation{}
	}
	o := Observation{Known: true, Points: stb.Report.Points}
	switch src.Report.Phase {
	case control.PhaseStreaming:
		o.Synced = true
	case control.PhaseSyncing, control.PhaseAttaching:
		o.Syncing = true
	default:
		o.Broken = true
	}
	return o
}
