// Package backup writes everything that a vault remembers into one file while
// the vault runs, and makes a vault's directory of such a file again.
//
// A backup is a consistent moment of the workflows' database and, after it, one
// of the vault's: in this order, because a task that the vault's rows call done
// is not run again whatever the older workflows say. With them go the authority
// with its key and the first token. The file has a checksum, or is encrypted
// with age (https://age-encryption.org/v1) under a passphrase, which any age
// program reads. What a restored vault does is package orchestrator's
// (SettleRestored) and package adopt's to say.
package backup

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/google/renameio/v2"

	"rebound/internal/problem"
	"rebound/internal/vault/store"
)

const (
	// magic begins the file (inside of the encryption); the version and the
	// SHA-256 of what follows the line are in the same line.
	magic   = "rebound-backup"
	version = 1
	// ageMagic begins an encrypted file.
	ageMagic = "age-encryption.org/"
)

// databases are copied by SQLite, in this order; vault.db is the last.
func databases() []string { return []string{"workflows.db", "vault.db"} }

// plain are the other files of a vault's directory that are its memory, copied
// as they are.
func plain() []string { return []string{"ca.pem", "ca.key", "vault-ca.pem", "first-token"} }

// optional reports whether a backup may lack a file: the next start writes it
// again, or somebody deleted it after its use.
func optional(name string) bool { return name == "first-token" || name == "vault-ca.pem" }

// Manifest describes a backup.
type Manifest struct {
	Vault   string    `json:"vault"`
	Program string    `json:"program"`
	At      time.Time `json:"at"`
	// Files are the SHA-256 of each file, by name.
	Files map[string]string `json:"files"`
}

// Options of a backup or a restore.
type Options struct {
	// Passphrase encrypts the file, or decrypts it; empty: it is not encrypted.
	Passphrase string
	// Program is the version that is noted.
	Program string
	// Now is time.Now by default.
	Now func() time.Time
}

func (o *Options) now() time.Time {
	if o.Now == nil {
		return time.Now()
	}
	return o.Now()
}

// Write makes a backup of the vault in dir, which may be running, in the file
// out. The file is whole or not there, and readable by its owner only.
func Write(ctx context.Context, dir, out string, o Options) (Manifest, error) {
	m := Manifest{Program: o.Program, At: o.now().UTC(), Files: map[string]string{}}
	if _, err := os.Stat(filepath.Join(dir, "vault.db")); err != nil {
		return m, problem.Wrap(err, problem.InvalidRequest, "%s is no directory of a vault", dir)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(out), ".rebound-backup-")
	if err != nil {
		return m, fmt.Errorf("make room for backup: %w", err)
	}
	defer os.RemoveAll(tmp)
	names, err := collect(ctx, dir, tmp)
	if err != nil {
		return m, err
	}
	if m.Vault, err = store.ReadMeta(ctx, filepath.Join(tmp, "vault.db"), "vault-id"); err != nil {
		return m, err
	}
	for _, name := range names {
		if m.Files[name], err = sumFile(filepath.Join(tmp, name)); err != nil {
			return m, err
		}
	}
	body := filepath.Join(tmp, "body")
	if err := pack(body, tmp, names, m); err != nil {
		return m, err
	}
	if err := seal(body, out, o.Passphrase); err != nil {
		return m, err
	}
	return m, Note(dir, m.At)
}

// collect copies what belongs to a backup into tmp.
func collect(ctx context.Context, dir, tmp string) (names []string, err error) {
	for _, name := range databases() {
		if err := store.CopySQLite(ctx, filepath.Join(dir, name), filepath.Join(tmp, name)); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	for _, name := range plain() {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) && optional(name) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read vault: %w", err)
		}
		if err := os.WriteFile(filepath.Join(tmp, name), b, 0o600); err != nil {
			return nil, fmt.Errorf("write backup: %w", err)
		}
		names = append(names, name)
	}
	return names, nil
}

func sumFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("sum file: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("sum file: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// pack writes the compressed archive: the manifest, then the files.
func pack(body, tmp string, names []string, m Manifest) error {
	f, err := os.OpenFile(body, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	defer f.Close()
	zip := gzip.NewWriter(f)
	w := tar.NewWriter(zip)
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("encode manifest: %w", err)
	}
	if err := add(w, "manifest.json", int64(len(text)), bytes.NewReader(text), m.At); err != nil {
		return err
	}
	for _, name := range names {
		if err := addFile(w, tmp, name, m.At); err != nil {
			return err
		}
	}
	if err := errors.Join(w.Close(), zip.Close()); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	return f.Close()
}

func addFile(w *tar.Writer, dir, name string, at time.Time) error {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return fmt.Errorf("read copy: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("read copy: %w", err)
	}
	return add(w, name, info.Size(), f, at)
}

func add(w *tar.Writer, name string, size int64, r io.Reader, at time.Time) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: size, ModTime: at, Format: tar.FormatPAX}); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	if _, err := io.Copy(w, r); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	return nil
}

// seal puts the line with the checksum before the body, encrypts both when
// there is a passphrase, and puts the file in its place.
func seal(body, out, passphrase string) error {
	sum, err := sumFile(body)
	if err != nil {
		return err
	}
	src, err := os.Open(body)
	if err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	defer src.Close()
	dst, err := renameio.NewPendingFile(out, renameio.WithPermissions(0o600))
	if err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	defer dst.Cleanup() //nolint:errcheck // nothing is left after the replacement
	var w io.Writer = dst
	var enc io.WriteCloser
	if passphrase != "" {
		r, err := age.NewScryptRecipient(passphrase)
		if err != nil {
			return fmt.Errorf("encrypt backup: %w", err)
		}
		if enc, err = age.Encrypt(dst, r); err != nil {
			return fmt.Errorf("encrypt backup: %w", err)
		}
		w = enc
	}
	_, err = fmt.Fprintf(w, "%s %d %s\n", magic, version, sum)
	if err == nil {
		_, err = io.Copy(w, src)
	}
	if enc != nil {
		err = errors.Join(err, enc.Close())
	}
	if err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	if err := dst.CloseAtomicallyReplace(); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	return syncDir(filepath.Dir(out))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return errors.Join(d.Sync(), d.Close())
}

func damaged(err error, format string, args ...any) error {
	return problem.Wrap(err, problem.BackupDamaged, "%s", strings.TrimSpace(fmt.Sprintf(format, args...)))
}
