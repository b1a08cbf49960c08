package store

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"rebound/internal/identity"
)

// Certificate is one that the vault issued.
type Certificate struct {
	// Sum is identity.Sum of it.
	Sum          string
	Role         identity.Role
	Name         string
	Issued, Ends time.Time
	Revoked      bool
}

// PutCertificate adds a certificate, and forgets those that ended before it
// was issued.
func (t *Tx) PutCertificate(c Certificate) error {
	if _, err := t.exec("DELETE FROM certificates WHERE ends < ?", stamp(c.Issued)); err != nil {
		return err
	}
	_, err := t.exec("INSERT INTO certificates(sum, role, name, issued, ends, revoked) VALUES(?, ?, ?, ?, ?, '') ON CONFLICT DO NOTHING",
		c.Sum, string(c.Role), c.Name, stamp(c.Issued), stamp(c.Ends))
	return err
}

// Certificate reads one that was issued; ErrNotFound when it is not known.
func (t *Tx) Certificate(sum string) (Certificate, error) {
	c := Certificate{Sum: sum}
	var role, issued, ends, revoked string
	err := t.tx.QueryRowContext(t.ctx, "SELECT role, name, issued, ends, revoked FROM certificates WHERE sum = ?", sum).Scan(&role, &c.Name, &issued, &ends, &revoked)
	if errors.Is(err, sql.ErrNoRows) {
		return c, ErrNotFound
	}
	if err != nil {
		return c, fmt.Errorf("read certificate: %w", err)
	}
	c.Role, c.Revoked = identity.Role(role), revoked != ""
	c.Issued, c.Ends = unstamp(issued), unstamp(ends)
	return c, nil
}

// unstamp reads what stamp wrote; zero for what it did not write.
func unstamp(s string) time.Time {
	at, err := time.Parse("2006-01-02T15:04:05.000000000Z", s)
	if err != nil {
		return time.Time{}
	}
	return at
}

// RevokeCertificates ends all certificates of a holder at once.
func (t *Tx) RevokeCertificates(role identity.Role, name string, now time.Time) error {
	_, err := t.exec("UPDATE certificates SET revoked = ? WHERE role = ? AND name = ? AND revoked = ''", stamp(now), string(role), name)
	return err
}

// AddRevocations takes in revocations that gateways know and this vault does
// not: it was restored from a backup that is older.
func (t *Tx) AddRevocations(list []identity.Revocation, now time.Time) error {
	for _, r := range list {
		_, err := t.exec("INSERT INTO certificates(sum, role, name, issued, ends, revoked) VALUES(?, '', '', '', ?, ?) ON CONFLICT(sum) DO UPDATE SET revoked = excluded.revoked WHERE revoked = ''",
			r.Sum, stamp(r.Ends), stamp(now))
		if err != nil {
			return err
		}
	}
	return nil
}

// Revocations lists the revoked certificates that have not ended by now.
func (t *Tx) Revocations(now time.Time) ([]identity.Revocation, error) {
	rows, err := t.tx.QueryContext(t.ctx, "SELECT sum, ends FROM certificates WHERE revoked <> '' AND ends >= ? ORDER BY sum", stamp(now))
	if err != nil {
		return nil, fmt.Errorf("list revocations: %w", err)
	}
	defer rows.Close()
	out := []identity.Revocation{}
	for rows.Next() {
		var r identity.Revocation
		var ends string
		if err := rows.Scan(&r.Sum, &ends); err != nil {
			return nil, fmt.Errorf("read revocation: %w", err)
		}
		r.Ends = unstamp(ends)
		out = append(out, r)
	}
	return out, rows.Err()
}

// metaRestored is where Restored is kept.
const metaRestored = "restored"

// Restored says that the database comes from a backup.
type Restored struct {
	// BackupAt is when the backup was made, At when it was restored.
	BackupAt time.Time `json:"backupAt"`
	At       time.Time `json:"at"`
	// Settled: the first start after it has dealt with the open jobs.
	Settled bool `json:"settled"`
}

// Restored reads whether the database comes from a backup; nil: it does not.
func (t *Tx) Restored() (*Restored, error) {
	text, err := t.Meta(metaRestored)
	if err != nil || text == "" {
		return nil, err
	}
	var r Restored
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return nil, fmt.Errorf("read when the vault was restored: %w", err)
	}
	return &r, nil
}

// SetRestored notes that the database comes from a backup.
func (t *Tx) SetRestored(r Restored) error {
	text, err := docOf(r)
	if err != nil {
		return err
	}
	return t.SetMeta(metaRestored, string(text))
}
