package cli

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"rebound/internal/lifecycle"
	"rebound/internal/qmp"
	"rebound/internal/vault"
	"rebound/internal/vault/rest"
)

// asProgram makes the test's binary behave as the program: gateways start
// their captures from their own executable.
const asProgram = "REBOUND_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	code := Run(ctx, os.Args[1:], Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	stop()
	os.Exit(code)
}

// serve starts a role as a process; the test's end stops it.
func serve(t *testing.T, args ...string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Errorf("%v: %v", args[:2], err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %v", args[:2], err)
		}
		if t.Failed() {
			t.Logf("%v:\n%s", args[:2], log.String())
		}
	})
}

func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(40 * time.Second); !f(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// quit ends a QEMU through its monitor.
func quit(socket string) {
	mon, err := qmp.Dial(context.Background(), socket)
	if err != nil {
		return // it is not running
	}
	defer mon.Close()
	_ = mon.Run(context.Background(), "quit", nil, nil) // the connection may end before the answer
	<-mon.Done()
}

// TestOwnMachine takes a QEMU machine that somebody else started there and home
// again: real processes, real QEMU, and nothing but commands.
func TestOwnMachine(t *testing.T) {
	if testing.Short() {
		t.Skip("starts QEMU several times")
	}
	noProfile(t)
	needQEMU(t)
	dir, err := os.MkdirTemp("", "rb") // sockets' paths are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	at := func(name string) string { return filepath.Join(dir, name) }
	addr := freeAddr(t)
	t.Cleanup(func() { // after the gateways have ended and left the monitors
		quit(at("home/datastore/machines/web/qmp.sock"))
		quit(at("cloud/datastore/machines/web/qmp.sock"))
	})
	serve(t, "vault", "serve", "--dir", at("vault"), "--listen", addr)
	eventually(t, "login", func() bool {
		return run(t, "login", addr, "--ca", at("vault/"+vault.CAFile), "--token-file", at("vault/"+vault.TokenFile)).code == exitOK
	})
	for _, site := range []string{"home", "cloud"} {
		want(t, exitOK, "site", "create", site)
		e := read[rest.Enrollment](t, "gateway", "enroll", "gw-"+site, "--site", site, "--ca-out", at("ca.pem"))
		serve(t, "gateway", "serve", "--name", e.Name, "--vault", addr, "--vault-ca", at("ca.pem"), "--passphrase", e.Passphrase,
			"--dir", at(site), "--listen", freeAddr(t), "--accel", "tcg")
	}
	startOwnMachine(t, at("disk.raw"), at("q1"))
	eventually(t, "the gateways", func() bool { return read[rest.Status](t, "status").GatewaysConnected == 2 })
	eventually(t, "the import", func() bool {
		return run(t, "machine", "import", "--site", "home", "--qmp", at("q1")).code == exitOK
	})
	want(t, exitOK, "policy", "update", "default", "--shutdown-timeout", "1s", "--boot-timeout", "2s")
	want(t, exitOK, "machine", "protect", "web", "--to", "cloud")
	for _, step := range []struct {
		line string
		then lifecycle.State
	}{
		{"", lifecycle.Protected},
		{"test web --network drill", lifecycle.Protected},
		{"test-cleanup web", lifecycle.Protected},
		{"failover web --unplanned", lifecycle.CommitPending},
		{"commit web", lifecycle.Committed},
		{"reprotect web", lifecycle.Protected},
		{"failback web", lifecycle.CommitPending},
		{"commit web --accept-running", lifecycle.Committed}, // no agent runs in it
		{"reprotect web", lifecycle.Protected},
	} {
		if step.line != "" {
			want(t, exitOK, append(strings.Fields(step.line), "--yes")...)
		}
		eventually(t, step.line+" ends "+string(step.then), func() bool { return read[rest.Item](t, "item", "show", "web").State == step.then })
	}
	want(t, exitOK, "disable", "web", "--yes")
}

// startOwnMachine starts a QEMU as a person would, with a monitor to spare.
func startOwnMachine(t *testing.T, disk, socket string) {
	t.Helper()
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 64<<20); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("qemu-system-x86_64", "-name", "web", "-uuid", "11111111-2222-3333-4444-555555555555", "-accel", "tcg", "-m", "64",
		"-nodefaults", "-display", "none", "-blockdev", "driver=raw,node-name=d0,file.driver=file,file.filename="+disk,
		"-device", "virtio-blk-pci,drive=d0,serial=s0", "-qmp", "unix:"+socket+",server=on,wait=off")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // a failover has ended it
		<-ended
	})
}
