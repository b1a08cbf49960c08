package cli

import (
	"github.com/spf13/cobra"

	"rebound/internal/lifecycle"
	"rebound/internal/vault/rest"
)

func (a *app) newPause() *cobra.Command {
	return a.newOperation(operation{
		op: lifecycle.Pause, use: "pause", short: "Suspend replication",
		long: `Stop sending writes. Bitmaps at the source remember what changes; existing recovery
points stay usable, no new ones are made.`,
		example: "  rebound pause shop",
	})
}

func (a *app) newResume() *cobra.Command {
	return a.newOperation(operation{
		op: lifecycle.Resume, use: "resume", short: "Go on with replication after a pause",
		long:    "Send what changed during the pause, then replicate as before.",
		example: "  rebound resume shop",
	})
}

func (a *app) newResync() *cobra.Command {
	return a.newOperation(operation{
		op: lifecycle.Resync, use: "resync", short: "Compare everything and send what differs",
		long: `Compare the content of both sites block by block and send what differs. Machines go on
running and older recovery points stay valid meanwhile.`,
		example: "  rebound resync shop --timeout 2h",
	})
}

func (a *app) newVerify() *cobra.Command {
	return a.newOperation(operation{
		op: lifecycle.Verify, use: "verify", short: "Compare both sites without changing anything",
		long:    "Compare the content of both sites block by block and report what differs. Nothing is changed.",
		example: "  rebound verify shop\n  rebound verify shop -o json",
	})
}

func (a *app) newDisable() *cobra.Command {
	return a.newOperation(operation{
		op: lifecycle.Disable, use: "disable", ask: true, short: "End the protection",
		long: `End replication and delete the journal with all its recovery points, and the standby
machines. The running machines are not touched. --force does not wait for a site that
is away; what is left there has to be removed by hand.`,
		example: "  rebound disable shop --dry-run\n  rebound disable shop --force --yes",
		flags: func(cmd *cobra.Command, req *rest.OperationRequest) {
			cmd.Flags().BoolVar(&req.Force, "force", false, "do not wait for a site that is away")
		},
	})
}
