package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

func (a *app) newPolicy() *cobra.Command {
	return a.parent("policy", "Replication policies: how items are replicated", "  rebound policy list\n  rebound policy create gold --redo-window 24h",
		a.newPolicyList(), a.newPolicyShow(), a.newPolicyCreate(), a.newPolicyUpdate(),
		a.newRemoval(removal{
			use: "delete", arg: "POLICY", short: "Delete a policy that no group uses",
			long:    "Delete a policy. No group may use it.",
			example: "  rebound policy delete gold --yes", what: "delete policy", complete: a.completePolicies,
			do: func(ctx context.Context, c *client.Client, id string) error {
				return c.DeletePolicy(ctx, dr.PolicyID(id))
			},
		}))
}

func (a *app) newPolicyList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the policies", Example: "  rebound policy list", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(func(c *client.Client) error {
				list, err := c.Policies(cmd.Context())
				if err != nil {
					return err
				}
				return a.print(list, func(t *table) {
					t.head("POLICY", "RPO THRESHOLD", "POINT EVERY", "REDO WINDOW", "COMPRESSION", "NEEDS AGENT")
					for _, p := range list {
						t.row(p.ID, whole(p.RPOThreshold), whole(p.CrashInterval), whole(p.RedoWindow), p.Compression, p.RequireAgent)
					}
				})
			})
		},
	}
}

// whole prints whole seconds as a duration.
func whole(s int64) string { return (time.Duration(s) * time.Second).String() }

func (a *app) newPolicyShow() *cobra.Command {
	return &cobra.Command{
		Use: "show POLICY", Short: "Show a policy", Example: "  rebound policy show default",
		Args: exactly("POLICY"), ValidArgsFunction: a.completePolicies,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *client.Client) error {
				p, err := c.Policy(cmd.Context(), dr.PolicyID(args[0]))
				if err != nil {
					return err
				}
				return a.printPolicy(p)
			})
		},
	}
}

func (a *app) printPolicy(p rest.Policy) error {
	return a.print(p, func(t *table) {
		t.row("Policy", p.ID)
		t.row("RPO threshold", whole(p.RPOThreshold))
		t.row("Point every", whole(p.CrashInterval))
		t.row("Redo window", whole(p.RedoWindow))
		t.row("Compression", p.Compression)
		t.row("Needs agent", p.RequireAgent)
		t.row("Shutdown within", whole(p.ShutdownTimeout))
		t.row("Boot within", whole(p.BootTimeout))
		t.row("Drop seed", p.DropSeed)
	})
}

// policyFlags are the settings of a policy; apply changes those that were given.
type policyFlags struct {
	rpo, crash, redo, shutdown, boot time.Duration
	compression                      string
	agent, drop                      bool
}

func (p *policyFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.DurationVar(&p.rpo, "rpo-threshold", 0, "RPO from which an event is raised, such as 30s")
	f.DurationVar(&p.crash, "crash-interval", 0, "time between crash-consistent points, such as 5m")
	f.DurationVar(&p.redo, "redo-window", 0, "how far back any moment can be chosen, such as 24h")
	f.StringVar(&p.compression, "compression", "", "none or s2")
	f.BoolVar(&p.agent, "require-agent", false, "reprotect only when the agent has registered since the boot")
	f.DurationVar(&p.shutdown, "shutdown-timeout", 0, "how long a guest may take to shut down")
	f.DurationVar(&p.boot, "boot-timeout", 0, "how long a recovered machine may take to prove that it booted")
	f.BoolVar(&p.drop, "drop-seed", false, "delete the disks too when a failback is committed")
}

func (p *policyFlags) apply(cmd *cobra.Command, to *rest.Policy) error {
	for _, d := range []struct {
		flag string
		from time.Duration
		to   *int64
	}{
		{"rpo-threshold", p.rpo, &to.RPOThreshold},
		{"crash-interval", p.crash, &to.CrashInterval},
		{"redo-window", p.redo, &to.RedoWindow},
		{"shutdown-timeout", p.shutdown, &to.ShutdownTimeout},
		{"boot-timeout", p.boot, &to.BootTimeout},
	} {
		if !cmd.Flags().Changed(d.flag) {
			continue
		}
		if d.from < 0 || d.from%time.Second != 0 {
			return usageError{fmt.Errorf("--%s %v: want whole seconds", d.flag, d.from)}
		}
		*d.to = int64(d.from / time.Second)
	}
	if cmd.Flags().Changed("compression") {
		to.Compression = p.compression
	}
	if cmd.Flags().Changed("require-agent") {
		to.RequireAgent = p.agent
	}
	if cmd.Flags().Changed("drop-seed") {
		to.DropSeed = p.drop
	}
	return nil
}

// defaultPolicy is the one that every vault is made with; a new policy begins
// with its settings.
const defaultPolicy dr.PolicyID = "default"

func (a *app) newPolicyCreate() *cobra.Command {
	var p policyFlags
	cmd := &cobra.Command{
		Use: "create POLICY", Short: "Create a policy",
		Long:    "Create a policy. What is not given is as in the policy 'default'.",
		Example: "  rebound policy create gold --redo-window 72h --rpo-threshold 15s --compression s2",
		Args:    exactly("POLICY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *client.Client) error {
				id := dr.PolicyID(args[0])
				if _, err := c.Policy(cmd.Context(), id); err == nil {
					return problem.New(problem.NameTaken, "there is a policy %q already; 'rebound policy update' changes it", id)
				} else if !problem.HasCode(err, problem.UnknownPolicy) {
					return err
				}
				return a.putPolicy(cmd, c, defaultPolicy, id, p)
			})
		},
	}
	p.add(cmd)
	return cmd
}

func (a *app) newPolicyUpdate() *cobra.Command {
	var p policyFlags
	cmd := &cobra.Command{
		Use: "update POLICY", Short: "Change a policy",
		Long:    "Change the given settings of a policy. Groups that use it take them over.",
		Example: "  rebound policy update default --crash-interval 1m",
		Args:    exactly("POLICY"), ValidArgsFunction: a.completePolicies,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *client.Client) error {
				return a.putPolicy(cmd, c, dr.PolicyID(args[0]), dr.PolicyID(args[0]), p)
			})
		},
	}
	p.add(cmd)
	return cmd
}

func (a *app) putPolicy(cmd *cobra.Command, c *client.Client, from, id dr.PolicyID, p policyFlags) error {
	base, err := c.Policy(cmd.Context(), from)
	if err != nil {
		return err
	}
	base.ID = id
	if err := p.apply(cmd, &base); err != nil {
		return err
	}
	out, err := c.PutPolicy(cmd.Context(), base)
	if err != nil {
		return err
	}
	return a.printPolicy(out)
}
