package cli

import (
	"bufio"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rebound/internal/qmp/qmptest"
)

// checkUp runs check with -o json and returns its report by names.
func checkUp(t *testing.T, code int, args ...string) (checkReport, map[string]checkLine) {
	t.Helper()
	r := want(t, code, append([]string{"check", "-o", "json", "--dir", filepath.Join(t.TempDir(), "gw"), "--listen", "127.0.0.1:0"}, args...)...)
	var rep checkReport
	if err := json.Unmarshal([]byte(r.out), &rep); err != nil {
		t.Fatalf("%v in %s", err, r.out)
	}
	by := map[string]checkLine{}
	for _, l := range rep.Checks {
		by[l.Name] = l
		if (l.Status == checkFail || l.Status == checkWarn) && l.Detail == "" {
			t.Errorf("%s: no detail", l.Name)
		}
	}
	if rep.OK != (code == exitOK) {
		t.Errorf("ok %v with exit %d", rep.OK, code)
	}
	return rep, by
}

func wantStatus(t *testing.T, by map[string]checkLine, name string, want checkStatus) {
	t.Helper()
	if got := by[name]; got.Status != want {
		t.Errorf("%s: %+v, want %s", name, got, want)
	}
}

func needQEMU(t *testing.T) {
	t.Helper()
	for _, tool := range []string{"qemu-system-x86_64", "qemu-img"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("REBOUND_REQUIRE_TOOLS") != "" {
				t.Fatal(err)
			}
			t.Skipf("%s is not installed", tool)
		}
	}
}

func TestCheckHost(t *testing.T) {
	noProfile(t)
	needQEMU(t)
	_, by := checkUp(t, exitOK)
	for _, name := range []string{"QEMU", "qemu-img", "data port"} {
		wantStatus(t, by, name, checkOK)
	}
	wantStatus(t, by, "QMP monitor", checkSkip)
	wantStatus(t, by, "vault", checkSkip)
	if s := by["KVM"].Status; s != checkOK && s != checkWarn {
		t.Errorf("KVM: %+v", by["KVM"])
	}
}

func TestCheckFindsWhatIsMissing(t *testing.T) {
	noProfile(t)
	t.Setenv("PATH", t.TempDir())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	long := "/" + strings.Repeat("x", maxRunDir)
	_, by := checkUp(t, exitRefused, "--listen", ln.Addr().String(), "--dir", long, "--qmp", filepath.Join(t.TempDir(), "none"), "--vault", "127.0.0.1:1", "--token", "x")
	for _, name := range []string{"QEMU", "qemu-img", "KVM", "sockets", "QMP monitor", "vault"} {
		wantStatus(t, by, name, checkFail)
	}
	wantStatus(t, by, "data port", checkWarn)
	r := want(t, exitRefused, "check", "--dir", long)
	contains(t, r.out, "fail", "-> Install QEMU")
	contains(t, r.err, "CheckFailed", "QEMU, qemu-img, KVM, sockets")
}

func TestChurn(t *testing.T) {
	noProfile(t)
	needQEMU(t)
	s := qmptest.New(t)
	written := int64(5 << 20)
	s.Handle("query-blockstats", func(json.RawMessage) (any, error) {
		written += 1 << 20
		stats := func(n int64) map[string]any { return map[string]any{"stats": map[string]any{"wr_bytes": n}} }
		return []any{stats(written), stats(7)}, nil
	})
	rep, by := checkUp(t, exitOK, "--qmp", s.Path(), "--sample", "50ms", "--window", "1h")
	wantStatus(t, by, "QMP monitor", checkOK)
	c := rep.Churn
	if c == nil || c.WrittenBytes != 1<<20 || c.SampleSeconds < 0.05 || c.WindowSeconds != 3600 {
		t.Fatalf("churn: %+v", c)
	}
	bound := float64(c.WrittenBytes) / 0.05 * 3600 * 1.01
	if float64(c.JournalBytes) > bound+1 || float64(c.JournalBytes) < c.BytesPerSecond*3600 {
		t.Errorf("journal %d, want between %f and %f", c.JournalBytes, c.BytesPerSecond*3600, bound)
	}
	if got := churnOf(-5, time.Second, time.Hour); got.JournalBytes != 0 {
		t.Errorf("a machine that was reset: %+v", got)
	}
	if got := churnOf(1000, 10*time.Second, time.Hour); got.JournalBytes != 363600 {
		t.Errorf("100 B/s over an hour: %+v", got)
	}
}

// TestBusyMonitor: a real QEMU's monitor to which another program is
// connected fails; freed, it passes.
func TestBusyMonitor(t *testing.T) {
	noProfile(t)
	needQEMU(t)
	dir, err := os.MkdirTemp("", "rbqmp") // its socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	sock := filepath.Join(dir, "qmp")
	cmd := exec.Command("qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none", "-S", "-qmp", "unix:"+sock+",server=on,wait=off")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait()
	}()
	var other net.Conn
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if other, err = net.Dial("unix", sock); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if _, err := bufio.NewReader(other).ReadString('\n'); err != nil { // its greeting: we have the monitor
		t.Fatal(err)
	}
	_, by := checkUp(t, exitRefused, "--qmp", sock)
	wantStatus(t, by, "QMP monitor", checkFail)
	contains(t, by["QMP monitor"].Detail, "busy")
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	rep, by := checkUp(t, exitOK, "--qmp", sock, "--sample", "20ms")
	wantStatus(t, by, "QMP monitor", checkOK)
	wantStatus(t, by, "machine's QEMU", checkOK)
	if rep.Churn == nil || rep.Churn.WrittenBytes != 0 {
		t.Errorf("churn: %+v", rep.Churn)
	}
}

// TestCheckVault: clocks, reachability and room of the gateways that the vault
// knows.
func TestCheckVault(t *testing.T) {
	l := newLab(t)
	needQEMU(t)
	l.cloud.SetClock(10 * time.Minute)
	l.cloud.SetFree(1 << 30)
	_, by := checkUp(t, exitRefused) // data addresses of the lab's gateways lead nowhere
	wantStatus(t, by, "vault", checkOK)
	wantStatus(t, by, "clock", checkOK)
	wantStatus(t, by, "gateway gw-home clock", checkOK)
	wantStatus(t, by, "gateway gw-home", checkFail)
	contains(t, by["gateway gw-home"].Detail, "cannot be reached")
	wantStatus(t, by, "site home", checkOK)
	l.until("the clock's offset", func() bool {
		_, by = checkUp(t, exitRefused)
		return by["gateway gw-cloud clock"].Status == checkFail
	})
	l.home.Stop()
	l.until("the gateway's absence", func() bool {
		_, by = checkUp(t, exitRefused)
		return strings.Contains(by["gateway gw-home"].Detail, "not connected")
	})
}
