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
		a.newTokenList(), a.newTokenCreate(),
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
					t.head("NAME", "ROLE", "CREATED", "EXPIRES", "ID")
					for _, k := range list {
						t.row(k.Name, k.Role, when(k.Created), when(k.Expires), k.ID)
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
		Long: `Make an API token. Roles, each with all that the ones before it may do: reader looks;
operator runs operations; contributor protects and changes settings; owner also enrols
gateways and makes tokens.`,
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
	f.IntVar(&n.Days, "days", 0, "days until it expires (default: never)")
	return cmd
}
