package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"rebound/internal/dr"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

func (a *app) newMachineStart() *cobra.Command {
	return a.powerCommand("start MACHINE --site SITE", "Start a machine", `Start a machine of a site, for example after its host was started anew. A standby is
refused: fail its group over instead.`, "  rebound machine start web --site home", "started", nil,
		func(ctx context.Context, c *client.Client, at dr.SiteID, m dr.MachineName) error {
			return c.StartMachine(ctx, at, m)
		})
}

func (a *app) newMachineStop() *cobra.Command {
	var r rest.StopMachine
	return a.powerCommand("stop MACHINE --site SITE", "Stop a machine", `Stop a machine of a site: the guest is asked to power off.`,
		"  rebound machine stop web --site home\n  rebound machine stop web --site home --mode graceful-then-hard --within 120", "stopped",
		func(cmd *cobra.Command) {
			cmd.Flags().StringVar(&r.Mode, "mode", "graceful", "graceful, hard (pull the plug), or graceful-then-hard")
			cmd.Flags().Int64Var(&r.TimeoutSeconds, "within", 60, "seconds that the guest may take")
		},
		func(ctx context.Context, c *client.Client, at dr.SiteID, m dr.MachineName) error {
			return c.StopMachine(ctx, at, m, r)
		})
}

// powerCommand is a command on one machine at one site.
func (a *app) powerCommand(use, short, long, example, done string, flags func(*cobra.Command), do func(context.Context, *client.Client, dr.SiteID, dr.MachineName) error) *cobra.Command {
	var at string
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Example: example, Args: exactly("MACHINE"), ValidArgsFunction: a.completeMachines,
		RunE: func(cmd *cobra.Command, args []string) error {
			if at == "" {
				return usageError{fmt.Errorf("--site is missing: a machine may be at both sites")}
			}
			return a.withClient(func(c *client.Client) error {
				if err := do(cmd.Context(), c, dr.SiteID(at), dr.MachineName(args[0])); err != nil {
					return err
				}
				m, err := c.Machine(cmd.Context(), dr.SiteID(at), dr.MachineName(args[0]))
				if err != nil {
					return err
				}
				return a.print(m, func(t *table) { t.row(m.Definition.Name, "at "+string(m.Site), done) })
			})
		},
	}
	cmd.Flags().StringVar(&at, "site", "", "the site (needed)")
	if flags != nil {
		flags(cmd)
	}
	return cmd
}
