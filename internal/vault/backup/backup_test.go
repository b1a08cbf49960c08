package backup_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"rebound/internal/identity"
	"rebound/internal/problem"
	"rebound/internal/vault/backup"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// vaultDir makes the directory of a vault that is open.
func vaultDir(t *testing.T) (string, *store.Store) {
	t.Helper()
	dir := t.TempDir()
	s, err := store.Open(t.Context(), filepath.Join(dir, "vault.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	err = s.Update(t.Context(), func(tx *store.Tx) error {
		if err := tx.InsertPolicy(rest.Policy{ID: "gold"}); err != nil {
			return err
		}
		return tx.SetMeta("vault-id", "v1")
	})
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.OpenSQLite(filepath.Join(dir, "workflows.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("CREATE TABLE w(x TEXT); INSERT INTO w VALUES('step')"); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.OpenCA(dir, "v1"); err != nil {
		t.Fatal(err)
	}
	return dir, s
}

func TestBackupOfAnOpenVault(t *testing.T) {
	for name, pass := range map[string]string{"plain": "", "encrypted": "a long passphrase"} {
		t.Run(name, func(t *testing.T) {
			dir, s := vaultDir(t)
			at := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
			out := filepath.Join(t.TempDir(), "b")
			o := backup.Options{Passphrase: pass, Program: "1", Now: func() time.Time { return at }}
			if _, err := backup.Write(t.Context(), dir, out, o); err != nil {
				t.Fatal(err)
			}
			// What is written later is not in it.
			if err := s.Update(t.Context(), func(tx *store.Tx) error { return tx.InsertPolicy(rest.Policy{ID: "later"}) }); err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			key, _ := os.ReadFile(filepath.Join(dir, "ca.key"))
			if pass != "" && bytes.Contains(text, key[40:80]) {
				t.Error("the key can be read in the encrypted file")
			}
			if st, err := os.Stat(out); err != nil || st.Mode().Perm() != 0o600 {
				t.Errorf("mode %v, %v", st.Mode(), err)
			}
			to := filepath.Join(t.TempDir(), "new")
			m, err := backup.Restore(t.Context(), out, to, o)
			if err != nil {
				t.Fatal(err)
			}
			if m.Vault != "v1" || !m.At.Equal(at) {
				t.Errorf("manifest %+v", m)
			}
			checkRestored(t, to, key, at)
		})
	}
}

func checkRestored(t *testing.T, dir string, key []byte, at time.Time) {
	t.Helper()
	if got, err := os.ReadFile(filepath.Join(dir, "ca.key")); err != nil || !bytes.Equal(got, key) {
		t.Errorf("the authority's key is another one: %v", err)
	}
	s, err := store.Open(t.Context(), filepath.Join(dir, "vault.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	err = s.View(context.Background(), func(tx *store.Tx) error {
		if _, err := tx.Policy("gold"); err != nil {
			t.Errorf("policy: %v", err)
		}
		if _, err := tx.Policy("later"); err != store.ErrNotFound {
			t.Errorf("a policy of later: %v", err)
		}
		r, err := tx.Restored()
		if err != nil || r == nil || !r.BackupAt.Equal(at) || r.Settled {
			t.Errorf("restored %+v, %v", r, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestBadBackups: whatever is wrong with the file, the directory is not there
// afterwards, and the answer has a code.
func TestBadBackups(t *testing.T) {
	dir, _ := vaultDir(t)
	good := filepath.Join(t.TempDir(), "good")
	if _, err := backup.Write(t.Context(), dir, good, backup.Options{}); err != nil {
		t.Fatal(err)
	}
	locked := filepath.Join(t.TempDir(), "locked")
	if _, err := backup.Write(t.Context(), dir, locked, backup.Options{Passphrase: "right"}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := os.ReadFile(locked)
	if err != nil {
		t.Fatal(err)
	}
	flip := func(b []byte, at int) []byte {
		c := bytes.Clone(b)
		c[at] ^= 1
		return c
	}
	for name, c := range map[string]struct {
		text []byte
		pass string
		code problem.Code
	}{
		"empty":            {nil, "", problem.BackupDamaged},
		"another file":     {[]byte("hello\n"), "", problem.BackupDamaged},
		"cut short":        {text[:len(text)-20], "", problem.BackupDamaged},
		"a bit in the sum": {flip(text, 20), "", problem.BackupDamaged},
		"a bit inside":     {flip(text, len(text)/2), "", problem.BackupDamaged},
		"newer version":    {bytes.Replace(text, []byte("backup 1 "), []byte("backup 2 "), 1), "", problem.BackupDamaged},
		"no passphrase":    {sealed, "", problem.InvalidRequest},
		"wrong passphrase": {sealed, "wrong", problem.BackupDamaged},
		"sealed, a bit":    {flip(sealed, len(sealed)/2), "right", problem.BackupDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			file, to := filepath.Join(t.TempDir(), "f"), filepath.Join(t.TempDir(), "new")
			if err := os.WriteFile(file, c.text, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := backup.Restore(t.Context(), file, to, backup.Options{Passphrase: c.pass})
			if !problem.HasCode(err, c.code) {
				t.Errorf("restore: %v, want %s", err, c.code)
			}
			if _, err := os.Stat(to); !os.IsNotExist(err) {
				t.Error("a directory was made")
			}
		})
	}
	if _, err := backup.Restore(t.Context(), good, dir, backup.Options{}); !problem.HasCode(err, problem.InvalidRequest) {
		t.Errorf("into a vault's directory: %v", err)
	}
	if _, err := backup.Write(t.Context(), t.TempDir(), filepath.Join(t.TempDir(), "x"), backup.Options{}); !problem.HasCode(err, problem.InvalidRequest) {
		t.Errorf("of no vault: %v", err)
	}
}
