package cli

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"rebound/internal/dr"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

func (a *app) completeItems(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.complete(cmd, itemNames)
}

func itemNames(ctx context.Context, c *client.Client) ([]string, error) {
	list, err := c.Items(ctx)
	return namesOf(list, err, func(i rest.Item) dr.ItemID { return i.ID })
}

func (a *app) completeGroups(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.complete(cmd, groupNames)
}

func groupNames(ctx context.Context, c *client.Client) ([]string, error) {
	list, err := c.Groups(ctx)
	return namesOf(list, err, func(g rest.Group) dr.GroupID { return g.ID })
}

func (a *app) completeTargets(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.complete(cmd, func(ctx context.Context, c *client.Client) ([]string, error) {
		groups, err := groupNames(ctx, c)
		if err != nil {
			return nil, err
		}
		items, err := itemNames(ctx, c)
		all := append(groups, items...)
		slices.Sort(all)
		return slices.Compact(all), err
	})
}

func (a *app) completeJobs(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.complete(cmd, func(ctx context.Context, c *client.Client) ([]string, error) {
		list, err := c.Jobs(ctx, "")
		return namesOf(list, err, func(j rest.Job) dr.JobID { return j.ID })
	})
}

func (a *app) completeMachines(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.complete(cmd, func(ctx context.Context, c *client.Client) ([]string, error) {
		list, err := c.Machines(ctx, "")
		return namesOf(list, err, func(m rest.Machine) dr.MachineName { return m.Definition.Name })
	})
}

func (a *app) completeSites(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.complete(cmd, func(ctx context.Context, c *client.Client) ([]string, error) {
		list, err := c.Sites(ctx)
		return namesOf(list, err, func(s rest.Site) dr.SiteID { return s.ID })
	})
}

func (a *app) completeGateways(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.complete(cmd, func(ctx context.Context, c *client.Client) ([]string, error) {
		list, err := c.Gateways(ctx)
		return namesOf(list, err, func(g rest.Gateway) dr.GatewayID { return g.ID })
	})
}

func (a *app) completePolicies(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.complete(cmd, func(ctx context.Context, c *client.Client) ([]string, error) {
		list, err := c.Policies(ctx)
		return namesOf(list, err, func(p rest.Policy) dr.PolicyID { return p.ID })
	})
}
