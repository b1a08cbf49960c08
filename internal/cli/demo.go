package cli

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"rebound/internal/lab/demo"
)

func (a *app) newDemo() *cobra.Command {
	var cfg demo.Config
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Play the whole round trip on this machine, with real guests",
		Long: `Play the whole life of a protected group on one machine: two sites, two real guests,
first copy under load, test failover, loss of a site, failover, another moment, commit,
the old primary's return, reprotect, failback home, commit, reprotect.

It needs QEMU and a few tools ('make demo' installs them), writes report.json and the
evidence below --out, and leaves nothing behind unless --keep.`,
		Example: "  rebound demo --seed 7\n  rebound demo --keep",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			exe, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find own program: %w", err)
			}
			if cfg.Out, err = filepath.Abs(cfg.Out); err != nil {
				return fmt.Errorf("--out: %w", err)
			}
			if strings.ContainsAny(cfg.Out, " ,=") {
				return usageError{fmt.Errorf("--out %q: QEMU cannot use paths with spaces, commas or equals signs", cfg.Out)}
			}
			cfg.Program, cfg.Stdout, cfg.Log = exe, a.Out, slog.New(slog.DiscardHandler)
			return demo.Run(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	f.Uint64Var(&cfg.Seed, "seed", 1, "moves the kill time, the chosen moment and the disks' layout")
	f.BoolVar(&cfg.Keep, "keep", false, "leave everything running and print URL and token")
	f.StringVar(&cfg.Out, "out", "out/demo", "directory for report, evidence and, while it runs, the two sites")
	f.IntVar(&cfg.BallastMiB, "ballast", 256, "MiB of random data on each disk before the first copy")
	f.StringVar(&cfg.CacheDir, "cache", "", "directory that keeps guest images' parts between runs (default: the user's cache)")
	return cmd
}
