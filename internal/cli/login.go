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

	"rebound/internal/vault/rest"
)

func (a *app) newLogin() *cobra.Command {
	var tokenFile string
	cmd := &cobra.Command{
		Use:   "login HOST:PORT",
		Short: "Remember a vault, its certificate and a token",
		Long: `Try a token at a vault and remember both, with the vault's certificate, in the user's
configuration directory (or in the file $` + envConfig + `), readable by the user alone.

The first token and the certificate lie in the vault's directory. Without --ca the
vault's certificate must be one that the system trusts. Without a token on the command
line, in --token-file or in $` + envToken + ` it is read from the standard input.`,
		Example: `  rebound login vault.example:8443 --ca vault-ca.pem --token-file first-token
  rebound login vault.example:8443 --ca vault-ca.pem < token`,
		Args: exactly("HOST:PORT"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.login(cmd.Context(), args[0], tokenFile) },
	}
	cmd.Flags().StringVar(&tokenFile, "token-file", "", "file with the token")
	return cmd
}

func (a *app) login(ctx context.Context, addr, tokenFile string) error {
	p := profile{Vault: hostPort(addr)}
	var err error
	if p.Token, err = a.readToken(tokenFile); err != nil {
		return err
	}
	if file := cmp.Or(a.caFile, os.Getenv(envCA)); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return usageError{fmt.Errorf("--ca: %w", err)}
		}
		p.CA = string(pem)
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
