// Package interop holds Rebound's protocol ends against the tools that people
// have: QEMU, libnbd, nbdkit and fio. It has no code of its own.
package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"rebound/internal/block"
	"rebound/internal/block/blocktest"
	"rebound/internal/nbd"
)

// tool skips the test when a program is not installed, unless
// REBOUND_REQUIRE_TOOLS is set.
func tool(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("REBOUND_REQUIRE_TOOLS") != "" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
}

// run runs a command to its end and returns what it printed.
func run(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	return string(out), err
}

func mustRun(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := run(t, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// serveUnix serves exports on a Unix socket until the test ends.
func serveUnix(t *testing.T, exports ...nbd.Export) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	serveOn(t, "unix", path, nbd.ServerOptions{}, exports...)
	return path
}

func serveOn(t *testing.T, network, addr string, o nbd.ServerOptions, exports ...nbd.Export) string {
	t.Helper()
	s, err := nbd.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range exports {
		if err := s.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(context.Background(), l) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return l.Addr().String()
}

func uri(socket, export string) string { return "nbd+unix:///" + export + "?socket=" + socket }

const size = 32 << 20

// sparse returns a device with data in [4 MiB, 8 MiB) and [20 MiB, 21 MiB).
func sparse(t *testing.T) (*block.Memory, []byte) {
	t.Helper()
	d := block.NewMemory(size)
	want := make([]byte, size)
	copy(want[4<<20:], blocktest.Fill(1, 4<<20))
	copy(want[20<<20:], blocktest.Fill(2, 1<<20))
	for _, off := range []int64{4 << 20, 20 << 20} {
		n := int64(4 << 20)
		if off > 4<<20 {
			n = 1 << 20
		}
		if err := d.WriteAt(t.Context(), want[off:off+n], off); err != nil {
			t.Fatal(err)
		}
	}
	return d, want
}

func TestNbdinfo(t *testing.T) {
	tool(t, "nbdinfo")
	d, _ := sparse(t)
	s := serveUnix(t, nbd.Export{Name: "a", Description: "first", Device: d, BlockSize: nbd.BlockSizes{Min: 1, Preferred: 4096, Max: 1 << 20}},
		nbd.Export{Name: "b", Device: d, ReadOnly: true, BlockingIO: true})
	var got struct {
		TLS     bool `json:"TLS"`
		Exports []struct {
			Name        string   `json:"export-name"`
			Description string   `json:"description"`
			Size        int64    `json:"export-size"`
			Contexts    []string `json:"contexts"`
			ReadOnly    bool     `json:"is_read_only"`
			FastZero    bool     `json:"can_fast_zero"`
			MultiConn   bool     `json:"can_multi_conn"`
			Max         int64    `json:"block_size_maximum"`
			Min         int64    `json:"block_size_minimum"`
		} `json:"exports"`
	}
	out := mustRun(t, "nbdinfo", "--list", "--json", uri(s, ""))
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if len(got.Exports) != 2 {
		t.Fatalf("exports: %s", out)
	}
	a, b := got.Exports[0], got.Exports[1]
	if a.Name != "a" || a.Description != "first" || a.Size != size || a.ReadOnly || !a.FastZero || !a.MultiConn || a.Max != 1<<20 || a.Min != 1 {
		t.Errorf("export a: %+v", a)
	}
	if len(a.Contexts) != 1 || a.Contexts[0] != "base:allocation" {
		t.Errorf("contexts: %v", a.Contexts)
	}
	if b.Name != "b" || !b.ReadOnly || b.Max != nbd.MaxPayload {
		t.Errorf("export b: %+v", b)
	}
	m := mustRun(t, "nbdinfo", "--map", "--json", uri(s, "b"))
	var runs []struct{ Offset, Length, Type int64 }
	if err := json.Unmarshal([]byte(m), &runs); err != nil {
		t.Fatalf("%v\n%s", err, m)
	}
	if len(runs) != 5 || runs[1].Offset != 4<<20 || runs[1].Type != 0 || runs[2].Type != 3 || runs[3].Length != 1<<20 {
		t.Errorf("map: %s", m)
	}
}

func TestNbdcopyBothWays(t *testing.T) {
	tool(t, "nbdcopy")
	d, want := sparse(t)
	back := block.NewMemory(size)
	s := serveUnix(t, nbd.Export{Name: "src", Device: d, BlockingIO: true}, nbd.Export{Name: "dst", Device: back})
	file := filepath.Join(t.TempDir(), "copy")
	mustRun(t, "nbdcopy", "--flush", uri(s, "src"), file)
	got, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("copy out: equal %v, %v", bytes.Equal(got, want), err)
	}
	mustRun(t, "nbdcopy", "--flush", file, uri(s, "dst"))
	if !bytes.Equal(blocktest.Content(t, back), want) {
		t.Fatal("copy in differs")
	}
	// From server to server, several connections, requests of an odd size.
	if err := back.WriteZeroes(t.Context(), 0, size); err != nil {
		t.Fatal(err)
	}
	mustRun(t, "nbdcopy", "--connections=4", "--requests=32", "--request-size=65536", uri(s, "src"), uri(s, "dst"))
	if !bytes.Equal(blocktest.Content(t, back), want) {
		t.Fatal("copy between exports differs")
	}
}

func TestQemuImg(t *testing.T) {
	tool(t, "qemu-img")
	d, want := sparse(t)
	back := block.NewMemory(size)
	s := serveUnix(t, nbd.Export{Name: "src", Device: d, ReadOnly: true}, nbd.Export{Name: "dst", Device: back, BlockingIO: true})
	file := filepath.Join(t.TempDir(), "copy.qcow2")
	mustRun(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", uri(s, "src"), file)
	mustRun(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", file, uri(s, "src"))
	mustRun(t, "qemu-img", "convert", "-n", "-f", "qcow2", "-O", "raw", file, uri(s, "dst"))
	mustRun(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", uri(s, "src"), uri(s, "dst"))
	if !bytes.Equal(blocktest.Content(t, back), want) {
		t.Fatal("content differs, though qemu-img compare saw none")
	}
	if err := back.WriteAt(t.Context(), []byte{1}, 12345); err != nil {
		t.Fatal(err)
	}
	if out, err := run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", uri(s, "src"), uri(s, "dst")); err == nil {
		t.Fatalf("compare of different exports: %s", out)
	}
	var runs []struct {
		Start, Length int64
		Data, Zero    bool
	}
	m := mustRun(t, "qemu-img", "map", "--output=json", "-f", "raw", uri(s, "src"))
	if err := json.Unmarshal([]byte(m), &runs); err != nil {
		t.Fatal(err)
	}
	if len(runs) != 5 || !runs[1].Data || runs[1].Start != 4<<20 || runs[2].Data || !runs[2].Zero || runs[3].Length != 1<<20 {
		t.Errorf("map: %s", m)
	}
}

func TestQemuIO(t *testing.T) {
	tool(t, "qemu-io")
	d := block.NewMemory(size)
	s := serveUnix(t, nbd.Export{Name: "d", Device: d, BlockingIO: true, BlockSize: nbd.BlockSizes{Min: 1, Preferred: 4096, Max: 1 << 20}},
		nbd.Export{Name: "ro", Device: d, ReadOnly: true})
	out := mustRun(t, "qemu-io", "-f", "raw", "-t", "none", uri(s, "d"),
		"-c", "write -P 0xab 1000 70000", "-c", "write -f -P 0xcd 1M 64k", "-c", "write -z 8k 4k", "-c", "write -z -u 16k 4k",
		"-c", "discard 1M 32k", "-c", "flush", "-c", "read -P 0xab 1000 7192", "-c", "read -P 0 8k 4k",
		"-c", "aio_write -P 0x11 2M 1M", "-c", "aio_write -P 0x12 4M 1M", "-c", "aio_flush", "-c", "read -P 0x12 4M 1M",
		"-c", "write -P 0x13 8M 5M") // over the maximum: QEMU splits it
	if strings.Contains(out, "failed") || strings.Contains(out, "error") {
		t.Fatalf("qemu-io: %s", out)
	}
	got := blocktest.Content(t, d)
	for _, c := range []struct {
		off int
		b   byte
	}{{1000, 0xab}, {8191, 0xab}, {8192, 0}, {16384, 0}, {70999, 0xab}, {71000, 0}, {1<<20 + 40<<10, 0xcd}, {2 << 20, 0x11}, {5<<20 - 1, 0x12}, {13<<20 - 1, 0x13}} {
		if got[c.off] != c.b {
			t.Errorf("byte %d is %#x, want %#x", c.off, got[c.off], c.b)
		}
	}
	if out, err := run(t, "qemu-io", "-f", "raw", uri(s, "ro"), "-c", "write 0 4k"); err == nil {
		t.Errorf("write to a read-only export: %s", out)
	}
}

func TestFioVerify(t *testing.T) {
	tool(t, "fio")
	if out := mustRun(t, "fio", "--enghelp"); !strings.Contains(out, "nbd") {
		t.Skip("fio without its nbd engine")
	}
	for name, blocking := range map[string]bool{"poller": false, "blocking": true} {
		t.Run(name, func(t *testing.T) {
			s := serveUnix(t, nbd.Export{Name: "d", Device: block.NewMemory(size), BlockingIO: blocking})
			out := mustRun(t, "fio", "--name=v", "--ioengine=nbd", "--uri="+uri(s, "d"), "--rw=randwrite", "--bsrange=512-128k",
				"--blockalign=512", "--size=32m", "--iodepth=32", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--verify_state_save=0", "--randrepeat=0")
			if !strings.Contains(out, "err= 0") {
				t.Fatal(out)
			}
		})
	}
}

// TestImageLock: a QEMU cannot use a disk that a locking File has open, and a
// File refuses a disk that a QEMU has open.
func TestImageLock(t *testing.T) {
	tool(t, "qemu-io", "qemu-system-x86_64", "qemu-storage-daemon")
	path := filepath.Join(t.TempDir(), "disk.raw")
	f, err := block.OpenFile(path, block.FileOptions{CreateSize: 1 << 20, Lock: true})
	if err != nil {
		t.Fatal(err)
	}
	out, err := run(t, "qemu-io", "-f", "raw", path, "-c", "read 0 4k")
	if err == nil || !strings.Contains(out, `Failed to get "write" lock`) {
		t.Errorf("qemu-io beside a locking File: %v\n%s", err, out)
	}
	out, err = run(t, "qemu-system-x86_64", "-nodefaults", "-display", "none", "-S",
		"-drive", "if=none,id=d,format=raw,file="+path, "-device", "virtio-blk-pci,drive=d")
	if err == nil || !strings.Contains(out, `Failed to get "write" lock`) {
		t.Errorf("qemu-system beside a locking File: %v\n%s", err, out)
	}
	mustRun(t, "qemu-io", "-r", "-U", "-f", "raw", path, "-c", "read 0 4k") // force-share may look
	f.Close()
	mustRun(t, "qemu-io", "-f", "raw", path, "-c", "write 0 4k")

	socket := filepath.Join(t.TempDir(), "q")
	startDaemon(t, socket, "qemu-storage-daemon",
		"--blockdev", "driver=file,node-name=f,filename="+path,
		"--nbd-server", "addr.type=unix,addr.path="+socket, "--export", "type=nbd,id=e,node-name=f,writable=on")
	if f, err := block.OpenFile(path, block.FileOptions{Lock: true}); err == nil {
		f.Close()
		t.Error("a File locked a disk that a QEMU writes")
	} else if !strings.Contains(err.Error(), block.ErrLocked.Error()) {
		t.Errorf("open beside a QEMU: %v", err)
	}
}

// startDaemon starts a program that listens on a Unix socket and stops it with
// the test.
func startDaemon(t *testing.T, socket, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		cmd.Wait() //nolint:errcheck // it is killed below
		close(exited)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill() //nolint:errcheck // it may have ended
		<-exited
	})
	deadline := time.Now().Add(20 * time.Second)
	for {
		nc, err := net.Dial("unix", socket)
		if err == nil {
			nc.Close()
			return
		}
		select {
		case <-exited:
			t.Fatalf("%s ended: %s", name, log.String())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not listen: %v", name, err)
		}
	}
}
