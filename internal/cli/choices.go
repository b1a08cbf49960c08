package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

func (a *app) newPointChoices() *cobra.Command {
	var op string
	cmd := &cobra.Command{
		Use: "choices NAME", Short: "Show what a failover could start from, and what each choice would lose",
		Long: `Show the moments that a failover, failback, change of the point or test failover can
start from now: each with its exact moment, its consistency, what of the received history
it loses in seconds and bytes, and a warning where one is due. The one marked with * is
what the operation takes when no --point is given.`,
		Example: `  rebound point choices shop
  rebound point choices shop --for test-failover -o json`,
		Args: exactly("NAME (a group or an item)"), ValidArgsFunction: a.completeTargets,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *client.Client) error {
				on, _, err := target(cmd.Context(), c, args[0])
				if err != nil {
					return err
				}
				choices, err := c.Choices(cmd.Context(), on, lifecycle.Operation(op))
				if err != nil {
					return err
				}
				return a.print(choices, func(t *table) { choiceRows(t, choices) })
			})
		},
	}
	cmd.Flags().StringVar(&op, "for", "", "failover, failback, change-point or test-failover (default: what fits now)")
	return cmd
}

func choiceRows(t *table, c rest.Choices) {
	t.row("Operation", fmt.Sprintf("%s of %s, from %s to %s", c.Operation, c.Target, c.From, c.To))
	if v := c.Verified; v != nil {
		t.row("Verified", fmt.Sprintf("%s: %s compared, %s differing", when(v.At), size(v.Bytes), size(v.Differing)))
	} else {
		t.row("Verified", "never in this direction")
	}
	for _, x := range c.Choices {
		mark := " "
		if x.Recommended {
			mark = "*"
		}
		t.row("Choice", fmt.Sprintf("%s %s", mark, x.Title))
		t.row("", "    "+choiceFlags(x))
		if m := x.Moment; m != nil {
			t.row("", fmt.Sprintf("    %s (%s), %s-consistent, loses %s of received history, %s", when(m.Time), m.Position, x.Consistency, seconds(m.LostSeconds), size(m.LostBytes)))
			memberMoments(t, m.Members)
		}
		if x.Problem != nil {
			t.row("", "    cannot be used: "+x.Problem.Explain())
		}
		for _, w := range x.Warnings {
			t.row("", "    warning: "+w)
		}
	}
	for _, s := range c.Spans {
		t.row("Any moment", fmt.Sprintf("%s to %s", when(s.From), when(s.To)))
	}
}

// choiceFlags are the flags that take a choice.
func choiceFlags(x rest.Choice) string {
	if x.PerMachine {
		return "--per-machine"
	}
	if x.Selector == "custom" {
		return "--point ID|TIME|@POSITION"
	}
	return "--point " + string(x.Selector)
}

func memberMoments(t *table, list []dr.MemberMoment) {
	for _, m := range list {
		t.row("", fmt.Sprintf("      %s: %s (%s), loses %s, %s", m.Machine, when(m.Time), m.Position, seconds(m.LostSeconds), size(m.LostBytes)))
	}
}

// perMachineFlag is the choice of S13.
func perMachineFlag(cmd *cobra.Command, req *rest.OperationRequest) {
	cmd.Flags().BoolVar(&req.PerMachine, "per-machine", false, "each member of the group at its own newest moment: together they may not fit")
}

// probeFlags let a commit be proven by checks of the user's.
func probeFlags(cmd *cobra.Command, req *rest.OperationRequest) {
	cmd.Flags().Func("probe", "[MACHINE=]tcp:HOST:PORT, http(s)://…, or command:SCRIPT; {machine} is the machine's name (repeat for several)", func(s string) error {
		p, err := parseProbe(s)
		if err == nil {
			req.Probes = append(req.Probes, p)
		}
		return err
	})
	cmd.Flags().BoolVar(&req.AcceptRunning, "accept-running", false, "take the hypervisor's word that the machines run, where no agent and no probe says so")
}

// parseProbe reads the text of a --probe.
func parseProbe(s string) (dr.Probe, error) {
	var p dr.Probe
	if name, rest, ok := strings.Cut(s, "="); ok && dr.ValidName(name) == nil {
		p.Machine, s = dr.MachineName(name), rest
	}
	kind, text, _ := strings.Cut(s, ":")
	switch kind {
	case "tcp":
		p.TCP = text
	case "http", "https":
		p.HTTP = s
	case "command":
		p.Command = text
	default:
		return p, errors.New("want tcp:HOST:PORT, http://…, https://… or command:SCRIPT")
	}
	return p, p.Validate()
}

func (a *app) newCompleteMigration() *cobra.Command {
	return a.newOperation(operation{
		op: lifecycle.CompleteMigration, use: "complete-migration", ask: true,
		short: "Make a failover final and end replication: there is no way back",
		long: `Use it instead of a commit when the machines are to stay where they are: the failover is
made final and the item ends. The machines at home stay off and as they are; nothing
replicates to them any more and no failback is possible.`,
		example: "  rebound complete-migration shop --dry-run\n  rebound complete-migration shop --yes",
		flags: func(cmd *cobra.Command, req *rest.OperationRequest) {
			cmd.Flags().BoolVar(&req.Force, "force", false, "do not wait for a site that is away")
		},
	})
}
