package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/extent"
	"rebound/internal/segment"
)

var update = flag.Bool("update", false, "write golden files anew")

func goldenManifest() manifest {
	at := dr.Position{Generation: 2, Epoch: 5, Seq: 77}
	when := time.Unix(1700000000, 5).UTC()
	a := anchor{
		Position: at, Time: when,
		Epoch:       epochState{Generation: 2, Epoch: 5, Last: 77, Confirmed: 77, Syncs: []syncWindow{{1, 9}}},
		Points:      []dr.Point{{ID: "p1", Kind: dr.Bookmark, Name: "n", Position: at, Time: when}},
		Definitions: []machineVersion{{"vm", at, []byte(`{"name":"vm"}`)}},
	}
	return manifest{
		Group: "g", OwnerEpoch: 3, Owner: ownerJournal, Generation: 2, Epoch: 6, EpochGeneration: 2,
		Disks: []dr.GroupDisk{{Machine: "vm", Disk: "disk0", SizeBytes: 4096}}, BasePaths: []string{"/b"},
		RedoWindow: time.Hour, Created: when, Seeded: true, Anchor: a,
		Folding:      &folding{From: at, To: dr.Position{Generation: 2, Epoch: 5, Seq: 99}, Next: a},
		FirstSegment: 4, Views: []View{{ID: "v", Machine: "vm", Position: at, Purpose: "test", Socket: "/s", Created: when}},
	}
}

// TestGolden holds the formats still: a change needs a new version.
func TestGolden(t *testing.T) {
	m := goldenManifest()
	files := map[string]struct {
		magic [8]byte
		v     any
	}{
		"manifest": {manifestMagic, m},
		"rollback": {rollbackMagic, rollbackFile{"g", m.Anchor.Position, map[uint16][]extent.Range{1: {{Off: 4096, Len: 512}}}}},
	}
	for name, f := range files {
		got, err := sealEnvelope(f.magic, f.v)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", name+".v1")
		if *update {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s differs from its golden bytes:\n%q\n%q", name, got, want)
		}
		v := reflect.New(reflect.TypeOf(f.v))
		if err := openEnvelope(f.magic, want, v.Interface()); err != nil || !reflect.DeepEqual(v.Elem().Interface(), f.v) {
			t.Errorf("%s reads as %+v, %v", name, v.Elem(), err)
		}
		for i := range want {
			want[i] ^= 1
			if err := openEnvelope(f.magic, want, new(manifest)); !errors.Is(err, segment.ErrDamaged) {
				t.Fatalf("%s with byte %d flipped: %v", name, i, err)
			}
			want[i] ^= 1
			if err := openEnvelope(f.magic, want[:i], new(manifest)); !errors.Is(err, segment.ErrDamaged) {
				t.Fatalf("%s cut at %d: %v", name, i, err)
			}
		}
	}
}

// FuzzManifest gets past the checksum to what lies behind.
func FuzzManifest(f *testing.F) {
	m := goldenManifest()
	b, err := sealEnvelope(manifestMagic, m)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[envelopeHead : len(b)-4])
	f.Fuzz(func(t *testing.T, body []byte) {
		b := append([]byte(nil), manifestMagic[:]...)
		b = binary.LittleEndian.AppendUint64(b, uint64(len(body)))
		b = append(b, body...)
		b = binary.LittleEndian.AppendUint32(b, segment.Checksum(b))
		var m manifest
		if openEnvelope(manifestMagic, b, &m) != nil {
			return
		}
		again, err := m.clone()
		if err != nil {
			return // a definition that is no JSON
		}
		if again.Anchor.Position != m.Anchor.Position || again.Generation != m.Generation {
			t.Fatalf("%+v copies as %+v", m, again)
		}
	})
}
