package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

func (a *app) newPoint() *cobra.Command {
	return a.parent("point", "Recovery points: moments to start from", "  rebound point list shop\n  rebound point create shop --name before-upgrade",
		a.newPointList(), a.newPointChoices(), a.newPointCreate())
}

func (a *app) newPointList() *cobra.Command {
	var from, to, kind string
	var limit int
	cmd := &cobra.Command{
		Use: "list NAME", Short: "List recovery points and the spans in which any moment can be chosen",
		Long: `List the recovery points of a group or item, newest last, and the spans of time in which
any moment at all can be chosen. --from and --to take an RFC 3339 time, a local
"2006-01-02 15:04", or a duration ago such as 30m.`,
		Example: `  rebound point list shop --from 2h
  rebound point list shop --kind bookmark -o json`,
		Args: exactly("NAME (a group or an item)"), ValidArgsFunction: a.completeTargets,
		RunE: func(cmd *cobra.Command, args []string) error {
			f := client.PointFilter{Kind: dr.PointKind(kind), Limit: limit}
			var err error
			if f.From, err = moment("from", from, time.Now()); err != nil {
				return err
			}
			if f.To, err = moment("to", to, time.Now()); err != nil {
				return err
			}
			return a.withClient(func(c *client.Client) error {
				on, _, err := target(cmd.Context(), c, args[0])
				if err != nil {
					return err
				}
				pts, err := c.Points(cmd.Context(), on, f)
				if err != nil {
					return err
				}
				return a.print(pts, func(t *table) {
					pointRows(t, pts.Points)
					for _, s := range pts.Spans {
						t.row(when(s.From), "any moment", "to "+when(s.To), fmt.Sprintf("%s to %s", s.Low, s.High), "")
					}
				})
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&from, "from", "", "not before this time")
	f.StringVar(&to, "to", "", "not after this time")
	f.StringVar(&kind, "kind", "", "crash, app, bookmark or diverged")
	f.IntVar(&limit, "limit", 0, "at most so many (default: all)")
	return cmd
}

func (a *app) newPointCreate() *cobra.Command {
	return a.newOperation(operation{
		op: lifecycle.CreatePoint, use: "create", short: "Create a named recovery point now",
		long: `Create a named recovery point of a group at its present moment. A bookmark is
crash-consistent: what the disks would hold after a power cut. With --app-consistent the
file systems of all members are frozen for it through the QEMU guest agent, and the
agent's hook scripts run before and after. If one member cannot be frozen, the job fails
with GuestNotFrozen and no point of the name is made.`,
		example: `  rebound point create shop --name before-upgrade
  rebound point create shop --name month-end --app-consistent`,
		flags: func(cmd *cobra.Command, req *rest.OperationRequest) {
			cmd.Flags().StringVar(&req.Name, "name", "", "the point's name (needed)")
			cmd.Flags().BoolVar(&req.AppConsistent, "app-consistent", false, "freeze the guests' file systems for it")
		},
		check: func(req *rest.OperationRequest) error {
			if req.Name == "" {
				return usageError{errors.New("--name is missing")}
			}
			return nil
		},
	})
}
