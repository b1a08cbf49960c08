package standby

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/gateway/statefile"
	"rebound/internal/journal/keyring"
	"rebound/internal/problem"
	"rebound/internal/site"
)

// foldEvery is how often a journal's bases are moved towards its head and its
// old redo is dropped.
const foldEvery = 20 * time.Second

// Config of a Host.
type Config struct {
	// Dir keeps a folder a group. RunDir keeps the sockets of views.
	Dir, RunDir string
	// Volumes are further places for journals, by the name of the retention
	// volume: folders of this host's own.
	Volumes map[string]string
	Driver  site.Driver
	// Site is where the machines are recovered.
	Site dr.SiteID
	// Keys wrap those that journals are encrypted with; nil: see journal.Options.
	Keys *keyring.Wrapping
	Log  *slog.Logger
	// Event takes what people may want to know; Changed is called when a
	// report would differ. Neither may block.
	Event   func(control.Event)
	Changed func()
}

// Host keeps all journals of a gateway.
type Host struct {
	cfg   Config
	boot  site.BootFromView // nil where the driver cannot
	fence func(context.Context, dr.GroupID, dr.Generation) error

	admin sync.Mutex // groups are made and deleted one at a time

	mu     sync.Mutex
	groups map[dr.GroupID]*group
	// broken are groups whose folder cannot be used. They stay as they are.
	broken map[dr.GroupID]error
}

// Open opens every journal in cfg.Dir and serves the views that are
// registered in them. A journal that cannot be opened is reported and left as it
// is; the others are served.
func Open(ctx context.Context, cfg Config) (*Host, error) {
	if err := statefile.MakeDir(cfg.Dir); err != nil {
		return nil, fmt.Errorf("make journal directory: %w", err)
	}
	h := &Host{cfg: cfg, groups: map[dr.GroupID]*group{}, broken: map[dr.GroupID]error{}, fence: noFence}
	if b, ok := cfg.Driver.(site.BootFromView); ok {
		h.boot = b
	}
	entries, err := os.ReadDir(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("list journals: %w", err)
	}
	// All at the same time: machines wait for their views.
	var wg sync.WaitGroup
	for _, e := range entries {
		if e.IsDir() {
			wg.Go(func() { h.openOne(ctx, dr.GroupID(e.Name())) })
		}
	}
	wg.Wait()
	return h, nil
}

func (h *Host) openOne(ctx context.Context, id dr.GroupID) {
	g, err := openGroup(ctx, h, id)
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case err != nil:
		h.broken[id] = err
		h.cfg.Log.Error("open journal", "group", id, "error", err)
		code := problem.JournalDamaged
		if isKey(err) {
			code = problem.From(err).Code
		}
		h.cfg.Event(control.Event{
			Code: string(code), Severity: "critical", Group: id,
			Text: fmt.Sprintf("the journal of group %s cannot be opened: %v", id, err),
		})
	case g != nil:
		h.groups[id] = g
	}
}

// isKey reports whether a journal is whole, and only its key is not at hand.
func isKey(err error) bool {
	return problem.HasCode(err, problem.KeyMissing) || problem.HasCode(err, problem.KeyWrong)
}

func noFence(context.Context, dr.GroupID, dr.Generation) error { return nil }

// SetFence gives the function that closes streams of an older generation.
func (h *Host) SetFence(f func(context.Context, dr.GroupID, dr.Generation) error) { h.fence = f }

// Run folds and prunes until ctx ends.
func (h *Host) Run(ctx context.Context) error {
	tick := time.NewTicker(foldEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			h.maintain(ctx)
		}
	}
}

func (h *Host) maintain(ctx context.Context) {
	for _, g := range h.all() {
		if err := g.maintain(ctx); err != nil && ctx.Err() == nil {
			h.cfg.Log.Error("maintain journal", "group", g.id, "error", err)
		}
	}
}

// Close closes the journals and stops serving views.
func (h *Host) Close() error {
	var errs []error
	for _, g := range h.all() {
		errs = append(errs, g.close())
	}
	return errors.Join(errs...)
}

// all returns the groups in order of their names.
func (h *Host) all() []*group {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]*group, 0, len(h.groups))
	for _, g := range h.groups {
		out = append(out, g)
	}
	slices.SortFunc(out, func(a, b *group) int {
		if a.id < b.id {
			return -1
		}
		return 1
	})
	return out
}

func (h *Host) find(id dr.GroupID) (*group, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	g := h.groups[id]
	if err := h.broken[id]; isKey(err) {
		return nil, fmt.Errorf("the journal of group %s cannot be opened: %w", id, err)
	} else if err != nil {
		return nil, problem.Wrap(err, problem.JournalDamaged, "the journal of group %s cannot be opened", id)
	}
	if g == nil {
		return nil, problem.New(problem.UnknownGroup, "no journal of group %q is kept here", id)
	}
	return g, nil
}

// GroupOf returns the group whose standby the machine is, or "".
func (h *Host) GroupOf(m dr.MachineName) dr.GroupID {
	for _, g := range h.all() {
		if g.reserves(m) {
			return g.id
		}
	}
	return ""
}

// Reports returns a line a group.
func (h *Host) Reports() []control.GroupReport {
	all := h.all()
	out := make([]control.GroupReport, 0, len(all))
	for _, g := range all {
		out = append(out, g.report())
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, err := range h.broken {
		out = append(out, control.GroupReport{Group: id, Phase: control.PhaseIdle, Problem: err.Error()})
	}
	return out
}

// Generation returns the newest generation of a group that was made durable
// here; 0 where there is none.
func (h *Host) Generation(id dr.GroupID) dr.Generation {
	g, err := h.find(id)
	if err != nil {
		return 0
	}
	return g.generation()
}

// Create makes a group's journal. seed tells, once the machines are reserved,
// which position of the stream their disks hold; zero when that is not known.
func (h *Host) Create(ctx context.Context, r control.CreateJournalRequest, seed func(context.Context) dr.Position) (control.CreateJournalResult, error) {
	h.admin.Lock()
	defer h.admin.Unlock()
	old, err := h.find(r.Group)
	if err != nil && !problem.HasCode(err, problem.UnknownGroup) {
		return control.CreateJournalResult{}, err // it may be all that is left
	}
	if old != nil {
		if res, done, err := old.created(r); done || err != nil {
			return res, err
		}
	}
	// What can be refused is refused before anything is changed.
	if err := checkCreate(ctx, h.cfg.Driver, r); err != nil {
		return control.CreateJournalResult{}, err
	}
	if old != nil {
		if err := h.remove(old); err != nil {
			return control.CreateJournalResult{}, err
		}
	}
	g, res, err := createGroup(ctx, h, r, seed)
	if err != nil {
		return control.CreateJournalResult{}, err
	}
	h.mu.Lock()
	h.groups[r.Group] = g
	h.mu.Unlock()
	return res, nil
}

// Delete ends a journal and gives its machines free; with KeepMachines unset
// they are deleted too, unless they run.
func (h *Host) Delete(ctx context.Context, r control.DeleteJournalRequest) error {
	h.admin.Lock()
	defer h.admin.Unlock()
	g, err := h.findToDelete(r.Group)
	if problem.HasCode(err, problem.UnknownGroup) {
		return nil // deleted by an earlier attempt
	}
	if err != nil {
		return err
	}
	if err := g.releaseMachines(ctx, r.KeepMachines); err != nil {
		return err
	}
	return h.remove(g)
}

// findToDelete also finds a group whose journal is broken, as long as it is
// known which machines are its own.
func (h *Host) findToDelete(id dr.GroupID) (*group, error) {
	g, err := h.find(id)
	if !problem.HasCode(err, problem.JournalDamaged) && !isKey(err) {
		return g, err
	}
	g = &group{id: id, dir: h.groupDir(id), host: h}
	if ok, lerr := statefile.Load(g.settingsPath(), &g.set); lerr != nil || !ok {
		return nil, errors.Join(err, lerr)
	}
	return g, nil
}

// remove closes a group and deletes its folder.
func (h *Host) remove(g *group) error {
	if err := g.close(); err != nil {
		return err
	}
	h.mu.Lock()
	delete(h.groups, g.id)
	delete(h.broken, g.id)
	h.mu.Unlock()
	// What lies on another volume first: the settings say where that is.
	if dir := g.settings().Volume; dir != "" {
		if err := os.RemoveAll(filepath.Join(dir, string(g.id))); err != nil {
			return fmt.Errorf("delete journal: %w", err)
		}
	}
	if err := os.RemoveAll(g.dir); err != nil {
		return fmt.Errorf("delete journal: %w", err)
	}
	return nil
}

// Disks counts the disks of all journals but the one of a group.
func (h *Host) Disks(but dr.GroupID) int {
	n := 0
	for _, g := range h.all() {
		if set := g.settings(); g.id != but && set.Phase != phaseCommitted {
			n += len(set.Request.Disks)
		}
	}
	return n
}

func (h *Host) groupDir(id dr.GroupID) string { return filepath.Join(h.cfg.Dir, string(id)) }

// Seal raises a group's generation; when it returns, no older frame is taken.
func (h *Host) Seal(ctx context.Context, r control.SealRequest) (control.SealResult, error) {
	g, err := h.find(r.Group)
	if err != nil {
		return control.SealResult{}, err
	}
	return g.seal(ctx, r.Generation)
}

// Points lists points and the spans between them.
func (h *Host) Points(_ context.Context, r control.PointsRequest) (control.Points, error) {
	g, err := h.find(r.Group)
	if err != nil {
		return control.Points{}, err
	}
	return g.points(r)
}

// Resolve turns a selector into a position.
func (h *Host) Resolve(ctx context.Context, r control.ResolveRequest) (control.Resolved, error) {
	g, err := h.find(r.Group)
	if err != nil {
		return control.Resolved{}, err
	}
	return g.resolve(ctx, r)
}

// StartRecovered starts a machine on views.
func (h *Host) StartRecovered(ctx context.Context, r control.StartRecoveredRequest) (control.Recovered, error) {
	g, err := h.find(r.Group)
	if err != nil {
		return control.Recovered{}, err
	}
	return g.startRecovered(ctx, r)
}

// DiscardRecovered deletes a machine that runs on views; one that is not
// there is fine.
func (h *Host) DiscardRecovered(ctx context.Context, r control.DiscardRecoveredRequest) error {
	g, err := h.find(r.Group)
	if err != nil {
		return err
	}
	return g.discardRecovered(ctx, siteName(r.Machine, r.Test))
}

// Commit makes a group's recovered machines independent of the journal.
func (h *Host) Commit(ctx context.Context, r control.CommitRequest, progress func(done, total int64)) (control.CommitResult, error) {
	g, err := h.find(r.Group)
	if err != nil {
		return control.CommitResult{}, err
	}
	return g.commit(ctx, r, progress)
}

// each runs f for every item at the same time and returns the first error.
func each[T any](ctx context.Context, items []T, f func(context.Context, T) error) error {
	grp, ctx := errgroup.WithContext(ctx)
	for _, it := range items {
		grp.Go(func() error { return f(ctx, it) })
	}
	return grp.Wait()
}
