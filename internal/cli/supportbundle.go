package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"rebound/internal/vault/client"
)

func (a *app) newSupportBundle() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "support-bundle [-f FILE]", Short: "Gather what helps to find a fault into one archive",
		Long: `Write one archive (tar.gz) with version, health, jobs, events, the end of the audit log, metrics,
recent log lines of the vault and of every gateway that is connected, the gateways' state files,
summaries of their journals, and facts of their hosts. Secrets are left out: no token, passphrase,
key or webhook secret is in it. A gateway that is away is named in the archive.`,
		Example: "  rebound support-bundle\n  rebound support-bundle -f /tmp/for-support.tar.gz",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				file = "rebound-support-" + time.Now().UTC().Format("20060102T150405Z") + ".tar.gz"
			}
			return a.withClient(func(c *client.Client) error {
				tmp, err := os.CreateTemp(filepath.Dir(file), ".rebound-support-*")
				if err != nil {
					return fmt.Errorf("make archive: %w", err)
				}
				defer os.Remove(tmp.Name()) //nolint:errcheck // renamed by then
				if err := c.SupportBundle(cmd.Context(), tmp); err != nil {
					tmp.Close()
					return err
				}
				if err := tmp.Close(); err != nil {
					return fmt.Errorf("write archive: %w", err)
				}
				if err := os.Rename(tmp.Name(), file); err != nil {
					return fmt.Errorf("keep archive: %w", err)
				}
				return a.print(map[string]string{"file": file}, func(t *table) { t.row("Archive", file) })
			})
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "where to write it (default: rebound-support-TIME.tar.gz)")
	return cmd
}
