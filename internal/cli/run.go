package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rebound/internal/logging"
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
	caFile   string
	wait     bool
	noWait   bool
	timeout  time.Duration
	yes      bool
	dryRun   bool
	logLevel string
	// logFormat is text or json; recent holds the newest lines of logger.
	logFormat string
	recent    *logging.Recent

	// interactive reports whether a person can be asked; tests replace it.
	interactive func() bool
}

// Run executes one command line and returns the exit code.
func Run(ctx context.Context, args []string, s Streams) int {
	return newApp(s).execute(ctx, args)
}

func (a *app) execute(ctx context.Context, args []string) int {
	root := a.newRoot()
	root.SetArgs(append([]string{}, args...)) // nil would mean os.Args
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	err := root.ExecuteContext(ctx)
	if err != nil {
		a.printError(err)
	}
	return exitCode(err)
}

func newApp(s Streams) *app {
	a := &app{Streams: s}
	a.interactive = a.stdinIsTerminal
	return a
}

// printError tells a person, or a program, what went wrong and what to do.
func (a *app) printError(err error) {
	p, ok := errors.AsType[*problem.Problem](err)
	if a.output == "json" {
		if _, usage := errors.AsType[usageError](err); !ok && usage {
			p = problem.Wrap(err, problem.InvalidRequest, "%v", err)
		} else if !ok {
			p = problem.From(err)
		}
		if p.Err != nil && p.Detail != p.Err.Error() {
			full := *p
			full.Detail += ": " + p.Err.Error()
			p = &full
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
		Example:       "  rebound check\n  rebound login vault.example:8443 --ca vault-ca.pem --token-file first-token\n  rebound status",
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	a.globalFlags(root)
	root.AddCommand(a.newGateway(), a.newCapture(), a.newThawGuard(), a.newVault(), a.newAgent(), a.newJournal(), a.newDemo(), a.newVersion())
	a.addOperator(root)
	usageArgs(root)
	root.PersistentPreRunE = a.checkGlobals
	return root
}

func (a *app) globalFlags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVarP(&a.output, "output", "o", "table", "table, json or yaml")
	f.StringVar(&a.vault, "vault", "", "address of the vault, host:port (default: $REBOUND_VAULT, or that of 'rebound login')")
	f.StringVar(&a.tokenArg, "token", "", "API token (default: $REBOUND_TOKEN, or that of 'rebound login')")
	f.StringVar(&a.caFile, "ca", "", "file with the vault's certificate (default: $REBOUND_CA, or that of 'rebound login')")
	f.BoolVar(&a.wait, "wait", true, "wait for the job that the command starts")
	f.BoolVar(&a.noWait, "no-wait", false, "do not wait for the job; print it and return")
	f.DurationVar(&a.timeout, "timeout", 0, "how long to wait for a job, such as 10m (default: until it ends)")
	f.BoolVarP(&a.yes, "yes", "y", false, "do not ask before something is lost or deleted")
	f.BoolVar(&a.dryRun, "dry-run", false, "say what would be done, lost and deleted, and do nothing")
	f.StringVar(&a.logFormat, "log-format", "text", "of the serving roles: text or json")
	f.StringVar(&a.logLevel, "log-level", "info", "of the serving roles: debug, info, warn or error")
}

// dryRunKey annotates the commands that --dry-run means something to.
const dryRunKey = "dry-run"

// checkGlobals refuses global flags that make no sense, before anything is
// done: above all a --dry-run that a command would not heed.
func (a *app) checkGlobals(cmd *cobra.Command, _ []string) error {
	switch a.output {
	case "table", "json", "yaml":
	case htmlOutput:
		if cmd.Annotations[htmlOutput] == "" {
			return usageError{fmt.Errorf("--output html is for reports; '%s' has table, json and yaml", cmd.CommandPath())}
		}
	default:
		return usageError{fmt.Errorf("--output %q: want table, json or yaml", a.output)}
	}
	if a.dryRun && cmd.Annotations[dryRunKey] == "" {
		return usageError{fmt.Errorf("--dry-run means nothing to '%s'; nothing was done", cmd.CommandPath())}
	}
	if a.timeout < 0 {
		return usageError{fmt.Errorf("--timeout %v: want a positive time", a.timeout)}
	}
	if !a.wait {
		a.noWait = true
	}
	return nil
}

// usageArgs makes wrong arguments of any command usage errors.
func usageArgs(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			err := check(cmd, args)
			if err == nil {
				return nil
			}
			if cmd.HasSubCommands() && len(args) > 0 {
				text := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
				cmd.SuggestionsMinimumDistance = 2
				if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
					text += "; did you mean " + strings.Join(near, " or ") + "?"
				}
				err = errors.New(text)
			}
			return usageError{err}
		}
	}
	for _, sub := range cmd.Commands() {
		usageArgs(sub)
	}
}

// logger writes structured lines to the error stream.
func (a *app) logger() (*slog.Logger, error) {
	log, recent, err := logging.New(logging.Options{W: a.Err, Format: a.logFormat, Level: a.logLevel})
	if err != nil {
		return nil, usageError{fmt.Errorf("--log-level or --log-format: %w", err)}
	}
	a.recent = recent
	return log, nil
}

// parent is a command that only holds others.
func (a *app) parent(use, short, example string, subs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Example: example, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(subs...)
	return cmd
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
