package vaultkill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rebound/internal/capture"
	"rebound/internal/dr"
	"rebound/internal/vault"
)

// The roles in which the test binary starts itself; only it knows them.
const (
	envRole = "REBOUND_CRASH_ROLE"
	envDir  = "REBOUND_CRASH_DIR"
	envAddr = "REBOUND_CRASH_ADDR"
	envLife = "REBOUND_CRASH_LIFE"
	// envBins is a directory with two releases of the test binary.
	envBins = "REBOUND_CRASH_BINARIES"
)

// The files in a vault's directory by which a test and the vault talk.
const (
	// armedFile holds a line for each place at which the vault kills itself:
	// "TASK" or "TASK MOMENT", where TASK is without its part, "*" for each.
	// "hold TASK MOMENT" is a place at which it waits until the line is gone.
	armedFile = "armed"
	// killedFile holds "JOB TASK MOMENT" of each place at which it has died.
	killedFile = "killed"
)

// TestMain lets the test binary be a vault, a gateway, and a capture.
func TestMain(m *testing.M) {
	if len(os.Args) >= 2 && os.Args[1] == "capture" {
		os.Exit(run(func(ctx context.Context) error {
			return capture.Run(ctx, capture.Config{Dir: os.Args[len(os.Args)-1]})
		}))
	}
	switch os.Getenv(envRole) {
	case "vault":
		os.Exit(run(serveVault))
	case "gateway":
		os.Exit(run(serveGateway))
	}
	os.Exit(withBinaries(m.Run))
}

// withBinaries copies the test binary twice and adds a byte to each, so that
// their hashes differ: two releases that take turns.
func withBinaries(run func() int) int {
	dir, err := os.MkdirTemp("", "vaultkill")
	if err == nil {
		defer os.RemoveAll(dir)
		err = os.Setenv(envBins, dir)
	}
	for n := range 2 {
		if err == nil {
			err = copyBinary(binary(n), byte(n+1))
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return run()
}

func binary(n int) string {
	return filepath.Join(os.Getenv(envBins), fmt.Sprintf("vault-%d", n+1))
}

func copyBinary(path string, mark byte) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	b, err := os.ReadFile(self)
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, mark), 0o700)
}

func run(f func(context.Context) error) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := f(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

// serveVault is a vault that kills itself where envKill says.
func serveVault(ctx context.Context) error {
	dir := os.Getenv(envDir)
	life, _ := time.ParseDuration(os.Getenv(envLife))
	return vault.Serve(ctx, vault.Config{
		Dir: dir, Listen: os.Getenv(envAddr), Log: logger(), Version: "crash", CertificateLife: life,
		Ready: func(net.Addr) { fmt.Println("ready") },
		Hook:  (&places{dir: dir}).enter,
	})
}

// places are where a vault dies, or waits.
type places struct {
	dir string
	mu  sync.Mutex // two jobs may be at a place each
}

// enter is called at each boundary of each task.
func (p *places) enter(job dr.JobID, task, moment string) {
	base, _, _ := strings.Cut(task, "@")
	at := base + " " + moment
	for slices.Contains(p.armed(), "hold "+at) {
		time.Sleep(5 * time.Millisecond)
	}
	armed := p.armed()
	if slices.Contains(armed, "*") || slices.Contains(armed, base) || slices.Contains(armed, at) {
		p.dieOnce(fmt.Sprintf("%s %s %s", job, task, moment))
	}
}

func (p *places) armed() []string {
	b, err := os.ReadFile(filepath.Join(p.dir, armedFile))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

// dieOnce kills this process unless it did so here before.
func (p *places) dieOnce(where string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	path := filepath.Join(p.dir, killedFile)
	seen, _ := os.ReadFile(path)
	if bytes.Contains(seen, []byte(where+"\n")) {
		return
	}
	if err := appendLine(path, where); err != nil {
		panic(err)
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // there is no after
	select {}
}

func appendLine(path, line string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	return errors.Join(err, f.Close())
}
