package cli

import "github.com/spf13/cobra"

// addOperator adds the commands that speak the vault's REST API.
func (a *app) addOperator(*cobra.Command) {}
