package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

func (a *app) newSite() *cobra.Command {
	return a.parent("site", "Sites: places that run machines", "  rebound site list\n  rebound site create cloud",
		a.newSiteList(), a.newSiteShow(), a.newSiteCreate(), a.newSiteUpdate(), a.newSiteValidate(), a.newSiteDelete())
}

func (a *app) newSiteList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the sites", Example: "  rebound site list", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(func(c *client.Client) error {
				sites, err := c.Sites(cmd.Context())
				if err != nil {
					return err
				}
				return a.print(sites, func(t *table) {
					t.head("SITE", "GATEWAYS", "MACHINES", "FREE", "TOTAL", "DESCRIPTION")
					for _, s := range sites {
						t.row(s.ID, join(s.Gateways), s.Machines, size(s.FreeBytes), size(s.TotalBytes), or(s.Description))
					}
				})
			})
		},
	}
}

func (a *app) newSiteShow() *cobra.Command {
	return &cobra.Command{
		Use: "show SITE", Short: "Show a site with its networks and abilities", Example: "  rebound site show home",
		Args: exactly("SITE"), ValidArgsFunction: a.completeSites,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *client.Client) error {
				s, err := c.Site(cmd.Context(), dr.SiteID(args[0]))
				if err != nil {
					return err
				}
				return a.print(s, func(t *table) { siteRows(t, s) })
			})
		},
	}
}

func siteRows(t *table, s rest.Site) {
	t.row("Site", s.ID)
	t.row("Description", or(s.Description))
	t.row("Gateways", join(s.Gateways))
	t.row("Machines", s.Machines)
	t.row("Room", fmt.Sprintf("%s free of %s", size(s.FreeBytes), size(s.TotalBytes)))
	for _, n := range s.Networks {
		kind := n.Kind
		if n.Test {
			kind += ", of a test failover"
		}
		t.row("Network", fmt.Sprintf("%s (%s)", n.Name, kind))
	}
	if c := s.Abilities; c.MaxCPUs > 0 || c.MaxMemoryMiB > 0 {
		t.row("Most for a machine", fmt.Sprintf("%d CPUs, %s", c.MaxCPUs, size(int64(c.MaxMemoryMiB)<<20)))
	}
	t.row("Captures writes", s.Abilities.Capturer)
	t.row("Starts from journals", s.Abilities.BootFromView)
	t.row("Imports machines", s.Abilities.Importer)
}

func (a *app) newSiteCreate() *cobra.Command {
	var description string
	cmd := &cobra.Command{
		Use: "create SITE", Short: "Create a site", Example: `  rebound site create cloud --description "the other room"`,
		Args: exactly("SITE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *client.Client) error {
				s, err := c.CreateSite(cmd.Context(), rest.NewSite{ID: dr.SiteID(args[0]), Description: description})
				if err != nil {
					return err
				}
				return a.print(s, func(t *table) { siteRows(t, s) })
			})
		},
	}
	cmd.Flags().StringVar(&description, "description", "", "a line for people")
	return cmd
}

func (a *app) newSiteUpdate() *cobra.Command {
	var description string
	cmd := &cobra.Command{
		Use: "update SITE", Short: "Change a site's description", Example: `  rebound site update cloud --description "rack 7"`,
		Args: exactly("SITE"), ValidArgsFunction: a.completeSites,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("description") {
				return usageError{errors.New("--description is missing")}
			}
			return a.withClient(func(c *client.Client) error {
				s, err := c.UpdateSite(cmd.Context(), dr.SiteID(args[0]), rest.SiteChange{Description: description})
				if err != nil {
					return err
				}
				return a.print(s, func(t *table) { siteRows(t, s) })
			})
		},
	}
	cmd.Flags().StringVar(&description, "description", "", "a line for people")
	return cmd
}

func (a *app) newSiteValidate() *cobra.Command {
	return &cobra.Command{
		Use: "validate SITE", Short: "Try everything that a site promises, on scratch machines",
		Long: `Let the site's gateway hold the site to what Rebound needs of it: create, start, stop and delete
machines, open their disks, start them from a view, in a test network, commit them. It is
done on small scratch machines without an operating system, on the datastore's own volume, that are gone
afterwards. The site's own machines are not touched. It exits with 3 when something failed.`,
		Example: "  rebound site validate home",
		Args:    exactly("SITE"), ValidArgsFunction: a.completeSites,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *client.Client) error {
				v, err := c.ValidateSite(cmd.Context(), dr.SiteID(args[0]))
				if err != nil {
					return err
				}
				err = a.print(v, func(t *table) {
					t.head("CHECK", "OUTCOME", "TOOK", "TEXT")
					for _, k := range v.Checks {
						t.row(k.Name, k.Outcome, seconds(k.Took.Seconds()), or(k.Text))
					}
				})
				if err == nil && !v.OK {
					err = problem.New(problem.CheckFailed, "site %s does not keep all that it promises", v.Site)
				}
				return err
			})
		},
	}
}

// removal is a command that ends one thing in the vault, after a question.
type removal struct {
	use, arg, short, long, example string
	what                           string // what is done to it, for the question
	complete                       cobra.CompletionFunc
	do                             func(ctx context.Context, c *client.Client, id string) error
}

func (a *app) newRemoval(r removal) *cobra.Command {
	return &cobra.Command{
		Use: r.use + " " + r.arg, Short: r.short, Long: r.long, Example: r.example,
		Args: exactly(r.arg), ValidArgsFunction: r.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			err := a.confirm(cmd.Context(), r.what, args[0], func(w io.Writer) error {
				_, err := fmt.Fprintln(w, r.long)
				return err
			})
			if err != nil {
				return err
			}
			return a.withClient(func(c *client.Client) error {
				if err := r.do(cmd.Context(), c, args[0]); err != nil {
					return err
				}
				done := map[string]string{"done": r.what, "id": args[0]}
				return a.print(done, func(t *table) { t.row("Done:", r.what+" "+args[0]) })
			})
		},
	}
}

func (a *app) newSiteDelete() *cobra.Command {
	return a.newRemoval(removal{
		use: "delete", arg: "SITE", short: "Delete a site that has no gateways and no groups",
		long:    "Take a site out of the vault. It must have no gateways and no groups; machines and files at the site stay.",
		example: "  rebound site delete old --yes", what: "delete site", complete: a.completeSites,
		do: func(ctx context.Context, c *client.Client, id string) error { return c.DeleteSite(ctx, dr.SiteID(id)) },
	})
}
