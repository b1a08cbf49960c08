package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"rebound/internal/dr"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

func (a *app) newPlan() *cobra.Command {
	return a.parent("plan", "Recovery plans: machines in order, with actions", "  rebound plan create -f shop.yaml\n  rebound failover plan/shop --planned\n  rebound plan report shop -o html > shop.html",
		a.newPlanList(), a.newPlanShow(), a.newPlanCreate(), a.newPlanUpdate(), a.newPlanWatch(), a.newPlanRuns(), a.newPlanReport(),
		a.newRemoval(removal{
			use: "delete", arg: "PLAN", short: "Delete a recovery plan",
			long:    "Delete a recovery plan. Its machines stay protected, and the history of its runs stays.",
			example: "  rebound plan delete shop --yes", what: "delete plan", complete: a.completePlans,
			do: func(ctx context.Context, c *client.Client, id string) error { return c.DeletePlan(ctx, dr.PlanID(id)) },
		}))
}

func (a *app) completePlans(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	var out []string
	err := a.withClient(func(c *client.Client) error {
		list, err := c.Plans(cmd.Context())
		for _, p := range list {
			out = append(out, string(p.ID))
		}
		return err
	})
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) newPlanList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the recovery plans", Example: "  rebound plan list", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(func(c *client.Client) error {
				list, err := c.Plans(cmd.Context())
				if err != nil {
					return err
				}
				return a.print(list, func(t *table) {
					t.head("PLAN", "MACHINES", "BOOT GROUPS", "DIRECTION", "STATES", "RUNNING", "LAST RUN")
					for _, p := range list {
						t.row(p.ID, p.Machines, len(p.Groups), or(p.Direction), planStates(p), or(p.RunningJob), p.LastRun)
					}
				})
			})
		},
	}
}

func planStates(p rest.PlanView) string {
	if len(p.Problems) > 0 {
		return "not valid: " + p.Problems[0]
	}
	b, err := json.Marshal(p.States) // sorted by name
	if err != nil {
		return err.Error()
	}
	return strings.NewReplacer(`"`, "", "{", "", "}", "", ",", ", ").Replace(string(b))
}

func (a *app) newPlanShow() *cobra.Command {
	return &cobra.Command{
		Use: "show PLAN", Short: "Show a recovery plan", Example: "  rebound plan show shop\n  rebound plan show shop -o yaml",
		Args: exactly("PLAN"), ValidArgsFunction: a.completePlans,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *client.Client) error {
				p, err := c.Plan(cmd.Context(), dr.PlanID(args[0]))
				if err != nil {
					return err
				}
				return a.printPlan(p)
			})
		},
	}
}

func (a *app) printPlan(p rest.PlanView) error {
	return a.print(p, func(t *table) {
		t.row("Plan", p.ID)
		t.row("Description", or(p.Description))
		t.row("Sites", fmt.Sprintf("%s -> %s, %s", or(p.Home), or(p.Recovery), or(p.Direction)))
		t.row("States", planStates(p))
		t.row("Running", or(p.RunningJob))
		t.row("Last run", p.LastRun)
		actionRows(t, "Before all", p.Before)
		for i, g := range p.Groups {
			actionRows(t, fmt.Sprintf("Before %d", i+1), g.Before)
			t.row(fmt.Sprintf("Boot group %d", i+1), strings.TrimSpace(g.Name+" "+join(g.Items)))
			actionRows(t, fmt.Sprintf("After %d", i+1), g.After)
		}
		actionRows(t, "After all", p.After)
		for _, o := range p.AllowedOperations {
			if o.Allowed {
				t.row("Allowed", o.Name)
			} else {
				t.row("Not allowed", fmt.Sprintf("%s: %s %s", o.Name, o.Reason, o.Remedy))
			}
		}
	})
}

func actionRows(t *table, label string, list []rest.PlanAction) {
	for _, x := range list {
		kind := "approval"
		switch {
		case x.Script != nil:
			kind = "script"
		case x.HTTP != nil:
			kind = "http " + x.HTTP.URL
		case x.Manual != nil:
			kind = "manual: " + x.Manual.Text
		}
		t.row(label, fmt.Sprintf("%s (%s)", x.Name, kind))
	}
}

// readStrict reads a file, YAML or JSON; "-" is the standard input. A field that
// is not known is an error: no typing mistake is lost.
func (a *app) readStrict(path string, into any) error {
	var b []byte
	var err error
	if path == "-" {
		b, err = io.ReadAll(a.In)
	} else {
		b, err = os.ReadFile(path)
	}
	if err != nil {
		return usageError{err}
	}
	var plain any
	if err := yaml.Unmarshal(b, &plain); err != nil {
		return usageError{fmt.Errorf("%s: %w", path, err)}
	}
	if b, err = json.Marshal(plain); err != nil {
		return usageError{fmt.Errorf("%s: %w", path, err)}
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return usageError{fmt.Errorf("%s: %w", path, err)}
	}
	return nil
}

const planFileHelp = "The file is YAML or JSON; '-' reads the standard input. docs/plans.md has an example."

func (a *app) newPlanCreate() *cobra.Command {
	return a.newPlanWrite("create", "Create a recovery plan from a file", (*client.Client).CreatePlan)
}

func (a *app) newPlanUpdate() *cobra.Command {
	return a.newPlanWrite("update", "Replace a recovery plan by a file", func(c *client.Client, ctx context.Context, p rest.Plan) (rest.PlanView, error) {
		if _, err := c.Plan(ctx, p.ID); err != nil {
			return rest.PlanView{}, err
		}
		return c.PutPlan(ctx, p)
	})
}

func (a *app) newPlanWrite(use, short string, do func(*client.Client, context.Context, rest.Plan) (rest.PlanView, error)) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: use, Short: short, Long: short + ". " + planFileHelp, Example: "  rebound plan " + use + " -f shop.yaml", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return usageError{errors.New("-f FILE is missing")}
			}
			var p rest.Plan
			if err := a.readStrict(file, &p); err != nil {
				return err
			}
			return a.withClient(func(c *client.Client) error {
				v, err := do(c, cmd.Context(), p)
				if err != nil {
					return err
				}
				return a.printPlan(v)
			})
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "file with the plan (needed)")
	return cmd
}

func (a *app) newPlanWatch() *cobra.Command {
	return &cobra.Command{
		Use: "watch PLAN", Short: "Follow the newest job of a plan", Example: "  rebound plan watch shop",
		Long: "Follow the newest job of a plan until it ends or waits for a person. The exit code is that of the job.",
		Args: exactly("PLAN"), ValidArgsFunction: a.completePlans,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *client.Client) error {
				p, err := c.Plan(cmd.Context(), dr.PlanID(args[0]))
				if err != nil {
					return err
				}
				if p.LastJob == "" {
					return a.printPlan(p)
				}
				j, err := c.Job(cmd.Context(), p.LastJob)
				if err != nil {
					return err
				}
				return a.follow(cmd.Context(), c, j)
			})
		},
	}
}

func (a *app) newPlanRuns() *cobra.Command {
	return &cobra.Command{
		Use: "runs PLAN", Short: "List the runs of a plan with their RTO and RPO", Example: "  rebound plan runs shop",
		Args: exactly("PLAN"), ValidArgsFunction: a.completePlans,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *client.Client) error {
				runs, err := c.PlanRuns(cmd.Context(), dr.PlanID(args[0]))
				if err != nil {
					return err
				}
				return a.print(runs, func(t *table) {
					t.head("RUN", "STARTED", "OPERATION", "MODE", "STATE", "RTO", "RPO", "WAITED", "BY")
					for _, r := range runs {
						t.row(r.Run, when(r.Started), r.Operation, or(r.Mode), r.State, maybeSeconds(r.RTOSeconds), maybeSeconds(r.RPOSeconds), seconds(r.WaitedSeconds), r.By)
					}
				})
			})
		},
	}
}

func maybeSeconds(f *float64) string {
	if f == nil {
		return "-"
	}
	return seconds(*f)
}

// htmlOutput is an --output that only reports have.
const htmlOutput = "html"

func (a *app) newPlanReport() *cobra.Command {
	var run int
	cmd := &cobra.Command{
		Use: "report PLAN", Short: "Write the report of a run of a plan",
		Long: `Write everything about one run of a plan: every step with its times, who did it, what
scripts printed, and what came of each machine. -o html makes a page that needs nothing else.`,
		Example:     "  rebound plan report shop -o html > shop.html\n  rebound plan report shop --run 3 -o json",
		Annotations: map[string]string{htmlOutput: "yes"},
		Args:        exactly("PLAN"), ValidArgsFunction: a.completePlans,
		RunE: func(cmd *cobra.Command, args []string) error {
			if run < 0 {
				return usageError{errors.New("--run " + strconv.Itoa(run) + ": want the number of a run")}
			}
			return a.withClient(func(c *client.Client) error {
				if a.output == htmlOutput {
					return c.PlanReportPage(cmd.Context(), dr.PlanID(args[0]), run, a.Out)
				}
				rep, err := c.PlanReport(cmd.Context(), dr.PlanID(args[0]), run)
				if err != nil {
					return err
				}
				return a.print(rep, func(t *table) { reportRows(t, rep) })
			})
		},
	}
	cmd.Flags().IntVar(&run, "run", 0, "number of the run (default: the newest)")
	return cmd
}

func reportRows(t *table, rep rest.PlanReport) {
	r := rep.Run
	t.row("Plan", r.Plan)
	t.row("Run", fmt.Sprintf("%d: %s %s, %s", r.Run, r.Operation, r.Mode, r.State))
	t.row("Started", fmt.Sprintf("%s by %s", when(r.Started), r.By))
	t.row("Took", took(r.Started, r.Ended))
	t.row("RTO", maybeSeconds(r.RTOSeconds))
	t.row("RPO", maybeSeconds(r.RPOSeconds))
	for _, m := range r.Machines {
		t.row("Machine", fmt.Sprintf("%s: %s %s, healthy after %s, lost %s", m.Item, m.State, m.Proof, maybeSeconds(m.RTOSeconds), maybeSeconds(m.LostSeconds)))
	}
	for _, task := range rep.Job.Tasks {
		t.row("Task", fmt.Sprintf("%-10s %s (%s)", task.State, task.Title, took(task.Started, task.Ended)))
		for _, d := range task.Decisions {
			t.row("", fmt.Sprintf("  %s said %s at %s %s", d.By, d.Verdict, when(d.At), d.Note))
		}
	}
}
