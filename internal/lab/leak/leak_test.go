package leak

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func left(t *testing.T, r Run) []string {
	t.Helper()
	l, err := r.Left()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestEveryKind makes one of each kind, finds it, and finds it gone.
func TestEveryKind(t *testing.T) {
	dir := t.TempDir()
	r := Run{Dir: dir, Prefix: fmt.Sprintf("rbk%d", os.Getpid())}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.Ports = []int{ln.Addr().(*net.TCPAddr).Port}
	unix, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	byArgument := exec.Command("tail", "-f", "/dev/null", filepath.Join(dir, "log"))
	byDir := exec.Command("sleep", "60")
	byDir.Dir = dir
	if err := os.WriteFile(filepath.Join(dir, "log"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, cmd := range []*exec.Cmd{byArgument, byDir} {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = cmd.Process.Kill() }() // again, harmless
	}
	want := []string{fmt.Sprintf("TCP port %d", r.Ports[0]), "socket " + filepath.Join(dir, "s"), fmt.Sprintf("process %d: ", byArgument.Process.Pid), fmt.Sprintf("process %d: ", byDir.Process.Pid)}
	undo := asRoot(t, r, &want)
	got := left(t, r)
	for _, w := range want {
		if !slices.ContainsFunc(got, func(g string) bool { return strings.HasPrefix(g, w) }) {
			t.Errorf("%q is not among %q", w, got)
		}
	}
	if len(got) != len(want) {
		t.Errorf("found %q", got)
	}
	undo()
	_, _ = ln.Close(), unix.Close()
	for _, cmd := range []*exec.Cmd{byArgument, byDir} {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	if got := left(t, r); len(got) != 0 {
		t.Errorf("found %q after all is gone", got)
	}
}

// asRoot makes the kinds that need root.
func asRoot(t *testing.T, r Run, want *[]string) (undo func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		return func() {}
	}
	do := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Errorf("%v: %v: %s", args, err, out)
		}
	}
	mnt := filepath.Join(r.Dir, "mnt")
	do("mkdir", mnt)
	do("mount", "-t", "tmpfs", "none", mnt)
	do("ip", "netns", "add", r.Prefix)
	do("ip", "link", "add", r.Prefix, "type", "bridge")
	*want = append(*want, "mount "+mnt, "namespace "+r.Prefix, "interface "+r.Prefix)
	return func() {
		do("umount", mnt)
		do("ip", "netns", "del", r.Prefix)
		do("ip", "link", "del", r.Prefix)
	}
}

func TestMentions(t *testing.T) {
	for text, want := range map[string]bool{"/a/b": true, "x=/a/b/c": true, "/a/bc": false, "/a/bc /a/b,y": true, "": false} {
		if mentions(text, "/a/b") != want {
			t.Errorf("mentions(%q) = %v", text, !want)
		}
	}
}

func TestNeedsDirectory(t *testing.T) {
	for _, dir := range []string{"", "/"} {
		if _, err := (Run{Dir: dir}).Left(); err == nil {
			t.Errorf("Left of %q: no error", dir)
		}
	}
}
