package vault_test

import (
	"bytes"
	"image/png"
	"net/http"
	"strings"
	"testing"

	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/site"
	"rebound/internal/vault/rest"
)

// TestConsole follows which machine an item's console is: that at home, the
// test's beside it, and that of the other site after a failover.
func TestConsole(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.home.AddDefinition(dr.Definition{
		Name: "vm1", UUID: "uuid-vm1", CPUs: 1, MemoryMiB: 64, Firmware: dr.BIOS, MachineType: "q35", Graphics: "VGA",
		Disks: []dr.DiskSpec{{ID: "disk0", Bus: "virtio", SizeBytes: 1 << 20}},
	})
	l.startOver(l.home)
	l.known("home", "vm1")
	l.finish(l.c.Protect(t.Context(), rest.ProtectRequest{Machines: []dr.MachineName{"vm1"}, To: "cloud", Group: "app"}))
	l.untilState("app", lifecycle.Protected)
	l.home.SetConsole("vm1", "at home\n")
	l.cloud.SetConsole("vm1-test", "in a test\n")
	l.cloud.SetConsole("vm1", "in the cloud\n")
	look := func(which, text string, at dr.SiteID, test bool) rest.Console {
		t.Helper()
		v, err := l.c.Console(t.Context(), "vm1", which)
		if err != nil || v.Text != text || v.Site != at || v.Test != test || v.State != site.Running {
			t.Fatalf("the console %q is %+v (%v), want %q of %s", which, v, err, text, at)
		}
		return v
	}
	if _, err := l.c.Console(t.Context(), "vm1", rest.TestMachine); !problem.HasCode(err, problem.MachineNotRunning) {
		t.Errorf("the console of a test that is not: %v", err)
	}
	v := look("", "at home\n", "home", false)
	if img, err := png.Decode(bytes.NewReader(v.Picture)); err != nil || img.Bounds().Dx() != v.Width {
		t.Errorf("the picture: %v", err)
	}
	l.operate(lifecycle.TestFailover, rest.OperationRequest{Network: "lan"})
	look("", "in a test\n", "cloud", true)
	look(rest.ActiveMachine, "at home\n", "home", false)
	l.operate(lifecycle.TestCleanup, rest.OperationRequest{})
	l.operate(lifecycle.Failover, rest.OperationRequest{})
	look("", "in the cloud\n", "cloud", false)

	if _, err := l.c.Console(t.Context(), "nobody", ""); !problem.HasCode(err, problem.UnknownItem) {
		t.Errorf("the console of nothing: %v", err)
	}
	l.cloud.Stop()
	if _, err := l.c.Console(t.Context(), "vm1", ""); !problem.HasCode(err, problem.GatewayUnreachable) {
		t.Errorf("the console behind a gateway that is away: %v", err)
	}
}

// TestConsoleKinds asks for the parts of a console as they are.
func TestConsoleKinds(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	get := func(accept, token string) (int, string, string) {
		t.Helper()
		resp, body := l.raw(http.MethodGet, "/api/v1/items/vm1/console", "", "Accept", accept, "Authorization", "Bearer "+token)
		return resp.StatusCode, resp.Header.Get("Content-Type"), string(body)
	}
	if status, kind, body := get("text/plain", l.token()); status != 200 || !strings.HasPrefix(kind, "text/plain") || body != "vm1 login:\n" {
		t.Errorf("text: %d %s %q", status, kind, body)
	}
	if status, kind, body := get("text/html,application/json;q=0.9", l.token()); status != 200 || kind != "application/json" || !strings.Contains(body, `"text":"vm1 login:\n"`) {
		t.Errorf("JSON: %d %s %s", status, kind, body)
	}
	if status, _, body := get("image/png", l.token()); status != 409 || !strings.Contains(body, string(problem.ConsoleUnavailable)) {
		t.Errorf("a picture of a machine without a display: %d %s", status, body)
	}
	if status, _, body := get("*/*", l.roleToken("reader")); status != 403 {
		t.Errorf("a reader: %d %s", status, body)
	}
	if status, _, _ := get("*/*", l.roleToken("operator")); status != 200 {
		t.Errorf("an operator: %d", status)
	}
}

func (l *lab) roleToken(role string) string {
	l.t.Helper()
	tok, err := l.c.CreateToken(l.t.Context(), rest.NewToken{Name: "t-" + role, Role: role})
	if err != nil {
		l.t.Fatal(err)
	}
	return tok.Secret
}
