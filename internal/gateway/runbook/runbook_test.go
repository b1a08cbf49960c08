package runbook

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"rebound/internal/control"
	"rebound/internal/problem"
)

func open(t *testing.T, dir string, scripts Scripts) *Runner {
	t.Helper()
	r, err := Open(Config{Dir: filepath.Join(dir, "actions"), Folder: filepath.Join(dir, "scripts"), Scripts: scripts, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func script(text string) control.ScriptRequest {
	return control.ScriptRequest{Text: text, Timeout: 20 * time.Second, Env: map[string]string{"REBOUND_PLAN": "shop"}}
}

func TestScriptIsRunOnceWithItsEnvironment(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("SECRET_OF_THE_GATEWAY", "1")
	mark := filepath.Join(dir, "mark")
	req := script(fmt.Sprintf("#!/bin/sh -e\necho ran >> %s\necho \"$REBOUND_PLAN:$1:$SECRET_OF_THE_GATEWAY\"\necho oh >&2\nexit 3\n", mark))
	req.Args = []string{"arg"}
	r := open(t, dir, AnyScript)
	for i := range 3 {
		res, err := r.RunScript(t.Context(), "j\nt", req)
		if err != nil || res.ExitCode != 3 || res.Stdout != "shop:arg:\n" || res.Stderr != "oh\n" || res.TimedOut || res.Started.IsZero() || res.Ended.Before(res.Started) {
			t.Fatalf("run %d: %+v, %v", i, res, err)
		}
		if i == 1 { // a new process answers from the disk
			r = open(t, dir, AnyScript)
		}
	}
	if b, _ := os.ReadFile(mark); string(b) != "ran\n" {
		t.Errorf("it ran %q", b)
	}
	if _, err := r.RunScript(t.Context(), "j\nother", req); err != nil {
		t.Error(err)
	}
	if b, _ := os.ReadFile(mark); string(b) != "ran\nran\n" {
		t.Errorf("another key: %q", b)
	}
}

// TestTimeLimitKillsTheWholeGroup: children go too, and what was written before
// is kept.
func TestTimeLimitKillsTheWholeGroup(t *testing.T) {
	dir := t.TempDir()
	child := filepath.Join(dir, "child")
	req := script(fmt.Sprintf("#!/bin/sh\necho begun\nsleep 600 &\necho $! > %s\nwait\n", child))
	req.Timeout = 500 * time.Millisecond
	res, err := open(t, dir, AnyScript).RunScript(t.Context(), "k", req)
	if err != nil || !res.TimedOut || res.ExitCode != -1 || res.Signal != "killed" || res.Stdout != "begun\n" {
		t.Fatalf("%+v, %v", res, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(read(t, child)))
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the child is gone", func() bool { return startOf(pid) == "" })
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestCutShort: after the death of the process in the middle nothing is run a
// second time, and the answer says whether the script still runs.
func TestCutShort(t *testing.T) {
	dir := t.TempDir()
	mark := filepath.Join(dir, "mark")
	r := open(t, dir, AnyScript)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := r.RunScript(ctx, "k", script(fmt.Sprintf("echo x >> %s\nexec sleep 600\n", mark)))
		done <- err
	}()
	until(t, "the script runs", func() bool { _, err := os.Stat(mark); return err == nil })
	// Another process, as it would be after a kill -9, while the script lives.
	other := open(t, dir, AnyScript)
	var err error
	until(t, "its process is recorded", func() bool {
		_, err = other.RunScript(t.Context(), "k", script("true"))
		return err == nil || strings.Contains(err.Error(), "still runs as process")
	})
	if !problem.HasCode(err, problem.ActionInterrupted) {
		t.Errorf("while it runs: %v", err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the one that stopped: %v", err)
	}
	_, err = other.RunScript(t.Context(), "k", script("true"))
	if !problem.HasCode(err, problem.ActionInterrupted) || !strings.Contains(err.Error(), "runs no more") {
		t.Errorf("afterwards: %v", err)
	}
	if got := read(t, mark); got != "x\n" {
		t.Errorf("it ran %q", got)
	}
}

func TestOutputIsBounded(t *testing.T) {
	res, err := open(t, t.TempDir(), AnyScript).RunScript(t.Context(), "k", script("echo first\nhead -c 5000000 /dev/zero | tr '\\0' a\necho\necho last\n"))
	if err != nil || res.ExitCode != 0 {
		t.Fatal(res.ExitCode, err)
	}
	if len(res.Stdout) > control.OutputLimit+100 || res.StdoutBytes != 5000000+6+1+5 {
		t.Errorf("%d bytes kept of %d", len(res.Stdout), res.StdoutBytes)
	}
	if !strings.HasPrefix(res.Stdout, "first\n") || !strings.HasSuffix(res.Stdout, "\nlast\n") || !strings.Contains(res.Stdout, "bytes are left out") {
		t.Errorf("%.40q ... %q", res.Stdout, res.Stdout[len(res.Stdout)-40:])
	}
}

// TestBackgroundChildDoesNotHoldTheScript: a child that keeps the pipes open
// does not keep the plan waiting.
func TestBackgroundChildDoesNotHoldTheScript(t *testing.T) {
	res, err := open(t, t.TempDir(), AnyScript).RunScript(t.Context(), "k", script("sleep 60 & echo $!\n"))
	if err != nil || res.ExitCode != 0 || res.TimedOut {
		t.Fatalf("%+v, %v", res, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(res.Stdout))
	if err != nil {
		t.Fatal(err)
	}
	syscall.Kill(pid, syscall.SIGKILL) //nolint:errcheck // it may be gone
}

func TestWhatMayRun(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "scripts")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	inside, outside, plain := filepath.Join(folder, "ok"), filepath.Join(dir, "evil"), filepath.Join(folder, "plain")
	for path, mode := range map[string]os.FileMode{inside: 0o755, outside: 0o755, plain: 0o644} {
		if err := os.WriteFile(path, []byte("#!/bin/sh\necho hi\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(folder, "link")); err != nil {
		t.Fatal(err)
	}
	limit := 10 * time.Second
	cases := []struct {
		scripts Scripts
		req     control.ScriptRequest
		code    problem.Code // "" for allowed
	}{
		{AnyScript, control.ScriptRequest{Path: "ok", Timeout: limit}, ""},
		{AnyScript, control.ScriptRequest{Path: outside, Timeout: limit}, ""},
		{AnyScript, control.ScriptRequest{Text: "true", Timeout: limit}, ""},
		{FolderScripts, control.ScriptRequest{Path: "ok", Timeout: limit}, ""},
		{FolderScripts, control.ScriptRequest{Path: inside, Timeout: limit}, ""},
		{FolderScripts, control.ScriptRequest{Path: outside, Timeout: limit}, problem.ActionRefused},
		{FolderScripts, control.ScriptRequest{Path: "../evil", Timeout: limit}, problem.ActionRefused},
		{FolderScripts, control.ScriptRequest{Path: "link", Timeout: limit}, problem.ActionRefused},
		{FolderScripts, control.ScriptRequest{Text: "true", Timeout: limit}, problem.ActionRefused},
		{NoScript, control.ScriptRequest{Text: "true", Timeout: limit}, problem.ActionRefused},
		{NoScript, control.ScriptRequest{Path: "ok", Timeout: limit}, problem.ActionRefused},
		{AnyScript, control.ScriptRequest{Path: "plain", Timeout: limit}, problem.ActionRefused},
		{AnyScript, control.ScriptRequest{Path: "missing", Timeout: limit}, problem.ActionRefused},
		{AnyScript, control.ScriptRequest{Text: "#!/no/such/interpreter\n", Timeout: limit}, problem.ActionRefused},
		{AnyScript, control.ScriptRequest{Text: "true", Path: "ok", Timeout: limit}, problem.InvalidRequest},
		{AnyScript, control.ScriptRequest{Timeout: limit}, problem.InvalidRequest},
		{AnyScript, control.ScriptRequest{Text: "true"}, problem.InvalidRequest},
		{AnyScript, control.ScriptRequest{Text: strings.Repeat("#", MaxScript+1), Timeout: limit}, problem.InvalidRequest},
	}
	for i, c := range cases {
		r := open(t, dir, c.scripts)
		key := strconv.Itoa(i)
		res, err := r.RunScript(t.Context(), key, c.req)
		if c.code == "" && (err != nil || res.ExitCode != 0) || c.code != "" && !problem.HasCode(err, c.code) {
			t.Errorf("case %d: %+v, %v, want %q", i, res, err, c.code)
		}
		if c.code == "" {
			continue
		}
		// What was refused was not begun: it can be tried again.
		if _, err := r.RunScript(t.Context(), key, c.req); !problem.HasCode(err, c.code) {
			t.Errorf("case %d again: %v", i, err)
		}
	}
}

func TestCall(t *testing.T) {
	var calls atomic.Int32
	var keys []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		keys = append(keys, r.Header.Get("Idempotency-Key"))
		switch n := calls.Add(1); {
		case r.URL.Path == "/slow":
			<-r.Context().Done()
		case r.URL.Path == "/second" && n == 1:
			http.Error(w, "not yet", http.StatusServiceUnavailable)
		default:
			w.WriteHeader(http.StatusAccepted)
			fmt.Fprintf(w, "%s %s", r.Method, r.Header.Get("X-A"))
		}
	}))
	defer srv.Close()
	dir := t.TempDir()
	r := open(t, dir, NoScript)
	call := func(key, path string, change func(*control.CallRequest)) (control.CallResult, error) {
		req := control.CallRequest{Method: "POST", URL: srv.URL + path, Headers: map[string]string{"X-A": "a"}, Timeout: 10 * time.Second}
		if change != nil {
			change(&req)
		}
		calls.Store(0)
		return r.Call(t.Context(), key, req)
	}
	for range 2 {
		res, err := call("j\na", "/ok", nil)
		if err != nil || !res.Expected || res.Status != 202 || res.Body != "POST a" || res.Attempts != 1 {
			t.Fatalf("%+v, %v", res, err)
		}
	}
	if calls.Load() != 0 || keys[0] != "j/a" {
		t.Errorf("the repetition called; keys %v", keys)
	}
	if res, err := call("b", "/ok", func(r *control.CallRequest) { r.Expect = []int{200} }); err != nil || res.Expected {
		t.Errorf("another status than expected: %+v, %v", res, err)
	}
	if res, err := call("c", "/second", func(r *control.CallRequest) { r.Retries = 2 }); err != nil || !res.Expected || res.Attempts != 2 {
		t.Errorf("a retry: %+v, %v", res, err)
	}
	if res, err := call("d", "/slow", func(r *control.CallRequest) { r.Timeout = 50 * time.Millisecond }); err != nil || res.Expected || res.Error != "no answer within the time limit" {
		t.Errorf("no answer: %+v, %v", res, err)
	}
	if _, err := call("e", "/ok", func(r *control.CallRequest) { r.URL = "file:///etc/passwd" }); !problem.HasCode(err, problem.InvalidRequest) {
		t.Errorf("no http: %v", err)
	}
	// The process dies in the middle: a POST without retries is left to a person, a PUT is sent again.
	for _, key := range []string{"post", "put"} {
		if _, _, err := r.begin(key, nil); err != nil {
			t.Fatal(err)
		}
	}
	r = open(t, dir, NoScript)
	if _, err := call("post", "/ok", nil); !problem.HasCode(err, problem.ActionInterrupted) || calls.Load() != 0 {
		t.Errorf("an interrupted POST: %v, %d calls", err, calls.Load())
	}
	if res, err := call("put", "/ok", func(r *control.CallRequest) { r.Method = "PUT" }); err != nil || !res.Expected {
		t.Errorf("an interrupted PUT: %+v, %v", res, err)
	}
}

func TestOldActionsAreForgotten(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, AnyScript)
	for _, key := range []string{"old", "new"} {
		if _, err := r.RunScript(t.Context(), key, script("true")); err != nil {
			t.Fatal(err)
		}
	}
	past := time.Now().Add(-keep - time.Hour)
	if err := os.Chtimes(r.folder("old"), past, past); err != nil {
		t.Fatal(err)
	}
	r = open(t, dir, AnyScript)
	for key, want := range map[string]bool{"old": false, "new": true} {
		if _, err := os.Stat(r.folder(key)); (err == nil) != want {
			t.Errorf("%s: %v", key, err)
		}
	}
}
