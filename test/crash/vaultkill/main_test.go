package vaultkill

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
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
	// envKill lists "task moment" pairs, with commas between, at which a
	// vault kills itself once; "*" is each.
	envKill = "REBOUND_CRASH_KILL"
	envLife = "REBOUND_CRASH_LIFE"
)

// killedFile holds the places at which the vault of a directory has died.
const killedFile = "killed"

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
	os.Exit(m.Run())
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
	places := strings.Split(os.Getenv(envKill), ",")
	life, _ := time.ParseDuration(os.Getenv(envLife))
	return vault.Serve(ctx, vault.Config{
		Dir: dir, Listen: os.Getenv(envAddr), Log: logger(), Version: "crash", CertificateLife: life,
		Ready: func(net.Addr) { fmt.Println("ready") },
		Hook: func(_ dr.JobID, task, moment string) {
			if where := task + " " + moment; slices.Contains(places, "*") || slices.Contains(places, where) {
				dieOnce(dir, where)
			}
		},
	})
}

// dieOnce kills this process unless it did so here before.
func dieOnce(dir, where string) {
	path := filepath.Join(dir, killedFile)
	seen, _ := os.ReadFile(path)
	if bytes.Contains(seen, []byte(where+"\n")) {
		return
	}
	if err := os.WriteFile(path, append(seen, []byte(where+"\n")...), 0o600); err != nil {
		panic(err)
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // there is no after
	select {}
}
