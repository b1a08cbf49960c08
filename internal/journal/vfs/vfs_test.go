package vfs

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"syscall"
	"testing"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// both runs a test on the real file system and on the one in memory.
func both(t *testing.T, f func(t *testing.T, fsys FS, dir string)) {
	t.Run("os", func(t *testing.T) { f(t, OS{}, t.TempDir()) })
	t.Run("mem", func(t *testing.T) { f(t, NewMem(0), "/dir") })
}

func TestFiles(t *testing.T) {
	both(t, func(t *testing.T, fsys FS, dir string) {
		name := filepath.Join(dir, "a")
		if _, err := fsys.Open(name, false); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("open: %v", err)
		}
		f, err := fsys.Create(name)
		must(t, err)
		if _, err := fsys.Create(name); !errors.Is(err, fs.ErrExist) {
			t.Errorf("create twice: %v", err)
		}
		must(t, f.Truncate(1<<20))
		_, err = f.WriteAt(bytes.Repeat([]byte{7}, 8192), 64<<10)
		must(t, err)
		must(t, f.Zero(64<<10, 4096))
		must(t, f.Sync())
		start, end, err := f.NextData(0)
		must(t, err)
		if start > 68<<10 || end < 72<<10 {
			t.Errorf("data said to be [%d, %d)", start, end)
		}
		if start, end, err = f.NextData(1 << 19); err != nil || start != 1<<20 || end != 1<<20 {
			t.Errorf("data behind the last: [%d, %d), %v", start, end, err)
		}
		got := make([]byte, 8192)
		_, err = f.ReadAt(got, 64<<10)
		must(t, err)
		if !bytes.Equal(got, append(make([]byte, 4096), bytes.Repeat([]byte{7}, 4096)...)) {
			t.Error("content differs")
		}
		must(t, f.Close())
		must(t, fsys.Rename(name, filepath.Join(dir, "b")))
		must(t, fsys.SyncDir(dir))
		if names, err := fsys.ReadDir(dir); err != nil || len(names) != 1 || names[0] != "b" {
			t.Errorf("names %v, %v", names, err)
		}
		must(t, fsys.Remove(filepath.Join(dir, "b")))
	})
}

func TestLocks(t *testing.T) {
	both(t, func(t *testing.T, fsys FS, dir string) {
		name := filepath.Join(dir, "lock")
		a, err := fsys.Lock(name, true)
		must(t, err)
		b, err := fsys.Lock(name, true)
		must(t, err)
		if _, err := fsys.Lock(name, false); !errors.Is(err, ErrLocked) {
			t.Errorf("exclusive beside shared: %v", err)
		}
		must(t, a.Unlock())
		must(t, b.Unlock())
		c, err := fsys.Lock(name, false)
		must(t, err)
		if _, err := fsys.Lock(name, true); !errors.Is(err, ErrLocked) {
			t.Errorf("shared beside exclusive: %v", err)
		}
		must(t, c.Unlock())
	})
}

// TestMemCrash: what was synced stays; of the rest every mixture is found
// sooner or later.
func TestMemCrash(t *testing.T) {
	seen := map[string]bool{}
	for seed := range uint64(200) {
		m := NewMem(0)
		f, err := m.Create("/d/a")
		must(t, err)
		_, err = f.WriteAt(bytes.Repeat([]byte{1}, 1024), 0)
		must(t, err)
		must(t, f.Sync())
		must(t, m.SyncDir("/d"))
		_, err = f.WriteAt(bytes.Repeat([]byte{2}, 1024), 0)
		must(t, err)
		g, err := m.Create("/d/b")
		must(t, err)
		must(t, g.Sync())
		m.Crash(rand.New(rand.NewPCG(seed, 0)))
		if _, err := f.WriteAt([]byte{3}, 0); !errors.Is(err, fs.ErrClosed) {
			t.Fatalf("a file of the earlier life: %v", err)
		}
		f, err = m.Open("/d/a", true)
		must(t, err)
		b := make([]byte, 1024)
		_, err = f.ReadAt(b, 0)
		must(t, err)
		for _, c := range [][]byte{b[:512], b[512:]} {
			if !bytes.Equal(c, bytes.Repeat(c[:1], 512)) || c[0] < 1 || c[0] > 2 {
				t.Fatal("a sector is torn, or synced content lost")
			}
		}
		_, err = m.Open("/d/b", true)
		seen[string([]byte{'0' + b[0], '0' + b[512]})] = true
		seen[map[bool]string{true: "name", false: "no name"}[err == nil]] = true
	}
	if len(seen) != 6 {
		t.Errorf("not every outcome was met: %v", seen)
	}
}

func TestMemRoom(t *testing.T) {
	m := NewMem(1000)
	f, err := m.Create("/d/a")
	must(t, err)
	if _, err := f.WriteAt(make([]byte, 1001), 0); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("beyond the room: %v", err)
	}
	_, err = f.WriteAt(make([]byte, 900), 0)
	must(t, err)
	if free, _ := m.Free("/d"); free != 100 {
		t.Errorf("%d bytes free", free)
	}
}
