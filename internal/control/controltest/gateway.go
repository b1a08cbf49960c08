package controltest

import (
	"context"
	"crypto/tls"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/problem"
	"rebound/internal/site"
)

// Gateway is one gateway of a world. Its Commands are those that reach its
// server; Run connects it to a vault.
type Gateway struct {
	// stuck machines cannot be stopped by their gateway.
	stuck  map[dr.MachineName]bool
	id     dr.GatewayID
	site   dr.SiteID
	world  *World
	ledger string

	// guarded by world.mu
	machines map[dr.MachineName]*machine
	streams  map[dr.GroupID]*stream
	journals map[dr.GroupID]*journal
	mute     bool   // no guest agent answers
	probe    string // the one that passes
	down     bool
	clock    time.Duration
	free     int64
	networks []site.Network
	events   []control.Event
	edit     func(*control.Report)
	hidden   map[dr.MachineName]*machine
	revoked  []identity.Revocation
	roles    []control.Role
	alter    func(*control.Prerequisites)
	closed   bool // its data port
	newest   map[dr.GroupID]dr.Generation
	consoles map[dr.MachineName]string
	deaf     bool   // to what the vault says of its groups
	addr     string // of its data port
	asked    map[dr.GroupID]control.CreateJournalRequest

	mu   sync.Mutex
	stop func()
}

var _ control.Commands = (*Gateway)(nil)

// NewGateway adds a gateway whose command ledger is the file at ledger.
func (w *World) NewGateway(id dr.GatewayID, at dr.SiteID, ledger string) *Gateway {
	g := &Gateway{
		id: id, site: at, world: w, ledger: ledger, machines: map[dr.MachineName]*machine{},
		streams: map[dr.GroupID]*stream{}, journals: map[dr.GroupID]*journal{}, addr: string(id) + ":9443", asked: map[dr.GroupID]control.CreateJournalRequest{}, newest: map[dr.GroupID]dr.Generation{}, free: 1 << 40,
		networks: []site.Network{{Name: "lan", Kind: "user"}},
	}
	w.mu.Lock()
	w.gateways[id] = g
	w.mu.Unlock()
	return g
}

// SetClock makes the gateway's clock differ from the true one.
func (g *Gateway) SetClock(d time.Duration) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	g.clock = d
}

// SetFree sets the room that the site reports.
func (g *Gateway) SetFree(n int64) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	g.free = n
}

// Start connects the gateway to the vault at addr and keeps it connected and
// reporting until Stop.
func (g *Gateway) Start(addr string, cfg *tls.Config, log *slog.Logger) error {
	ledger, err := control.OpenLedger(g.ledger, time.Now())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	server := control.NewServer(ctx, g, ledger, log.With("gateway", g.id))
	var wg sync.WaitGroup
	wg.Go(func() { server.Run(ctx, addr, cfg) }) //nolint:errcheck // ends with ctx
	wg.Go(func() { g.reports(ctx, addr, cfg, log) })
	g.setDown(false)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stop = func() {
		cancel()
		server.Close()
		wg.Wait()
		ledger.Close()
	}
	return nil
}

func (g *Gateway) setDown(down bool) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	g.down = down
}

// Stop ends the gateway's process; its machines, streams and journals stay as
// they are.
func (g *Gateway) Stop() {
	g.setDown(true)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stop != nil {
		g.stop()
		g.stop = nil
	}
}

// Lose ends the gateway and pulls the plug of every machine of its site.
func (g *Gateway) Lose() {
	g.Stop()
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	for _, m := range g.machines {
		m.m.State = site.Off
	}
}

// reportEvery is quicker than a real gateway, so that tests are.
const reportEvery = 20 * time.Millisecond

func (g *Gateway) reports(ctx context.Context, addr string, cfg *tls.Config, log *slog.Logger) {
	r := control.NewReporter(addr, cfg)
	defer r.Close()
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		d, err := r.Report(ctx, g.report())
		if err == nil {
			g.heed(d)
		} else {
			log.Warn("report", "gateway", g.id, "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (g *Gateway) report() control.Report {
	w := g.world
	w.mu.Lock()
	defer w.mu.Unlock()
	rep := control.Report{Gateway: g.id, Time: w.now().Add(g.clock), Groups: []control.GroupReport{}, Events: g.events}
	g.events = nil
	for id, s := range g.streams {
		g.step(s)
		rep.Groups = append(rep.Groups, control.GroupReport{Group: id, Generation: s.spec.Generation, Source: true, Phase: s.phase})
	}
	for id, j := range g.journals {
		r := control.GroupReport{Group: id, Generation: j.generation, Phase: control.PhaseIdle, Points: len(j.points)}
		if h, ok := j.head(); ok {
			r.Confirmed, r.Durable, r.ConfirmedTime = h.pos, h.pos, h.at
		}
		if n := len(j.points); n > 0 {
			r.NewestPointTime = j.points[n-1].Time
		}
		rep.Groups = append(rep.Groups, r)
	}
	for name, m := range g.machines {
		rep.Machines = append(rep.Machines, control.MachineReport{Machine: name, State: m.m.State, BootedAt: m.booted})
	}
	if g.edit != nil {
		g.edit(&rep)
	}
	return rep
}

// heed makes a stale source fence itself.
func (g *Gateway) heed(d control.Desired) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	if g.deaf {
		return
	}
	for _, want := range d.Groups {
		g.takePolicy(want)
		g.powerOffStale(want)
		s := g.streams[want.Group]
		if s == nil || s.spec.Generation >= want.Generation || want.Active == g.site || s.phase == control.PhaseFenced {
			continue
		}
		g.fence(s, want.Machines)
		g.events = append(g.events, control.Event{Time: g.world.now(), Code: "SelfFenced", Severity: "critical", Group: want.Group, Text: "fenced by the vault's word"})
	}
}

func (g *Gateway) fence(s *stream, names []dr.MachineName) {
	s.phase = control.PhaseFenced
	for _, n := range names {
		if m := g.machines[n]; m != nil {
			m.m.State = site.Off
		}
	}
}

// do is the frame of every command that changes something: faults, then the
// effect under the world's lock.
func (g *Gateway) do(ctx context.Context, what, who string, o control.Origin, f func() error) error {
	after, err := g.strike(ctx, what, who)
	if err != nil && !after {
		return err
	}
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	if e := f(); e != nil {
		return e
	}
	g.world.effects = append(g.world.effects, Effect{g.id, what, who, o})
	return err
}

func (g *Gateway) strike(ctx context.Context, what, who string) (after bool, err error) {
	w := g.world
	w.mu.Lock()
	i := slices.IndexFunc(w.faults, func(f *Fault) bool {
		return f.Gateway == g.id && f.Command == what && (f.Machine == "" || string(f.Machine) == who) && (f.Times == 0 || f.struck < f.Times)
	})
	if i < 0 {
		w.mu.Unlock()
		return false, nil
	}
	f := w.faults[i]
	f.struck++
	w.mu.Unlock()
	if f.Until != nil {
		select {
		case <-f.Until:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
	if f.Delay > 0 {
		select {
		case <-time.After(f.Delay):
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
	return f.After, f.Err
}

// Inventory implements control.Commands.
func (g *Gateway) Inventory(ctx context.Context) (control.Inventory, error) {
	if _, err := g.strike(ctx, "Inventory", ""); err != nil {
		return control.Inventory{}, err
	}
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	if said := g.prerequisites(control.PrerequisitesRequest{}); said.SiteProblem != "" {
		return control.Inventory{}, problem.New(problem.SiteUnreachable, "gateway %s does not reach its site %s: %s", g.id, g.site, said.SiteProblem)
	}
	inv := control.Inventory{Site: g.site, FreeBytes: g.free, TotalBytes: 1 << 41, DataAddr: g.addr, Roles: g.roles, Networks: slices.Clone(g.networks), Capabilities: site.Capabilities{MaxCPUs: MaxCPUs, MaxMemoryMiB: MaxMemoryMiB}}
	for _, name := range slices.Sorted(maps.Keys(g.machines)) {
		inv.Machines = append(inv.Machines, g.machines[name].m)
	}
	return inv, nil
}

// Probe implements control.Commands.
func (g *Gateway) Probe(ctx context.Context, _ string) error {
	_, err := g.strike(ctx, "Probe", "")
	return err
}
