package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"rebound/internal/vault/client"
)

func (a *app) newCompletion() *cobra.Command {
	return &cobra.Command{
		Use: "completion bash|zsh|fish|powershell", Short: "Print a script that completes commands and names in your shell",
		Long: `Print a completion script for a shell. It completes commands and flags, and asks the
vault for the names of items, groups, jobs, sites and so on.`,
		Example: `  source <(rebound completion bash)
  rebound completion zsh > "${fpath[1]}/_rebound"
  rebound completion fish > ~/.config/fish/completions/rebound.fish`,
		Args:      exactly("SHELL"),
		ValidArgs: []string{"bash", "zsh", "fish", "powershell"},
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.Out, true)
			case "zsh":
				return root.GenZshCompletion(a.Out)
			case "fish":
				return root.GenFishCompletion(a.Out, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(a.Out)
			}
			return usageError{fmt.Errorf("there is no completion for %q: want bash, zsh, fish or powershell", args[0])}
		},
	}
}

// completeWithin bounds a completion's question to the vault: a shell waits.
const completeWithin = 2 * time.Second

// complete offers the names that list returns; without a vault, none.
func (a *app) complete(cmd *cobra.Command, list func(context.Context, *client.Client) ([]string, error)) ([]string, cobra.ShellCompDirective) {
	var names []string
	err := a.withClient(func(c *client.Client) (err error) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completeWithin)
		defer cancel()
		names, err = list(ctx, c)
		return err
	})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// namesOf lists one name for each thing.
func namesOf[T any, S ~string](list []T, err error, name func(T) S) ([]string, error) {
	out := make([]string, 0, len(list))
	for _, x := range list {
		out = append(out, string(name(x)))
	}
	return out, err
}
