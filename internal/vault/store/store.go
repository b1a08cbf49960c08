package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

// Store is the vault's database. Safe for use by several goroutines.
type Store struct {
	db *sql.DB
	// queued has a token when the outbox has got something new.
	queued chan struct{}

	mu        sync.Mutex
	committed chan struct{}
	preloaded *preloaded
}

// Tx is one transaction. It must not be kept beyond its function.
type Tx struct {
	ctx    context.Context
	tx     *sql.Tx
	store  *Store
	queued bool
	loaded *preloaded
}

// ErrNotFound says that there is no such row.
var ErrNotFound = errors.New("not found")

// ErrExists says that the row exists already.
var ErrExists = errors.New("exists already")

// OpenSQLite opens a SQLite database the way the vault wants every one of its
// databases: write-ahead log, synchronous FULL, immediate transactions.
func OpenSQLite(path string) (*sql.DB, error) {
	q := url.Values{
		"_txlock": {"immediate"},
		"_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)"},
	}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+q.Encode())
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	return db, nil
}

// Open opens or makes the database at path and brings it to the newest schema.
func Open(ctx context.Context, path string) (*Store, error) {
	db, err := OpenSQLite(path)
	if err != nil {
		return nil, err
	}
	s := &Store{db: db, queued: make(chan struct{}, 1), committed: make(chan struct{})}
	err = s.migrate(ctx)
	if err == nil {
		err = s.feed(ctx)
	}
	if err != nil {
		db.Close()
		return nil, fmt.Errorf("migrate %s: %w", path, err)
	}
	return s, nil
}

// Close closes the database.
func (s *Store) Close() error { return s.db.Close() }

func (s *Store) migrate(ctx context.Context) error {
	var have int
	if err := s.db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&have); err != nil {
		return err
	}
	steps := migrations()
	if have > len(steps) {
		return fmt.Errorf("the database has schema %d, this program knows %d: use the newer program", have, len(steps))
	}
	for v := have; v < len(steps); v++ {
		err := s.Update(ctx, func(tx *Tx) error {
			if _, err := tx.tx.ExecContext(ctx, steps[v]); err != nil {
				return err
			}
			_, err := tx.tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", v+1))
			return err
		})
		if err != nil {
			return fmt.Errorf("to schema %d: %w", v+1, err)
		}
	}
	return nil
}

// Update runs f in one transaction, committed when f returns nil.
func (s *Store) Update(ctx context.Context, f func(*Tx) error) error {
	return s.in(ctx, nil, f)
}

// View runs f in a transaction that only reads.
func (s *Store) View(ctx context.Context, f func(*Tx) error) error {
	return s.in(ctx, &sql.TxOptions{ReadOnly: true}, f)
}

func (s *Store) in(ctx context.Context, opts *sql.TxOptions, f func(*Tx) error) error {
	tx, err := s.db.BeginTx(ctx, opts)
	if err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	defer tx.Rollback() //nolint:errcheck // after a commit it has nothing to do
	t := &Tx{ctx: ctx, tx: tx, store: s}
	if err := f(t); err != nil {
		return err
	}
	if opts != nil && opts.ReadOnly {
		return nil
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit transaction: %w", err)
	}
	s.told()
	if t.queued {
		select {
		case s.queued <- struct{}{}:
		default:
		}
	}
	return nil
}

// doc rows: every table has key columns for finding and a JSON document.

func (t *Tx) exec(query string, args ...any) (int64, error) {
	res, err := t.tx.ExecContext(t.ctx, query, args...)
	if err != nil {
		return 0, fmt.Errorf("%.40s: %w", query, err)
	}
	return res.RowsAffected()
}

func (t *Tx) must1(n int64, err error) error {
	if err == nil && n == 0 {
		return ErrNotFound
	}
	return err
}

func readDoc[T any](t *Tx, query string, args ...any) (T, error) {
	var doc []byte
	var out T
	err := t.tx.QueryRowContext(t.ctx, query, args...).Scan(&doc)
	if errors.Is(err, sql.ErrNoRows) {
		return out, ErrNotFound
	}
	if err != nil {
		return out, fmt.Errorf("%.40s: %w", query, err)
	}
	if err := json.Unmarshal(doc, &out); err != nil {
		return out, fmt.Errorf("decode row: %w", err)
	}
	return out, nil
}

func readDocs[T any](t *Tx, query string, args ...any) ([]T, error) {
	rows, err := t.tx.QueryContext(t.ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("%.40s: %w", query, err)
	}
	defer rows.Close()
	out := []T{}
	for rows.Next() {
		var doc []byte
		var v T
		if err := rows.Scan(&doc); err != nil {
			return nil, fmt.Errorf("read row: %w", err)
		}
		if err := json.Unmarshal(doc, &v); err != nil {
			return nil, fmt.Errorf("decode row: %w", err)
		}
		out = append(out, v)
	}
	return out, rows.Err()
}

func docOf(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode row: %w", err)
	}
	return b, nil
}

// Meta reads a single value; "" when there is none.
func (t *Tx) Meta(key string) (string, error) {
	var v string
	err := t.tx.QueryRowContext(t.ctx, "SELECT value FROM meta WHERE key = ?", key).Scan(&v)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return v, err
}

// SetMeta writes a single value.
func (t *Tx) SetMeta(key, value string) error {
	_, err := t.exec("INSERT INTO meta(key, value) VALUES(?, ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value", key, value)
	return err
}

// stamp is how times are stored in key columns: sortable text, UTC.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000000Z") }
