package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

func (a *app) newEvent() *cobra.Command {
	return a.parent("event", "Events: what happened", "  rebound event list\n  rebound event watch", a.newEventList(), a.newEventWatch())
}

// pageSize is how many rows one request for a log reads.
const pageSize = 1000

// tail reads a log to its end and returns its last n rows (all when n is 0);
// read returns a page after a sequence number, oldest first.
func tail[T any](after int64, n int, seq func(T) int64, read func(after int64, limit int) ([]T, error)) ([]T, error) {
	rows := []T{}
	for {
		page, err := read(after, pageSize)
		if err != nil {
			return nil, err
		}
		rows = append(rows, page...)
		if n > 0 && len(rows) > n {
			rows = append([]T{}, rows[len(rows)-n:]...)
		}
		if len(page) < pageSize {
			return rows, nil
		}
		after = seq(page[len(page)-1])
	}
}

func seqOfEvent(e rest.Event) int64 { return e.Seq }

func (a *app) newEventList() *cobra.Command {
	var after int64
	var limit int
	cmd := &cobra.Command{
		Use: "list", Short: "List events, newest last", Example: "  rebound event list --limit 20\n  rebound event list --after 4711 --limit 0 -o json", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(func(c *client.Client) error {
				list, err := tail(after, limit, seqOfEvent, func(after int64, n int) ([]rest.Event, error) {
					return c.Events(cmd.Context(), after, n)
				})
				if err != nil {
					return err
				}
				return a.print(list, func(t *table) {
					t.head("SEQ", "TIME", "SEVERITY", "CODE", "ABOUT", "TEXT")
					for _, e := range list {
						t.row(e.Seq, when(e.Time), e.Severity, e.Code, about(e), e.Text)
					}
				})
			})
		},
	}
	cmd.Flags().Int64Var(&after, "after", 0, "only those after this sequence number")
	cmd.Flags().IntVar(&limit, "limit", 50, "only the newest so many; 0 for all")
	return cmd
}

// about names what an event is about, the narrowest first.
func about(e rest.Event) string {
	for _, s := range []string{string(e.Machine), string(e.Group), string(e.Gateway), string(e.Site)} {
		if s != "" {
			return s
		}
	}
	return "-"
}

func (a *app) newEventWatch() *cobra.Command {
	var after int64
	cmd := &cobra.Command{
		Use: "watch", Short: "Print events as they happen, until interrupted",
		Long: `Print events as they happen. Without --after only those that come from now on; with it,
first all that came after that sequence number. With -o json one object a line.`,
		Example: "  rebound event watch\n  rebound event watch --after 0 -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(func(c *client.Client) error {
				if !cmd.Flags().Changed("after") {
					last, err := tail(0, 1, seqOfEvent, func(after int64, n int) ([]rest.Event, error) { return c.Events(cmd.Context(), after, n) })
					if err != nil {
						return err
					}
					for _, e := range last {
						after = e.Seq
					}
				}
				print := func() error { return a.newEvents(cmd.Context(), c, &after) }
				return a.onChange(cmd.Context(), c, client.WatchOptions{Types: []string{rest.ChangeEvent}}, print)
			})
		},
	}
	cmd.Flags().Int64Var(&after, "after", 0, "begin after this sequence number (default: now)")
	return cmd
}

// newEvents prints what came after *after and moves it on.
func (a *app) newEvents(ctx context.Context, c *client.Client, after *int64) error {
	for {
		page, err := c.Events(ctx, *after, pageSize)
		if err != nil {
			return err
		}
		for _, e := range page {
			*after = e.Seq
			if err := a.stream(e, fmt.Sprintf("%s  %-8s %-22s %-12s %s", when(e.Time), e.Severity, e.Code, about(e), e.Text)); err != nil {
				return err
			}
		}
		if len(page) < pageSize {
			return nil
		}
	}
}
