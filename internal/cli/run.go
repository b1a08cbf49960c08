package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"rebound/internal/problem"
)

// Streams are what a command reads and writes.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// app is what all commands share: streams and the global flags.
type app struct {
	Streams
	output   string // table, json or yaml
	vault    string
	tokenArg string
	noWait   bool
	timeout  string
	yes      bool
	dryRun   bool
	logLevel string
}

// Run executes one command line and returns the exit code.
func Run(ctx context.Context, args []string, s Streams) int {
	a := &app{Streams: s}
	root := a.newRoot()
	root.SetArgs(args)
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	err := root.ExecuteContext(ctx)
	if err != nil {
		a.printError(err)
	}
	return exitCode(err)
}

// printError tells a person, or a program, what went wrong and what to do.
func (a *app) printError(err error) {
	p, ok := errors.AsType[*problem.Problem](err)
	if a.output == "json" {
		if !ok {
			p = problem.From(err)
		}
		if encErr := json.NewEncoder(a.Err).Encode(map[string]any{"error": p, "exitCode": exitCode(err)}); encErr == nil {
			return
		}
	}
	fmt.Fprintf(a.Err, "Error: %v\n", err)
	if !ok {
		return
	}
	for _, c := range p.PossibleCauses {
		fmt.Fprintf(a.Err, "  possible cause: %s\n", c)
	}
	if p.RecommendedAction != "" {
		fmt.Fprintf(a.Err, "Try: %s\n", p.RecommendedAction)
	}
}

func (a *app) newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "rebound",
		Short:         "Disaster recovery for virtual machines",
		Long:          "Rebound replicates running virtual machines to a second site, keeps every moment of\ntheir history, and takes them there and home again.\n\n" + exitCodesHelp,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	f := root.PersistentFlags()
	f.StringVarP(&a.output, "output", "o", "table", "table, json or yaml")
	f.StringVar(&a.vault, "vault", "", "address of the vault, host:port (default: that of 'rebound login', or $REBOUND_VAULT)")
	f.StringVar(&a.tokenArg, "token", "", "API token (default: that of 'rebound login', or $REBOUND_TOKEN)")
	f.BoolVar(&a.noWait, "no-wait", false, "do not wait for the job; print it and return")
	f.StringVar(&a.timeout, "timeout", "", "how long to wait for a job, such as 10m (default: until it ends)")
	f.BoolVarP(&a.yes, "yes", "y", false, "do not ask before something is lost or deleted")
	f.BoolVar(&a.dryRun, "dry-run", false, "say what would be done, lost and deleted, and do nothing")
	f.StringVar(&a.logLevel, "log-level", "info", "of the serving roles: debug, info, warn or error")
	root.AddCommand(a.newGateway(), a.newCapture(), a.newVault(), a.newAgent(), a.newJournal(), a.newDemo(), a.newVersion())
	a.addOperator(root)
	return root
}

// logger writes structured lines to the error stream.
func (a *app) logger() (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(a.logLevel)); err != nil {
		return nil, usageError{fmt.Errorf("--log-level: %w", err)}
	}
	return slog.New(slog.NewTextHandler(a.Err, &slog.HandlerOptions{Level: level})), nil
}

// exactly demands n arguments and names them in the error.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != len(names) {
			return usageError{fmt.Errorf("%s wants %d arguments %v, got %d", cmd.CommandPath(), len(names), names, len(args))}
		}
		return nil
	}
}
