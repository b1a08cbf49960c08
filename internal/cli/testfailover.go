package cli

import (
	"github.com/spf13/cobra"

	"rebound/internal/lifecycle"
	"rebound/internal/vault/rest"
)

func (a *app) newTest() *cobra.Command {
	return a.newOperation(operation{
		op: lifecycle.TestFailover, use: "test", short: "Start copies at the other site in a network of their own",
		long: `Start copies of the machines at the standby site, in a network in which they reach each
other and nothing else: the one that is given, else the test network of the machines'
target settings or of the mapping of their networks. Replication goes on undisturbed. End it with test-cleanup.

` + pointHelp,
		example: `  rebound test shop --network drill
  rebound test shop --network drill --point 2026-11-23T03:04:05Z`,
		flags: func(cmd *cobra.Command, req *rest.OperationRequest) {
			cmd.Flags().StringVar(&req.Network, "network", "", "name of the test network (default: that of the target settings or the mapping)")
			pointFlag(cmd, req, "the moment to start from (default: latest-processed)")
			perMachineFlag(cmd, req)
		},
	})
}

func (a *app) newTestCleanup() *cobra.Command {
	return a.newOperation(operation{
		op: lifecycle.TestCleanup, use: "test-cleanup", short: "End a test failover and delete its copies",
		long:    "Stop and delete the copies that a test failover started, with what they wrote.",
		example: `  rebound test-cleanup shop --notes "booted in 20 s, shop answered"`,
		flags: func(cmd *cobra.Command, req *rest.OperationRequest) {
			cmd.Flags().StringVar(&req.Notes, "notes", "", "what the test showed; kept with the job")
		},
	})
}
