package image

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/lab/wire"
)

func guest(fw dr.Firmware, seed uint64) Guest {
	return Guest{Firmware: fw, Dir: "x", BallastMiB: 3, Seed: seed, Config: wire.GuestConfig{Name: "alpha"}}
}

func TestPartitionTables(t *testing.T) {
	for _, fw := range []dr.Firmware{dr.BIOS, dr.UEFI} {
		for index := range 2 {
			d, err := newLayout(guest(fw, 7), index)
			if err != nil {
				t.Fatal(err)
			}
			f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := f.Truncate(d.size); err != nil {
				t.Fatal(err)
			}
			if err := d.writeTable(f); err != nil {
				t.Fatal(err)
			}
			got, err := Partitions(f)
			if err != nil || !slices.Equal(got, d.parts()) {
				t.Errorf("%s disk%d: Partitions = %v, %v; want %v", fw, index, got, err, d.parts())
			}
			if fw == dr.UEFI {
				// A tool that others wrote must find no fault.
				out, err := exec.Command("sgdisk", "--verify", f.Name()).CombinedOutput()
				if err != nil || !bytes.Contains(out, []byte("No problems found")) {
					t.Errorf("sgdisk: %v: %s", err, out)
				}
				damageGPT(t, f)
			}
		}
	}
}

func damageGPT(t *testing.T, f *os.File) {
	t.Helper()
	if _, err := f.WriteAt([]byte{0x7e}, 2*sector+40); err != nil {
		t.Fatal(err)
	}
	if _, err := Partitions(f); err == nil {
		t.Error("Partitions reads a damaged GPT")
	}
}

func TestPartitionsRefusesNothing(t *testing.T) {
	for _, b := range [][]byte{nil, make([]byte, 100), make([]byte, 4096)} {
		if p, err := Partitions(bytes.NewReader(b)); err == nil {
			t.Errorf("Partitions of %d zero bytes = %v", len(b), p)
		}
	}
}

// TestLayouts: partitions never overlap, are aligned, fit, and move with the
// seed.
func TestLayouts(t *testing.T) {
	places := make(map[Partition]bool)
	for seed := range uint64(64) {
		for index := range 2 {
			d, err := newLayout(guest(dr.UEFI, seed), index)
			if err != nil {
				t.Fatal(err)
			}
			parts := d.parts()
			slices.SortFunc(parts, func(a, b Partition) int { return int(a.Offset - b.Offset) })
			at := int64(mib)
			for _, p := range parts {
				if p.Offset < at || p.Offset%4096 != 0 || p.Size == 0 {
					t.Fatalf("seed %d disk%d: %v", seed, index, parts)
				}
				at = p.Offset + p.Size
			}
			if at+gptSectors*sector+sector > d.size || d.size%mib != 0 {
				t.Fatalf("seed %d disk%d: %v on %d bytes", seed, index, parts, d.size)
			}
			places[d.fs] = true
		}
	}
	if len(places) < 30 {
		t.Errorf("64 seeds give %d places only", len(places))
	}
}

func TestBallast(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := Ballast{Offset: 12345, Size: 2*mib + 77, Seed: 3, Name: "alpha/disk0"}
	if err := b.write(f); err != nil {
		t.Fatal(err)
	}
	if err := b.Verify(f); err != nil {
		t.Error(err)
	}
	other := b
	other.Seed++
	if err := other.Verify(f); err == nil {
		t.Error("another seed gives the same data")
	}
	if _, err := f.WriteAt([]byte{1, 2, 3}, b.Offset+b.Size-3); err != nil {
		t.Fatal(err)
	}
	if err := b.Verify(f); err == nil {
		t.Error("a change of the last bytes is not seen")
	}
}

// TestArchive: an independent cpio reads what we write.
func TestArchive(t *testing.T) {
	var buf bytes.Buffer
	a := &archive{w: &buf}
	a.add(entry{name: "modules", mode: modeDir | 0o755})
	a.add(entry{name: "modules/order", mode: modeFile | 0o644, data: []byte("one\ntwo\n")})
	a.add(entry{name: "init", mode: modeFile | 0o755, data: []byte("x")})
	if err := a.finish(); err != nil {
		t.Fatal(err)
	}
	if buf.Len()%4 != 0 {
		t.Errorf("archive of %d bytes is not aligned", buf.Len())
	}
	dir := t.TempDir()
	cmd := exec.Command("busybox", "cpio", "-idm")
	cmd.Dir, cmd.Stdin = dir, &buf
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v: %s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "modules/order"))
	if err != nil || string(b) != "one\ntwo\n" {
		t.Errorf("order = %q, %v", b, err)
	}
	if st, err := os.Stat(filepath.Join(dir, "init")); err != nil || st.Mode() != 0o755 || st.Size() != 1 {
		t.Errorf("init: %v, %v", st, err)
	}
}

func TestLoadOrder(t *testing.T) {
	b, err := NewBuilder(Config{CacheDir: os.Getenv("REBOUND_LAB_CACHE")})
	if err != nil {
		t.Fatal(err)
	}
	k, err := b.kernel(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	order, err := k.loadOrder(append(baseModules(), scsiModules()...))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"virtio_pci", "virtio_blk", "virtio_net", "evdev", "button", "virtio_scsi", "sd_mod"} {
		at := slices.Index(order, name)
		if at < 0 {
			t.Errorf("no %s in %v", name, order)
			continue
		}
		deps, err := moduleDepends(k.modules[name])
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range deps {
			if i := slices.Index(order, d); i < 0 || i > at {
				t.Errorf("%s needs %s before it: %v", name, d, order)
			}
		}
	}
}

func TestValidate(t *testing.T) {
	for name, change := range map[string]func(*Guest){
		"name":     func(g *Guest) { g.Config.Name = "a b" },
		"firmware": func(g *Guest) { g.Firmware = "coreboot" },
		"dir":      func(g *Guest) { g.Dir = "" },
		"ballast":  func(g *Guest) { g.BallastMiB = -1 },
	} {
		g := guest(dr.BIOS, 1)
		if err := g.Validate(); err != nil {
			t.Fatal(err)
		}
		change(&g)
		if err := g.Validate(); err == nil {
			t.Errorf("bad %s: no error", name)
		}
	}
}

func TestUUID(t *testing.T) {
	u := randomUUID(newRandom(1, "x"))
	if len(u) != 36 || u[14] != '4' || !strings.ContainsRune("89ab", rune(u[19])) {
		t.Errorf("UUID %s", u)
	}
	if u != randomUUID(newRandom(1, "x")) || u == randomUUID(newRandom(2, "x")) {
		t.Error("UUIDs do not follow the seed")
	}
}

func TestCache(t *testing.T) {
	b, err := NewBuilder(Config{CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	made := 0
	get := func(name string) string {
		t.Helper()
		path, err := b.cached(name, func(tmp string) error {
			made++
			return os.WriteFile(tmp, []byte(name), 0o600)
		})
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	old, kernel := get("boot-old"), get("kernel-1")
	if get("boot-old") != old || made != 2 {
		t.Errorf("made %d entries, want 2", made)
	}
	past := time.Now().Add(-cacheLife - time.Hour)
	for _, p := range []string{old, kernel} {
		if err := os.Chtimes(p, past, past); err != nil {
			t.Fatal(err)
		}
	}
	get("boot-new")
	if _, err := os.Stat(old); err == nil {
		t.Error("an entry that nobody used for long is kept")
	}
	if _, err := os.Stat(kernel); err != nil {
		t.Error("the kernel is gone")
	}
	if _, err := b.cached("boot-bad", func(string) error { return os.ErrInvalid }); err == nil {
		t.Error("a failure is not told")
	}
	if left, _ := filepath.Glob(filepath.Join(b.cfg.CacheDir, ".making-*")); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}
