package cli

import (
	"runtime"

	"github.com/spf13/cobra"
)

func (a *app) newVersion() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the program's version", Args: cobra.NoArgs,
		Example: "  rebound version -o json",
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				Version string `json:"version"`
				Go      string `json:"go"`
			}{Version, runtime.Version()}
			return a.print(v, func(t *table) {
				t.row("rebound", v.Version)
				t.row("go", v.Go)
			})
		},
	}
}
