package block_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"rebound/internal/block"
	"rebound/internal/block/blocktest"
)

func newFile(t *testing.T, size int64, o block.FileOptions) (*block.File, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	o.CreateSize = size
	d, err := block.OpenFile(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d, path
}

func TestConformance(t *testing.T) {
	t.Run("memory", func(t *testing.T) {
		blocktest.Run(t, func(*testing.T) block.Device { return block.NewMemory(blocktest.Size) })
	})
	t.Run("file", func(t *testing.T) {
		blocktest.Run(t, func(t *testing.T) block.Device {
			d, _ := newFile(t, blocktest.Size, block.FileOptions{Lock: true})
			return d
		})
	})
	t.Run("slice", func(t *testing.T) {
		blocktest.Run(t, func(t *testing.T) block.Device {
			d, err := block.Slice(block.NewMemory(blocktest.Size+20000), 10001, blocktest.Size)
			if err != nil {
				t.Fatal(err)
			}
			return d
		})
	})
	t.Run("faulty without faults", func(t *testing.T) {
		blocktest.Run(t, func(*testing.T) block.Device { return block.NewFaulty(block.NewMemory(blocktest.Size)) })
	})
}

func TestFileIsSparse(t *testing.T) {
	ctx := t.Context()
	d, path := newFile(t, 64<<20, block.FileOptions{})
	data := bytes.Repeat([]byte{7}, 4<<20)
	if err := d.WriteAt(ctx, data, 16<<20); err != nil {
		t.Fatal(err)
	}
	if err := d.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	es, err := d.Extents(ctx, 0, d.Size())
	if err != nil {
		t.Fatal(err)
	}
	want := []block.Extent{{16 << 20, true, true}, {4 << 20, false, false}, {44 << 20, true, true}}
	if len(es) != len(want) {
		t.Fatalf("extents %+v, want %+v", es, want)
	}
	for i := range es {
		if es[i] != want[i] {
			t.Fatalf("extents %+v, want %+v", es, want)
		}
	}
	if got := allocated(t, path); got < 4<<20 || got > 5<<20 {
		t.Fatalf("file takes %d bytes, wrote 4 MiB", got)
	}
	if err := d.WriteZeroes(ctx, 16<<20, 2<<20); err != nil {
		t.Fatal(err)
	}
	if err := d.Trim(ctx, 18<<20, 1<<20); err != nil {
		t.Fatal(err)
	}
	if got := allocated(t, path); got > 3<<19+1<<19 {
		t.Fatalf("file takes %d bytes after punching 3 of 4 MiB", got)
	}
}

func allocated(t *testing.T, path string) int64 {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.Sys().(*syscall.Stat_t).Blocks * 512
}

func TestReadOnly(t *testing.T) {
	_, path := newFile(t, 8192, block.FileOptions{})
	ro, err := block.OpenFile(path, block.FileOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer ro.Close()
	for name, d := range map[string]block.Device{"file": ro, "decorator": block.ReadOnly(block.NewMemory(8192))} {
		ctx := t.Context()
		for call, err := range map[string]error{
			"WriteAt":     d.WriteAt(ctx, make([]byte, 512), 0),
			"WriteZeroes": d.WriteZeroes(ctx, 0, 512),
			"Trim":        d.Trim(ctx, 0, 512),
		} {
			if !errors.Is(err, block.ErrReadOnly) {
				t.Errorf("%s: %s = %v, want ErrReadOnly", name, call, err)
			}
		}
		if err := d.ReadAt(ctx, make([]byte, 512), 0); err != nil {
			t.Errorf("%s: ReadAt: %v", name, err)
		}
	}
}

func TestLockExcludesOurselves(t *testing.T) {
	d, path := newFile(t, 8192, block.FileOptions{Lock: true})
	for _, o := range []block.FileOptions{{Lock: true}, {Lock: true, ReadOnly: true}} {
		if second, err := block.OpenFile(path, o); !errors.Is(err, block.ErrLocked) {
			t.Errorf("second %+v = %v, %v; want ErrLocked", o, second, err)
		}
	}
	d.Close()
	first, err := block.OpenFile(path, block.FileOptions{Lock: true, ReadOnly: true})
	if err != nil {
		t.Fatalf("reader after close: %v", err)
	}
	defer first.Close()
	second, err := block.OpenFile(path, block.FileOptions{Lock: true, ReadOnly: true})
	if err != nil {
		t.Fatalf("two readers: %v", err)
	}
	defer second.Close()
	if w, err := block.OpenFile(path, block.FileOptions{Lock: true}); !errors.Is(err, block.ErrLocked) {
		t.Errorf("writer beside readers = %v, %v; want ErrLocked", w, err)
	}
}

func TestTruncatedFileIsAnError(t *testing.T) {
	d, path := newFile(t, 8192, block.FileOptions{})
	if err := os.Truncate(path, 4096); err != nil {
		t.Fatal(err)
	}
	if err := d.ReadAt(t.Context(), make([]byte, 4096), 2048); err == nil {
		t.Fatal("read beyond the end of a file that was cut short succeeded")
	}
}

type reporter struct{ lines []string }

func (r *reporter) Helper()                      {}
func (r *reporter) Errorf(f string, args ...any) { r.lines = append(r.lines, f) }

func TestFaulty(t *testing.T) {
	ctx := t.Context()
	mem := block.NewMemory(1 << 20)
	f := block.NewFaulty(mem)
	f.On(block.CallWrite).In(4096, 4096).After(1).Times(1).Torn(100, syscall.EIO)
	f.On(block.CallFlush).Fail(syscall.ENOSPC).Times(2)
	var before reporter
	f.AssertFired(&before)
	if len(before.lines) != 2 {
		t.Errorf("AssertFired reported %q, want both plans", before.lines)
	}
	p := bytes.Repeat([]byte{9}, 512)
	for i, want := range []error{nil, syscall.EIO, nil} {
		p[0] = byte(i)
		if err := f.WriteAt(ctx, p, 4096+512*int64(i)); !errors.Is(err, want) {
			t.Errorf("write %d = %v, want %v", i, err, want)
		}
	}
	if err := f.WriteAt(ctx, p, 0); err != nil {
		t.Errorf("write elsewhere: %v", err)
	}
	got := make([]byte, 512)
	if err := mem.ReadAt(ctx, got, 4096+512); err != nil || got[99] != 9 || got[100] != 0 {
		t.Errorf("torn write left %d, %d (%v), want 9, 0", got[99], got[100], err)
	}
	for _, want := range []error{syscall.ENOSPC, syscall.ENOSPC, nil} {
		if err := f.Flush(ctx); !errors.Is(err, want) {
			t.Errorf("flush = %v, want %v", err, want)
		}
	}
	f.AssertFired(t)
}

func TestFaultyHold(t *testing.T) {
	f := block.NewFaulty(block.NewMemory(4096))
	release := make(chan struct{})
	f.On(block.CallRead).Hold(release).Times(1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.ReadAt(ctx, make([]byte, 1), 0); !errors.Is(err, context.Canceled) {
		t.Errorf("held read under an ended context = %v", err)
	}
	close(release)
	f.AssertFired(t)
}
