package backup

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"filippo.io/age"

	"rebound/internal/problem"
	"rebound/internal/vault/store"
)

// maxLine bounds the file's first line, maxFile each file in it, in bytes.
const (
	maxLine = 256
	maxFile = 64 << 30
)

// Restore makes dir, which must not hold a vault, of a backup. What is wrong
// with the file is found before dir is touched. The vault that is started there
// ends, visibly, the jobs that ran when the backup was made, and learns from
// its gateways what was done since.
func Restore(ctx context.Context, file, dir string, o Options) (Manifest, error) {
	if list, err := os.ReadDir(dir); err == nil && len(list) > 0 {
		return Manifest{}, problem.New(problem.InvalidRequest, "%s is not empty; a vault is restored into a new directory", dir)
	}
	parent := filepath.Dir(filepath.Clean(dir))
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return Manifest{}, fmt.Errorf("make directory: %w", err)
	}
	tmp, err := os.MkdirTemp(parent, ".rebound-restore-")
	if err != nil {
		return Manifest{}, fmt.Errorf("make directory: %w", err)
	}
	defer os.RemoveAll(tmp)
	m, err := unpack(file, tmp, o.Passphrase)
	if err != nil {
		return m, err
	}
	for _, name := range databases() {
		if err := store.CheckSQLite(ctx, filepath.Join(tmp, name)); err != nil {
			return m, damaged(err, "%s in the backup", name)
		}
	}
	if err := mark(ctx, tmp, m, o); err != nil {
		return m, err
	}
	if err := syncAll(tmp); err != nil {
		return m, err
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return m, fmt.Errorf("put vault in its place: %w", err)
	}
	if err := os.Rename(tmp, dir); err != nil {
		return m, fmt.Errorf("put vault in its place: %w", err)
	}
	return m, syncDir(parent)
}

// mark notes in the database that it comes from a backup.
func mark(ctx context.Context, dir string, m Manifest, o Options) (err error) {
	s, err := store.Open(ctx, filepath.Join(dir, "vault.db"))
	if err != nil {
		return damaged(err, "the vault's database")
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return s.Update(ctx, func(tx *store.Tx) error {
		return tx.SetRestored(store.Restored{BackupAt: m.At, At: o.now().UTC()})
	})
}

func syncAll(dir string) error {
	list, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("sync vault: %w", err)
	}
	for _, e := range list {
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			return fmt.Errorf("sync vault: %w", err)
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return fmt.Errorf("sync vault: %w", err)
		}
	}
	return syncDir(dir)
}

// unpack checks the file and writes what is in it to dir.
func unpack(file, dir, passphrase string) (Manifest, error) {
	f, err := os.Open(file)
	if err != nil {
		return Manifest{}, problem.Wrap(err, problem.InvalidRequest, "the backup %s", file)
	}
	defer f.Close()
	r, err := decrypted(bufio.NewReader(f), passphrase)
	if err != nil {
		return Manifest{}, err
	}
	want, err := firstLine(r)
	if err != nil {
		return Manifest{}, err
	}
	sum := sha256.New()
	body := io.TeeReader(r, sum)
	m, err := extract(body, dir)
	if err != nil {
		return m, err
	}
	if _, err := io.Copy(io.Discard, body); err != nil {
		return m, damaged(err, "its end")
	}
	if hex.EncodeToString(sum.Sum(nil)) != want {
		return m, damaged(nil, "its checksum does not fit")
	}
	return m, checkFiles(dir, m)
}

func decrypted(r *bufio.Reader, passphrase string) (*bufio.Reader, error) {
	head, _ := r.Peek(len(ageMagic)) // shorter: firstLine says so
	if string(head) != ageMagic {
		return r, nil
	}
	if passphrase == "" {
		return nil, problem.New(problem.InvalidRequest, "the backup is encrypted: give its passphrase")
	}
	id, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		return nil, damaged(err, "its passphrase")
	}
	in, err := age.Decrypt(r, id)
	if err != nil {
		return nil, damaged(err, "it cannot be decrypted")
	}
	return bufio.NewReader(in), nil
}

// firstLine reads the line before the archive and returns the checksum in it.
func firstLine(r *bufio.Reader) (sum string, err error) {
	var line []byte
	for len(line) < maxLine {
		b, err := r.ReadByte()
		if err != nil {
			return "", damaged(err, "it ends in its first line")
		}
		if b == '\n' {
			break
		}
		line = append(line, b)
	}
	var v int
	if n, err := fmt.Sscanf(string(line), magic+" %d %64s", &v, &sum); n != 2 || err != nil {
		return "", damaged(err, "it is no backup of a vault")
	}
	if v != version {
		return "", damaged(nil, "it has version %d, this program reads %d", v, version)
	}
	return sum, nil
}

func extract(r io.Reader, dir string) (Manifest, error) {
	var m Manifest
	zip, err := gzip.NewReader(r)
	if err != nil {
		return m, damaged(err, "its archive")
	}
	in := tar.NewReader(zip)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return m, nil
		}
		if err != nil {
			return m, damaged(err, "its archive")
		}
		if h.Name == "manifest.json" {
			if err := json.NewDecoder(io.LimitReader(in, 1<<20)).Decode(&m); err != nil {
				return m, damaged(err, "its manifest")
			}
			continue
		}
		// Only names that a backup has: nothing is written elsewhere.
		if !known(h.Name) {
			return m, damaged(nil, "a file %q has no place in it", h.Name)
		}
		if err := extractFile(in, filepath.Join(dir, h.Name)); err != nil {
			return m, err
		}
	}
}

func known(name string) bool {
	return slices.Contains(databases(), name) || slices.Contains(plain(), name)
}

func extractFile(r io.Reader, path string) error {
	mode := os.FileMode(0o600)
	if strings.HasSuffix(path, "ca.pem") {
		mode = 0o644
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return fmt.Errorf("write vault: %w", err)
	}
	_, err = io.Copy(f, io.LimitReader(r, maxFile))
	if err != nil {
		err = damaged(err, "its archive")
	}
	return errors.Join(err, f.Close())
}

// checkFiles compares what was written with the manifest.
func checkFiles(dir string, m Manifest) error {
	for _, name := range append(databases(), plain()...) {
		want, ok := m.Files[name]
		if !ok {
			if optional(name) {
				continue
			}
			return damaged(nil, "it lacks %s", name)
		}
		have, err := sumFile(filepath.Join(dir, name))
		if err != nil {
			return damaged(err, "%s", name)
		}
		if have != want {
			return damaged(nil, "the checksum of %s does not fit", name)
		}
	}
	return nil
}
