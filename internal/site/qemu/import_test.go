package qemu

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/extent"
	"rebound/internal/problem"
	"rebound/internal/qmp"
	"rebound/internal/site"
)

// startForeign starts a QEMU as somebody would by hand, with -drive.
func startForeign(t *testing.T, dir string, extra ...string) string {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(dir, "a.img"), make([]byte, 1<<20), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "b.img"), make([]byte, 2<<20), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "cd.iso"), make([]byte, 1<<20), 0o600))
	args := append([]string{
		"-name", "guest=old-one", "-machine", "pc", "-accel", "tcg", "-display", "none", "-S", "-m", "48", "-smp", "2",
		"-uuid", "11111111-2222-4333-8444-555555555555", "-qmp", "unix:q,server=on,wait=off",
		"-drive", "file=a.img,format=raw,if=virtio", "-drive", "file=" + filepath.Join(dir, "b.img") + ",format=raw,if=ide",
		"-drive", "file=cd.iso,format=raw,media=cdrom",
		"-nic", "user,model=e1000,mac=52:54:00:aa:bb:cc",
	}, extra...)
	cmd := exec.Command("qemu-system-x86_64", args...)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	path := filepath.Join(dir, "q")
	ctx := testContext(t)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := qmp.Dial(ctx, path)
		if err == nil {
			must(t, c.Close())
			return path
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
		<-tick.C
	}
}

func TestImport(t *testing.T) {
	needQEMU(t)
	dir, err := os.MkdirTemp("", "rbimp")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := startForeign(t, dir)
	d, err := New(Config{Dir: filepath.Join(dir, "s"), Accel: "tcg"})
	must(t, err)
	t.Cleanup(func() { _ = d.Close() })
	ctx := testContext(t)
	m, err := d.Import(ctx, socket, "")
	must(t, err)
	def := m.Definition
	if def.Name != "old-one" || def.CPUs != 2 || def.MemoryMiB != 48 || def.UUID != "11111111-2222-4333-8444-555555555555" || def.Firmware != dr.BIOS || !m.Imported || m.State != site.Paused {
		t.Errorf("imported %+v", m)
	}
	if want := []dr.NIC{{MAC: "52:54:00:aa:bb:cc", Network: "default", Model: "e1000"}}; !slices.Equal(def.NICs, want) {
		t.Errorf("cards %v, want %v", def.NICs, want)
	}
	paths := map[int64]string{1 << 20: "a.img", 2 << 20: "b.img"}
	if len(def.Disks) != 2 {
		t.Fatalf("disks %v, want two without the CD-ROM", def.Disks)
	}
	for _, disk := range def.Disks {
		got, err := d.DiskPath(ctx, "old-one", disk.ID)
		must(t, err)
		if want := filepath.Join(dir, paths[disk.SizeBytes]); got != want {
			t.Errorf("disk %s lies at %s, want %s", disk.ID, got, want)
		}
	}
	if _, err := d.Import(ctx, socket, "old-one"); err != nil {
		t.Errorf("importing again: %v", err)
	}
	if _, err := d.Import(ctx, filepath.Join(dir, "none"), "x"); !problem.HasCode(err, problem.HypervisorError) {
		t.Errorf("importing nothing = %v", err)
	}
	captureImported(t, d, dir, def)
}

// captureImported: disks given by -drive have nodes without names.
func captureImported(t *testing.T, d *Driver, dir string, def dr.Definition) {
	ctx := testContext(t)
	path := filepath.Join(dir, "cap.sock")
	disk := def.Disks[slices.IndexFunc(def.Disks, func(x dr.DiskSpec) bool { return x.Bus == "virtio" })]
	r := startRecorder(t, path, 1, disk.SizeBytes)
	must(t, d.BeginBitmap(ctx, "old-one", "rebound-1"))
	must(t, d.Attach(ctx, "old-one", []site.CaptureTarget{{Disk: disk.ID, Socket: path, Export: "x0"}}))
	guestWrite(t, d, "old-one", disk.ID, 9, 8192, 4096)
	if r.count("x0") != 1 {
		t.Errorf("%d writes arrived, want 1", r.count("x0"))
	}
	set, err := d.Dirty(ctx, "old-one", disk.ID, []string{"rebound-1"})
	must(t, err)
	if want := []extent.Range{{Off: 8192, Len: 4096}}; !slices.Equal(set.Runs(), want) {
		t.Errorf("dirty %v, want %v", set.Runs(), want)
	}
	must(t, d.Quiesce(ctx, "old-one", site.Hard, time.Second))
	must(t, d.Detach(ctx, "old-one"))
}

func TestDisksInIOThreadsAreRefused(t *testing.T) {
	needQEMU(t)
	dir, err := os.MkdirTemp("", "rbimp")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	must(t, os.WriteFile(filepath.Join(dir, "c.img"), make([]byte, 4<<20), 0o600))
	socket := startForeign(t, dir, "-object", "iothread,id=io0", "-drive", "file=c.img,format=raw,if=none,id=c", "-device", "virtio-blk-pci,drive=c,iothread=io0")
	d, err := New(Config{Dir: filepath.Join(dir, "s"), Accel: "tcg"})
	must(t, err)
	t.Cleanup(func() { _ = d.Close() })
	ctx := testContext(t)
	m, err := d.Import(ctx, socket, "")
	must(t, err)
	for _, disk := range m.Definition.Disks {
		dev, err := d.OpenSource(ctx, "old-one", disk.ID)
		if refused := problem.HasCode(err, problem.DiskNotSupported); refused != (disk.SizeBytes == 4<<20) {
			t.Errorf("disk of %d bytes: OpenSource = %v", disk.SizeBytes, err)
		}
		if err == nil {
			must(t, dev.Close())
		}
	}
}

// TestImportKeepsTheBootOrder: QEMU lists disks of -drive before those of
// -blockdev, whatever the firmware boots from.
func TestImportKeepsTheBootOrder(t *testing.T) {
	needQEMU(t)
	dir, err := os.MkdirTemp("", "rbimp")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for name, size := range map[string]int{"c.img": 4 << 20, "d.img": 8 << 20} {
		must(t, os.WriteFile(filepath.Join(dir, name), make([]byte, size), 0o600))
	}
	socket := startForeign(
		t, dir,
		"-blockdev", "node-name=c,driver=raw,file.driver=file,file.filename=c.img", "-device", "virtio-blk-pci,drive=c,bootindex=0",
		"-blockdev", "node-name=d,driver=raw,file.driver=file,file.filename=d.img", "-device", "virtio-blk-pci,drive=d,addr=0x1f",
	)
	d, err := New(Config{Dir: filepath.Join(dir, "s"), Accel: "tcg"})
	must(t, err)
	t.Cleanup(func() { _ = d.Close() })
	m, err := d.Import(testContext(t), socket, "")
	must(t, err)
	var sizes []int64
	for _, disk := range m.Definition.Disks {
		sizes = append(sizes, disk.SizeBytes>>20)
	}
	if want := []int64{4, 2, 1, 8}; !slices.Equal(sizes, want) {
		t.Errorf("disks of %v MiB, want %v: the one with a bootindex first, then IDE, then by PCI address", sizes, want)
	}
}
