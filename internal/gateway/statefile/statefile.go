// Package statefile keeps one small JSON value in one file so that a crash
// leaves either the old value or the new one, and damage is noticed. It is for
// the gateway's own settings; journals have formats of their own.
package statefile

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"rebound/internal/problem"
)

// envelope is the file: magic, version, checksum (CRC32C of Body) and value.
type envelope struct {
	Magic   string          `json:"magic"`
	Version int             `json:"version"`
	Sum     uint32          `json:"crc32c"`
	Body    json.RawMessage `json:"body"`
}

const (
	magic   = "rebound-state"
	version = 1
)

// Save replaces the value at path; it is durable on return.
func Save(path string, value any) error {
	body, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode %s: %w", filepath.Base(path), err)
	}
	text, err := json.Marshal(envelope{magic, version, sum(body), body})
	if err != nil {
		return fmt.Errorf("encode %s: %w", filepath.Base(path), err)
	}
	if err := renameio.WriteFile(path, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// Load reads the value at path into value; it reports false when there is none.
func Load(path string, value any) (bool, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("load state: %w", err)
	}
	var e envelope
	if err := json.Unmarshal(text, &e); err != nil || e.Magic != magic {
		return false, problem.New(problem.InternalError, "%s is no state file", path)
	}
	if e.Version != version {
		return false, problem.New(problem.InternalError, "%s has version %d, this program reads %d", path, e.Version, version)
	}
	if sum(e.Body) != e.Sum {
		return false, problem.New(problem.InternalError, "%s is damaged: its checksum does not fit", path)
	}
	if err := json.Unmarshal(e.Body, value); err != nil {
		return false, fmt.Errorf("load state %s: %w", path, err)
	}
	return true, nil
}

// Remove deletes the value; one that does not exist is fine.
func Remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove state: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// MakeDir makes a directory, with those above it that are missing; each is
// durable on return.
func MakeDir(dir string) error {
	dir = filepath.Clean(dir)
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	if parent := filepath.Dir(dir); parent != dir {
		if err := MakeDir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make directory: %w", err)
	}
	return syncDir(filepath.Dir(dir))
}

func sum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}
