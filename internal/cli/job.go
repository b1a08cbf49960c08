package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"rebound/internal/dr"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

func (a *app) newJob() *cobra.Command {
	return a.parent("job", "Jobs: what is done, step by step", "  rebound job list\n  rebound job watch ID",
		a.newJobList(), a.newJobShow(), a.newJobWatch(), a.newJobExport(),
		a.newJobAction("cancel", "Cancel a running job", `Ask a job to stop. It stops between two tasks and cleans up what it did, as long as it
has not passed its point of no return; then it is refused.`),
		a.newJobAction("restart", "Run a failed job again from the task that failed", "Run a failed job again: tasks that succeeded are not repeated, except for checks."),
		a.newJobAnswer("resume", "Go on with a job that waits or was cancelled", `Say that the manual action is done that a job waits for, or go on with a job that was
cancelled, from where it stopped. An action that was cut short counts as done, or is run
once more with --again.`),
		a.newJobAnswer("approve", "Approve what a job waits for", "Approve a step of a recovery plan. The one who started the plan cannot."),
		a.newJobAnswer("reject", "Reject what a job waits for", "Reject the step that a job waits for: it counts as failed, and the plan does what its\npolicy says."))
}

// withClient runs f with a client of the vault.
func (a *app) withClient(f func(*client.Client) error) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	defer c.Close()
	return f(c)
}

func (a *app) newJobList() *cobra.Command {
	var group string
	cmd := &cobra.Command{
		Use: "list", Short: "List jobs, newest first", Example: "  rebound job list --group shop", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(func(c *client.Client) error {
				jobs, err := c.Jobs(cmd.Context(), dr.GroupID(group))
				if err != nil {
					return err
				}
				return a.print(jobs, func(t *table) {
					t.head("CREATED", "OPERATION", "GROUP", "STATE", "TOOK", "BY", "ID")
					for _, j := range jobs {
						t.row(when(j.Created), j.Operation, or(j.Group), j.State, took(j.Started, j.Ended), j.By, j.ID)
					}
				})
			})
		},
	}
	cmd.Flags().StringVar(&group, "group", "", "of this group only")
	return cmd
}

func (a *app) newJobShow() *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show a job with its tasks", Example: "  rebound job show ID -o yaml",
		Args: exactly("ID"), ValidArgsFunction: a.completeJobs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *client.Client) error {
				j, err := c.Job(cmd.Context(), dr.JobID(args[0]))
				if err != nil {
					return err
				}
				return a.printJob(j)
			})
		},
	}
}

func (a *app) newJobWatch() *cobra.Command {
	return &cobra.Command{
		Use: "watch ID", Short: "Follow a job to its end",
		Long:    "Follow a job to its end. The exit code is that of the job, as if this command had started it.",
		Example: "  rebound job watch ID --timeout 10m",
		Args:    exactly("ID"), ValidArgsFunction: a.completeJobs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *client.Client) error {
				j, err := c.Job(cmd.Context(), dr.JobID(args[0]))
				if err != nil {
					return err
				}
				return a.follow(cmd.Context(), c, j)
			})
		},
	}
}

func (a *app) newJobAction(action, short, long string) *cobra.Command {
	return &cobra.Command{
		Use: action + " ID", Short: short, Long: long, Example: "  rebound job " + action + " ID",
		Args: exactly("ID"), ValidArgsFunction: a.completeJobs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *client.Client) error {
				return a.actOnJob(cmd.Context(), c, dr.JobID(args[0]), action)
			})
		},
	}
}

func (a *app) actOnJob(ctx context.Context, c *client.Client, id dr.JobID, action string) error {
	j, err := c.JobAction(ctx, id, action)
	if err != nil {
		return err
	}
	if action != "cancel" || a.noWait {
		return a.follow(ctx, c, j)
	}
	if j, err = a.waitJob(ctx, c, j); err != nil {
		return err
	}
	if err := a.printJob(j); err != nil {
		return err
	}
	if j.State == rest.JobCancelled {
		return nil // what was asked for
	}
	return jobOutcome(j)
}

// printJob writes a job to the output stream.
func (a *app) printJob(j rest.Job) error {
	return a.print(j, func(t *table) { jobRows(t, j) })
}

func jobRows(t *table, j rest.Job) {
	t.row("Job", j.ID)
	t.row("Operation", j.Operation)
	t.row("Group", or(j.Group))
	if j.Plan != "" {
		t.row("Plan", fmt.Sprintf("%s, run %d", j.Plan, j.Run))
	}
	t.row("Items", join(j.Items))
	t.row("State", j.State)
	t.row("Attempt", j.Attempt)
	t.row("By", j.By)
	t.row("Started", when(j.Started))
	t.row("Took", took(j.Started, j.Ended))
	if len(j.AllowedActions) > 0 {
		t.row("Allowed", join(j.AllowedActions))
	}
	listRows(t, "Deletes", j.Deletes)
	listRows(t, "Keeps", j.Keeps)
	listRows(t, "Warning", j.Warnings)
	for i := range j.Errors {
		t.row("Error", &j.Errors[i])
	}
	for _, task := range j.Tasks {
		t.row("Task", fmt.Sprintf("%-10s %s (%s)", task.State, task.Title, took(task.Started, task.Ended)))
		answerRows(t, task)
		for _, k := range slices.Sorted(maps.Keys(task.Result)) {
			t.row("", fmt.Sprintf("  %s: %s", k, plainValue(task.Result[k])))
		}
	}
}

// plainValue prints one value of a task's result.
func plainValue(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}
