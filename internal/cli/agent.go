package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"rebound/internal/agent"
	"rebound/internal/metrics"
)

func (a *app) newAgent() *cobra.Command {
	var cfg agent.Config
	var caFile, metricsAddr string
	cmd := &cobra.Command{
		Use:   "agent --machine M --vault HOST:PORT --state DIR",
		Short: "Run the mobility agent of this machine until SIGTERM",
		Long: `Run the mobility agent: it enrols once with a passphrase, registers after every boot
and sends heartbeats, by which the vault knows that this machine has really booted.`,
		Example: `  rebound agent --machine web-01 --vault vault:8443 --vault-ca ca.pem --passphrase 3k9x-… \
      --state /var/lib/rebound-agent`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := a.logger()
			if err != nil {
				return err
			}
			if caFile != "" {
				if cfg.CA, err = os.ReadFile(caFile); err != nil {
					return usageError{fmt.Errorf("--vault-ca: %w", err)}
				}
			}
			cfg.Vault, cfg.Logger = a.vault, log
			if metricsAddr == "" {
				return agent.Run(cmd.Context(), cfg)
			}
			cfg.Numbers = &agent.Numbers{}
			grp, ctx := errgroup.WithContext(cmd.Context())
			grp.Go(func() error { return metrics.Serve(ctx, metricsAddr, log, cfg.Numbers.MetricSource()) })
			grp.Go(func() error { return agent.Run(ctx, cfg) })
			return grp.Wait()
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Machine, "machine", "", "this machine's name in the vault")
	f.StringVar(&metricsAddr, "metrics", "", "address for the metrics, without TLS and token, such as 127.0.0.1:9102")
	f.StringVar(&cfg.Passphrase, "passphrase", "", "one-time passphrase (first start)")
	f.StringVar(&caFile, "vault-ca", "", "file with the vault's certificate (first start)")
	f.StringVar(&cfg.StateDir, "state", "/var/lib/rebound-agent", "directory for the agent's key and certificate")
	f.DurationVar(&cfg.Interval, "interval", 0, "time between heartbeats (default 5s)")
	return cmd
}
