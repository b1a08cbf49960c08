package cli

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site"
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
					t.head("POLICY", "RPO THRESHOLD", "POINT EVERY", "APP EVERY", "REDO WINDOW", "RETENTION", "COMPRESSION", "NEEDS AGENT")
					for _, p := range list {
						t.row(p.ID, whole(p.RPOThreshold), whole(p.CrashInterval), whole(p.AppInterval), whole(p.RedoWindow), whole(cmp.Or(p.Retention, p.RedoWindow)), p.Compression, p.RequireAgent)
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
		policyRows(t, p)
		t.row("Needs agent", p.RequireAgent)
		t.row("Shutdown within", whole(p.ShutdownTimeout))
		t.row("Boot within", whole(p.BootTimeout))
		t.row("Drop seed", p.DropSeed)
		t.row("Unmapped networks", cmp.Or(p.UnmappedNetworks, site.RefuseUnmapped))
		t.row("On the way back", "")
		policyRows(t, p.For(dr.Back))
	})
}

// policyRows are what a policy and its failback policy have each for itself.
func policyRows(t *table, p rest.Policy) {
	t.row("RPO threshold", whole(p.RPOThreshold))
	t.row("Point every", whole(p.CrashInterval))
	app := "-"
	if p.AppInterval > 0 {
		app = whole(p.AppInterval)
	}
	t.row("Application point every", app)
	t.row("Redo window", whole(p.RedoWindow))
	t.row("Retention", whole(cmp.Or(p.Retention, p.RedoWindow)))
	t.row("Compression", p.Compression)
	t.row("Bandwidth", cmp.Or(string(p.Bandwidth), "no limit"))
}

// policyFlags are the settings of a policy; apply changes those that were given.
type policyFlags struct {
	shutdown, boot time.Duration
	unmapped       string
	agent, drop    bool
	there, back    sideFlags
}

// sideFlags are those that the policy and its failback policy have each for
// itself; those of the latter begin with "failback-".
type sideFlags struct {
	prefix                           string
	rpo, crash, appl, redo, retained time.Duration
	compression, bandwidth           string
}

func (s *sideFlags) add(cmd *cobra.Command, prefix, what string) {
	s.prefix = prefix
	f := cmd.Flags()
	f.DurationVar(&s.rpo, prefix+"rpo-threshold", 0, what+"RPO from which an event is raised, such as 30s")
	f.DurationVar(&s.crash, prefix+"crash-interval", 0, what+"time between crash-consistent points, such as 5m")
	f.DurationVar(&s.appl, prefix+"app-interval", 0, what+"time between application-consistent points, such as 1h; 0 makes none")
	f.DurationVar(&s.redo, prefix+"redo-window", 0, what+"how far back any moment can be chosen, such as 24h")
	f.DurationVar(&s.retained, prefix+"retention", 0, what+"how long points are kept, at most 720h; 0: as long as the redo window")
	f.StringVar(&s.compression, prefix+"compression", "", what+"none or s2")
	f.StringVar(&s.bandwidth, prefix+"bandwidth", "", what+"limit of a group's stream by a schedule, such as 'mon-fri 08:00-18:00 10MB, 100MB'")
}

// durations changes the given ones of a list of flags.
func durations(cmd *cobra.Command, list []durationFlag) error {
	for _, d := range list {
		if !cmd.Flags().Changed(d.flag) {
			continue
		}
		if d.from < 0 || d.from%time.Second != 0 {
			return usageError{fmt.Errorf("--%s %v: want whole seconds", d.flag, d.from)}
		}
		*d.to = int64(d.from / time.Second)
	}
	return nil
}

type durationFlag struct {
	flag string
	from time.Duration
	to   *int64
}

func (s *sideFlags) apply(cmd *cobra.Command, to *rest.FailbackPolicy) error {
	if cmd.Flags().Changed(s.prefix + "compression") {
		to.Compression = s.compression
	}
	if cmd.Flags().Changed(s.prefix + "bandwidth") {
		to.Bandwidth = dr.Bandwidth(s.bandwidth)
	}
	err := durations(cmd, []durationFlag{
		{s.prefix + "rpo-threshold", s.rpo, &to.RPOThreshold},
		{s.prefix + "crash-interval", s.crash, &to.CrashInterval},
		{s.prefix + "app-interval", s.appl, &to.AppInterval},
		{s.prefix + "redo-window", s.redo, &to.RedoWindow},
		{s.prefix + "retention", s.retained, &to.Retention},
	})
	if !cmd.Flags().Changed(s.prefix+"retention") && to.Retention > 0 && to.Retention < to.RedoWindow {
		to.Retention = to.RedoWindow // a longer window needs it
	}
	return err
}

func (p *policyFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	p.there.add(cmd, "", "")
	p.back.add(cmd, "failback-", "on the way back: ")
	f.BoolVar(&p.agent, "require-agent", false, "reprotect only when the agent has registered since the boot")
	f.DurationVar(&p.shutdown, "shutdown-timeout", 0, "how long a guest may take to shut down")
	f.DurationVar(&p.boot, "boot-timeout", 0, "how long a recovered machine may take to prove that it booted")
	f.BoolVar(&p.drop, "drop-seed", false, "delete the disks too when a failback is committed")
	f.StringVar(&p.unmapped, "unmapped-networks", "", "what a failover does with a card for which there is no network: refuse or isolate")
}

func (p *policyFlags) apply(cmd *cobra.Command, to *rest.Policy) error {
	there := rest.FailbackPolicy{
		RPOThreshold: to.RPOThreshold, CrashInterval: to.CrashInterval, AppInterval: to.AppInterval,
		RedoWindow: to.RedoWindow, Retention: to.Retention, Compression: to.Compression, Bandwidth: to.Bandwidth,
	}
	if err := p.there.apply(cmd, &there); err != nil {
		return err
	}
	to.RPOThreshold, to.CrashInterval, to.AppInterval = there.RPOThreshold, there.CrashInterval, there.AppInterval
	to.RedoWindow, to.Retention, to.Compression, to.Bandwidth = there.RedoWindow, there.Retention, there.Compression, there.Bandwidth
	if to.Failback != nil {
		back := *to.Failback
		if err := p.back.apply(cmd, &back); err != nil {
			return err
		}
		to.Failback = &back
	}
	err := durations(cmd, []durationFlag{{"shutdown-timeout", p.shutdown, &to.ShutdownTimeout}, {"boot-timeout", p.boot, &to.BootTimeout}})
	if cmd.Flags().Changed("require-agent") {
		to.RequireAgent = p.agent
	}
	if cmd.Flags().Changed("drop-seed") {
		to.DropSeed = p.drop
	}
	if cmd.Flags().Changed("unmapped-networks") {
		to.UnmappedNetworks = p.unmapped
	}
	return err
}

// defaultPolicy is the one that every vault is made with; a new policy begins
// with its settings.
const defaultPolicy dr.PolicyID = "default"

func (a *app) newPolicyCreate() *cobra.Command {
	var p policyFlags
	cmd := &cobra.Command{
		Use: "create POLICY", Short: "Create a policy",
		Long: `Create a policy. What is not given is as in the policy 'default'. A policy for the way
back is made with it, of values of its own: an RPO threshold of 15 minutes, a retention of
24 hours, an application-consistent point every 60 minutes.`,
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
		Long:    "Change the given settings of a policy. Groups that use it take them over at once,\nwithout a break in their replication.",
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
	if from != id {
		base.Failback = nil // a new policy comes with a new one
		f := rest.NewFailbackPolicy(base)
		base.Failback = &f
	}
	if err := p.apply(cmd, &base); err != nil {
		return err
	}
	out, err := c.PutPolicy(cmd.Context(), base)
	if err != nil {
		return err
	}
	return a.printPolicy(out)
}
