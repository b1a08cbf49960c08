package cli

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

func (a *app) newWebhook() *cobra.Command {
	return a.parent("webhook", "Webhooks: tell other systems of events", "  rebound webhook list\n  rebound webhook create ops --url https://alerts.example/rebound --severity warning",
		a.newWebhookList(), a.newWebhookShow(), a.newWebhookPut("create"), a.newWebhookPut("update"), a.newWebhookDelete(), a.newWebhookTest(), a.newWebhookRetry())
}

func (a *app) newWebhookList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the webhooks", Example: "  rebound webhook list", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(func(c *client.Client) error {
				list, err := c.Webhooks(cmd.Context())
				if err != nil {
					return err
				}
				return a.print(list, func(t *table) {
					t.head("WEBHOOK", "URL", "ENABLED", "WAITING", "GIVEN UP", "LAST DELIVERED", "ERROR")
					for _, w := range list {
						t.row(w.ID, w.URL, w.Enabled, w.Waiting, w.Dead, when(w.LastDelivered), or(w.LastError))
					}
				})
			})
		},
	}
}

func (a *app) newWebhookShow() *cobra.Command {
	return &cobra.Command{
		Use: "show WEBHOOK", Short: "Show a webhook, with what was given up", Example: "  rebound webhook show ops", Args: exactly("WEBHOOK"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *client.Client) error {
				w, err := c.Webhook(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				dead, err := c.Deliveries(cmd.Context(), args[0], true)
				if err != nil {
					return err
				}
				out := struct {
					rest.Webhook
					GivenUp []rest.Delivery `json:"givenUp"`
				}{w, dead}
				return a.print(out, func(t *table) {
					webhookRows(t, w)
					for _, d := range dead {
						t.row("Given up", fmt.Sprintf("%s %s after %d tries: %s", when(d.Event.Time), d.Event.Code, d.Tries, d.Error))
					}
				})
			})
		},
	}
}

func webhookRows(t *table, w rest.Webhook) {
	t.row("Webhook", w.ID)
	t.row("URL", w.URL)
	t.row("Enabled", w.Enabled)
	t.row("Codes", or(strings.Join(w.Filter.Codes, ", ")))
	t.row("Severity", or(string(w.Filter.MinSeverity)))
	t.row("Objects", or(strings.Join(w.Filter.Objects, ", ")))
	t.row("Waiting", w.Waiting)
	t.row("Given up", w.Dead)
	t.row("Last delivered", when(w.LastDelivered))
	t.row("Failing since", when(w.FailingSince))
	t.row("Error", or(w.LastError))
}

// newWebhookPut is create and update, which have the same flags.
func (a *app) newWebhookPut(verb string) *cobra.Command {
	var url, secretFile, severity string
	var codes, objects []string
	var disabled, enabled bool
	cmd := &cobra.Command{
		Use: verb + " WEBHOOK", Short: strings.ToUpper(verb[:1]) + verb[1:] + " a webhook",
		Long: `Events that pass the filter are sent as JSON with POST, at least once and in order, each with a
delivery id (X-Rebound-Delivery) and a signature (X-Rebound-Signature: t=UNIXSECONDS,v1=HEX, where HEX is
the HMAC-SHA256 of "UNIXSECONDS.BODY"). Without --secret-file the vault makes the secret and shows it once.`,
		Example: fmt.Sprintf("  rebound webhook %s ops --url https://alerts.example/rebound --severity warning --code 'RPO*' --object web", verb),
		Args:    exactly("WEBHOOK"),
		RunE: func(cmd *cobra.Command, args []string) error {
			b := rest.PutWebhook{ID: args[0], URL: url}
			if secretFile != "" {
				s, err := os.ReadFile(secretFile)
				if err != nil {
					return usageError{fmt.Errorf("--secret-file: %w", err)}
				}
				b.Secret = strings.TrimSpace(string(s))
			}
			if f := cmd.Flags(); f.Changed("severity") || f.Changed("code") || f.Changed("object") {
				b.Filter = &rest.WebhookFilter{Codes: codes, Objects: objects, MinSeverity: rest.Severity(severity)}
			}
			if on := !disabled; disabled || enabled {
				b.Enabled = &on
			}
			return a.withClient(func(c *client.Client) error {
				var out rest.WebhookSecret
				var err error
				if verb == "create" {
					out, err = c.CreateWebhook(cmd.Context(), b)
				} else {
					out.Webhook, err = c.UpdateWebhook(cmd.Context(), args[0], b)
				}
				if err != nil {
					return err
				}
				return a.print(out, func(t *table) {
					webhookRows(t, out.Webhook)
					if out.Secret != "" {
						t.row("Secret (shown once)", out.Secret)
					}
				})
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&url, "url", "", "http or https address")
	f.StringVar(&secretFile, "secret-file", "", "file with the secret that signs the bodies")
	f.StringVar(&severity, "severity", "", "at least info, warning or critical")
	f.StringSliceVar(&codes, "code", nil, "only events of these codes; a trailing * stands for any rest")
	f.StringSliceVar(&objects, "object", nil, "only events about these sites, gateways, groups, items or machines")
	f.BoolVar(&disabled, "disabled", false, "keep it, but send nothing")
	f.BoolVar(&enabled, "enabled", false, "send again")
	cmd.MarkFlagsMutuallyExclusive("disabled", "enabled")
	return cmd
}

func (a *app) newWebhookDelete() *cobra.Command {
	return &cobra.Command{
		Use: "delete WEBHOOK", Short: "Delete a webhook with what waits for it", Example: "  rebound webhook delete ops", Args: exactly("WEBHOOK"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *client.Client) error { return c.DeleteWebhook(cmd.Context(), args[0]) })
		},
	}
}

func (a *app) newWebhookTest() *cobra.Command {
	return &cobra.Command{
		Use: "test WEBHOOK", Short: "Send a test event now and say how it went", Example: "  rebound webhook test ops", Args: exactly("WEBHOOK"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *client.Client) error {
				out, err := c.TestWebhook(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return a.print(out, func(t *table) {
					t.row("Delivery", out.Delivery)
					t.row("Status", out.Status)
					t.row("Error", or(out.Error))
					t.row("Seconds", fmt.Sprintf("%.3f", out.Seconds))
				})
			})
		},
	}
}

func (a *app) newWebhookRetry() *cobra.Command {
	return &cobra.Command{
		Use: "retry WEBHOOK", Short: "Try at once what waits, and again what was given up", Example: "  rebound webhook retry ops", Args: exactly("WEBHOOK"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *client.Client) error {
				out, err := c.RetryWebhook(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return a.print(out, func(t *table) { webhookRows(t, out) })
			})
		},
	}
}
