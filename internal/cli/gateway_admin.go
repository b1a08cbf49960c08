package cli

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"rebound/internal/dr"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

func (a *app) newGatewayList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the gateways", Example: "  rebound gateway list", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(func(c *client.Client) error {
				list, err := c.Gateways(cmd.Context())
				if err != nil {
					return err
				}
				return a.print(list, func(t *table) {
					t.head("GATEWAY", "SITE", "STATE", "CONNECTED", "LAST SEEN", "DATA ADDRESS", "CLOCK")
					for _, g := range list {
						t.row(g.ID, g.Site, g.State, g.Connected, when(g.LastSeen), or(g.DataAddr), clockText(g.ClockOffsetSeconds))
					}
				})
			})
		},
	}
}

// clockText says how far a gateway's clock is ahead of the vault's, to the
// millisecond.
func clockText(offset float64) string {
	ms := math.Round(-offset*1000) + 0 // + 0: no negative zero
	return fmt.Sprintf("%+.3f s", ms/1000)
}

func (a *app) newGatewayShow() *cobra.Command {
	return &cobra.Command{
		Use: "show GATEWAY", Short: "Show a gateway", Example: "  rebound gateway show gw-home",
		Args: exactly("GATEWAY"), ValidArgsFunction: a.completeGateways,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *client.Client) error {
				g, err := c.Gateway(cmd.Context(), dr.GatewayID(args[0]))
				if err != nil {
					return err
				}
				return a.print(g, func(t *table) {
					t.row("Gateway", g.ID)
					t.row("Site", g.Site)
					t.row("State", g.State)
					t.row("Connected", g.Connected)
					t.row("Last seen", when(g.LastSeen))
					t.row("Data address", or(g.DataAddr))
					t.row("Clock", clockText(g.ClockOffsetSeconds)+" from the vault's")
					t.row("Certificate ends", when(g.CertificateEnds))
				})
			})
		},
	}
}

func (a *app) newGatewayEnroll() *cobra.Command {
	var at, caOut string
	cmd := &cobra.Command{
		Use: "enroll GATEWAY --site SITE", Short: "Announce a gateway and show its one-time passphrase",
		Long: `Announce a gateway of a site, or give one a new passphrase. The passphrase is shown once,
works once and ends after a day; 'rebound gateway serve' takes it on its first start.`,
		Example: "  rebound gateway enroll gw-home --site home --ca-out vault-ca.pem",
		Args:    exactly("GATEWAY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if at == "" {
				return usageError{errors.New("--site is missing: the gateway's site")}
			}
			return a.withClient(func(c *client.Client) error {
				e, err := c.EnrollGateway(cmd.Context(), rest.NewGateway{ID: dr.GatewayID(args[0]), Site: dr.SiteID(at)})
				if err != nil {
					return err
				}
				return a.printEnrollment(e, caOut)
			})
		},
	}
	cmd.Flags().StringVar(&at, "site", "", "the gateway's site")
	cmd.Flags().StringVar(&caOut, "ca-out", "", "file to write the vault's certificate to")
	return cmd
}

func (a *app) newAgentEnroll() *cobra.Command {
	var caOut string
	cmd := &cobra.Command{
		Use: "enroll MACHINE", Short: "Announce a machine's agent and show its one-time passphrase",
		Long: `Announce the agent of a machine, or give it a new passphrase. The passphrase is shown
once, works once and ends after a day; 'rebound agent' takes it on its first start.`,
		Example: "  rebound agent enroll web --ca-out vault-ca.pem",
		Args:    exactly("MACHINE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *client.Client) error {
				e, err := c.EnrollAgent(cmd.Context(), dr.MachineName(args[0]))
				if err != nil {
					return err
				}
				return a.printEnrollment(e, caOut)
			})
		},
	}
	cmd.Flags().StringVar(&caOut, "ca-out", "", "file to write the vault's certificate to")
	return cmd
}

func (a *app) printEnrollment(e rest.Enrollment, caOut string) error {
	if caOut != "" {
		if err := renameio.WriteFile(caOut, []byte(e.CA), os.FileMode(0o644)); err != nil {
			return fmt.Errorf("--ca-out: %w", err)
		}
	}
	return a.print(e, func(t *table) {
		t.row("Role", e.Role)
		t.row("Name", e.Name)
		t.row("Passphrase", e.Passphrase)
		t.row("Ends", when(e.ExpiresAt))
		if caOut != "" {
			t.row("Certificate", caOut)
		}
	})
}

func (a *app) newGatewayRevoke() *cobra.Command {
	return a.newRemoval(removal{
		use: "revoke", arg: "GATEWAY", short: "End a gateway's access at once",
		long: `End a gateway's access to the vault at once. Replication through it breaks until it is
enrolled again; machines go on running.`,
		example: "  rebound gateway revoke gw-old --yes", what: "revoke gateway", complete: a.completeGateways,
		do: func(ctx context.Context, c *client.Client, id string) error {
			_, err := c.RevokeGateway(ctx, dr.GatewayID(id))
			return err
		},
	})
}
