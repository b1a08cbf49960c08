package cli

import (
	"time"

	"github.com/spf13/cobra"

	"rebound/internal/site/qemu"
)

// newThawGuard is for gateways only: it is hidden.
func (a *app) newThawGuard() *cobra.Command {
	var socket string
	var within time.Duration
	cmd := &cobra.Command{
		Use:    "thaw-guard --socket SOCKET --within TIME",
		Short:  "Thaw a guest when its gateway dies (started by the gateway)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return qemu.GuardThaw(cmd.Context(), a.In, socket, within)
		},
	}
	cmd.Flags().StringVar(&socket, "socket", "", "socket of the guest's agent")
	cmd.Flags().DurationVar(&within, "within", 0, "when to thaw at the latest")
	return cmd
}
