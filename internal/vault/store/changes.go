package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Change is a row that a committed transaction added, changed or removed.
type Change struct {
	Seq int64
	// Kind is the table's name in the singular: "job", "policy".
	Kind string
	// ID is the row's key; the parts of a key of several columns are joined
	// by "/".
	ID   string
	Gone bool
}

// keptChanges is how many changes can be told again to somebody who was away.
const keptChanges = 20_000

// silent are the tables of which no changes are told.
var silent = []string{"meta", "audit", "answers", "changes", "enrollments", "snapshots", "generations", "outbox", "seen"}

// kindOf is the singular of a table's name.
func kindOf(table string) string {
	switch {
	case strings.HasSuffix(table, "ies"):
		return strings.TrimSuffix(table, "ies") + "y"
	default:
		return strings.TrimSuffix(table, "s")
	}
}

// feed puts triggers on every table, so that whoever writes a row need not know
// that somebody listens.
func (s *Store) feed(ctx context.Context) error {
	return s.Update(ctx, func(tx *Tx) error {
		have, err := tx.texts("SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'feed\\_%' ESCAPE '\\'")
		if err != nil {
			return err
		}
		tables, err := tx.texts("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'")
		if err != nil {
			return err
		}
		for _, table := range tables {
			if slices.Contains(silent, table) || slices.Contains(have, "feed_"+table+"_insert") {
				continue
			}
			if err := tx.feedTable(table); err != nil {
				return fmt.Errorf("watch table %s: %w", table, err)
			}
		}
		return nil
	})
}

func (t *Tx) feedTable(table string) error {
	keys, err := t.texts("SELECT name FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk", table)
	if err != nil {
		return err
	}
	if len(keys) == 0 {
		keys = []string{"rowid"}
	}
	columns, err := t.texts("SELECT name FROM pragma_table_info(?)", table)
	if err != nil {
		return err
	}
	id := func(row string) string { return row + "." + strings.Join(keys, " || '/' || "+row+".") }
	when := ""
	if slices.Contains(columns, "doc") {
		// When a thing was seen last is no change.
		when = " WHEN json_remove(OLD.doc, '$.seenAt') IS NOT json_remove(NEW.doc, '$.seenAt')"
	}
	for _, on := range []struct{ event, when, row, gone string }{
		{"insert", "", "NEW", "0"}, {"update", when, "NEW", "0"}, {"delete", "", "OLD", "1"},
	} {
		_, err := t.tx.ExecContext(t.ctx, fmt.Sprintf("CREATE TRIGGER feed_%s_%s AFTER %s ON %s%s BEGIN INSERT INTO changes(kind, id, gone) VALUES('%s', %s, %s); END",
			table, on.event, on.event, table, on.when, kindOf(table), id(on.row), on.gone))
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *Tx) texts(query string, args ...any) ([]string, error) {
	rows, err := t.tx.QueryContext(t.ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("%.40s: %w", query, err)
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, rows.Err()
}

// Committed returns a channel that is closed when a transaction commits next.
func (s *Store) Committed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.committed
}

func (s *Store) told() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.committed)
	s.committed = make(chan struct{})
}

// Changes lists changes after a sequence number, in the order of their commits.
func (t *Tx) Changes(after int64, limit int) ([]Change, error) {
	rows, err := t.tx.QueryContext(t.ctx, "SELECT seq, kind, id, gone FROM changes WHERE seq > ? ORDER BY seq LIMIT ?", after, limit)
	if err != nil {
		return nil, fmt.Errorf("read changes: %w", err)
	}
	defer rows.Close()
	var out []Change
	for rows.Next() {
		var c Change
		if err := rows.Scan(&c.Seq, &c.Kind, &c.ID, &c.Gone); err != nil {
			return nil, fmt.Errorf("read change: %w", err)
		}
		out = append(out, c)
	}
	return out, rows.Err()
}

// ChangesKept returns the sequence numbers of the oldest change that is kept
// (0 for none) and of the newest one ever.
func (t *Tx) ChangesKept() (oldest, newest int64, err error) {
	err = t.tx.QueryRowContext(t.ctx, "SELECT coalesce((SELECT min(seq) FROM changes), 0), coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'changes'), 0)").Scan(&oldest, &newest)
	if err != nil {
		err = fmt.Errorf("read changes: %w", err)
	}
	return oldest, newest, err
}

// PruneChanges forgets all but the newest changes.
func (t *Tx) PruneChanges() error {
	_, err := t.exec("DELETE FROM changes WHERE seq <= (SELECT max(seq) FROM changes) - ?", keptChanges)
	return err
}
