package runbook

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"rebound/internal/control"
	"rebound/internal/problem"
)

// MaxScript is how many bytes the text of a script may have.
const MaxScript = 64 << 10

// drainTime is how long output is still read after a script's own process has
// ended, from children that hold its pipes.
const drainTime = time.Second

// RunScript runs a script to its end, or to its time limit, in a process group
// of its own. Errors: InvalidRequest, ActionRefused (it may not run here), and
// ActionInterrupted.
func (r *Runner) RunScript(ctx context.Context, key string, req control.ScriptRequest) (control.ScriptResult, error) {
	var res control.ScriptResult
	argv, err := r.admit(req)
	if err != nil {
		return res, err
	}
	a, done, err := r.begin(key, &res)
	if err != nil || done {
		return res, err
	}
	if req.Text != "" {
		argv, err = a.writeText(req.Text)
		if err != nil {
			return res, errors.Join(err, r.forget(a))
		}
	}
	cmd := &command{argv: append(argv, req.Args...), env: environment(req.Env), dir: a.dir, limit: req.Timeout}
	cmd.begun = func(pid int) error {
		a.rec.PID, a.rec.Start = pid, startOf(pid)
		return a.save()
	}
	res.Started = r.cfg.Now().UTC()
	started, err := cmd.run(ctx, &res)
	res.Ended = r.cfg.Now().UTC()
	if !started {
		return res, errors.Join(problem.Wrap(err, problem.ActionRefused, "%s: %v", argv[0], err), r.forget(a))
	}
	if err != nil {
		return res, err
	}
	return res, r.end(ctx, a, res)
}

// admit checks a request before anything is begun, and returns how a file is
// run.
func (r *Runner) admit(req control.ScriptRequest) ([]string, error) {
	switch {
	case (req.Text == "") == (req.Path == ""):
		return nil, problem.New(problem.InvalidRequest, "a script has either a text or a path")
	case len(req.Text) > MaxScript:
		return nil, problem.New(problem.InvalidRequest, "the script has %d bytes, at most %d are allowed", len(req.Text), MaxScript)
	case req.Timeout <= 0:
		return nil, problem.New(problem.InvalidRequest, "the script has no time limit")
	case r.cfg.Scripts != AnyScript && r.cfg.Scripts != FolderScripts:
		return nil, problem.New(problem.ActionRefused, "this gateway runs no scripts")
	case r.cfg.Scripts == FolderScripts && req.Text != "":
		return nil, problem.New(problem.ActionRefused, "this gateway runs only the scripts in %s", r.cfg.Folder)
	case req.Text != "":
		return nil, nil
	}
	path := req.Path
	if !filepath.IsAbs(path) {
		path = filepath.Join(r.cfg.Folder, path)
	}
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, problem.Wrap(err, problem.ActionRefused, "script %s", req.Path)
	}
	if r.cfg.Scripts == FolderScripts {
		folder, err := filepath.EvalSymlinks(r.cfg.Folder)
		if err != nil || !strings.HasPrefix(path, folder+string(filepath.Separator)) {
			return nil, problem.New(problem.ActionRefused, "%s is not in %s, the only folder whose scripts this gateway runs", req.Path, r.cfg.Folder)
		}
	}
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return nil, problem.New(problem.ActionRefused, "%s is no executable file", req.Path)
	}
	return []string{path}, nil
}

// writeText puts a script's text into a file and returns how it is run: by the
// interpreter that its first line names, else by the shell. The file itself is
// not executed: its place may be mounted noexec, and a file that was just written may be
// busy in a child that is being started meanwhile.
func (a *action) writeText(text string) ([]string, error) {
	path := filepath.Join(a.dir, "script")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("write the script: %w", err)
	}
	first, _, _ := strings.Cut(text, "\n")
	interpreter, ok := strings.CutPrefix(first, "#!")
	if interpreter = strings.TrimSpace(interpreter); !ok || interpreter == "" {
		return []string{"/bin/sh", path}, nil
	}
	name, arg, one := strings.Cut(interpreter, " ")
	if !one {
		return []string{name, path}, nil
	}
	return []string{name, strings.TrimSpace(arg), path}, nil
}

// environment is a script's: a search path and what the plan says. Nothing of the
// gateway's own is passed on: it may hold secrets.
func environment(env map[string]string) []string {
	path := os.Getenv("PATH")
	if path == "" {
		path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	out := []string{"PATH=" + path, "LANG=C.UTF-8"}
	for _, k := range slices.Sorted(maps.Keys(env)) {
		out = append(out, k+"="+env[k])
	}
	return out
}

// command is one process group.
type command struct {
	argv, env []string
	dir       string
	limit     time.Duration
	// begun is told the process once it runs; when it fails, the process
	// group is killed.
	begun func(pid int) error
}

// run starts the command and waits for its end, its time limit, or ctx. started
// is false when nothing was begun.
func (c *command) run(ctx context.Context, res *control.ScriptResult) (started bool, err error) {
	var stdout, stderr bounded
	limit, cancel := context.WithTimeout(ctx, c.limit)
	defer cancel()
	cmd := exec.CommandContext(limit, c.argv[0], c.argv[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = c.dir, c.env, &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = drainTime
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if err := cmd.Start(); err != nil {
		return false, err
	}
	if err := c.begun(cmd.Process.Pid); err != nil {
		cancel()
		return true, errors.Join(fmt.Errorf("record the script's process: %w", err), cmd.Wait())
	}
	err = cmd.Wait()
	res.Stdout, res.StdoutBytes = stdout.text()
	res.Stderr, res.StderrBytes = stderr.text()
	res.TimedOut = errors.Is(limit.Err(), context.DeadlineExceeded) && ctx.Err() == nil && err != nil
	res.ExitCode = cmd.ProcessState.ExitCode()
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		res.Signal = ws.Signal().String()
	}
	return true, nil
}

// startOf is the time at which a process began, in the kernel's ticks since its
// own start; "" when there is no such process.
func startOf(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// The name in the second field may hold blanks and parentheses.
	text := string(b)
	i := strings.LastIndex(text, ") ")
	if i < 0 {
		return ""
	}
	fields := strings.Fields(text[i+2:])
	if len(fields) < 20 || fields[0] == "Z" {
		return ""
	}
	return fields[19]
}
