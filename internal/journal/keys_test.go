package journal

import (
	"bytes"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/journal/keyring"
	"rebound/internal/problem"
	"rebound/internal/segment"
)

const (
	keyA = "00112233445566778899aabbccddeeff00112233445566778899aabbccddee01"
	keyB = "00112233445566778899aabbccddeeff00112233445566778899aabbccddee02"
)

func wrapping(t *testing.T, keys ...string) *keyring.Wrapping {
	t.Helper()
	w, err := keyring.Parse([]byte(strings.Join(keys, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// files returns the content of all files of a directory, by path.
func files(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out[path], err = os.ReadFile(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestEncryptedAtRest: redo from before there was a key stays as it is, what comes
// later is encrypted, and all of it is read; sealed segments and the growing one.
func TestEncryptedAtRest(t *testing.T) {
	const size = 1 << 20
	secret := make([]byte, 7000)
	if _, err := rand.Read(secret); err != nil {
		t.Fatal(err)
	}
	j, dir, _ := realJournal(t, size)
	content := make([]byte, size)
	f := newFeed(t, j, content)
	f.add(segment.Entry{Kind: segment.KindWrite, Data: bytes.Repeat([]byte("open"), 1024)})
	f.must(j.Close())

	open := func(w *keyring.Wrapping) (*Journal, error) {
		return Open(t.Context(), dir, Options{ReserveBytes: 1 << 20, SegmentBytes: 64 << 10, Keys: w})
	}
	var err error
	if f.j, err = open(wrapping(t, keyA)); err != nil {
		t.Fatal(err)
	}
	for i := range int64(30) { // several segments
		f.add(segment.Entry{Kind: segment.KindWrite, Offset: 8192 + i*16384, Data: secret})
		f.add(segment.Entry{Kind: segment.KindMarker, Data: mustBinary(segment.Marker{ID: dr.PointID("secret-point"), Kind: dr.CrashConsistent, Time: time.Now()})})
	}
	head := f.beacon(time.Now())
	_, err = f.j.Sync()
	f.must(err)
	f.must(f.j.Close())
	before := files(t, dir)
	for path, b := range before {
		if bytes.Contains(b, secret[:64]) || (strings.Contains(path, redoDir) && bytes.Contains(b, []byte("secret-point"))) {
			t.Errorf("%s holds readable content", path)
		}
	}

	for name, c := range map[string]struct {
		w    *keyring.Wrapping
		code problem.Code
	}{"no key": {nil, problem.KeyMissing}, "another key": {wrapping(t, keyB), problem.KeyWrong}} {
		if _, err := open(c.w); !problem.HasCode(err, c.code) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for path, b := range files(t, dir) {
		if !bytes.Equal(b, before[path]) {
			t.Errorf("%s was changed by an opening that was refused", path)
		}
	}

	// The wrapping key is changed: both are there once, then the new one alone.
	for _, w := range []*keyring.Wrapping{wrapping(t, keyB, keyA), wrapping(t, keyB)} {
		if f.j, err = open(w); err != nil {
			t.Fatal(err)
		}
		dev, err := f.j.OpenView(t.Context(), head, 0)
		f.must(err)
		got := make([]byte, size)
		f.must(dev.ReadAt(t.Context(), got, 0))
		f.must(dev.Close())
		if !bytes.Equal(got, content) {
			t.Error("the view differs")
		}
		rep, err := f.j.Verify(t.Context())
		if err != nil || len(rep.Damages) > 0 {
			t.Errorf("%+v, %v", rep.Damages, err)
		}
		f.must(f.j.Close())
	}
	if _, err := open(wrapping(t, keyA)); !problem.HasCode(err, problem.KeyWrong) {
		t.Errorf("the old key still opens it: %v", err)
	}

	// One copy of the keys is lost, the other serves and makes it again.
	f.must(os.WriteFile(filepath.Join(dir, "keys"), []byte("rot"), 0o600))
	if f.j, err = open(wrapping(t, keyB)); err != nil {
		t.Fatal(err)
	}
	f.must(f.j.Close())
	f.must(os.Remove(filepath.Join(dir, "keys.copy")))
	if f.j, err = open(wrapping(t, keyB)); err != nil {
		t.Fatal(err)
	}
	f.must(f.j.Close())
	in, err := Inspect(dir, nil)
	if err != nil || in.Keys.WrappedBy != wrapping(t, keyB).IDs()[0].String() || len(in.Segments) < 3 || in.Segments[1].Error != "" {
		t.Errorf("%+v, %v", in, err)
	}
}
