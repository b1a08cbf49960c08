package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rebound/internal/problem"
)

// checkStatus is how one check ended.
type checkStatus string

const (
	checkOK   checkStatus = "ok"
	checkWarn checkStatus = "warn" // works, but worse or not for all
	checkFail checkStatus = "fail" // something would fail later
	checkSkip checkStatus = "skip" // there was nothing to check it with
)

// checkLine is the outcome of one check.
type checkLine struct {
	Name   string      `json:"name"`
	Status checkStatus `json:"status"`
	Detail string      `json:"detail"`
	Remedy string      `json:"remedy,omitempty"`
}

// churn is how much a machine writes, and the journal that it asks for.
type churn struct {
	SampleSeconds  float64 `json:"sampleSeconds"`
	WrittenBytes   int64   `json:"writtenBytes"`
	BytesPerSecond float64 `json:"bytesPerSecond"`
	WindowSeconds  float64 `json:"windowSeconds"`
	JournalBytes   int64   `json:"journalBytes"`
}

// checkReport is the whole outcome; OK when nothing failed.
type checkReport struct {
	OK     bool        `json:"ok"`
	Checks []checkLine `json:"checks"`
	Churn  *churn      `json:"churn,omitempty"`
}

// checkOptions are the flags of "check".
type checkOptions struct {
	qmp, dir, listen string
	sample, window   time.Duration
}

// checker collects lines.
type checker struct {
	a   *app
	o   checkOptions
	rep checkReport
	// free is the room at --dir; less than 0 when that is not known.
	free int64
}

func (c *checker) add(s checkStatus, name, remedy, format string, args ...any) {
	c.rep.Checks = append(c.rep.Checks, checkLine{Name: name, Status: s, Detail: fmt.Sprintf(format, args...), Remedy: remedy})
}

func (a *app) newCheck() *cobra.Command {
	var o checkOptions
	cmd := &cobra.Command{
		Use: "check", Short: "Tell before the first use what would fail later",
		Long: `Check this host, and the vault when one is known: QEMU and its tools, whether KVM really
works or machines would run under TCG, the clock, ports, room. With --qmp also a running
machine: whether its monitor is free (Rebound needs one that nobody else is connected to),
and how much it writes, turned into the size of the journal for a window of history.

Nothing is changed. The exit code is 3 when something failed.`,
		Example: `  rebound check
  rebound check --dir /var/lib/rebound/gateway
  rebound check --qmp /run/qemu/web.qmp --sample 60s --window 72h`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.sample <= 0 || o.window <= 0 {
				return usageError{fmt.Errorf("--sample and --window want a positive time")}
			}
			return a.check(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.qmp, "qmp", "", "QMP socket of a running machine")
	f.StringVar(&o.dir, "dir", "/var/lib/rebound/gateway", "the directory that a gateway would use")
	f.StringVar(&o.listen, "listen", ":9443", "the address that a gateway would listen on")
	f.DurationVar(&o.sample, "sample", 10*time.Second, "how long to watch what the machine writes")
	f.DurationVar(&o.window, "window", 24*time.Hour, "history in which any moment can be chosen")
	return cmd
}

func (a *app) check(ctx context.Context, o checkOptions) error {
	c := &checker{a: a, o: o, rep: checkReport{Checks: []checkLine{}}, free: -1}
	for _, step := range []func(context.Context){c.qemu, c.imageTool, c.accelerator, c.room, c.runDir, c.port, c.machine, c.vault} {
		step(ctx)
		if ctx.Err() != nil {
			return fmt.Errorf("check: %w", context.Cause(ctx))
		}
	}
	var failed []string
	for _, l := range c.rep.Checks {
		if l.Status == checkFail {
			failed = append(failed, l.Name)
		}
	}
	c.rep.OK = len(failed) == 0
	err := a.print(c.rep, func(t *table) {
		for _, l := range c.rep.Checks {
			t.row(l.Status, l.Name, l.Detail)
			if l.Remedy != "" {
				t.row("", "", "-> "+l.Remedy)
			}
		}
	})
	if err != nil || c.rep.OK {
		return err
	}
	return problem.New(problem.CheckFailed, "%s", strings.Join(failed, ", "))
}
