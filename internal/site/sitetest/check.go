package sitetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"time"
)

// T is what the suite needs of a test; *testing.T is one.
type T interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Error(args ...any)
	Errorf(format string, args ...any)
	Skip(args ...any)
	// Cleanup runs f when the test has ended, the last first.
	Cleanup(f func())
	// TempDir is a new folder that goes with the test.
	TempDir() string
}

// Outcome is how one test of the suite went.
type Outcome string

// The outcomes.
const (
	Passed Outcome = "passed"
	Failed Outcome = "failed"
	// Skipped: the site does not have the ability.
	Skipped Outcome = "skipped"
)

// Result is one test of the suite, run on a site.
type Result struct {
	Name    string        `json:"name"`
	Outcome Outcome       `json:"outcome"`
	Took    time.Duration `json:"took"`
	// Text says what failed, or why it was skipped.
	Text string `json:"text,omitempty"`
}

// Check runs the suite outside of a test and returns how each part went; each
// is called with every result as it comes, and may be nil. It stops with ctx.
func Check(ctx context.Context, f Factory, each func(done, total int, r Result)) ([]Result, error) {
	all := tests()
	var out []Result
	for _, test := range all {
		if err := ctx.Err(); err != nil {
			return out, fmt.Errorf("check site: %w", context.Cause(ctx))
		}
		r := check(ctx, test, f)
		out = append(out, r)
		if each != nil {
			each(len(out), len(all), r)
		}
	}
	return out, nil
}

func check(ctx context.Context, test test, f Factory) Result {
	rec := &recorder{}
	began := time.Now()
	done := make(chan struct{})
	go func() { // Fatal ends the goroutine
		defer close(done)
		defer rec.cleanUp()
		defer rec.caught()
		test.on(ctx, rec, f)
	}()
	<-done
	r := Result{Name: test.name, Outcome: Passed, Took: time.Since(began), Text: strings.Join(rec.text, "; ")}
	switch {
	case rec.failed:
		r.Outcome = Failed
	case rec.skipped:
		r.Outcome = Skipped
	}
	return r
}

// recorder is a T that remembers.
type recorder struct {
	mu              sync.Mutex
	failed, skipped bool
	text            []string
	cleanups        []func()
}

func (r *recorder) note(failed bool, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = r.failed || failed
	r.text = append(r.text, strings.TrimSpace(text))
}

func (r *recorder) caught() {
	if p := recover(); p != nil {
		r.note(true, fmt.Sprintf("panic: %v\n%s", p, debug.Stack()))
	}
}

func (r *recorder) cleanUp() {
	for {
		r.mu.Lock()
		n := len(r.cleanups)
		if n == 0 {
			r.mu.Unlock()
			return
		}
		last := r.cleanups[n-1]
		r.cleanups = r.cleanups[:n-1]
		r.mu.Unlock()
		func() {
			defer r.caught()
			last()
		}()
	}
}

func (r *recorder) Helper() {}

func (r *recorder) Error(args ...any) { r.note(true, fmt.Sprintln(args...)) }

func (r *recorder) Errorf(format string, args ...any) { r.note(true, fmt.Sprintf(format, args...)) }

func (r *recorder) Fatal(args ...any) {
	r.Error(args...)
	runtime.Goexit()
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

func (r *recorder) Skip(args ...any) {
	r.note(false, fmt.Sprintln(args...))
	r.mu.Lock()
	r.skipped = true
	r.mu.Unlock()
	runtime.Goexit()
}

func (r *recorder) Cleanup(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleanups = append(r.cleanups, f)
}

func (r *recorder) TempDir() string {
	dir, err := os.MkdirTemp("", "site")
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			r.Error(err)
		}
	})
	return dir
}
