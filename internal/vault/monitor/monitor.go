// Package monitor keeps the vault's conditions up to date: it gathers the facts
// from the store, the memory of reports and the vault's own host, has package
// health judge them, and keeps what begins and ends in the store, each with its
// event in the same transaction. It promises that nothing is lost or told twice
// over a restart of the vault. The vault runs it, the API reads it.
package monitor

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/vault/health"
	"rebound/internal/vault/live"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

const (
	// lookEvery is the time between looks when nothing asks for one.
	lookEvery = time.Second
	// history is how long conditions that ended are kept.
	history = 180 * 24 * time.Hour
	// pruneEvery and seenEvery pace what is written though nothing happens.
	pruneEvery = time.Hour
	seenEvery  = time.Minute
	// settingsKey is the name of a single value in the store.
	settingsKey = "health-settings"
)

// Config of a monitor; all fields but Connected's answers are needed.
type Config struct {
	Store *store.Store
	Live  *live.State
	// Connected reports whether a gateway has a connection.
	Connected func(dr.GatewayID) bool
	// Vault is the vault's id, CAEnds the end of its authority's certificate.
	Vault  string
	CAEnds time.Time
	// Dir is the vault's directory, whose volume is watched.
	Dir string
	Log *slog.Logger
	Now func() time.Time
}

// Monitor is the loop and what it found last. Safe for use by several goroutines.
type Monitor struct {
	cfg     Config
	started time.Time
	kick    chan struct{}

	look    sync.Mutex // one look, or one change by a person, at a time
	tracker *health.Tracker
	pruned  time.Time
	seen    map[dr.GatewayID]time.Time // as kept in the store
	proofs  map[dr.GroupID]proof

	mu      sync.RWMutex
	open    *health.Index
	checked time.Time
}

// Open reads what was open when the vault stopped.
func Open(ctx context.Context, cfg Config) (*Monitor, error) {
	m := &Monitor{cfg: cfg, started: cfg.Now(), kick: make(chan struct{}, 1), seen: map[dr.GatewayID]time.Time{}, proofs: map[dr.GroupID]proof{}}
	err := cfg.Store.Update(ctx, func(tx *store.Tx) error {
		born, err := tx.Meta(createdKey)
		if err == nil && born == "" {
			err = tx.SetMeta(createdKey, m.started.UTC().Format(time.RFC3339))
		}
		if err != nil {
			return err
		}
		open, err := tx.OpenConditions()
		m.tracker = health.NewTracker(open)
		m.open = health.NewIndex(m.tracker.Open())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read conditions: %w", err)
	}
	return m, nil
}

// Kick asks for a look now.
func (m *Monitor) Kick() {
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

// Run looks until ctx ends.
func (m *Monitor) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-m.kick:
		}
		if err := m.Look(ctx); err != nil && ctx.Err() == nil {
			m.cfg.Log.Error("look at health", "error", err)
		}
		timer.Reset(lookEvery)
	}
}

// Conditions returns what is open, and when that was found.
func (m *Monitor) Conditions() (*health.Index, time.Time) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.open, m.checked
}

// Look gathers the facts once, and keeps what changed.
func (m *Monitor) Look(ctx context.Context) error {
	m.look.Lock()
	defer m.look.Unlock()
	now := m.cfg.Now()
	facts, err := m.facts(ctx, now)
	if err != nil {
		return err
	}
	changes := m.tracker.Step(facts)
	if err := m.keep(ctx, changes, now); err != nil {
		// The tracker is ahead of the store: begin again from what is kept.
		return fmt.Errorf("%w (%w)", err, m.reread(ctx))
	}
	if err := m.housekeeping(ctx, now); err != nil {
		return err
	}
	m.publish(ctx, now)
	return nil
}

func (m *Monitor) reread(ctx context.Context) error {
	return m.cfg.Store.View(context.WithoutCancel(ctx), func(tx *store.Tx) error {
		open, err := tx.OpenConditions()
		if err == nil {
			m.tracker = health.NewTracker(open)
		}
		return err
	})
}

// publish gives readers the present conditions with the mutes that hold.
func (m *Monitor) publish(ctx context.Context, now time.Time) {
	open := m.tracker.Open()
	err := m.cfg.Store.View(ctx, func(tx *store.Tx) error {
		for i := range open {
			var err error
			if open[i].Muted, err = tx.Mute(health.KeyOf(&open[i]).String(), now); err != nil {
				return err
			}
			if n := open[i].Acknowledged; n != nil && !n.Until.IsZero() && n.Until.Before(now) {
				open[i].Acknowledged = nil
			}
		}
		return nil
	})
	if err != nil {
		if ctx.Err() == nil {
			m.cfg.Log.Error("read mutes", "error", err)
		}
		return
	}
	index := health.NewIndex(open)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open, m.checked = index, now.UTC()
}

// keep writes changes with their events in one transaction.
func (m *Monitor) keep(ctx context.Context, changes []health.Change, now time.Time) error {
	if len(changes) == 0 {
		return nil
	}
	var numbered []rest.Condition
	err := m.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		numbered = numbered[:0]
		for _, ch := range changes {
			c := ch.Condition
			key := health.KeyOf(&c).String()
			var err error
			if ch.Began {
				err = tx.InsertCondition(key, &c)
				numbered = append(numbered, c)
			} else {
				err = tx.PutCondition(c)
			}
			if err != nil {
				return err
			}
			mute, err := tx.Mute(key, now)
			if err != nil {
				return err
			}
			if err := tx.InsertEvent(eventOf(c, mute != nil, now)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("keep conditions: %w", err)
	}
	for _, c := range numbered {
		m.tracker.Adopt(c)
	}
	for _, ch := range changes {
		c := ch.Condition
		m.cfg.Log.Info("condition", "code", c.Code, "object", c.Object.ID, "severity", c.Severity, "ended", !c.Cleared.IsZero(), "text", c.Text,
			"group", c.Object.Group, "item", c.Object.Item, "gateway", c.Object.Gateway)
	}
	return nil
}

// eventOf makes the event of a beginning, a change of severity, or an end.
func eventOf(c rest.Condition, muted bool, now time.Time) rest.Event {
	o := c.Object
	e := rest.Event{
		Time: now.UTC(), Code: c.Code, Severity: string(c.Severity), Site: o.Site, Gateway: o.Gateway, Group: o.Group, Machine: o.Machine, Job: o.Job,
		Text: c.Text, Condition: c.ID, Muted: muted,
	}
	if !c.Cleared.IsZero() {
		e.Code, e.Severity, e.Ended = c.Code+"Cleared", string(rest.SeverityInfo), true
		e.Text = fmt.Sprintf("no more: %s (since %s)", c.Text, c.Since.Format(time.RFC3339))
	}
	return e
}

// housekeeping writes down when gateways were seen and forgets old conditions.
func (m *Monitor) housekeeping(ctx context.Context, now time.Time) error {
	due := map[dr.GatewayID]time.Time{}
	for id, kept := range m.seen {
		if at, _ := m.cfg.Live.Gateway(id); at.Sub(kept) >= seenEvery {
			due[id] = at
		}
	}
	prune := now.Sub(m.pruned) >= pruneEvery
	if len(due) == 0 && !prune {
		return nil
	}
	err := m.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		for id, at := range due {
			if err := tx.SawGateway(id, at); err != nil {
				return err
			}
		}
		if !prune {
			return nil
		}
		return tx.PruneConditions(now.Add(-history), now)
	})
	if err != nil {
		return fmt.Errorf("keep house: %w", err)
	}
	for id, at := range due {
		m.seen[id] = at
	}
	if prune {
		m.pruned = now
	}
	return nil
}

// Acknowledge puts a note on an open occurrence. UnknownCondition when there is
// none of that number, or it has ended.
func (m *Monitor) Acknowledge(ctx context.Context, id int64, n rest.Note) (rest.Condition, error) {
	return m.change(ctx, id, func(_ *store.Tx, c *rest.Condition) error {
		c.Acknowledged = &n
		return nil
	})
}

// Mute mutes the condition of an object until the note expires.
func (m *Monitor) Mute(ctx context.Context, id int64, n rest.Note) (rest.Condition, error) {
	return m.change(ctx, id, func(tx *store.Tx, c *rest.Condition) error {
		c.Muted = &n
		return tx.PutMute(health.KeyOf(c).String(), n)
	})
}

// Unmute ends a mute.
func (m *Monitor) Unmute(ctx context.Context, id int64) (rest.Condition, error) {
	return m.change(ctx, id, func(tx *store.Tx, c *rest.Condition) error {
		c.Muted = nil
		return tx.DeleteMute(health.KeyOf(c).String())
	})
}

func (m *Monitor) change(ctx context.Context, id int64, f func(*store.Tx, *rest.Condition) error) (rest.Condition, error) {
	m.look.Lock()
	defer m.look.Unlock()
	for _, c := range m.tracker.Open() {
		if c.ID != id {
			continue
		}
		err := m.cfg.Store.Update(ctx, func(tx *store.Tx) error {
			if err := f(tx, &c); err != nil {
				return err
			}
			kept := c
			kept.Muted = nil // a mute has a row of its own
			return tx.PutCondition(kept)
		})
		if err != nil {
			return c, err
		}
		m.tracker.Adopt(c)
		m.publish(ctx, m.cfg.Now())
		return c, nil
	}
	return rest.Condition{}, problem.New(problem.UnknownCondition, "no condition %d is open", id)
}

// Settings reads the limits.
func Settings(tx *store.Tx) (rest.HealthSettings, error) {
	s := rest.DefaultHealthSettings()
	text, err := tx.Meta(settingsKey)
	if err != nil || text == "" {
		return s, err
	}
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return s, fmt.Errorf("read health settings: %w", err)
	}
	return s, nil
}

// PutSettings replaces the limits.
func PutSettings(tx *store.Tx, s rest.HealthSettings) error {
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode health settings: %w", err)
	}
	return tx.SetMeta(settingsKey, string(b))
}
