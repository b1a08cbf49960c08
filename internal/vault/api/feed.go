package api

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"rebound/internal/dr"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

const (
	// watcherBuffer is how many changes may wait for a slow client.
	watcherBuffer = 256
	// liveEvery is how often what gateways report is told.
	liveEvery = time.Second
	// feedBatch is how many changes are read at a time.
	feedBatch = 500
)

// feed tells those who watch what transactions have changed. It reads the rows
// that the store's triggers write, when a transaction has committed.
type feed struct {
	s *Server

	mu       sync.Mutex
	last     int64
	watchers map[*watcher]struct{}
	// told is when each group's gateways were heard that were told of last.
	told map[dr.GroupID]time.Time
}

// watcher is one client.
type watcher struct {
	types []string
	group dr.GroupID
	// after is the change that the client knows already.
	after int64
	// queue is closed when the client reads too slowly.
	queue chan message
	// recheck has a token when somebody's access changed.
	recheck chan struct{}
}

// message is a change, ready to be sent.
type message struct {
	rest.Change
	group dr.GroupID
}

func newFeed(s *Server) *feed {
	return &feed{s: s, watchers: map[*watcher]struct{}{}, told: map[dr.GroupID]time.Time{}}
}

func (w *watcher) wants(m message) bool {
	if len(w.types) > 0 && !slices.Contains(w.types, m.Type) {
		return false
	}
	return w.group == "" || m.group == w.group
}

// told kinds and what they are called; those that the table lacks (who may do
// what, deliveries) are nobody's business.
func typeOf(kind string) (string, bool) {
	switch kind {
	case "condition":
		return rest.ChangeHealth, true
	case "plan_run":
		return "plan-run", true
	case rest.ChangeJob, rest.ChangeTask, rest.ChangeItem, rest.ChangeGroup, rest.ChangeGateway, rest.ChangeMachine,
		rest.ChangeEvent, rest.ChangePlan, rest.ChangePolicy, rest.ChangeSite, "agent", "mapping", "mute":
		return kind, true
	default:
		return "", false
	}
}

func isAccess(kind string) bool { return kind == "user" || kind == "token" || kind == "session" }

// run serves the watchers until the server is closed.
func (f *feed) run() {
	ctx := f.s.base
	if _, newest, err := f.kept(ctx); err == nil {
		f.mu.Lock()
		f.last = newest
		f.mu.Unlock()
	}
	tick := time.NewTicker(liveEvery)
	defer tick.Stop()
	for {
		committed := f.s.Store.Committed()
		f.catchUp(ctx)
		select {
		case <-committed:
		case <-tick.C:
			began := time.Now()
			f.live(ctx)
			f.progress(ctx)
			// However many groups there are, this takes a tenth of a
			// processor at most.
			tick.Reset(max(liveEvery, 10*time.Since(began)))
		case <-ctx.Done():
			return
		}
	}
}

func (f *feed) kept(ctx context.Context) (oldest, newest int64, err error) {
	err = f.s.view(ctx, func(tx *store.Tx) (err error) { oldest, newest, err = tx.ChangesKept(); return err })
	return oldest, newest, err
}

// catchUp tells the watchers what was committed since the last time.
func (f *feed) catchUp(ctx context.Context) {
	for ctx.Err() == nil {
		f.mu.Lock()
		last, nobody := f.last, len(f.watchers) == 0
		f.mu.Unlock()
		if nobody {
			if _, newest, err := f.kept(ctx); err == nil {
				f.advance(last, newest, nil)
			}
			return
		}
		batch, access, to, err := f.read(ctx, last)
		if err != nil {
			if ctx.Err() == nil {
				f.s.Log.Warn("read changes", "error", err)
			}
			return
		}
		if to == last {
			return
		}
		f.advance(last, to, batch)
		if access {
			f.recheck()
		}
	}
}

// advance hands messages out. Whoever began to watch since they were read has
// read them himself.
func (f *feed) advance(from, to int64, batch []message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.last != from {
		return
	}
	f.last = to
	for _, m := range batch {
		f.send(m)
	}
}

// send must be called under mu.
func (f *feed) send(m message) {
	for w := range f.watchers {
		if !w.wants(m) || m.Seq != 0 && m.Seq <= w.after {
			continue
		}
		select {
		case w.queue <- m:
		default:
			close(w.queue)
			delete(f.watchers, w)
		}
	}
}

func (f *feed) recheck() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for w := range f.watchers {
		select {
		case w.recheck <- struct{}{}:
		default:
		}
	}
}

// read returns the messages after a change, the last one read, and whether
// somebody's access changed among them.
func (f *feed) read(ctx context.Context, after int64) (out []message, access bool, to int64, err error) {
	var rows []store.Change
	err = f.s.view(ctx, func(tx *store.Tx) (err error) { rows, err = tx.Changes(after, feedBatch); return err })
	if err != nil || len(rows) == 0 {
		return nil, false, after, err
	}
	// Of several changes to one row only the last one is told: it shows the
	// row as it is now.
	newest := map[string]int64{}
	for _, c := range rows {
		newest[c.Kind+" "+c.ID] = c.Seq
	}
	for _, c := range rows {
		access = access || isAccess(c.Kind)
		if newest[c.Kind+" "+c.ID] != c.Seq {
			continue
		}
		if typ, ok := typeOf(c.Kind); ok {
			out = append(out, f.render(ctx, typ, c)...)
		}
	}
	return out, access, rows[len(rows)-1].Seq, nil
}

// render makes the messages of a change. Only the last of them has a number: a
// client that resumes gets all or none again.
func (f *feed) render(ctx context.Context, typ string, c store.Change) []message {
	m := message{Change: rest.Change{Seq: c.Seq, Type: typ, ID: c.ID, Gone: c.Gone}}
	if c.Gone {
		if typ == rest.ChangeGroup {
			m.group = dr.GroupID(c.ID)
		}
		return []message{m}
	}
	var object any
	var before []message
	var err error
	switch typ {
	case rest.ChangeJob:
		var job rest.Job
		job, err = f.s.Jobs.Job(ctx, dr.JobID(c.ID))
		object, m.group = job, job.Group
	case rest.ChangeTask:
		object, m.group, err = f.task(ctx, c.ID)
	case rest.ChangeEvent:
		object, m.group, err = f.event(ctx, c.ID)
	case rest.ChangeGateway:
		object, err = f.gateway(ctx, dr.GatewayID(c.ID))
	case rest.ChangeGroup, rest.ChangeItem:
		before, object, m.group, err = f.group(ctx, typ, c.ID)
	}
	if err != nil || object == nil {
		return append(before, m) // gone by now, or of a type without one
	}
	m.Object, err = json.Marshal(object)
	if err != nil {
		f.s.Log.Warn("encode change", "type", typ, "error", err)
	}
	return append(before, m)
}

func (f *feed) task(ctx context.Context, id string) (any, dr.GroupID, error) {
	job, name, _ := strings.Cut(id, "/")
	var task rest.Task
	var j store.Job
	err := f.s.view(ctx, func(tx *store.Tx) (err error) {
		if task, err = tx.Task(dr.JobID(job), name); err != nil {
			return err
		}
		j, err = tx.Job(dr.JobID(job))
		return err
	})
	return task, j.Group, err
}

func (f *feed) event(ctx context.Context, id string) (any, dr.GroupID, error) {
	seq, err := strconv.ParseInt(id, 10, 64)
	if err != nil {
		return nil, "", err
	}
	var rows []rest.Event
	err = f.s.view(ctx, func(tx *store.Tx) (err error) {
		rows, err = tx.Events(store.EventFilter{After: seq - 1, Limit: 1})
		return err
	})
	if err != nil || len(rows) == 0 || rows[0].Seq != seq {
		return nil, "", err
	}
	return rows[0], rows[0].Group, nil
}

func (f *feed) gateway(ctx context.Context, id dr.GatewayID) (any, error) {
	out, err := f.s.showGateway(ctx, &gatewayIn{id})
	if err != nil {
		return nil, err
	}
	return out.Body, nil
}

// group renders a group with its items, or one item.
func (f *feed) group(ctx context.Context, typ, id string) (before []message, object any, group dr.GroupID, err error) {
	find := findGroup
	if typ == rest.ChangeItem {
		find = findItem
	}
	g, err := f.s.groupView(ctx, id, find)
	if err != nil {
		return nil, nil, "", err
	}
	for _, m := range g.Members {
		item := itemOf(g, m)
		if typ == rest.ChangeItem {
			if string(m.Item) == id {
				return nil, item, g.ID, nil
			}
			continue
		}
		b, err := json.Marshal(item)
		if err != nil {
			return nil, nil, "", err
		}
		before = append(before, message{Change: rest.Change{Type: rest.ChangeItem, ID: string(m.Item), Object: b}, group: g.ID})
	}
	return before, g, g.ID, nil
}

// publish tells of something that no transaction changed: a gateway's
// connection.
func (f *feed) publish(ctx context.Context, typ, id string) {
	f.mu.Lock()
	nobody := len(f.watchers) == 0
	f.mu.Unlock()
	if nobody {
		return
	}
	batch := f.render(ctx, typ, store.Change{ID: id})
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range batch {
		f.send(m)
	}
}

func (f *feed) watched(typ string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for w := range f.watchers {
		if len(w.types) == 0 || slices.Contains(w.types, typ) {
			return true
		}
	}
	return false
}

// live tells what the gateways have reported of groups since the last time.
func (f *feed) live(ctx context.Context) {
	if !f.watched(rest.ChangeLive) {
		return
	}
	var batch []message
	err := f.s.view(ctx, func(tx *store.Tx) error {
		if err := tx.Preload(); err != nil {
			return err
		}
		groups, err := tx.Groups()
		if err != nil {
			return err
		}
		for _, g := range groups {
			said, _ := f.s.Live.Group(g.ID, g.Standby())
			src, _ := f.s.Live.Group(g.ID, g.Source())
			at := said.Received
			if src.Received.After(at) {
				at = src.Received
			}
			if !at.After(f.told[g.ID]) {
				continue
			}
			f.told[g.ID] = at
			v, err := f.s.outline(tx, &g)
			if err != nil {
				return err
			}
			b, err := json.Marshal(rest.Live{
				Group: g.ID, Items: g.Items(), Health: v.Health, Problem: v.Problem, SourcePhase: v.SourcePhase,
				Sync: v.Sync, RPO: v.RPO, Points: v.Points, JournalBytes: v.JournalBytes,
			})
			if err != nil {
				return err
			}
			batch = append(batch, message{Change: rest.Change{Type: rest.ChangeLive, ID: string(g.ID), Object: b}, group: g.ID})
		}
		return nil
	})
	if err != nil && ctx.Err() == nil {
		f.s.Log.Warn("tell what gateways report", "error", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range batch {
		f.send(m)
	}
}

// progress tells how far running tasks are; that is in memory only.
func (f *feed) progress(ctx context.Context) {
	if !f.watched(rest.ChangeJob) {
		return
	}
	var open []store.Job
	if err := f.s.view(ctx, func(tx *store.Tx) (err error) { open, err = tx.OpenJobs(); return err }); err != nil {
		return
	}
	for _, j := range open {
		if f.s.Jobs.Progressing(j.ID) {
			f.publish(ctx, rest.ChangeJob, string(j.ID))
		}
	}
}

// watch begins to watch. With after >= 0 it first returns what was committed
// after that change; reset says that not all of it can be told any more.
func (f *feed) watch(ctx context.Context, w *watcher, after int64) (missed []message, at int64, reset bool, err error) {
	oldest, newest, err := f.kept(ctx)
	if err != nil {
		return nil, 0, false, err
	}
	// Also when it is of another vault, or from before a restore.
	if after >= 0 && (oldest > 0 && after < oldest-1 || after > newest) {
		after, reset = -1, true
	}
	for {
		f.mu.Lock()
		if after < 0 || after >= f.last {
			w.after = max(after, f.last)
			f.watchers[w] = struct{}{}
			at = w.after
			f.mu.Unlock()
			return missed, at, reset, nil
		}
		f.mu.Unlock()
		batch, _, to, err := f.read(ctx, after)
		if err != nil {
			return nil, 0, false, err
		}
		if to == after {
			after = -1
			continue
		}
		for _, m := range batch {
			if w.wants(m) {
				missed = append(missed, m)
			}
		}
		after = to
	}
}

func (f *feed) leave(w *watcher) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.watchers, w)
}
