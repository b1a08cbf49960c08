package cli

import (
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rebound/internal/vault"
)

// Version of the program, as the API and "rebound version" tell it.
const Version = "0.1.0"

func (a *app) newVault() *cobra.Command {
	return a.parent("vault", "The vault: the control plane", "  rebound vault serve --help", a.newVaultServe(), a.newVaultBackup(), a.newVaultRestore())
}

func (a *app) newVaultServe() *cobra.Command {
	var cfg vault.Config
	var hosts string
	cmd := &cobra.Command{
		Use:   "serve --dir DIR",
		Short: "Run the vault until SIGTERM",
		Long: `Run the vault: inventory, jobs, REST API. It belongs at the recovery site or a third
place, never only at home.

The first start writes the first token to DIR/` + vault.TokenFile + ` and the vault's
certificate to DIR/` + vault.CAFile + `; both are needed by 'rebound login'.`,
		Example: `  rebound vault serve --dir /var/lib/rebound/vault
  rebound login vault.example:8443 --ca /var/lib/rebound/vault/` + vault.CAFile + ` --token-file /var/lib/rebound/vault/` + vault.TokenFile,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := a.logger()
			if err != nil {
				return err
			}
			cfg.Log, cfg.Version, cfg.Recent = log, Version, a.recent
			if hosts != "" {
				cfg.Hosts = strings.Split(hosts, ",")
			}
			cfg.Ready = func(addr net.Addr) { fmt.Fprintf(a.Out, "vault: https://%s\n", addr) }
			cfg.FirstToken = func(string) { fmt.Fprintf(a.Out, "first token: in %s/%s\n", cfg.Dir, vault.TokenFile) }
			return vault.Serve(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Dir, "dir", "/var/lib/rebound/vault", "directory of everything that the vault remembers")
	f.StringVar(&cfg.Metrics, "metrics", "", "further address for the metrics alone, without TLS and token, such as 127.0.0.1:9100")
	f.StringVar(&cfg.Listen, "listen", ":8443", "address to listen on")
	f.DurationVar(&cfg.CertificateLife, "certificate-life", 90*24*time.Hour, "how long the certificates of gateways and agents last; they renew them after two thirds of it")
	f.StringVar(&hosts, "hosts", "", "further names and addresses of the vault, with commas between, for its certificate")
	return cmd
}
