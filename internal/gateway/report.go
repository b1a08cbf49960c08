package gateway

import (
	"context"
	"crypto/tls"
	"sync"
	"time"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/site"
)

// The pace of reports (control.Report): quick while something replicates.
const (
	busyReport = 200 * time.Millisecond
	idleReport = 2 * time.Second
	// machineEvery is how often the power states are asked of the site.
	machineEvery = time.Second
	maxEvents    = 1000
)

// eventLog keeps events until the vault has them.
type eventLog struct {
	mu     sync.Mutex
	events []control.Event
	gone   int // how many were dropped before the first of events
	poke   func()
}

func newEventLog(poke func()) *eventLog { return &eventLog{poke: poke} }

// add keeps an event; beyond maxEvents the oldest goes.
func (l *eventLog) add(e control.Event) {
	if e.Time.IsZero() {
		e.Time = time.Now().UTC()
	}
	l.mu.Lock()
	l.events = append(l.events, e)
	if n := len(l.events) - maxEvents; n > 0 {
		l.events = l.events[n:]
		l.gone += n
	}
	l.mu.Unlock()
	l.poke()
}

// pending returns what is kept, and the number after the last of it.
func (l *eventLog) pending() (events []control.Event, next int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]control.Event(nil), l.events...), l.gone + len(l.events)
}

// delivered drops the events before a number that pending returned; some of
// them may be gone by themselves.
func (l *eventLog) delivered(next int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := next - l.gone; n > 0 {
		l.events = l.events[n:]
		l.gone = next
	}
}

// runReports tells the vault how things are until ctx ends. A vault that is
// away changes nothing here: replication goes on.
func (g *Gateway) runReports(ctx context.Context, cfg *tls.Config) error {
	rep := control.NewReporter(g.cfg.VaultAddr, cfg)
	defer rep.Close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	watch := &machineWatch{}
	changed := g.cfg.Identity.Changed()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		case <-g.poke:
		case <-changed:
			// The next report shows the renewed certificate.
			rep.Close()
			changed = g.cfg.Identity.Changed()
		}
		next := g.reportOnce(ctx, rep, watch)
		timer.Reset(next)
	}
}

// reportOnce sends a report, obeys the answer, and returns when the next is due.
func (g *Gateway) reportOnce(ctx context.Context, rep *control.Reporter, watch *machineWatch) time.Duration {
	events, next := g.events.pending()
	r := control.Report{Gateway: g.cfg.Name, Time: time.Now().UTC(), Groups: g.groupReports(), Events: events, Revoked: identity.Digest(g.cfg.Identity.Revocations())}
	r.Machines, r.Host = watch.changes(ctx, g), g.hostReport(ctx)
	desired, err := rep.Report(ctx, r)
	if err != nil {
		watch.forget()
		g.log.Debug("report", "error", err)
		return busyReport
	}
	g.events.delivered(next)
	g.keep(desired)
	g.obey(ctx, desired)
	g.followPolicies(desired)
	if len(r.Groups) > 0 {
		return busyReport
	}
	return idleReport
}

func (g *Gateway) groupReports() []control.GroupReport {
	out := g.standby.Reports()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range g.sources {
		out = append(out, s.Report())
	}
	return out
}

func (g *Gateway) anyRunning(ctx context.Context, names []dr.MachineName) bool {
	for _, name := range names {
		m, err := g.driver.Machine(ctx, name)
		if err == nil && m.State != site.Off {
			return true
		}
	}
	return false
}

// machineWatch remembers what the vault knows of power states.
type machineWatch struct {
	told  map[dr.MachineName]control.MachineReport
	asked time.Time
}

// forget makes the next report name every machine again.
func (w *machineWatch) forget() { w.told, w.asked = nil, time.Time{} }

// changes returns the machines whose state the vault does not know.
func (w *machineWatch) changes(ctx context.Context, g *Gateway) []control.MachineReport {
	if time.Since(w.asked) < machineEvery {
		return nil
	}
	all, err := g.reportMachines(ctx)
	if err != nil {
		g.log.Warn("look at machines", "error", err)
		return nil
	}
	w.asked = time.Now()
	if w.told == nil {
		w.told = map[dr.MachineName]control.MachineReport{}
	}
	var out []control.MachineReport
	for _, m := range all {
		if w.told[m.Machine] != m {
			w.told[m.Machine] = m
			out = append(out, m)
		}
	}
	return out
}
