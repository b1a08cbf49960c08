package cli

import (
	"github.com/spf13/cobra"

	"rebound/internal/dr"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// newJobAnswer is a command that answers a job that waits for a person; resume
// also goes on with a cancelled job.
func (a *app) newJobAnswer(action, short, long string) *cobra.Command {
	var answer rest.JobAnswer
	cmd := &cobra.Command{
		Use: action + " ID", Short: short, Long: long, Example: "  rebound job " + action + ` ID --note "checked with Ann"`,
		Args: exactly("ID"), ValidArgsFunction: a.completeJobs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *client.Client) error {
				j, err := c.AnswerJob(cmd.Context(), dr.JobID(args[0]), action, answer)
				if err != nil {
					return err
				}
				return a.follow(cmd.Context(), c, j)
			})
		},
	}
	cmd.Flags().StringVar(&answer.Note, "note", "", "what the record is to say")
	if action == "resume" {
		cmd.Flags().BoolVar(&answer.Again, "again", false, "run an action that was cut short once more")
	}
	return cmd
}

// answerRows says what a job waits for, and what was answered.
func answerRows(t *table, task rest.Task) {
	if w := task.Waiting; w != nil {
		t.row("", "  waits ("+w.Kind+"): "+w.Text)
	}
	for _, d := range task.Decisions {
		t.row("", "  "+d.Verdict+" by "+d.By+" "+d.Note)
	}
}
