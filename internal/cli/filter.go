package cli

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"rebound/internal/dr"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// replicationFilter narrows a list of items or groups; what is empty lets all
// pass.
type replicationFilter struct {
	site, state, health, policy string
}

func (r *replicationFilter) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&r.site, "site", "", "whose machines run at this site")
	f.StringVar(&r.state, "state", "", "in this state, such as Protected")
	f.StringVar(&r.health, "health", "", "of this health: ok, warning or critical")
	f.StringVar(&r.policy, "policy", "", "of this policy")
}

func (r *replicationFilter) fits(v rest.Replication) bool {
	same := func(want, have string) bool { return want == "" || strings.EqualFold(want, have) }
	return same(r.site, string(v.ActiveSite)) && same(r.state, string(v.State)) && same(r.health, v.Health) && same(r.policy, string(v.Policy))
}

func (a *app) newGroupUpdate() *cobra.Command {
	var policy string
	cmd := &cobra.Command{
		Use: "update GROUP --policy POLICY", Short: "Give a group another policy",
		Long:    "Give a group another policy. Its gateways take it over at once, without a break in replication.",
		Example: "  rebound group update shop --policy gold",
		Args:    exactly("GROUP"), ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			if policy == "" {
				return usageError{errors.New("--policy is missing")}
			}
			return a.withClient(func(c *client.Client) error {
				g, err := c.UpdateGroup(cmd.Context(), dr.GroupID(args[0]), rest.GroupChange{Policy: dr.PolicyID(policy)})
				if err != nil {
					return err
				}
				return a.print(g, func(t *table) {
					t.row("Group", g.ID)
					replicationRows(t, g.Replication)
				})
			})
		},
	}
	cmd.Flags().StringVar(&policy, "policy", "", "the policy")
	if err := cmd.RegisterFlagCompletionFunc("policy", a.completePolicies); err != nil {
		panic(err) // the flag is defined one line above
	}
	return cmd
}

func (a *app) newJobExport() *cobra.Command {
	return &cobra.Command{
		Use: "export ID", Short: "Write a job with all its tasks as a JSON document",
		Long: `Write everything that the vault keeps of a job, for a ticket or an archive: request, tasks with
their times, results, warnings and problems, and the events that name it. It is JSON unless -o yaml is given.`,
		Example: "  rebound job export ID > drill.json",
		Args:    exactly("ID"), ValidArgsFunction: a.completeJobs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *client.Client) error {
				out, err := exportJob(cmd.Context(), c, dr.JobID(args[0]))
				if err != nil {
					return err
				}
				if a.output == "table" {
					a.output = "json"
				}
				return a.print(out, nil)
			})
		},
	}
}

// jobExport is the document of 'rebound job export'.
type jobExport struct {
	Job    rest.Job     `json:"job"`
	Events []rest.Event `json:"events"`
}

func exportJob(ctx context.Context, c *client.Client, id dr.JobID) (jobExport, error) {
	job, err := c.Job(ctx, id)
	if err != nil {
		return jobExport{}, err
	}
	out := jobExport{Job: job, Events: []rest.Event{}}
	all, err := tail(0, 0, seqOfEvent, func(after int64, n int) ([]rest.Event, error) { return c.Events(ctx, after, n) })
	for _, e := range all {
		if e.Job == id {
			out.Events = append(out.Events, e)
		}
	}
	return out, err
}
