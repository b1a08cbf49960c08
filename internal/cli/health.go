package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

func (a *app) newHealth() *cobra.Command {
	var f client.ConditionFilter
	cmd := &cobra.Command{
		Use: "health", Short: "Show what is not as it should be, why, and what to do",
		Long: `Show every open condition: infrastructure first, then the worst first. A condition
clears by itself once its cause is gone; docs/health.md lists all of them.`,
		Example: "  rebound health\n  rebound health --object web --severity critical\n  rebound health -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(func(c *client.Client) error {
				h, err := c.Health(cmd.Context())
				if err != nil {
					return err
				}
				if f != (client.ConditionFilter{}) {
					if h.Open, err = c.Conditions(cmd.Context(), f); err != nil {
						return err
					}
				}
				return a.print(h, func(t *table) { healthRows(t, h) })
			})
		},
	}
	a.conditionFlags(cmd, &f)
	cmd.AddCommand(a.newHealthHistory(), a.newHealthNote("acknowledge", "Note that an occurrence has been seen; it still counts"),
		a.newHealthNote("mute", "Let a condition of an object not count for a while"), a.newHealthUnmute(), a.newHealthSettings())
	return cmd
}

func (a *app) conditionFlags(cmd *cobra.Command, f *client.ConditionFilter) {
	cmd.Flags().StringVar(&f.Object, "object", "", "only what is about this name, or KIND/NAME")
	cmd.Flags().StringVar(&f.Code, "code", "", "only this code")
	cmd.Flags().StringVar((*string)(&f.Severity), "severity", "", "only info, warning or critical")
}

func healthRows(t *table, h rest.Health) {
	t.row("Health", fmt.Sprintf("%s (%d critical, %d warnings, %d muted)", h.Health, h.Critical, h.Warning, h.Muted))
	if len(h.Open) == 0 {
		return
	}
	t.row()
	t.head("ID", "SEVERITY", "CODE", "ABOUT", "SINCE", "TEXT")
	for _, c := range h.Open {
		t.row(c.ID, marked(c), c.Code, string(c.Object.Kind)+"/"+c.Object.ID, when(c.Since), c.Text)
		t.row("", "", "", "", "", "-> "+c.RecommendedAction)
	}
}

// marked is the severity with what a person said to it.
func marked(c rest.Condition) string {
	s := string(c.Severity)
	if c.Acknowledged != nil {
		s += ", seen"
	}
	if c.Muted != nil {
		s += ", muted"
	}
	return s
}

func (a *app) newHealthHistory() *cobra.Command {
	var f client.ConditionFilter
	var limit int
	cmd := &cobra.Command{
		Use: "history", Short: "List conditions that were, newest first",
		Example: "  rebound health history --limit 20\n  rebound health history --code RPOExceeded --object web",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(func(c *client.Client) error {
				list, err := c.ConditionHistory(cmd.Context(), f, 0, limit)
				if err != nil {
					return err
				}
				return a.print(list, func(t *table) {
					t.head("ID", "WORST", "CODE", "ABOUT", "SINCE", "CLEARED", "TEXT")
					for _, c := range list {
						t.row(c.ID, c.Worst, c.Code, string(c.Object.Kind)+"/"+c.Object.ID, when(c.Since), when(c.Cleared), c.Text)
					}
				})
			})
		},
	}
	a.conditionFlags(cmd, &f)
	cmd.Flags().IntVar(&limit, "limit", 50, "only the newest so many")
	return cmd
}

func (a *app) newHealthNote(action, short string) *cobra.Command {
	var text string
	var hold time.Duration
	cmd := &cobra.Command{
		Use: action + " ID", Short: short,
		Example: fmt.Sprintf("  rebound health %s 17 --note link-repair --for 4h", action),
		Args:    exactly("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := conditionID(args[0])
			if err != nil {
				return err
			}
			return a.withClient(func(c *client.Client) error {
				out, err := c.NoteCondition(cmd.Context(), id, action, rest.NoteRequest{Text: text, Seconds: int64(hold.Seconds())})
				if err != nil {
					return err
				}
				return a.print(out, func(t *table) { conditionRows(t, out) })
			})
		},
	}
	cmd.Flags().StringVar(&text, "note", "", "why; it is kept (needed)")
	cmd.Flags().DurationVar(&hold, "for", 0, "how long it holds, such as 4h (needed for mute)")
	if err := cmd.MarkFlagRequired("note"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}

func conditionID(s string) (int64, error) {
	var id int64
	if _, err := fmt.Sscan(s, &id); err != nil || id <= 0 {
		return 0, usageError{fmt.Errorf("%q is no number of a condition; 'rebound health' shows them", s)}
	}
	return id, nil
}

func conditionRows(t *table, c rest.Condition) {
	t.row("Condition", fmt.Sprintf("%d %s", c.ID, c.Code))
	t.row("Severity", marked(c))
	t.row("About", string(c.Object.Kind)+"/"+c.Object.ID)
	t.row("Text", c.Text)
	for name, n := range map[string]*rest.Note{"Seen": c.Acknowledged, "Muted": c.Muted} {
		if n != nil {
			t.row(name, fmt.Sprintf("by %s at %s until %s: %s", n.By, when(n.At), when(n.Until), n.Text))
		}
	}
}

func (a *app) newHealthUnmute() *cobra.Command {
	return &cobra.Command{
		Use: "unmute ID", Short: "Let a condition count again", Example: "  rebound health unmute 17", Args: exactly("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := conditionID(args[0])
			if err != nil {
				return err
			}
			return a.withClient(func(c *client.Client) error {
				out, err := c.UnmuteCondition(cmd.Context(), id)
				if err != nil {
					return err
				}
				return a.print(out, func(t *table) { conditionRows(t, out) })
			})
		},
	}
}

func (a *app) newHealthSettings() *cobra.Command {
	limits := func(s *rest.HealthSettings) []struct {
		flag, usage string
		to          *int64
	} {
		return []struct {
			flag, usage string
			to          *int64
		}{
			{"test-failover-days", "days between test failovers; 0 turns the condition off", &s.TestFailoverDays},
			{"verify-days", "days between verifications; 0 turns the condition off", &s.VerifyDays},
			{"backup-days", "days between backups of the vault; 0 turns the condition off", &s.BackupDays},
			{"commit-hours", "hours that a failover may wait for its commit; 0 turns the condition off", &s.CommitHours},
			{"volume-warning", "percent of a volume that must be free", &s.VolumeWarning},
			{"volume-critical", "percent of a volume below which it is critical", &s.VolumeCritical},
			{"heartbeat-warning", "seconds of silence of a gateway or agent", &s.HeartbeatWarning},
			{"heartbeat-critical", "seconds of silence from which it is critical", &s.HeartbeatCritical},
			{"stall-warning", "seconds without progress of a synchronisation", &s.StallWarning},
			{"stall-critical", "seconds without progress from which it is critical", &s.StallCritical},
		}
	}
	var given rest.HealthSettings
	cmd := &cobra.Command{
		Use: "settings", Short: "Show or change the limits of conditions",
		Example: "  rebound health settings\n  rebound health settings --test-failover-days 90 --volume-warning 20", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(func(c *client.Client) error {
				s, err := c.HealthSettings(cmd.Context())
				if err != nil {
					return err
				}
				changed := false
				was, is := limits(&s), limits(&given)
				for i := range was {
					if cmd.Flags().Changed(was[i].flag) {
						*was[i].to, changed = *is[i].to, true
					}
				}
				if changed {
					if s, err = c.PutHealthSettings(cmd.Context(), s); err != nil {
						return err
					}
				}
				return a.print(s, func(t *table) {
					for _, l := range limits(&s) {
						t.row(strings.ReplaceAll(l.flag, "-", " "), *l.to)
					}
				})
			})
		},
	}
	for _, l := range limits(&given) {
		cmd.Flags().Int64Var(l.to, l.flag, 0, l.usage)
	}
	return cmd
}
