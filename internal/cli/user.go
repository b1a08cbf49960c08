package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

const rolesHelp = `Roles, each with all that the ones before it may do: reader looks; operator runs
failovers, failbacks, tests, commits and reprotects; contributor protects, disables and
changes settings; owner also enrols gateways and decides who may do what.`

func (a *app) newUser() *cobra.Command {
	return a.parent("user", "Users: who may log in", "  rebound user list\n  rebound user create alice --role operator",
		a.newUserList(), a.newUserShow(), a.newUserCreate(), a.newUserUpdate(), a.newUserPassword(),
		a.newRemoval(removal{
			use: "delete", arg: "USER", short: "Remove a user",
			long:    "Remove a user with all sessions and tokens, at once. The last owner cannot be removed.",
			example: "  rebound user delete alice --yes", what: "delete user",
			do: func(ctx context.Context, c *client.Client, id string) error { return c.DeleteUser(ctx, id) },
		}))
}

func (a *app) newUserList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the users", Example: "  rebound user list", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(func(c *client.Client) error {
				list, err := c.Users(cmd.Context())
				if err != nil {
					return err
				}
				return a.print(list, func(t *table) {
					t.head("USER", "ROLE", "DISABLED", "CREATED", "LAST LOG-IN")
					for _, u := range list {
						t.row(u.Name, u.Role, u.Disabled, when(u.Created), when(u.LastLogin))
					}
				})
			})
		},
	}
}

func (a *app) printUser(u rest.User) error {
	return a.print(u, func(t *table) {
		t.row("User", u.Name)
		t.row("Role", u.Role)
		t.row("Disabled", u.Disabled)
		t.row("Created", when(u.Created))
		t.row("Password of", when(u.PasswordChanged))
		t.row("Last log-in", when(u.LastLogin))
	})
}

// userCommand is a command that does one thing to a user and prints it.
func (a *app) userCommand(use, short, long, example string, do func(context.Context, *client.Client, string) (rest.User, error)) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: long, Example: example, Args: exactly("USER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *client.Client) error {
				u, err := do(cmd.Context(), c, args[0])
				if err != nil {
					return err
				}
				return a.printUser(u)
			})
		},
	}
}

func (a *app) newUserShow() *cobra.Command {
	return a.userCommand("show USER", "Show a user", "", "  rebound user show alice",
		func(ctx context.Context, c *client.Client, name string) (rest.User, error) { return c.User(ctx, name) })
}

func (a *app) newUserCreate() *cobra.Command {
	var role, file string
	cmd := a.userCommand("create USER --role ROLE", "Make a user",
		"Make a user. The password, of at least 12 characters, is asked for, or read from\n--password-file or the standard input.\n\n"+rolesHelp,
		"  rebound user create alice --role operator\n  rebound user create bob --role reader --password-file bob.txt",
		func(ctx context.Context, c *client.Client, name string) (rest.User, error) {
			if role == "" {
				return rest.User{}, usageError{errors.New("--role is needed")}
			}
			password, err := a.readSecret("Password", file)
			if err != nil {
				return rest.User{}, err
			}
			return c.CreateUser(ctx, rest.NewUser{Name: name, Role: role, Password: password})
		})
	cmd.Flags().StringVar(&role, "role", "", "reader, operator, contributor or owner")
	cmd.Flags().StringVar(&file, "password-file", "", "file with the password")
	return cmd
}

func (a *app) newUserUpdate() *cobra.Command {
	var role string
	var disable, enable bool
	cmd := a.userCommand("update USER", "Change a user's role; disable or enable a user",
		"Change a user. A disabled user cannot log in, and the user's tokens do not work.\n\n"+rolesHelp,
		"  rebound user update alice --role contributor\n  rebound user update alice --disable",
		func(ctx context.Context, c *client.Client, name string) (rest.User, error) {
			var ch rest.UserChange
			if role != "" {
				ch.Role = &role
			}
			if disable && enable {
				return rest.User{}, usageError{errors.New("--disable and --enable exclude each other")}
			}
			if disable || enable {
				ch.Disabled = &disable
			}
			return c.UpdateUser(ctx, name, ch)
		})
	cmd.Flags().StringVar(&role, "role", "", "reader, operator, contributor or owner")
	cmd.Flags().BoolVar(&disable, "disable", false, "no log-in any more, and the sessions end")
	cmd.Flags().BoolVar(&enable, "enable", false, "the user may log in again")
	return cmd
}

func (a *app) newUserPassword() *cobra.Command {
	var file, current string
	cmd := &cobra.Command{
		Use: "password USER", Short: "Set a user's password",
		Long: `Set a user's password, one's own or, for owners, anybody's. It is asked for, or read from
--password-file or the standard input. One's own needs the present password too. The
user's sessions end; tokens go on.`,
		Example: "  rebound user password alice --password-file new.txt --current-file old.txt", Args: exactly("USER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(func(c *client.Client) error {
				me, err := c.WhoAmI(cmd.Context())
				if err != nil {
					return err
				}
				var p rest.PasswordChange
				if me.User == args[0] {
					if p.Current, err = a.readSecret("Present password", current); err != nil {
						return err
					}
				}
				if p.New, err = a.readSecret("New password", file); err != nil {
					return err
				}
				if err := c.ChangePassword(cmd.Context(), args[0], p); err != nil {
					return err
				}
				return a.print(struct {
					User string `json:"user"`
				}{args[0]}, func(t *table) { t.row("Password set for", args[0]) })
			})
		},
	}
	cmd.Flags().StringVar(&file, "password-file", "", "file with the new password")
	cmd.Flags().StringVar(&current, "current-file", "", "file with the present password")
	return cmd
}

// readSecret takes a secret from a file, else asks for it, else reads a line of
// the standard input.
func (a *app) readSecret(what, file string) (string, error) {
	var text string
	stdin, isFile := a.In.(*os.File)
	switch {
	case file != "":
		b, err := os.ReadFile(file)
		if err != nil {
			return "", usageError{fmt.Errorf("%s: %w", strings.ToLower(what), err)}
		}
		text = string(b)
	case isFile && a.interactive():
		fmt.Fprintf(a.Err, "%s: ", what)
		b, err := term.ReadPassword(int(stdin.Fd()))
		fmt.Fprintln(a.Err)
		if err != nil {
			return "", fmt.Errorf("read %s: %w", strings.ToLower(what), err)
		}
		text = string(b)
	case a.In != nil:
		line, err := bufio.NewReader(a.In).ReadString('\n')
		if err != nil && err != io.EOF {
			return "", fmt.Errorf("read %s: %w", strings.ToLower(what), err)
		}
		text = line
	}
	if text = strings.TrimRight(text, "\r\n"); text == "" {
		return "", usageError{fmt.Errorf("there is no %s: give a file, or pipe it in", strings.ToLower(what))}
	}
	return text, nil
}
