// Command rebound is disaster recovery for virtual machines: the vault, the
// gateway, the capture process, the agent and the operator's commands in one
// program. Everything but signals and the exit code is in package cli.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"rebound/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Run(ctx, os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	stop()
	os.Exit(code)
}
