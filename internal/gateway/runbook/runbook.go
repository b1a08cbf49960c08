// Package runbook runs the actions of recovery plans: scripts, and HTTP
// requests. It promises that an action with the same key is begun once, even
// across the death of the process: the result is on disk before it is returned
// and answers a repetition; an action that was cut short is answered with
// ActionInterrupted, because nobody knows how far it came. Gateways use it, and
// the vault for the requests that it sends itself.
package runbook

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"rebound/internal/control"
	"rebound/internal/gateway/statefile"
	"rebound/internal/problem"
)

// Scripts says which scripts a gateway runs.
type Scripts string

// The choices. Whoever may edit plans in the vault can run AnyScript's programs
// with the gateway's rights; the gateway's administrator can forbid that.
const (
	// AnyScript runs texts, and files anywhere on the host.
	AnyScript Scripts = "any"
	// FolderScripts runs files of the gateway's folder of scripts only.
	FolderScripts Scripts = "folder"
	// NoScript runs none.
	NoScript Scripts = "none"
)

// ParseScripts reads a choice; empty means AnyScript.
func ParseScripts(s string) (Scripts, error) {
	switch Scripts(s) {
	case "":
		return AnyScript, nil
	case AnyScript, FolderScripts, NoScript:
		return Scripts(s), nil
	}
	return "", fmt.Errorf("scripts %q: want any, folder or none", s)
}

// keep is how long the record of an action is kept for a repetition; the
// gateway's command ledger keeps its results as long.
const keep = 90 * 24 * time.Hour

// Config of a runner; Dir and Now are needed.
type Config struct {
	// Dir keeps a folder for each action.
	Dir string
	// Folder is where relative paths of scripts are looked up.
	Folder string
	// Scripts that may run; empty means none.
	Scripts Scripts
	Now     func() time.Time
}

// Runner runs actions. Safe for use by several goroutines; one process uses a
// directory.
type Runner struct {
	cfg Config

	mu      sync.Mutex
	running map[string]bool
}

// Open makes the directory, and forgets actions of more than 90 days ago.
func Open(c Config) (*Runner, error) {
	if err := statefile.MakeDir(c.Dir); err != nil {
		return nil, fmt.Errorf("make folder of actions: %w", err)
	}
	r := &Runner{cfg: c, running: map[string]bool{}}
	entries, err := os.ReadDir(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("list actions: %w", err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || c.Now().Sub(info.ModTime()) < keep {
			continue
		}
		if err := os.RemoveAll(filepath.Join(c.Dir, e.Name())); err != nil {
			return nil, fmt.Errorf("forget an old action: %w", err)
		}
	}
	return r, nil
}

// record is what is on disk of one action.
type record struct {
	Key   string    `json:"key"`
	Begun time.Time `json:"begun"`
	// PID and Start name the process of a script: its number and the time
	// of its start in the kernel's ticks, since numbers are used again.
	PID   int    `json:"pid,omitempty"`
	Start string `json:"start,omitempty"`
	// Result is set once the action has ended.
	Result json.RawMessage `json:"result,omitempty"`
}

// action is one action at work.
type action struct {
	dir string
	rec record
}

func (a *action) save() error {
	return statefile.Save(filepath.Join(a.dir, "record"), a.rec)
}

// folder is where an action is kept; keys hold characters that file names may
// not.
func (r *Runner) folder(key string) string {
	sum := sha256.Sum256([]byte(key))
	return filepath.Join(r.cfg.Dir, hex.EncodeToString(sum[:16]))
}

// begin makes the record of an action. When the action has ended before, its
// result is decoded into out and done is true.
func (r *Runner) begin(key string, out any) (a *action, done bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a = &action{dir: r.folder(key)}
	known, err := statefile.Load(filepath.Join(a.dir, "record"), &a.rec)
	switch {
	case err != nil:
		return nil, false, fmt.Errorf("read the record of an action: %w", err)
	case known && a.rec.Key != key:
		return nil, false, problem.New(problem.InternalError, "two actions share the folder %s", a.dir)
	case known && len(a.rec.Result) > 0:
		if err := json.Unmarshal(a.rec.Result, out); err != nil {
			return nil, false, fmt.Errorf("decode the result of an action: %w", err)
		}
		return a, true, nil
	case r.running[key]:
		return nil, false, problem.New(problem.InternalError, "action %s is running", key)
	case known:
		return nil, false, a.interrupted()
	}
	if err := statefile.MakeDir(a.dir); err != nil {
		return nil, false, fmt.Errorf("make the folder of an action: %w", err)
	}
	a.rec = record{Key: key, Begun: r.cfg.Now().UTC()}
	if err := a.save(); err != nil {
		return nil, false, fmt.Errorf("record the beginning of an action: %w", err)
	}
	r.running[key] = true
	return a, false, nil
}

// end keeps the result of an action. An action of which ctx ended first has
// none: the process is about to stop, and the next one says so.
func (r *Runner) end(ctx context.Context, a *action, result any) error {
	r.mu.Lock()
	delete(r.running, a.rec.Key)
	r.mu.Unlock()
	if ctx.Err() != nil {
		return fmt.Errorf("action was cut short: %w", context.Cause(ctx))
	}
	raw, err := json.Marshal(result)
	if err != nil {
		return fmt.Errorf("encode the result of an action: %w", err)
	}
	a.rec.Result = raw
	if err := a.save(); err != nil {
		return fmt.Errorf("record the result of an action: %w", err)
	}
	return nil
}

// forget takes back the record of an action that was not begun after all.
func (r *Runner) forget(a *action) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.running, a.rec.Key)
	if err := os.RemoveAll(a.dir); err != nil {
		return fmt.Errorf("forget an action: %w", err)
	}
	return nil
}

// interrupted says that an action was begun and did not end.
func (a *action) interrupted() error {
	since := a.rec.Begun.Format(time.RFC3339)
	if a.rec.PID == 0 {
		return problem.New(problem.ActionInterrupted, "it was begun at %s, and the process that ran it died before its end was recorded", since)
	}
	if startOf(a.rec.PID) == a.rec.Start && a.rec.Start != "" {
		return problem.New(problem.ActionInterrupted, "it was begun at %s, the process that ran it died, and the script still runs as process %d", since, a.rec.PID)
	}
	return problem.New(problem.ActionInterrupted, "it was begun at %s, the process that ran it died, and the script runs no more", since)
}

// Key is the key of a command's origin.
func Key(o control.Origin) string { return string(o.Job) + "\n" + o.Task }
