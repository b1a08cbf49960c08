package qemu

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/qmp"
	"rebound/internal/site"
)

// needQEMU skips where QEMU is missing; the project's test machine has it.
func needQEMU(t *testing.T) {
	t.Helper()
	for _, tool := range []string{"qemu-system-x86_64", "qemu-img", "qemu-nbd"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is missing", tool)
		}
	}
}

// testWriter sends a driver's log to the test's.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}

// openDriver returns a driver on TCG whose machines are gone at the test's end.
func openDriver(t *testing.T, dir string) *Driver {
	t.Helper()
	d, err := New(Config{Dir: dir, Accel: "tcg", Logger: slog.New(slog.NewTextHandler(testWriter{t}, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		names, err := d.names()
		if err != nil {
			t.Error(err)
		}
		for _, name := range names {
			if err := d.at(name).killMachine(context.Background()); err != nil {
				t.Error(err)
			}
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func tiny(name dr.MachineName, disks int) dr.Definition {
	def := dr.Definition{
		Name: name, UUID: "6f1c5a52-6d5f-4a53-9b7f-0d6b3a2f9c11", CPUs: 1, MemoryMiB: 32, Firmware: dr.BIOS, MachineType: "q35",
		NICs: []dr.NIC{{MAC: "52:54:00:12:34:56", Network: "default", Model: "virtio-net-pci"}},
	}
	for i := range disks {
		id := dr.DiskID("disk" + string(rune('0'+i)))
		def.Disks = append(def.Disks, dr.DiskSpec{ID: id, Bus: "virtio", Serial: string(id), SizeBytes: 8 << 20})
	}
	return def
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, err error, code problem.Code) {
	t.Helper()
	if !problem.HasCode(err, code) {
		t.Fatalf("got %v, want a problem %s", err, code)
	}
}

func wantState(t *testing.T, d site.Driver, name dr.MachineName, want site.PowerState) {
	t.Helper()
	m, err := d.Machine(testContext(t), name)
	must(t, err)
	if m.State != want {
		t.Fatalf("machine %s is %s, want %s", name, m.State, want)
	}
}

// A machine outlives its driver and is found again, also without a pid file.
func TestMachineIsFoundAgain(t *testing.T) {
	needQEMU(t)
	dir, ctx := t.TempDir(), testContext(t)
	first, err := New(Config{Dir: dir, Accel: "tcg"})
	must(t, err)
	must(t, first.Create(ctx, tiny("web", 1)))
	must(t, first.Start(ctx, "web", site.StartOptions{}))
	must(t, first.Close())

	second := openDriver(t, dir)
	wantState(t, second, "web", site.Running)
	p, err := second.at("web").process()
	must(t, err)
	pid := p.pid
	p.close()
	must(t, second.Start(ctx, "web", site.StartOptions{})) // changes nothing
	p, err = second.at("web").process()
	must(t, err)
	if p.pid != pid {
		t.Fatalf("a second QEMU was started: %d after %d", p.pid, pid)
	}
	p.close()
	must(t, os.Remove(second.at("web").path("qemu.pid")))
	p, err = second.at("web").search()
	must(t, err)
	if p == nil || p.pid != pid {
		t.Fatalf("search did not find process %d", pid)
	}
	p.close()
	must(t, second.Stop(ctx, "web", site.Hard, time.Second))
	wantState(t, second, "web", site.Off)
}

// Nobody can start a machine whose disk is open for writing, and the other way
// round; by hand neither.
func TestDiskIsLocked(t *testing.T) {
	needQEMU(t)
	d, ctx := openDriver(t, t.TempDir()), testContext(t)
	must(t, d.Create(ctx, tiny("web", 1)))
	dev, err := d.OpenDisk(ctx, "web", "disk0")
	must(t, err)
	wantCode(t, d.Start(ctx, "web", site.StartOptions{}), problem.MachineInUse)
	line := d.at("web").path("command")
	out, err := exec.Command("sh", line).CombinedOutput()
	if err == nil || !containsLock(string(out)) {
		t.Fatalf("a start by hand gave %v: %s", err, out)
	}
	must(t, dev.Close())
	must(t, d.Start(ctx, "web", site.StartOptions{}))
	_, err = d.OpenDisk(ctx, "web", "disk0")
	wantCode(t, err, problem.MachineRunning)
}

// A guest that powers itself off counts as off while QEMU keeps its bitmaps.
func TestGuestPowersOff(t *testing.T) {
	needQEMU(t)
	d, ctx := openDriver(t, t.TempDir()), testContext(t)
	def := tiny("web", 1)
	must(t, d.Create(ctx, def))
	// mov ax,0x2000; mov dx,0x604; out dx,ax: ACPI PM1a control of q35, S5.
	writeGuest(t, d, "web", []byte{0xb8, 0x00, 0x20, 0xba, 0x04, 0x06, 0xef, 0xf4, 0xeb, 0xfd})
	must(t, d.Start(ctx, "web", site.StartOptions{Paused: true}))
	wantState(t, d, "web", site.Paused)
	m, rec, err := d.known("web")
	must(t, err)
	mon, err := m.monitor(rec)
	must(t, err)
	client, err := mon.Client(ctx)
	must(t, err)
	events := client.Subscribe("SHUTDOWN")
	defer events.Close()
	must(t, d.Start(ctx, "web", site.StartOptions{}))
	_, err = events.Next(ctx)
	must(t, err)
	for wait := true; wait; {
		s, err := m.status(ctx, rec)
		must(t, err)
		wait = s == "running"
	}
	wantState(t, d, "web", site.Off)
	p, err := m.process()
	must(t, err)
	if p == nil {
		t.Fatal("QEMU has ended with its guest")
	}
	p.close()
	dev, err := d.OpenDisk(ctx, "web", "disk0") // ends that QEMU
	must(t, err)
	must(t, dev.Close())
	if p, err := m.process(); err != nil || p != nil {
		t.Fatalf("QEMU still lives (%v)", err)
	}
}

// writeGuest puts a boot sector on a machine's first disk.
func writeGuest(t *testing.T, d *Driver, name dr.MachineName, code []byte) {
	t.Helper()
	ctx := testContext(t)
	dev, err := d.OpenDisk(ctx, name, "disk0")
	must(t, err)
	must(t, dev.WriteAt(ctx, bootSector(code), 0))
	must(t, dev.Flush(ctx))
	must(t, dev.Close())
}

func bootSector(code []byte) []byte {
	sector := make([]byte, 512)
	copy(sector, code)
	sector[510], sector[511] = 0x55, 0xaa
	return sector
}

// Paths of sockets are limited to 107 bytes; a datastore's is not.
func TestDeepDatastore(t *testing.T) {
	needQEMU(t)
	dir := filepath.Join(t.TempDir(), "a-datastore-in-a-folder-with-a-name-that-is-much-too-long-for-the-path-of-a-unix-socket", "another-level")
	d, ctx := openDriver(t, dir), testContext(t)
	must(t, d.Create(ctx, tiny("web", 1)))
	must(t, d.Start(ctx, "web", site.StartOptions{}))
	wantState(t, d, "web", site.Running)
	m, rec, err := d.known("web")
	must(t, err)
	rescue, err := m.rescue(rec)
	must(t, err)
	_, err = qmp.QueryYank(ctx, rescue)
	must(t, err)
	must(t, d.Stop(ctx, "web", site.Hard, 0))
	wantState(t, d, "web", site.Off)
}

// Without a working KVM the trial chooses TCG, and says so for the next time.
func TestAcceleratorIsProven(t *testing.T) {
	needQEMU(t)
	dir := t.TempDir()
	d, err := New(Config{Dir: dir, ProbeKernels: []string{}})
	must(t, err)
	defer d.Close()
	ctx := testContext(t)
	must(t, d.proveSector(ctx, "tcg"))
	accel, err := d.accelerator(ctx)
	must(t, err)
	text, err := os.ReadFile(filepath.Join(dir, "accel.json"))
	must(t, err)
	t.Logf("%s: %s", accel, text)
	again, err := New(Config{Dir: dir, Binary: d.cfg.Binary, ProbeKernels: []string{}})
	must(t, err)
	defer again.Close()
	start := time.Now()
	same, err := again.accelerator(ctx)
	must(t, err)
	if same != accel || time.Since(start) > 100*time.Millisecond {
		t.Fatalf("got %s after %v, want %s at once", same, time.Since(start), accel)
	}
}
