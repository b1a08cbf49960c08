package keyring

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rebound/internal/journal/envelope"
	"rebound/internal/journal/vfs"
	"rebound/internal/problem"
	"rebound/internal/segment"
)

func parse(t testing.TB, text string) *Wrapping {
	t.Helper()
	w, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func hexKey(digit string) string { return strings.Repeat(digit, 2*segment.KeySize) }

func TestParse(t *testing.T) {
	if w := parse(t, "# new\n"+hexKey("a")+"\n\n  "+hexKey("b")+"  \n"); len(w.IDs()) != 2 {
		t.Errorf("%v", w.IDs())
	}
	for name, text := range map[string]string{
		"empty": "# nothing\n", "short": "abcd", "no hex": strings.Repeat("x", 64), "zeroes": hexKey("0"), "twice": hexKey("a") + "\n" + hexKey("A"),
	} {
		_, err := Parse([]byte(text))
		if !problem.HasCode(err, problem.KeyNotUsable) {
			t.Errorf("%s: %v", name, err)
		} else if name == "no hex" && strings.Contains(err.Error(), "xxxx") {
			t.Errorf("the error shows the key: %v", err)
		}
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	none := func(string) string { return "" }
	if _, err := Load(path, none); !problem.HasCode(err, problem.KeyNotUsable) {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(path, []byte(hexKey("a")), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path, none); !problem.HasCode(err, problem.KeyNotUsable) {
		t.Errorf("open to others: %v", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if w, err := Load(path, none); err != nil || len(w.IDs()) != 1 {
		t.Errorf("%v, %v", w, err)
	}
	if w, err := Load("", func(name string) string { return map[string]string{EnvVar: hexKey("b")}[name] }); err != nil || len(w.IDs()) != 1 {
		t.Errorf("%v, %v", w, err)
	}
	if w, err := Load("", none); err != nil || w != nil {
		t.Errorf("%v, %v", w, err)
	}
}

// TestOldKeys: the keys that testdata/keys.v1 holds are read for ever.
func TestOldKeys(t *testing.T) {
	const stored = "testdata/keys.v1"
	if _, err := os.Stat(stored); errors.Is(err, os.ErrNotExist) && os.Getenv("REBOUND_MAKE_FIXTURES") != "" {
		dir := t.TempDir()
		if _, err := Open(vfs.OS{}, dir, parse(t, hexKey("a")), false); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(dir, fileName))
		if err == nil {
			err = os.MkdirAll("testdata", 0o755)
		}
		if err == nil {
			err = os.WriteFile(stored, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(stored)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, copyName), b, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := Open(vfs.OS{}, dir, parse(t, hexKey("a")), true)
	if err != nil || r.Current() == nil {
		t.Fatalf("%v", err)
	}
	if info, err := Look(vfs.OS{}, dir); err != nil || info.Key != r.Current().ID().String() {
		t.Errorf("%+v, %v", info, err)
	}
	if _, err := r.Key(segment.KeyID{1}); !problem.HasCode(err, problem.KeyMissing) {
		t.Errorf("a key that is not there: %v", err)
	}
	if _, err := Open(vfs.OS{}, dir, parse(t, hexKey("b")), true); !problem.HasCode(err, problem.KeyWrong) {
		t.Errorf("another wrapping key: %v", err)
	}
}

func FuzzKeysFile(f *testing.F) {
	b, err := envelope.Seal(magic, keysFile{Keys: []wrappedKey{{ID: "00", WrappedBy: "11", Sealed: []byte("x")}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[envelope.HeadSize : len(b)-4])
	w := parse(f, hexKey("a"))
	f.Fuzz(func(t *testing.T, b []byte) {
		fs := vfs.NewMem(0)
		if err := envelope.Write(fs, "/"+fileName, b); err != nil {
			t.Fatal(err)
		}
		if r, err := Open(fs, "/", w, true); err == nil && r.Current() == nil {
			t.Fatal("opened without a key")
		}
	})
}
