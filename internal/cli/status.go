package cli

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"rebound/internal/lifecycle"
	"rebound/internal/vault/rest"
)

func (a *app) newStatus() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show the vault's overview",
		Long: `Show what the vault knows in a few lines: sites, gateways, items by state, what is not
healthy, and running jobs.`,
		Example: "  rebound status\n  rebound status -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			defer c.Close()
			st, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			return a.print(st, func(t *table) { statusRows(t, st) })
		},
	}
}

func statusRows(t *table, st rest.Status) {
	t.row("Vault", fmt.Sprintf("%s, version %s", st.Vault, st.Version))
	t.row("Time", when(st.Time))
	t.row("Sites", st.Sites)
	t.row("Gateways", fmt.Sprintf("%d of %d connected", st.GatewaysConnected, st.Gateways))
	t.row("Machines", st.Machines)
	states := slices.SortedFunc(maps.Keys(st.Items), func(a, b lifecycle.State) int {
		all := lifecycle.States()
		return cmp.Compare(slices.Index(all, a), slices.Index(all, b))
	})
	for _, s := range states {
		t.row("Items "+string(s), st.Items[s])
	}
	t.row("Health", fmt.Sprintf("%s (%d critical, %d warnings; see 'rebound health')", st.Health, st.Critical, st.Warning))
	t.row("Not healthy", join(st.Unhealthy))
	t.row("Running jobs", join(st.RunningJobs))
}
