package store

import (
	"bytes"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"rebound/internal/vault/rest"
)

// InsertAudit adds a row to the audit log. Its hash covers its number, itself
// and the hash of the row before it, so that no row can be changed, moved or
// taken out of the middle unnoticed.
func (t *Tx) InsertAudit(a rest.AuditRow) error {
	a.Seq, a.Hash = 0, ""
	doc, err := docOf(a)
	if err != nil {
		return err
	}
	var last int64
	var before []byte
	err = t.tx.QueryRowContext(t.ctx, "SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1").Scan(&last, &before)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("read the audit log's end: %w", err)
	}
	// Rows are never deleted, so the next number is the last one plus 1.
	seq := last + 1
	_, err = t.exec("INSERT INTO audit(seq, doc, hash) VALUES(?, ?, ?)", seq, doc, link(before, seq, doc))
	return err
}

func link(before []byte, seq int64, doc []byte) []byte {
	h := sha256.New()
	fmt.Fprintf(h, "%x\n%d\n", before, seq)
	h.Write(doc)
	return h.Sum(nil)
}

// AuditFilter selects rows of the audit log; zero values do not filter.
type AuditFilter struct {
	After            int64
	Limit            int
	Who, Object      string
	Operation        string
	Outcome, Channel string
	From, To         time.Time
	NewestFirst      bool
	BeforeSeq        int64 // with NewestFirst: only rows before this one
}

// Audit lists rows of the audit log, oldest first unless asked otherwise.
func (t *Tx) Audit(f AuditFilter) ([]rest.AuditRow, error) {
	var w where
	w.add("seq > ?", f.After)
	for field, want := range map[string]string{"who": f.Who, "object": f.Object, "operation": f.Operation, "outcome": f.Outcome, "channel": f.Channel} {
		w.field(field, want)
	}
	// Stored times have as many digits as they need, so they are no text to compare.
	if !f.From.IsZero() {
		w.add("unixepoch(doc ->> '$.time', 'subsec') >= ?", float64(f.From.UnixMilli())/1000)
	}
	if !f.To.IsZero() {
		w.add("unixepoch(doc ->> '$.time', 'subsec') <= ?", float64(f.To.UnixMilli())/1000)
	}
	order := "ASC"
	if f.NewestFirst {
		order = "DESC"
		if f.BeforeSeq > 0 {
			w.add("seq < ?", f.BeforeSeq)
		}
	}
	args := append(w.args, f.Limit)
	q := "SELECT json_set(doc, '$.seq', seq, '$.hash', lower(hex(hash))) FROM audit WHERE " + w.String() + " ORDER BY seq " + order + " LIMIT ?"
	return readDocs[rest.AuditRow](t, q, args...)
}

// CheckAudit reads the whole log and checks its chain; with seq and hash of an
// earlier check also that the log still begins with what it was then.
func (t *Tx) CheckAudit(seq int64, hash string) (rest.AuditCheck, error) {
	var out rest.AuditCheck
	rows, err := t.tx.QueryContext(t.ctx, "SELECT seq, doc, hash FROM audit ORDER BY seq")
	if err != nil {
		return out, fmt.Errorf("read audit log: %w", err)
	}
	defer rows.Close()
	c := chain{check: &out}
	known := seq == 0
	for rows.Next() {
		var n int64
		var doc, sum []byte
		if err := rows.Scan(&n, &doc, &sum); err != nil {
			return out, fmt.Errorf("read audit log: %w", err)
		}
		c.add(n, doc, sum)
		known = known || n == seq && strings.EqualFold(hash, hex.EncodeToString(sum))
	}
	if !known {
		c.fail(seq, fmt.Sprintf("row %d with the hash that was given is not there: the log was changed or cut off since", seq))
	}
	out.Intact = out.Problem == ""
	return out, rows.Err()
}

// chain follows the audit log's hashes.
type chain struct {
	check  *rest.AuditCheck
	before []byte
}

func (c *chain) fail(seq int64, why string) {
	if c.check.Problem == "" {
		c.check.BrokenAt, c.check.Problem = seq, why
	}
}

func (c *chain) add(seq int64, doc, sum []byte) {
	out := c.check
	switch {
	case seq != out.Seq+1:
		c.fail(seq, fmt.Sprintf("after row %d comes row %d", out.Seq, seq))
	case sum == nil && c.before == nil:
		out.Unchained++ // from before the log had a chain
	case !bytes.Equal(sum, link(c.before, seq, doc)):
		c.fail(seq, fmt.Sprintf("row %d does not fit the row before it", seq))
	case !json.Valid(doc):
		c.fail(seq, fmt.Sprintf("row %d cannot be read", seq))
	}
	out.Rows++
	out.Seq, out.Hash, c.before = seq, hex.EncodeToString(sum), sum
}
