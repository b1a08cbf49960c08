package store

import (
	"database/sql"
	"errors"
	"fmt"
	"time"

	"rebound/internal/dr"
	"rebound/internal/vault/rest"
)

// InsertCondition adds an occurrence of a condition and gives it its number. key
// names condition and object; it has no open occurrence.
func (t *Tx) InsertCondition(key string, c *rest.Condition) error {
	doc, err := docOf(c)
	if err != nil {
		return err
	}
	err = t.tx.QueryRowContext(t.ctx, "INSERT INTO conditions(key, open, since, cleared, doc) VALUES(?, 1, ?, '', ?) RETURNING id", key, stamp(c.Since), doc).Scan(&c.ID)
	if err != nil {
		return fmt.Errorf("insert condition %s: %w", key, err)
	}
	return nil
}

// PutCondition replaces an occurrence; one with Cleared set is closed.
func (t *Tx) PutCondition(c rest.Condition) error {
	doc, err := docOf(c)
	if err != nil {
		return err
	}
	open, cleared := 1, ""
	if !c.Cleared.IsZero() {
		open, cleared = 0, stamp(c.Cleared)
	}
	return t.must1(t.exec("UPDATE conditions SET open = ?, cleared = ?, doc = ? WHERE id = ?", open, cleared, doc, c.ID))
}

const conditionDoc = "SELECT json_set(doc, '$.id', id) FROM conditions "

// Condition reads an occurrence.
func (t *Tx) Condition(id int64) (rest.Condition, error) {
	return readDoc[rest.Condition](t, conditionDoc+"WHERE id = ?", id)
}

// OpenConditions lists what is open, oldest first.
func (t *Tx) OpenConditions() ([]rest.Condition, error) {
	return readDocs[rest.Condition](t, conditionDoc+"WHERE open = 1 ORDER BY id")
}

// ConditionHistory lists occurrences, open ones too, newest first, below an id
// when it is not zero.
func (t *Tx) ConditionHistory(before int64, limit int) ([]rest.Condition, error) {
	return readDocs[rest.Condition](t, conditionDoc+"WHERE ? = 0 OR id < ? ORDER BY id DESC LIMIT ?", before, before, limit)
}

// PruneConditions forgets what was cleared before a time, and mutes that expired.
func (t *Tx) PruneConditions(before, now time.Time) error {
	if _, err := t.exec("DELETE FROM mutes WHERE until < ?", stamp(now)); err != nil {
		return err
	}
	_, err := t.exec("DELETE FROM conditions WHERE open = 0 AND cleared < ?", stamp(before))
	return err
}

// PutMute mutes a key until the note expires.
func (t *Tx) PutMute(key string, n rest.Note) error {
	doc, err := docOf(n)
	if err != nil {
		return err
	}
	_, err = t.exec("INSERT INTO mutes(key, until, doc) VALUES(?, ?, ?) ON CONFLICT(key) DO UPDATE SET until = excluded.until, doc = excluded.doc", key, stamp(n.Until), doc)
	return err
}

// DeleteMute ends a mute; one that is not there is no error.
func (t *Tx) DeleteMute(key string) error {
	_, err := t.exec("DELETE FROM mutes WHERE key = ?", key)
	return err
}

// Mute reads the mute of a key; nil when there is none or it has expired.
func (t *Tx) Mute(key string, now time.Time) (*rest.Note, error) {
	n, err := readDoc[rest.Note](t, "SELECT doc FROM mutes WHERE key = ? AND until >= ?", key, stamp(now))
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return &n, err
}

// SawGateway keeps when a gateway was last heard of.
func (t *Tx) SawGateway(id dr.GatewayID, at time.Time) error {
	_, err := t.exec("INSERT INTO seen(gateway, at) VALUES(?, ?) ON CONFLICT(gateway) DO UPDATE SET at = max(at, excluded.at)", id, stamp(at))
	return err
}

// GatewaySeen reads when a gateway was last heard of; zero for never.
func (t *Tx) GatewaySeen(id dr.GatewayID) (time.Time, error) {
	var at string
	err := t.tx.QueryRowContext(t.ctx, "SELECT at FROM seen WHERE gateway = ?", id).Scan(&at)
	if errors.Is(err, sql.ErrNoRows) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("read last sight: %w", err)
	}
	return time.Parse(time.RFC3339Nano, at)
}

// LastSuccess returns when the newest job of an operation on a group that
// succeeded (or ended with warnings) ended; zero for never.
func (t *Tx) LastSuccess(group dr.GroupID, operation string) (time.Time, error) {
	var at sql.NullString
	err := t.tx.QueryRowContext(t.ctx, `SELECT max(json_extract(doc, '$.ended')) FROM jobs
		WHERE grp = ? AND ended = 1 AND json_extract(doc, '$.operation') = ? AND json_extract(doc, '$.state') IN ('succeeded', 'warning')`, group, operation).Scan(&at)
	if err != nil || !at.Valid {
		return time.Time{}, err
	}
	return time.Parse(time.RFC3339Nano, at.String)
}

// LastJob returns the newest job of a group, without tasks; ErrNotFound when it
// never had one.
func (t *Tx) LastJob(group dr.GroupID) (Job, error) {
	return readDoc[Job](t, "SELECT doc FROM jobs WHERE grp = ? ORDER BY created DESC LIMIT 1", group)
}
