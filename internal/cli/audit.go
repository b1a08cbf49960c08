package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rebound/internal/problem"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

func (a *app) newAudit() *cobra.Command {
	return a.parent("audit", "The audit log: who did what from where", "  rebound audit list\n  rebound audit verify", a.newAuditList(), a.newAuditVerify())
}

func (a *app) newAuditList() *cobra.Command {
	var after int64
	var limit int
	var f client.AuditFilter
	var from, to string
	cmd := &cobra.Command{
		Use: "list", Short: "List who did what from where, newest last",
		Long: `List who did what from where, and what came of it: done, refused (nothing was changed),
failed, or replayed (the answer to an earlier request was given again). Who came by the
portal, the command line (cli) or another program (token) is in the column BY.`,
		Example: "  rebound audit list --limit 20\n  rebound audit list --who alice --from 24h\n  rebound audit list --object group/app --operation failover",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if f.From, err = moment("from", from, time.Now()); err != nil {
				return err
			}
			if f.To, err = moment("to", to, time.Now()); err != nil {
				return err
			}
			return a.withClient(func(c *client.Client) error {
				list, err := tail(after, limit, func(r rest.AuditRow) int64 { return r.Seq }, func(after int64, n int) ([]rest.AuditRow, error) {
					return c.Audit(cmd.Context(), after, n, f)
				})
				if err != nil {
					return err
				}
				return a.print(list, func(t *table) {
					t.head("SEQ", "TIME", "WHO", "BY", "FROM", "OPERATION", "OBJECT", "OUTCOME", "STATUS", "CODE")
					for _, r := range list {
						t.row(r.Seq, when(r.Time), or(r.Who), or(r.Channel), r.From, operationOf(r), or(r.Object), outcomeOf(r), r.Status, or(r.Code))
					}
				})
			})
		},
	}
	fl := cmd.Flags()
	fl.Int64Var(&after, "after", 0, "only those after this sequence number")
	fl.IntVar(&limit, "limit", 50, "only the newest so many; 0 for all")
	fl.StringVar(&f.Who, "who", "", "only what this user or service token did")
	fl.StringVar(&f.Object, "object", "", "only what was done to this, such as group/app")
	fl.StringVar(&f.Operation, "operation", "", "only this operation, such as failover or create-user")
	fl.StringVar(&f.Outcome, "outcome", "", "done, refused, failed or replayed")
	fl.StringVar(&f.Channel, "by", "", "portal, cli, token or control")
	fl.StringVar(&from, "from", "", "only from this time on: RFC 3339, or an age such as 24h")
	fl.StringVar(&to, "to", "", "only up to this time")
	return cmd
}

func operationOf(r rest.AuditRow) string {
	if r.Operation == "" {
		return r.Method + " " + r.Path
	}
	return r.Operation
}

func outcomeOf(r rest.AuditRow) string {
	out := or(r.Outcome)
	if r.DryRun {
		out += ", dry run"
	}
	if r.Repeated > 0 {
		out += fmt.Sprintf(", and %d before", r.Repeated)
	}
	return out
}

func (a *app) newAuditVerify() *cobra.Command {
	var since string
	cmd := &cobra.Command{
		Use: "verify", Short: "Check that no row of the audit log was changed or removed",
		Long: `Check the chain of the audit log: each row's hash covers the row before it. The newest
row's number and hash are printed; kept elsewhere and given with --since they prove later
that nothing up to there was changed or cut off.`,
		Example: "  rebound audit verify\n  rebound audit verify --since 4711:9f2c…",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var seq int64
			number, hash, ok := strings.Cut(since, ":")
			if since != "" {
				var err error
				if seq, err = strconv.ParseInt(number, 10, 64); err != nil || !ok || hash == "" || seq < 1 {
					return usageError{fmt.Errorf("--since %q: want NUMBER:HASH, as an earlier check has printed it", since)}
				}
			}
			return a.withClient(func(c *client.Client) error {
				k, err := c.CheckAudit(cmd.Context(), seq, hash)
				if err != nil {
					return err
				}
				err = a.print(k, func(t *table) {
					t.row("Intact", k.Intact)
					t.row("Rows", k.Rows)
					t.row("Newest", fmt.Sprintf("%d:%s", k.Seq, k.Hash))
					if k.Unchained > 0 {
						t.row("From before the chain", k.Unchained)
					}
				})
				if err == nil && !k.Intact {
					err = problem.New(problem.CheckFailed, "the audit log is not as it was written: %s", k.Problem)
				}
				return err
			})
		},
	}
	cmd.Flags().StringVar(&since, "since", "", "what an earlier check printed as its newest row")
	return cmd
}
