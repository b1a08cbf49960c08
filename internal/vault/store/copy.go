package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// CopySQLite writes a consistent moment of a database, which others may be
// using, to a new file.
func CopySQLite(ctx context.Context, from, to string) error {
	db, err := OpenSQLite(from)
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, "VACUUM INTO ?", to); err != nil {
		return fmt.Errorf("copy database %s: %w", from, err)
	}
	return nil
}

// CheckSQLite reads all of a database and says what is wrong with it.
func CheckSQLite(ctx context.Context, path string) (err error) {
	db, err := OpenSQLite(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var said string
	if err := db.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&said); err != nil {
		return fmt.Errorf("check database: %w", err)
	}
	if said != "ok" {
		return fmt.Errorf("check database: %s", said)
	}
	return nil
}

// ReadMeta reads a single value of a database that is not brought to the
// newest schema; "" when there is none.
func ReadMeta(ctx context.Context, path, key string) (v string, err error) {
	db, err := OpenSQLite(path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	err = db.QueryRowContext(ctx, "SELECT value FROM meta WHERE key = ?", key).Scan(&v)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read %s of %s: %w", key, path, err)
	}
	return v, nil
}
