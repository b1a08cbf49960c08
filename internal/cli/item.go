package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"rebound/internal/dr"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

func (a *app) newItem() *cobra.Command {
	return a.parent("item", "Replicated items: protected machines", "  rebound item list\n  rebound item show web",
		a.newItemList(), a.newItemShow(), a.newItemConsole(), a.newItemSettings(), a.newWatch("item", func(ctx context.Context, c *client.Client, id string) (rest.Replication, error) {
			i, err := c.Item(ctx, dr.ItemID(id))
			return i.Replication, err
		}))
}

func (a *app) newItemList() *cobra.Command {
	var keep replicationFilter
	cmd := &cobra.Command{
		Use: "list", Short: "List the replicated items", Example: "  rebound item list\n  rebound item list --site cloud --health critical -o json", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(func(c *client.Client) error {
				items, err := c.Items(cmd.Context())
				if err != nil {
					return err
				}
				items = slices.DeleteFunc(items, func(i rest.Item) bool { return !keep.fits(i.Replication) })
				return a.print(items, func(t *table) {
					t.head("ITEM", "GROUP", "STATE", "HEALTH", "RPO", "ACTIVE", "STANDBY", "POINTS", "JOB")
					for _, i := range items {
						t.row(i.ID, i.Group, stateOf(i.Replication), i.Health, secondsOr(i.RPO.Seconds), i.ActiveSite, standbySite(i.Replication), i.Points, or(i.RunningJob))
					}
				})
			})
		},
	}
	keep.add(cmd)
	return cmd
}

func (a *app) newItemShow() *cobra.Command {
	return &cobra.Command{
		Use: "show ITEM", Short: "Show an item and what can be done with it now",
		Long:    "Show an item, its replication, and each operation: whether it is allowed now, and if not, why and what to do.",
		Example: "  rebound item show web",
		Args:    exactly("ITEM"), ValidArgsFunction: a.completeItems,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *client.Client) error {
				i, err := c.Item(cmd.Context(), dr.ItemID(args[0]))
				if err != nil {
					return err
				}
				return a.print(i, func(t *table) {
					t.row("Item", i.ID)
					t.row("Group", i.Group)
					replicationRows(t, i.Replication)
					memberRow(t, i.Member)
					operationRows(t, i.Replication)
				})
			})
		},
	}
}

func (a *app) newGroup() *cobra.Command {
	return a.parent("group", "Replication groups: machines with one order of writes", "  rebound group list\n  rebound group watch shop",
		a.newGroupList(), a.newGroupShow(), a.newGroupUpdate(), a.newWatch("group", func(ctx context.Context, c *client.Client, id string) (rest.Replication, error) {
			g, err := c.Group(ctx, dr.GroupID(id))
			return g.Replication, err
		}))
}

func (a *app) newGroupList() *cobra.Command {
	var keep replicationFilter
	cmd := &cobra.Command{
		Use: "list", Short: "List the replication groups", Example: "  rebound group list\n  rebound group list --state Protected --policy gold -o yaml", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(func(c *client.Client) error {
				groups, err := c.Groups(cmd.Context())
				if err != nil {
					return err
				}
				groups = slices.DeleteFunc(groups, func(g rest.Group) bool { return !keep.fits(g.Replication) })
				return a.print(groups, func(t *table) {
					t.head("GROUP", "MEMBERS", "STATE", "HEALTH", "RPO", "ACTIVE", "STANDBY", "POINTS", "JOURNAL", "JOB")
					for _, g := range groups {
						t.row(g.ID, len(g.Members), stateOf(g.Replication), g.Health, secondsOr(g.RPO.Seconds), g.ActiveSite, standbySite(g.Replication), g.Points, size(g.JournalBytes), or(g.RunningJob))
					}
				})
			})
		},
	}
	keep.add(cmd)
	return cmd
}

func (a *app) newGroupShow() *cobra.Command {
	return &cobra.Command{
		Use: "show GROUP", Short: "Show a group, its members and what can be done with it now",
		Long:    "Show a group, its members and disks, and each operation: whether it is allowed now, and if not, why and what to do.",
		Example: "  rebound group show shop",
		Args:    exactly("GROUP"), ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *client.Client) error {
				g, err := c.Group(cmd.Context(), dr.GroupID(args[0]))
				if err != nil {
					return err
				}
				return a.print(g, func(t *table) {
					t.row("Group", g.ID)
					replicationRows(t, g.Replication)
					for _, m := range g.Members {
						memberRow(t, m)
					}
					for _, d := range g.Disks {
						t.row("Disk", fmt.Sprintf("%s/%s %s", d.Machine, d.Disk, size(d.SizeBytes)))
					}
					operationRows(t, g.Replication)
				})
			})
		},
	}
}

// standbySite is the site that does not run the machines.
func standbySite(r rest.Replication) dr.SiteID {
	if r.ActiveSite == r.HomeSite {
		return r.RecoverySite
	}
	return r.HomeSite
}

// stateOf is the state with the test failover beside it.
func stateOf(r rest.Replication) string {
	if r.Test == "" {
		return string(r.State)
	}
	return fmt.Sprintf("%s (test: %s)", r.State, r.Test)
}

func replicationRows(t *table, r rest.Replication) {
	t.row("State", stateOf(r))
	t.row("Health", r.Health)
	if r.Problem != "" {
		t.row("Problem", r.Problem)
	}
	t.row("Runs at", fmt.Sprintf("%s (home %s, recovery %s)", r.ActiveSite, r.HomeSite, r.RecoverySite))
	t.row("Direction", fmt.Sprintf("%s, generation %d", r.Direction, r.Generation))
	t.row("Policy", r.Policy)
	if r.RPO.Seconds != nil {
		t.row("RPO", fmt.Sprintf("%s (threshold %s, by %s)", seconds(*r.RPO.Seconds), seconds(float64(r.RPO.ThresholdSeconds)), r.RPO.Basis))
	} else {
		t.row("RPO", "-")
	}
	if r.Sync.Total > 0 && r.Sync.Done < r.Sync.Total {
		t.row("Synchronising", progressText(r.Sync))
	}
	t.row("Points", fmt.Sprintf("%d in a journal of %s", r.Points, size(r.JournalBytes)))
	t.row("Sent", size(cmp.Or(r.Counters.SentBytes, r.Received.SentBytes)))
	if v := r.Recovered; v != nil {
		t.row("Recovered from", fmt.Sprintf("%s (%s), %s of history after it", when(v.Time), v.Selector, seconds(v.LostSeconds)))
		memberMoments(t, v.Members)
	}
	t.row("Running job", or(r.RunningJob))
	t.row("Last job", or(r.LastJob))
}

func memberRow(t *table, m rest.Member) {
	text := fmt.Sprintf("%s: at home %s, at recovery %s", m.Machine, m.Home, m.Recovery)
	if m.Started {
		text += ", started from the journal"
	}
	if m.Booted {
		text += ", proven to have booted"
	}
	if m.Agent != nil {
		text += ", agent heard " + when(m.Agent.LastHeartbeat)
	}
	t.row("Machine", text)
}

func operationRows(t *table, r rest.Replication) {
	for _, op := range r.AllowedOperations {
		if op.Allowed {
			t.row("Can", op.Name)
		}
	}
	for _, op := range r.AllowedOperations {
		if !op.Allowed {
			t.row("Cannot", fmt.Sprintf("%s: %s %s", op.Name, op.Reason, op.Remedy))
		}
	}
}
