package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"rebound/internal/dr"
	"rebound/internal/gateway"
	"rebound/internal/vault/client"
)

func (a *app) newGatewayRejoin() *cobra.Command {
	var dir, pass, caFile string
	cmd := &cobra.Command{
		Use: "rejoin --dir DIR --vault HOST:PORT --vault-ca FILE", Short: "Give a gateway to another vault; it keeps everything else",
		Long: `Give the gateway of a directory to another vault: the one before was lost. It keeps its
name, its site, its journals and what it knows of its groups, and the machines go on
running; 'rebound vault adopt' then takes the groups over.

Run it on the gateway's host, with the passphrase that 'rebound gateway enroll' of the
new vault showed for the same name and site (--passphrase, or $REBOUND_PASSPHRASE), and
restart the gateway.`,
		Example: `  rebound gateway rejoin --dir /var/lib/rebound/gateway --vault vault2:8443 \
      --vault-ca vault2-ca.pem --passphrase 3k9x-…
  systemctl restart rebound-gateway`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if a.vault == "" || caFile == "" {
				return usageError{fmt.Errorf("--vault and --vault-ca are needed: the new vault")}
			}
			ca, err := os.ReadFile(caFile)
			if err != nil {
				return usageError{fmt.Errorf("--vault-ca: %w", err)}
			}
			if pass == "" {
				pass = os.Getenv("REBOUND_PASSPHRASE")
			}
			abs, err := filepath.Abs(dir)
			if err != nil {
				return usageError{fmt.Errorf("--dir: %w", err)}
			}
			e, err := gateway.Rejoin(cmd.Context(), abs, a.vault, pass, ca)
			if err != nil {
				return err
			}
			return a.print(e, func(t *table) {
				t.row("Gateway", e.Name)
				t.row("Site", e.Site)
				t.row("Vault", e.VaultAddr)
				t.row("Next", "restart the gateway")
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "dir", "/var/lib/rebound/gateway", "the gateway's directory")
	f.StringVar(&pass, "passphrase", "", "one-time passphrase of the new vault (default: $REBOUND_PASSPHRASE)")
	f.StringVar(&caFile, "vault-ca", "", "file with the new vault's certificate")
	return cmd
}

func (a *app) newAgentRevoke() *cobra.Command {
	return a.newRemoval(removal{
		use: "revoke", arg: "MACHINE", short: "End an agent's access at once",
		long: `End the access of a machine's agent to the vault at once. The machine is not touched;
'rebound agent enroll' lets its agent enrol again.`,
		example: "  rebound agent revoke web --yes", what: "revoke the agent of",
		do: func(ctx context.Context, c *client.Client, id string) error {
			return c.RevokeAgent(ctx, dr.MachineName(id))
		},
	})
}
