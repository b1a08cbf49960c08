package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/vault/rest"
)

const pointHelp = `P is one of: latest, latest-processed, latest-app, latest-multi-vm,
latest-multi-vm-app, the ID of a point, a time (RFC 3339, such as
2026-11-23T03:04:05Z), or @ and a position (@g1.e2.n345).`

// pointFlag reads a --point. The type of the request's field is not a string.
func pointFlag(cmd *cobra.Command, req *rest.OperationRequest, usage string) {
	cmd.Flags().StringVar((*string)(&req.Point), "point", "", usage)
}

// modeFlags are --planned and --unplanned; set moves them into the request.
type modeFlags struct{ planned, unplanned bool }

func (m *modeFlags) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&m.planned, "planned", false, "shut the source down and send its last writes first: nothing is lost")
	cmd.Flags().BoolVar(&m.unplanned, "unplanned", false, "do not need the source")
}

func (m *modeFlags) set(req *rest.OperationRequest) error {
	switch {
	case m.planned && m.unplanned:
		return usageError{errors.New("--planned and --unplanned exclude each other")}
	case m.planned && req.Point != "" && req.Point != dr.Latest:
		return usageError{errors.New("a planned failover loses nothing and takes no older point; use --unplanned with --point")}
	case m.planned:
		req.Mode = "planned"
	case m.unplanned:
		req.Mode = "unplanned"
	}
	return nil
}

func (a *app) newFailover() *cobra.Command {
	var mode modeFlags
	return a.newOperation(operation{
		op: lifecycle.Failover, use: "failover", ask: true,
		short: "Start machines at the other site",
		long: `Start the machines of a group, or an item that is a group of its own, at the recovery
site, from a recovery point. Until the commit the moment can be changed (change-point)
and all of it be undone (undo).

--planned shuts the source down and drains it first: nothing is lost. --unplanned is for
a site that is lost; by default it still tries to shut the source down.

` + pointHelp,
		example: `  rebound failover shop --unplanned --yes
  rebound failover shop --planned
  rebound failover shop --unplanned --point 2026-11-23T03:04:05Z --shutdown-source skip
  rebound failover shop --unplanned --dry-run`,
		flags: func(cmd *cobra.Command, req *rest.OperationRequest) {
			mode.add(cmd)
			pointFlag(cmd, req, "the moment to start from (default: latest)")
			perMachineFlag(cmd, req)
			cmd.Flags().StringVar(&req.ShutdownSource, "shutdown-source", "", "try, require or skip (default: try)")
			cmd.Flags().StringVar(&req.Network, "network", "", "network for NICs whose own network the site lacks")
		},
		check: func(req *rest.OperationRequest) error {
			if !mode.planned && !mode.unplanned {
				return usageError{errors.New("say --planned (the source is there: nothing is lost) or --unplanned (it is not)")}
			}
			return mode.set(req)
		},
	})
}

func (a *app) newFailback() *cobra.Command {
	var mode modeFlags
	return a.newOperation(operation{
		op: lifecycle.Failback, use: "failback", ask: true,
		short: "Take machines home",
		long: `Start the machines at their home site again. It is a failover in the other direction,
planned unless --unplanned or an older --point is given. The home machines are the
original ones; the commit afterwards deletes the machines at the recovery site.

` + pointHelp,
		example: `  rebound failback shop
  rebound failback shop --unplanned --point latest-processed --yes`,
		flags: func(cmd *cobra.Command, req *rest.OperationRequest) {
			mode.add(cmd)
			pointFlag(cmd, req, "the moment to start from (default: latest)")
			perMachineFlag(cmd, req)
			cmd.Flags().StringVar(&req.ShutdownSource, "shutdown-source", "", "try, require or skip (default: require when planned, else try)")
			cmd.Flags().StringVar(&req.Network, "network", "", "network for NICs whose own network the site lacks")
		},
		check: mode.set,
	})
}

func (a *app) newChangePoint() *cobra.Command {
	return a.newOperation(operation{
		op: lifecycle.ChangePoint, use: "change-point", ask: true,
		short: "Start the recovered machines anew from another moment",
		long: `After a failover and before its commit: discard the recovered machines and start them
again from another moment. What they wrote since their start is lost.

` + pointHelp,
		example: `  rebound change-point shop --point 2026-11-23T03:04:05Z
  rebound change-point shop --point latest --yes`,
		flags: func(cmd *cobra.Command, req *rest.OperationRequest) {
			pointFlag(cmd, req, "the moment to start from (needed)")
			perMachineFlag(cmd, req)
			cmd.Flags().StringVar(&req.Network, "network", "", "network for NICs whose own network the site lacks")
		},
		check: func(req *rest.OperationRequest) error {
			if req.Point == "" && !req.PerMachine {
				return usageError{errors.New("--point is missing; 'rebound point list' shows what there is")}
			}
			return nil
		},
	})
}

func (a *app) newCommit() *cobra.Command {
	return a.newOperation(operation{
		op: lifecycle.Commit, use: "commit", ask: true,
		short: "Make a failover or failback final",
		long: `Make a failover final while the machines run: all other recovery points are deleted and
the machines become independent of the journal. After a failback it also deletes the
machines at the recovery site; they are listed, by name, before you confirm.

That commit wants proof that the machines at home run: an agent's heartbeat with a new
boot id, an answer of the guest agent, or a probe of yours, which runs on the gateway of
the home site. What was taken for proof is kept in the job.`,
		example: `  rebound commit shop --dry-run
  rebound commit shop --yes
  rebound commit shop --probe web=tcp:10.0.0.4:443 --probe db=command:check-db`,
		flags: probeFlags,
	})
}

func (a *app) newUndo() *cobra.Command {
	return a.newOperation(operation{
		op: lifecycle.Undo, use: "undo", ask: true,
		short: "Go back to before a failover that is not committed",
		long: `Discard the recovered machines, start the source machines again and replicate as before.
What the recovered machines wrote since their start is lost.`,
		example: "  rebound undo shop",
	})
}

func (a *app) newReprotect() *cobra.Command {
	var values string
	return a.newOperation(operation{
		op: lifecycle.Reprotect, use: "reprotect",
		short: "Replicate the other way after a commit",
		long: `Replicate from the site where the machines run now to the other one. The disks that lie
there are compared, only what differs is sent, and what the old primary had written
alone stays readable as a point named diverged-….`,
		example: "  rebound reprotect shop\n  rebound reprotect shop --master-target gw-home2 --retention-volume big --dry-run\n  rebound reprotect plan/shop --plan-values values.yaml",
		flags: func(cmd *cobra.Command, req *rest.OperationRequest) {
			reprotectFlags(cmd, req)
			cmd.Flags().StringVar(&values, "plan-values", "", "of a plan: YAML file with what differs, by item or group/NAME")
		},
		check: func(req *rest.OperationRequest) error {
			if values == "" {
				return nil
			}
			return a.readStrict(values, &req.Values)
		},
	})
}
