package standby

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/gateway/statefile"
	"rebound/internal/journal"
	"rebound/internal/problem"
)

// phase says who owns a group's bases.
type phase string

const (
	phaseJournal    phase = "journal"
	phaseCommitting phase = "committing"
	// phaseCommitted: the machines own their disks; only the rollback set
	// is left of the journal.
	phaseCommitted phase = "committed"
	// phaseDeleting: the journal goes, with its machines.
	phaseDeleting phase = "deleting"
)

// settings are what a group keeps beside its journal.
type settings struct {
	Request   control.CreateJournalRequest `json:"request"`
	Result    control.CreateJournalResult  `json:"result"`
	BasePaths []string                     `json:"basePaths"`
	// Volume is the folder of the retention volume that has the journal;
	// empty when it lies beside these settings.
	Volume string      `json:"volume,omitempty"`
	Phase  phase       `json:"phase"`
	Commit dr.Position `json:"commit"`
	// CommitMembers are the members' own positions, where each has one;
	// Commit is the lowest of them then.
	CommitMembers map[dr.MachineName]dr.Position `json:"commitMembers,omitempty"`
	// Generation is the journal's as of the commit, which ends the journal.
	Generation dr.Generation `json:"generation,omitempty"`
	// Recovered are the machines that run (or are being started) on views.
	Recovered []recovered `json:"recovered,omitempty"`
}

// group is one journal and what runs on it.
type group struct {
	id   dr.GroupID
	dir  string
	host *Host

	jrn   *journal.Journal // nil once the bases were released
	views *viewServer
	recv  *receiver
	stop  context.CancelFunc
	wg    sync.WaitGroup

	// work serialises commands; mu guards set for the reports that go on
	// meanwhile.
	work  sync.Mutex
	names nameLocks // of recovered machines; taken before work

	saving  sync.Mutex // one save at a time
	mu      sync.Mutex
	set     settings
	refused int64  // streams of an old generation
	trouble string // why the journal does not work, for people
}

func (g *group) settingsPath() string { return filepath.Join(g.dir, "standby.json") }

// journalDir is where the journal lies; it never changes once the settings are
// written.
func (g *group) journalDir() string {
	if dir := g.settings().Volume; dir != "" {
		return filepath.Join(dir, string(g.id), "journal")
	}
	return filepath.Join(g.dir, "journal")
}

// openGroup takes up a group of an earlier process; nil when its folder holds
// the beginning of a creation that never ended.
func openGroup(ctx context.Context, h *Host, id dr.GroupID) (*group, error) {
	g := &group{id: id, dir: h.groupDir(id), host: h}
	ok, err := statefile.Load(g.settingsPath(), &g.set)
	if err != nil || !ok {
		return nil, err
	}
	if g.set.Phase == phaseCommitted || g.set.Phase == phaseDeleting {
		return g, nil
	}
	if g.set.Phase == phaseCommitting {
		in, err := journal.Inspect(g.journalDir(), nil)
		if err != nil {
			return nil, err
		}
		if in.Owner == ownerVM { // cut short after the bases were released
			return g, g.start(ctx, nil)
		}
	}
	var jrn *journal.Journal
	err = whileInUse(ctx, func() (err error) {
		jrn, err = journal.Open(ctx, g.journalDir(), journal.Options{Logger: h.cfg.Log, Keys: h.cfg.Keys})
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := g.start(ctx, jrn); err != nil {
		return nil, errors.Join(err, jrn.Close())
	}
	return g, nil
}

// start serves the journal's views and takes streams. Without a journal the
// views are those of the bases. They are there before the first machine can
// ask for them.
func (g *group) start(ctx context.Context, jrn *journal.Journal) error {
	views, err := newViewServer(filepath.Join(g.host.cfg.RunDir, "v-"+string(g.id)+".sock"), g.host.cfg.Log)
	if err != nil {
		return err
	}
	g.jrn, g.views, g.stop = jrn, views, func() {}
	g.restoreViews(ctx)
	if err := views.listen(); err != nil {
		return errors.Join(err, views.close())
	}
	if jrn == nil {
		return nil
	}
	g.recv = newReceiver(g, jrn)
	ctx, g.stop = context.WithCancel(context.WithoutCancel(ctx))
	g.wg.Go(func() { g.recv.commitLoop(ctx, g.failed) })
	return nil
}

// failed is told when the journal's volume failed under it.
func (g *group) failed(err error) {
	g.mu.Lock()
	g.trouble = err.Error()
	g.mu.Unlock()
	g.event("JournalFailed", "critical", "the journal of group %s cannot be written any more, its gateway must be restarted: %v", g.id, err)
}

func (g *group) event(code, severity, format string, args ...any) {
	g.host.cfg.Event(control.Event{Code: code, Severity: severity, Group: g.id, Text: fmt.Sprintf(format, args...)})
}

func (g *group) close() error {
	g.work.Lock()
	defer g.work.Unlock()
	return g.closeJournal()
}

// closeJournal lets go of views and journal; the caller holds work.
func (g *group) closeJournal() error {
	if g.views == nil {
		return nil
	}
	g.stop()
	g.wg.Wait()
	err := g.views.close()
	if g.jrn != nil {
		err = errors.Join(err, g.jrn.Close())
	}
	g.mu.Lock()
	g.jrn, g.views, g.recv = nil, nil, nil
	g.mu.Unlock()
	return err
}

// save changes the settings, durably.
func (g *group) save(change func(*settings)) error {
	g.saving.Lock()
	defer g.saving.Unlock()
	g.mu.Lock()
	next := g.set
	next.Recovered = append([]recovered(nil), g.set.Recovered...)
	change(&next)
	g.mu.Unlock()
	if err := statefile.Save(g.settingsPath(), next); err != nil {
		return err
	}
	g.mu.Lock()
	g.set = next
	g.mu.Unlock()
	g.host.cfg.Changed()
	return nil
}

func (g *group) settings() settings {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.set
}

// open returns the journal while it is one.
func (g *group) open() (*journal.Journal, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.jrn == nil || g.set.Phase == phaseCommitted {
		return nil, problem.New(problem.OperationNotAllowed, "the journal of group %s ended with its commit", g.id)
	}
	return g.jrn, nil
}

// generation is the newest that was made durable here.
func (g *group) generation() dr.Generation {
	g.mu.Lock()
	defer g.mu.Unlock()
	gen := max(g.set.Generation, g.set.Request.Generation)
	if g.jrn != nil {
		gen = max(gen, g.jrn.Status().Generation)
	}
	return gen
}

// reserves reports whether the machine is the group's standby here.
func (g *group) reserves(m dr.MachineName) bool {
	set := g.settings()
	if set.Phase == phaseCommitted || set.Phase == phaseDeleting {
		return false
	}
	for _, d := range set.Request.Definitions {
		if d.Name == m {
			return true
		}
	}
	return false
}

// maintain folds and prunes. It does not wait for commands, nor they for it:
// the journal has its own locks.
func (g *group) maintain(ctx context.Context) error {
	jrn, err := g.open()
	if err != nil || g.settings().Phase != phaseJournal {
		return nil // nothing is kept any more
	}
	if _, err := jrn.Fold(ctx, dr.Position{}); err != nil {
		if errors.Is(err, journal.ErrClosed) {
			return nil
		}
		return fmt.Errorf("fold: %w", err)
	}
	if _, err := jrn.Prune(ctx); err != nil && !errors.Is(err, journal.ErrClosed) {
		return fmt.Errorf("prune: %w", err)
	}
	return nil
}

func (g *group) seal(ctx context.Context, gen dr.Generation) (control.SealResult, error) {
	jrn, err := g.open()
	if err != nil {
		return control.SealResult{}, err
	}
	durable, confirmed, err := jrn.Seal(gen)
	if err != nil {
		return control.SealResult{}, fmt.Errorf("seal group %s: %w", g.id, err)
	}
	if err := g.host.fence(ctx, g.id, gen); err != nil {
		return control.SealResult{}, fmt.Errorf("close old streams of group %s: %w", g.id, err)
	}
	g.event("Sealed", "info", "group %s: generation %d, nothing older is taken", g.id, gen)
	return control.SealResult{Durable: durable, Confirmed: confirmed}, nil
}

func (g *group) points(r control.PointsRequest) (control.Points, error) {
	jrn, err := g.open()
	if err != nil {
		return control.Points{}, err
	}
	out := control.Points{Points: jrn.Points(journal.Filter{From: r.From, To: r.To, Kind: r.Kind, Limit: r.Limit})}
	for _, s := range jrn.Spans() {
		out.Spans = append(out.Spans, control.Span{From: s.From, To: s.To, Low: s.Low, High: s.High})
	}
	return out, nil
}

func (g *group) resolve(ctx context.Context, q control.ResolveRequest) (control.Resolved, error) {
	jrn, err := g.open()
	if err != nil {
		return control.Resolved{}, err
	}
	if q.PerMachine {
		return resolveMembers(ctx, jrn, q.Selector)
	}
	r, err := jrn.Resolve(q.Selector)
	if err != nil {
		return control.Resolved{}, err
	}
	return control.Resolved{
		Position: r.Position, Time: r.Time, Point: r.Point,
		LostSeconds: r.LostSeconds, LostBytes: r.LostBytes, Definitions: r.Definitions,
	}, nil
}

// resolveMembers takes each member to its own newest position. What the group
// as a whole reports is the oldest of them, and all that is lost.
func resolveMembers(ctx context.Context, jrn *journal.Journal, sel dr.PointSelector) (control.Resolved, error) {
	if sel != dr.Latest && sel != "" {
		return control.Resolved{}, problem.New(problem.InvalidRequest, "each machine at its own newest moment goes with %q, not with %q", dr.Latest, sel)
	}
	members, err := jrn.ResolveMembers(ctx)
	if err != nil {
		return control.Resolved{}, err
	}
	out := control.Resolved{Position: members[0].Position, Time: members[0].Time, Members: members}
	for _, m := range members {
		if m.Position.Before(out.Position) {
			out.Position = m.Position
		}
		if m.Time.Before(out.Time) {
			out.Time = m.Time
		}
		out.LostSeconds = max(out.LostSeconds, m.LostSeconds)
		out.LostBytes += m.LostBytes
		for _, d := range jrn.Definitions(m.Position) {
			if d.Name == m.Machine {
				out.Definitions = append(out.Definitions, d)
			}
		}
	}
	return out, nil
}

func (g *group) report() control.GroupReport {
	g.mu.Lock()
	defer g.mu.Unlock()
	rep := control.GroupReport{
		Group: g.id, Generation: max(g.set.Generation, g.set.Request.Generation), Phase: control.PhaseIdle, Problem: g.trouble,
	}
	rep.Counters.StaleFrames = g.refused
	if g.set.Phase == phaseCommitting {
		rep.Phase = control.PhaseCommitting
	}
	if g.jrn == nil || g.recv == nil {
		return rep
	}
	st := g.jrn.Status()
	rep.Generation, rep.Confirmed, rep.ConfirmedTime, rep.Durable = st.Generation, st.Confirmed, st.ConfirmedTime, st.Durable
	rep.Points, rep.JournalBytes = st.Points, st.Bytes
	rep.Counters.StaleFrames += st.StaleFrames
	if newest := g.jrn.Points(journal.Filter{Limit: 1}); len(newest) > 0 {
		rep.NewestPointTime = newest[0].Time
	}
	if newest := g.jrn.Points(journal.Filter{Limit: 1, Kind: dr.AppConsistent}); len(newest) > 0 {
		rep.NewestAppTime = newest[0].Time
	}
	rep.NoRoom = st.NoRoom
	switch {
	case g.set.Phase == phaseCommitting:
		rep.Phase = control.PhaseCommitting
	case g.anyFailover():
		rep.Phase = control.PhaseRecovered
	case st.Syncing:
		rep.Phase = control.PhaseSyncing
	case g.recv.connected():
		rep.Phase = control.PhaseStreaming
	}
	return rep
}

// anyFailover reports whether a machine of a failover runs; mu is held.
func (g *group) anyFailover() bool {
	for _, r := range g.set.Recovered {
		if !r.Test {
			return true
		}
	}
	return false
}
