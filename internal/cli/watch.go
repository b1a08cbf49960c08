package cli

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"rebound/internal/problem"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// onChange calls f at once and then whenever something changes of what o names,
// until ctx ends (which is how a watch is meant to end) or f fails. Changes that
// come while f is at work are one call more. A vault that goes away is waited
// for.
func (a *app) onChange(ctx context.Context, c *client.Client, o client.WatchOptions, f func() error) error {
	if err := f(); err != nil {
		return endOfWatch(ctx, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	kick, ended := make(chan struct{}, 1), make(chan error, 1)
	wake := func() error {
		select {
		case kick <- struct{}{}:
		default:
		}
		return nil
	}
	o.Opened = wake
	go func() { ended <- c.Watch(ctx, o, func(rest.Change) error { return wake() }) }()
	for {
		select {
		case <-kick:
			err := f()
			if err != nil && ctx.Err() == nil && problem.HasCode(err, problem.VaultUnreachable) {
				fmt.Fprintf(a.Err, "%v; waiting for it\n", err)
				continue // the stream is opened again
			}
			if err != nil {
				return endOfWatch(ctx, err)
			}
		case err := <-ended:
			return endOfWatch(ctx, err)
		}
	}
}

// endOfWatch is no error when somebody has ended the watch.
func endOfWatch(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// stream writes one value of an endless output: a line of JSON, a document of
// YAML, or the text.
func (a *app) stream(v any, text string) error {
	switch a.output {
	case "json":
		return json.NewEncoder(a.Out).Encode(v)
	case "yaml":
		if _, err := fmt.Fprintln(a.Out, "---"); err != nil {
			return err
		}
		return printYAML(a.Out, v)
	default:
		_, err := fmt.Fprintln(a.Out, text)
		return err
	}
}

func (a *app) newWatch(kind string, read func(context.Context, *client.Client, string) (rest.Replication, error)) *cobra.Command {
	complete := a.completeItems
	if kind == "group" {
		complete = a.completeGroups
	}
	return &cobra.Command{
		Use: "watch NAME", Short: "Follow the state of one " + kind + " until interrupted",
		Long: `Print a line with state, health, RPO and progress whenever one of them changes; on a
terminal the RPO is also shown in between, once a second. With -o json one object a line.`,
		Example: fmt.Sprintf("  rebound %s watch shop\n  rebound %s watch shop -o json", kind, kind),
		Args:    exactly("NAME"), ValidArgsFunction: complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *client.Client) error {
				var last string
				types := []string{rest.ChangeItem, rest.ChangeGroup, rest.ChangeLive, rest.ChangeHealth, rest.ChangeJob}
				return a.onChange(cmd.Context(), c, client.WatchOptions{Types: types}, func() error {
					r, err := read(cmd.Context(), c, args[0])
					if err != nil {
						return err
					}
					return a.watchLine(r, &last)
				})
			})
		},
	}
}

// watchLine prints what changed; last is the line printed before.
func (a *app) watchLine(r rest.Replication, last *string) error {
	line := fmt.Sprintf("%-20s %-9s %s", stateOf(r), r.Health, or(r.Problem))
	if r.RunningJob != "" {
		line += " job " + string(r.RunningJob)
	}
	if r.Sync.Total > 0 && r.Sync.Done < r.Sync.Total {
		line += fmt.Sprintf(" synchronising %d%%", r.Sync.Done*100/r.Sync.Total)
	}
	now := r.RPO.AsOf.Local().Format("15:04:05")
	rpo := secondsOr(r.RPO.Seconds)
	if line == *last {
		if a.isTerminal() && a.output == "table" {
			fmt.Fprintf(a.Err, "\r\x1b[K%s  RPO %s\r", now, rpo)
		}
		return nil
	}
	*last = line
	return a.stream(r, fmt.Sprintf("%s  RPO %-8s %s", now, rpo, line))
}
