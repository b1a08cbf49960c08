package cli

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

func (a *app) newLogin() *cobra.Command {
	var how loginFlags
	cmd := &cobra.Command{
		Use:   "login HOST:PORT",
		Short: "Remember a vault, its certificate and a token",
		Long: `Try a token at a vault and remember both, with the vault's certificate, in the user's
configuration directory (or in the file $` + envConfig + `), readable by the user alone.

The first token and the certificate lie in the vault's directory. Without --ca the
vault's certificate must be one that the system trusts. Without a token on the command
line, in --token-file or in $` + envToken + ` it is read from the standard input.

With --user the password is asked for (or read from --password-file or the standard
input), and a token of that user is made for this computer, which ends after --days.`,
		Example: `  rebound login vault.example:8443 --ca vault-ca.pem --token-file first-token
  rebound login vault.example:8443 --ca vault-ca.pem < token
  rebound login vault.example:8443 --ca vault-ca.pem --user alice`,
		Args: exactly("HOST:PORT"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.login(cmd.Context(), args[0], how) },
	}
	f := cmd.Flags()
	f.StringVar(&how.tokenFile, "token-file", "", "file with the token")
	f.StringVar(&how.user, "user", "", "log in as this user, by password")
	f.StringVar(&how.passwordFile, "password-file", "", "file with the user's password")
	f.IntVar(&how.days, "days", 30, "with --user: days until the token ends; 0 never")
	return cmd
}

// loginFlags say how to prove who one is.
type loginFlags struct {
	tokenFile, user, passwordFile string
	days                          int
}

// byPassword trades a password for a token of this computer.
func (a *app) byPassword(ctx context.Context, p profile, how loginFlags) (string, error) {
	if how.days < 0 {
		return "", usageError{fmt.Errorf("--days %d: want 0 or more", how.days)}
	}
	password, err := a.readSecret("Password", how.passwordFile)
	if err != nil {
		return "", err
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	name := "login@" + host
	c, err := client.New(client.Config{URL: "https://" + p.Vault, CA: []byte(p.CA), Agent: rest.CLIAgent})
	if err != nil {
		return "", err
	}
	defer c.Close()
	tok, err := c.Login(ctx, rest.Login{Name: how.user, Password: password}, rest.NewToken{Name: name[:min(len(name), 63)], Days: how.days})
	return tok.Secret, err
}

func (a *app) login(ctx context.Context, addr string, how loginFlags) error {
	p := profile{Vault: hostPort(addr)}
	var err error
	if how.user == "" {
		if p.Token, err = a.readToken(how.tokenFile); err != nil {
			return err
		}
	}
	if file := cmp.Or(a.caFile, os.Getenv(envCA)); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return usageError{fmt.Errorf("--ca: %w", err)}
		}
		p.CA = string(pem)
	}
	if how.user != "" {
		if p.Token, err = a.byPassword(ctx, p, how); err != nil {
			return err
		}
	}
	c, err := p.client()
	if err != nil {
		return err
	}
	defer c.Close()
	st, err := c.Status(ctx)
	if err != nil {
		return err
	}
	p.ID = st.Vault
	path, err := p.save()
	if err != nil {
		return err
	}
	out := struct {
		Vault   string      `json:"vault"`
		Profile string      `json:"profile"`
		Status  rest.Status `json:"status"`
	}{p.Vault, path, st}
	return a.print(out, func(t *table) {
		t.row("Logged in at", p.Vault)
		t.row("Vault", st.Vault)
		t.row("Profile", path)
	})
}

// readToken takes the token from the flag, the file, the environment or the
// standard input, in this order.
func (a *app) readToken(file string) (string, error) {
	token := a.tokenArg
	stdin, isFile := a.In.(*os.File)
	switch {
	case token != "":
	case file != "":
		b, err := os.ReadFile(file)
		if err != nil {
			return "", usageError{fmt.Errorf("--token-file: %w", err)}
		}
		token = string(b)
	case os.Getenv(envToken) != "":
		token = os.Getenv(envToken)
	case isFile && a.interactive():
		fmt.Fprint(a.Err, "Token: ")
		b, err := term.ReadPassword(int(stdin.Fd()))
		fmt.Fprintln(a.Err)
		if err != nil {
			return "", fmt.Errorf("read token: %w", err)
		}
		token = string(b)
	case a.In != nil:
		line, err := bufio.NewReader(a.In).ReadString('\n')
		if err != nil && err != io.EOF {
			return "", fmt.Errorf("read token: %w", err)
		}
		token = line
	}
	if token = strings.TrimSpace(token); token == "" {
		return "", usageError{fmt.Errorf("there is no token: give --token-file, or pipe it in")}
	}
	return token, nil
}
