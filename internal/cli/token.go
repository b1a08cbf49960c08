package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

func (a *app) newToken() *cobra.Command {
	return a.parent("token", "API tokens: who may do what", "  rebound token list\n  rebound token create --name ci --role reader",
		a.newTokenList(), a.newTokenShow(), a.newTokenCreate(), a.newTokenUpdate(),
		a.newRemoval(removal{
			use: "delete", arg: "ID", short: "End a token",
			long:    "End a token at once. What uses it is refused from then on.",
			example: "  rebound token delete ID --yes", what: "delete token",
			do: func(ctx context.Context, c *client.Client, id string) error { return c.DeleteToken(ctx, id) },
		}))
}

func (a *app) newTokenList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the API tokens, without their secrets", Example: "  rebound token list", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(func(c *client.Client) error {
				list, err := c.Tokens(cmd.Context())
				if err != nil {
					return err
				}
				return a.print(list, func(t *table) {
					t.head("NAME", "USER", "ROLE", "CREATED", "EXPIRES", "LAST USED", "ID")
					for _, k := range list {
						t.row(k.Name, or(k.User), k.Role, when(k.Created), when(k.Expires), when(k.LastUsed), k.ID)
					}
				})
			})
		},
	}
}

func (a *app) newTokenCreate() *cobra.Command {
	var n rest.NewToken
	cmd := &cobra.Command{
		Use: "create --name NAME --role ROLE", Short: "Make an API token; its secret is shown once",
		Long: `Make an API token. A token of a user may do no more than the user may, and ends with the
user. Owners also make service tokens, which stand for themselves (no --user).

` + rolesHelp,
		Example: "  rebound token create --name ci --role reader --days 90",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if n.Name == "" || n.Role == "" {
				return usageError{errors.New("--name and --role are needed")}
			}
			return a.withClient(func(c *client.Client) error {
				k, err := c.CreateToken(cmd.Context(), n)
				if err != nil {
					return err
				}
				return a.print(k, func(t *table) {
					t.row("Name", k.Name)
					t.row("Role", k.Role)
					t.row("Expires", when(k.Expires))
					t.row("ID", k.ID)
					t.row("Secret", k.Secret)
				})
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&n.Name, "name", "", "what it is for")
	f.StringVar(&n.Role, "role", "", "reader, operator, contributor or owner")
	f.StringVar(&n.User, "user", "", "whose token it is (default: one's own; of an owner, a service token)")
	f.IntVar(&n.Days, "days", 0, "days until it expires (default: never)")
	return cmd
}

func (a *app) printToken(k rest.Token) error {
	return a.print(k, func(t *table) {
		t.row("Name", k.Name)
		t.row("User", or(k.User))
		t.row("Role", k.Role)
		t.row("Made by", or(k.By))
		t.row("Created", when(k.Created))
		t.row("Expires", when(k.Expires))
		t.row("Last used", when(k.LastUsed))
		t.row("ID", k.ID)
	})
}

func (a *app) newTokenShow() *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show an API token, without its secret", Example: "  rebound token show ID", Args: exactly("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *client.Client) error {
				k, err := c.Token(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return a.printToken(k)
			})
		},
	}
}

func (a *app) newTokenUpdate() *cobra.Command {
	var name, role string
	var days int
	cmd := &cobra.Command{
		Use: "update ID", Short: "Change an API token's name, role or end", Long: "Change the given settings of a token. Its secret stays.",
		Example: "  rebound token update ID --days 90", Args: exactly("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var ch rest.TokenChange
			for flag, set := range map[string]func(){"name": func() { ch.Name = &name }, "role": func() { ch.Role = &role }, "days": func() { ch.Days = &days }} {
				if cmd.Flags().Changed(flag) {
					set()
				}
			}
			return a.withClient(func(c *client.Client) error {
				k, err := c.UpdateToken(cmd.Context(), args[0], ch)
				if err != nil {
					return err
				}
				return a.printToken(k)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&name, "name", "", "what it is for")
	f.StringVar(&role, "role", "", "reader, operator, contributor or owner")
	f.IntVar(&days, "days", 0, "days from now until it expires; 0 never")
	return cmd
}
