package cli

import (
	"time"

	"github.com/spf13/cobra"

	"rebound/internal/capture"
)

func (a *app) newCapture() *cobra.Command {
	var dir string
	var alone time.Duration
	cmd := &cobra.Command{
		Use:   "capture --dir DIR",
		Short: "Run the capture process of one group (started by the gateway)",
		Long: `Run the source-side data path of one replication group: the sockets that hypervisors
write to, the order of writes, and the stream to the standby. The gateway starts,
watches and adopts this process; there is no reason to start it by hand.`,
		Example: "  rebound capture --dir /run/rebound/shop",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := a.logger()
			if err != nil {
				return err
			}
			return capture.Run(cmd.Context(), capture.Config{Dir: dir, AloneTimeout: alone, Logger: log})
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "runtime directory of the group")
	cmd.Flags().DurationVar(&alone, "alone", 0, "how long to go on without a gateway (default 30s)")
	if err := cmd.MarkFlagRequired("dir"); err != nil {
		panic(err) // the flag is defined one line above
	}
	return cmd
}
