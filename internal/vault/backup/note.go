package backup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"
)

// noteFile says when a vault's directory was last backed up.
const noteFile = "last-backup"

// Note writes down that the directory was backed up, for the vault's health.
func Note(dir string, at time.Time) error {
	if err := renameio.WriteFile(filepath.Join(dir, noteFile), []byte(at.UTC().Format(time.RFC3339)+"\n"), 0o600); err != nil {
		return fmt.Errorf("note the backup: %w", err)
	}
	return nil
}

// Last returns when the directory was last backed up; zero for never.
func Last(dir string) (time.Time, error) {
	b, err := os.ReadFile(filepath.Join(dir, noteFile))
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("read when the last backup was: %w", err)
	}
	at, err := time.Parse(time.RFC3339, strings.TrimSpace(string(b)))
	if err != nil {
		return time.Time{}, fmt.Errorf("read when the last backup was: %w", err)
	}
	return at, nil
}
