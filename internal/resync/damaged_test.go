package resync

import (
	"bytes"
	"context"
	"testing"

	"rebound/internal/block"
	"rebound/internal/link"
	"rebound/internal/problem"
)

// rotten is a device of which one range cannot be read.
type rotten struct {
	block.Device
	off, length int64
}

func (r rotten) ReadAt(ctx context.Context, p []byte, off int64) error {
	if off < r.off+r.length && r.off < off+int64(len(p)) {
		return problem.New(problem.JournalDamaged, "rot at %d", r.off)
	}
	return r.Device.ReadAt(ctx, p, off)
}

// TestDamageDiffers: what the standby cannot read any more is like nothing at
// the source, so that a comparison sends it again; the rest is as it is.
func TestDamageDiffers(t *testing.T) {
	disk := &memDisk{data: bytes.Repeat([]byte("rebound "), 64<<10/8)}
	sound := NewStandby(func(uint16) (block.Device, error) { return disk, nil }, nil)
	hurt := NewStandby(func(uint16) (block.Device, error) { return rotten{disk, 12288, 100}, nil }, nil)
	req := &link.CompareRequest{Runs: []link.CompareRun{{Off: 4096, Len: 32768, Unit: 4096}}}
	want, err := sound.Hashes(t.Context(), req, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := hurt.Hashes(t.Context(), req, nil)
	if err != nil || len(got) != len(want) {
		t.Fatalf("%d bytes of hashes, want %d: %v", len(got), len(want), err)
	}
	for i := 0; i < len(want); i += link.HashSize {
		same := bytes.Equal(got[i:i+link.HashSize], want[i:i+link.HashSize])
		if damaged := i/link.HashSize == 2; same == damaged {
			t.Errorf("unit %d: same %v, damaged %v", i/link.HashSize, same, damaged)
		}
	}
}
