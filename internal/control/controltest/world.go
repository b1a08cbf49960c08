// Package controltest has gateways that live in memory: they implement
// control.Commands with machines, streams and journals that behave like the
// real ones towards the vault, record every side effect, and can be slow,
// fail, lose their connection and restart. Tests of the vault and the
// orchestrator use it.
package controltest

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/site"
)

// World is what the gateways share: the network between them, the effects they
// had and the faults planned for them.
type World struct {
	mu       sync.Mutex
	gateways map[dr.GatewayID]*Gateway
	effects  []Effect
	faults   []*Fault
	now      func() time.Time
	script   func(control.ScriptRequest) control.ScriptResult
}

// Effect is one thing that a gateway really did.
type Effect struct {
	Gateway dr.GatewayID
	What    string // the command
	Who     string // machine or group
	Origin  control.Origin
}

// Fault makes commands fail, or wait.
type Fault struct {
	Gateway dr.GatewayID
	Command string
	Machine dr.MachineName
	// Times is how often it strikes; 0 always.
	Times int
	// Err is returned, after Delay.
	Err   error
	Delay time.Duration
	// Until, when not nil, is waited for before the command goes on.
	Until <-chan struct{}
	// After: the effect happens first, then Err is returned.
	After bool

	struck int
}

// NewWorld returns a world without gateways.
func NewWorld() *World {
	return &World{gateways: map[dr.GatewayID]*Gateway{}, now: time.Now}
}

// Plan adds a fault; Struck tells later whether it fired.
func (w *World) Plan(f *Fault) *Fault {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, f)
	return f
}

// Clear removes all faults.
func (w *World) Clear() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = nil
}

// Struck returns how often a fault fired.
func (w *World) Struck(f *Fault) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return f.struck
}

// Effects returns what happened so far.
func (w *World) Effects() []Effect {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.effects)
}

// Count counts effects of a command, on a machine or group when who is not
// empty.
func (w *World) Count(what, who string) int {
	n := 0
	for _, e := range w.Effects() {
		if e.What == what && (who == "" || e.Who == who) {
			n++
		}
	}
	return n
}

// machine is one machine at one site. content stands for its disks.
type machine struct {
	m       site.Machine
	booted  time.Time
	content int
	// view is set while the machine runs from a journal.
	view *dr.Position
}

// moment is one confirmed boundary of a journal.
type moment struct {
	pos     dr.Position
	at      time.Time
	content map[dr.MachineName]int
}

type journal struct {
	request    control.CreateJournalRequest
	generation dr.Generation
	source     dr.GatewayID
	defs       map[dr.MachineName]dr.Definition
	base       map[dr.MachineName]int
	moments    []moment
	points     []dr.Point
	epoch      dr.Epoch
	sealed     bool
	// tail holds, by machine, what arrived past the newest moment.
	tail map[dr.MachineName]moment
	// redoWindow and retention are the policy's.
	redoWindow, retention time.Duration
}

type stream struct {
	spec   control.ReplicationSpec
	phase  control.Phase
	seq    dr.Seq
	synced bool
}

func (j *journal) head() (moment, bool) {
	if len(j.moments) == 0 {
		return moment{}, false
	}
	return j.moments[len(j.moments)-1], true
}

// AddMachine puts a running machine with one disk of 1 MiB on a gateway's
// site.
func (g *Gateway) AddMachine(name dr.MachineName) {
	g.AddDefinition(dr.Definition{
		Name: name, UUID: fmt.Sprintf("uuid-%s", name), CPUs: 1, MemoryMiB: 128, Firmware: dr.BIOS, MachineType: "q35",
		Disks: []dr.DiskSpec{{ID: "disk0", Bus: "virtio", SizeBytes: 1 << 20}},
	})
}

// AddDefinition puts a running machine on a gateway's site.
func (g *Gateway) AddDefinition(def dr.Definition) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	g.machines[def.Name] = &machine{m: site.Machine{Definition: def, State: site.Running}, booted: g.world.now()}
}

// Write changes a running machine's content, as its guest would, and streams
// the change when it is captured. It reports the new content.
func (g *Gateway) Write(name dr.MachineName) int {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	m := g.machines[name]
	if m == nil || m.m.State != site.Running {
		return -1
	}
	m.content++
	for _, s := range g.streams {
		g.step(s)
	}
	return m.content
}

// Content returns a machine's content and power at the gateway's site; ok is
// false when it is not there.
func (g *Gateway) Content(name dr.MachineName) (content int, state site.PowerState, ok bool) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	m := g.machines[name]
	if m == nil {
		return 0, site.Unknown, false
	}
	return m.content, m.m.State, true
}

// step moves a stream one boundary on: what the members hold now is a moment
// at the standby. The caller holds the world's lock.
func (g *Gateway) step(s *stream) {
	if s.phase != control.PhaseStreaming && s.phase != control.PhaseSyncing {
		return
	}
	to := g.world.gateways[s.spec.Standby]
	if to == nil || to.down || g.down {
		return
	}
	j := to.journals[s.spec.Group]
	if j == nil || j.generation != s.spec.Generation || j.sealed {
		s.phase = control.PhaseTracking
		return
	}
	content := map[dr.MachineName]int{}
	for _, d := range s.spec.Disks {
		if m := g.machines[d.Machine]; m != nil {
			content[d.Machine] = m.content
		}
	}
	s.seq++
	s.phase, s.synced = control.PhaseStreaming, true
	now := g.world.now().Add(g.clock)
	j.moments = append(j.moments, moment{dr.Position{Generation: j.generation, Epoch: j.epoch, Seq: s.seq}, now, content})
	if len(j.points) == 0 || now.Sub(j.points[len(j.points)-1].Time) >= s.spec.CrashInterval {
		j.addPoint(dr.CrashConsistent, "", now)
	}
}

func (j *journal) addPoint(kind dr.PointKind, name string, now time.Time) dr.Point {
	p := dr.Point{ID: dr.PointID(fmt.Sprintf("p%d-%d", j.generation, len(j.points)+1)), Kind: kind, Name: name, Time: now, Position: j.moments[len(j.moments)-1].pos}
	j.points = append(j.points, p)
	return p
}
