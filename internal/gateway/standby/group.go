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
)

// settings are what a group keeps beside its journal.
type settings struct {
	Request   control.CreateJournalRequest `json:"request"`
	Result    control.CreateJournalResult  `json:"result"`
	BasePaths []string                     `json:"basePaths"`
	Phase     phase                        `json:"phase"`
	Commit    dr.Position                  `json:"commit"`
	// Recovered are the machines that run (or are being started) on views.
	Recovered []recovered `json:"recovered,omitempty"`
}

// group is one journal and what runs on it.
type group struct {
	id   dr.GroupID
	dir  string
	host *Host

	jrn   *journal.Journal // nil once committed
	views *viewServer
	recv  *receiver
	stop  context.CancelFunc
	wg    sync.WaitGroup

	// work serialises commands; mu guards set for the reports that go on
	// meanwhile.
	work sync.Mutex
	mu   sync.Mutex
	set  settings
}

func (g *group) settingsPath() string { return filepath.Join(g.dir, "standby.json") }
func (g *group) journalDir() string   { return filepath.Join(g.dir, "journal") }

// openGroup takes up a group of an earlier process; nil when its folder holds
// the beginning of a creation that never ended.
func openGroup(ctx context.Context, h *Host, id dr.GroupID) (*group, error) {
	g := &group{id: id, dir: h.groupDir(id), host: h}
	ok, err := statefile.Load(g.settingsPath(), &g.set)
	if err != nil || !ok {
		return nil, err
	}
	if g.set.Phase == phaseCommitted {
		return g, nil
	}
	jrn, err := journal.Open(ctx, g.journalDir(), journal.Options{Logger: h.cfg.Log})
	if err != nil {
		return nil, err
	}
	if err := g.start(ctx, jrn); err != nil {
		return nil, errors.Join(err, jrn.Close())
	}
	return g, nil
}

// start serves the journal's views and takes streams.
func (g *group) start(ctx context.Context, jrn *journal.Journal) error {
	views, err := newViewServer(filepath.Join(g.host.cfg.RunDir, "v-"+string(g.id)+".sock"), g.host.cfg.Log)
	if err != nil {
		return err
	}
	g.jrn, g.views = jrn, views
	g.recv = newReceiver(jrn, g.host.cfg.Changed)
	ctx, g.stop = context.WithCancel(context.WithoutCancel(ctx))
	g.wg.Go(func() { g.recv.commitLoop(ctx, g.failed) })
	if err := g.restoreViews(ctx); err != nil {
		g.stop()
		g.wg.Wait()
		return errors.Join(err, views.close())
	}
	return nil
}

// failed is told when the journal's volume failed under it.
func (g *group) failed(err error) {
	g.host.cfg.Event(control.Event{
		Code: "JournalFailed", Severity: "critical", Group: g.id,
		Text: fmt.Sprintf("the journal of group %s cannot be written any more: %v", g.id, err),
	})
}

func (g *group) close() error {
	g.work.Lock()
	defer g.work.Unlock()
	return g.closeJournal()
}

// closeJournal lets go of views and journal; the caller holds work.
func (g *group) closeJournal() error {
	if g.jrn == nil {
		return nil
	}
	g.stop()
	g.wg.Wait()
	err := errors.Join(g.views.close(), g.jrn.Close())
	g.mu.Lock()
	g.jrn, g.views, g.recv = nil, nil, nil
	g.mu.Unlock()
	return err
}

// save changes the settings, durably; the caller holds work.
func (g *group) save(change func(*settings)) error {
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

// reserves reports whether the machine is the group's standby here.
func (g *group) reserves(m dr.MachineName) bool {
	set := g.settings()
	if set.Phase == phaseCommitted {
		return false
	}
	for _, d := range set.Request.Definitions {
		if d.Name == m {
			return true
		}
	}
	return false
}

func (g *group) maintain(ctx context.Context) error {
	g.work.Lock()
	defer g.work.Unlock()
	jrn, err := g.open()
	if err != nil || g.settings().Phase != phaseJournal {
		return nil // nothing is kept any more
	}
	if _, err := jrn.Fold(ctx, dr.Position{}); err != nil {
		return fmt.Errorf("fold: %w", err)
	}
	if _, err := jrn.Prune(ctx); err != nil {
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

func (g *group) resolve(sel dr.PointSelector) (control.Resolved, error) {
	jrn, err := g.open()
	if err != nil {
		return control.Resolved{}, err
	}
	r, err := jrn.Resolve(sel)
	if err != nil {
		return control.Resolved{}, err
	}
	return control.Resolved{
		Position: r.Position, Time: r.Time, Point: r.Point,
		LostSeconds: r.LostSeconds, LostBytes: r.LostBytes, Definitions: r.Definitions,
	}, nil
}

func (g *group) report() control.GroupReport {
	g.mu.Lock()
	defer g.mu.Unlock()
	rep := control.GroupReport{Group: g.id, Generation: g.set.Request.Generation, Phase: control.PhaseIdle}
	if g.jrn == nil || g.set.Phase == phaseCommitted {
		return rep
	}
	st := g.jrn.Status()
	rep.Generation, rep.Confirmed, rep.ConfirmedTime, rep.Durable = st.Generation, st.Confirmed, st.ConfirmedTime, st.Durable
	rep.Points, rep.JournalBytes, rep.Counters.StaleFrames = st.Points, st.Bytes, st.StaleFrames
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
