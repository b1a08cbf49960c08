package statefile

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

type value struct {
	Name string
	N    int
}

func TestRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v.json")
	var got value
	if ok, err := Load(path, &got); ok || err != nil {
		t.Fatalf("Load of nothing: %v, %v", ok, err)
	}
	for _, want := range []value{{"a", 1}, {"b", 2}} {
		if err := Save(path, want); err != nil {
			t.Fatal(err)
		}
		if ok, err := Load(path, &got); !ok || err != nil || got != want {
			t.Fatalf("Load = %+v, %v, %v; want %+v", got, ok, err, want)
		}
	}
	if err := Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := Remove(path); err != nil {
		t.Errorf("second Remove: %v", err)
	}
}

func TestDamageIsNoticed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v.json")
	if err := Save(path, value{"name", 7}); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bad := [][]byte{bytes.Replace(whole, []byte("name"), []byte("nane"), 1), whole[:len(whole)/2], []byte("{}"), bytes.Replace(whole, []byte(`"version":1`), []byte(`"version":2`), 1)}
	for _, text := range bad {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		var v value
		if ok, err := Load(path, &v); ok || err == nil {
			t.Errorf("Load of %q: %v, %v", text, ok, err)
		}
	}
}
