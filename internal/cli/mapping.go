package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

func (a *app) newMapping() *cobra.Command {
	return a.parent("mapping", "Network mappings: which networks of two sites stand for each other", "  rebound mapping list\n  rebound mapping create lan --from home/lan --to cloud/dmz --test bubble",
		a.newMappingList(), a.newMappingShow(), a.newMappingCreate(), a.newMappingUpdate(),
		a.newRemoval(removal{
			use: "delete", arg: "MAPPING", short: "Delete a network mapping",
			long:    "Delete a network mapping. Machines that run stay in their networks; the next failover goes without it.",
			example: "  rebound mapping delete lan --yes", what: "delete mapping", complete: a.completeMappings,
			do: func(ctx context.Context, c *client.Client, id string) error {
				return c.DeleteMapping(ctx, dr.MappingID(id))
			},
		}))
}

func (a *app) completeMappings(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.complete(cmd, func(ctx context.Context, c *client.Client) ([]string, error) {
		list, err := c.Mappings(ctx)
		return namesOf(list, err, func(m rest.NetworkMapping) dr.MappingID { return m.ID })
	})
}

func (a *app) newMappingList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the network mappings", Example: "  rebound mapping list -o yaml", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(func(c *client.Client) error {
				list, err := c.Mappings(cmd.Context())
				if err != nil {
					return err
				}
				return a.print(list, func(t *table) {
					t.head("MAPPING", "FROM", "TEST THERE", "TO", "TEST THERE", "WAYS")
					for _, m := range list {
						t.row(m.ID, endOf(m.From), or(m.From.TestNetwork), endOf(m.To), or(m.To.TestNetwork), ways(m))
					}
				})
			})
		},
	}
}

func endOf(e rest.NetworkMapEnd) string { return string(e.Site) + "/" + e.Network }

func ways(m rest.NetworkMapping) string {
	if m.OneWay {
		return "one"
	}
	return "both"
}

func (a *app) printMapping(m rest.NetworkMapping) error {
	return a.print(m, func(t *table) {
		t.row("Mapping", m.ID)
		t.row("From", endOf(m.From))
		t.row("Tests at "+string(m.From.Site), or(m.From.TestNetwork))
		t.row("To", endOf(m.To))
		t.row("Tests at "+string(m.To.Site), or(m.To.TestNetwork))
		t.row("Ways", ways(m))
	})
}

func (a *app) newMappingShow() *cobra.Command {
	return &cobra.Command{
		Use: "show MAPPING", Short: "Show a network mapping", Example: "  rebound mapping show lan",
		Args: exactly("MAPPING"), ValidArgsFunction: a.completeMappings,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *client.Client) error {
				m, err := c.Mapping(cmd.Context(), dr.MappingID(args[0]))
				if err != nil {
					return err
				}
				return a.printMapping(m)
			})
		},
	}
}

// mappingFlags change those ends of a mapping that were given.
type mappingFlags struct {
	from, to, testThere, testHere string
	oneWay                        bool
}

func (m *mappingFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&m.from, "from", "", "SITE/NETWORK")
	f.StringVar(&m.to, "to", "", "SITE/NETWORK")
	f.StringVar(&m.testThere, "test", "", "network of test failovers at the site of --to; made when first needed")
	f.StringVar(&m.testHere, "test-back", "", "network of test failovers at the site of --from")
	f.BoolVar(&m.oneWay, "one-way", false, "do not map --to back to --from, so that several networks can go to one")
}

func (m *mappingFlags) apply(cmd *cobra.Command, to *rest.NetworkMapping) error {
	for _, end := range []struct {
		flag, value string
		end         *rest.NetworkMapEnd
	}{{"from", m.from, &to.From}, {"to", m.to, &to.To}} {
		if !cmd.Flags().Changed(end.flag) {
			continue
		}
		site, network, ok := strings.Cut(end.value, "/")
		if !ok || site == "" || network == "" {
			return usageError{fmt.Errorf("--%s %q: want SITE/NETWORK", end.flag, end.value)}
		}
		end.end.Site, end.end.Network = dr.SiteID(site), network
	}
	if to.From.Site == "" || to.To.Site == "" {
		return usageError{errors.New("--from and --to are needed: SITE/NETWORK")}
	}
	if cmd.Flags().Changed("test") {
		to.To.TestNetwork = m.testThere
	}
	if cmd.Flags().Changed("test-back") {
		to.From.TestNetwork = m.testHere
	}
	if cmd.Flags().Changed("one-way") {
		to.OneWay = m.oneWay
	}
	return nil
}

func (a *app) newMappingCreate() *cobra.Command {
	var flags mappingFlags
	cmd := &cobra.Command{
		Use: "create MAPPING", Short: "Create a network mapping",
		Long: `Say that a network of one site stands for a network of another. A machine that is
recovered at the other site is connected to the network that stands for its own, unless
its target settings ('rebound item settings') name another.`,
		Example: "  rebound mapping create lan --from home/lan --to cloud/dmz --test bubble",
		Args:    exactly("MAPPING"),
		RunE: func(cmd *cobra.Command, args []string) error {
			m := rest.NetworkMapping{ID: dr.MappingID(args[0])}
			if err := flags.apply(cmd, &m); err != nil {
				return err
			}
			return a.withClient(func(c *client.Client) error {
				id := m.ID
				if _, err := c.Mapping(cmd.Context(), id); err == nil {
					return problem.New(problem.NameTaken, "there is a mapping %q already; 'rebound mapping update' changes it", id)
				} else if !problem.HasCode(err, problem.UnknownMapping) {
					return err
				}
				return a.putMapping(cmd, c, m, flags)
			})
		},
	}
	flags.add(cmd)
	return cmd
}

func (a *app) newMappingUpdate() *cobra.Command {
	var flags mappingFlags
	cmd := &cobra.Command{
		Use: "update MAPPING", Short: "Change a network mapping",
		Long:    "Change what is given of a network mapping. It holds from the next failover on.",
		Example: "  rebound mapping update lan --test drill",
		Args:    exactly("MAPPING"), ValidArgsFunction: a.completeMappings,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *client.Client) error {
				m, err := c.Mapping(cmd.Context(), dr.MappingID(args[0]))
				if err != nil {
					return err
				}
				return a.putMapping(cmd, c, m, flags)
			})
		},
	}
	flags.add(cmd)
	return cmd
}

func (a *app) putMapping(cmd *cobra.Command, c *client.Client, m rest.NetworkMapping, flags mappingFlags) error {
	if err := flags.apply(cmd, &m); err != nil {
		return err
	}
	out, err := c.PutMapping(cmd.Context(), m)
	if err != nil {
		return err
	}
	return a.printMapping(out)
}
