package lifecycle

import (
	"fmt"
	"maps"
	"time"

	"rebound/internal/dr"
	"rebound/internal/problem"
)

// Facts are all that a decision needs to know of an item, or of the group that
// an operation addresses (then the worst of its members).
type Facts struct {
	State     State
	Direction dr.Direction
	Test      TestState
	// Unconfirmed says why the state may be out of date; empty: it is not.
	Unconfirmed string
	// LoneMember: the operation addresses one member of a larger group.
	LoneMember bool
	// RunningJob is the job at work on the item; empty when there is none.
	RunningJob dr.JobID
	// ActiveGateway and StandbyGateway name the two ends, ActiveUp and
	// StandbyUp whether the vault hears from them.
	ActiveGateway, StandbyGateway dr.GatewayID
	ActiveUp, StandbyUp           bool
	// Points is how many recovery points or confirmed moments there are;
	// Lacking names the members without any.
	Points  int
	Lacking []dr.MachineName
	// RecoveredRunning: every recovered machine runs, by its power state.
	// That its guest runs too is proven by the commit itself.
	RecoveredRunning bool
	// SourceGone names the members that the site which writes flow from does
	// not have any more: somebody deleted them by hand.
	SourceGone []dr.MachineName
	// SourceOff: every machine at the site that was active is known to be off
	// (commit of a failback deletes them).
	SourceOff bool
	// ActiveRunning: every machine at the active site runs (reprotect).
	ActiveRunning bool
	// AgentRequired: the policy demands an agent; AgentPending names the
	// machines whose agent has not registered since they started, PendingSince
	// the earliest such start.
	AgentRequired bool
	AgentPending  []dr.MachineName
	PendingSince  time.Time
	// Now is the vault's clock.
	Now time.Time
	// Ends is nil where the operation needs none, or nobody asked.
	Ends *Ends
	// Force accepts that an unreachable site is not cleaned up (disable).
	Force bool
}

// GuardName names a guard.
type GuardName string

// The guards.
const (
	NoOtherJob            GuardName = "NoOtherJob"
	WholeGroup            GuardName = "WholeGroup"
	RightDirection        GuardName = "RightDirection"
	NoTestRunning         GuardName = "NoTestRunning"
	TestToClean           GuardName = "TestToClean"
	HasPoint              GuardName = "HasPoint"
	StandbyGatewayUp      GuardName = "StandbyGatewayUp"
	SourceGatewayUp       GuardName = "SourceGatewayUp"
	BothGatewaysUp        GuardName = "BothGatewaysUp"
	BothGatewaysUpOrForce GuardName = "BothGatewaysUpOrForce"
	RecoveredRuns         GuardName = "RecoveredRuns"
	SourceOff             GuardName = "SourceOff"
	ActiveRuns            GuardName = "ActiveRuns"
	AgentRegistered       GuardName = "AgentRegistered"
	RecoveredAnswers      GuardName = "RecoveredAnswers"
	SourceExists          GuardName = "SourceExists"
	AwayFromHome          GuardName = "AwayFromHome"
)

// Refusal says why not, and what to do about it.
type Refusal struct {
	Code   problem.Code
	Reason string
	Remedy string
}

// Guard looks at the facts and refuses, or returns nil.
type Guard func(op Operation, f Facts) *Refusal

// Guards returns every guard by name, built anew at each call.
func Guards() map[GuardName]Guard {
	all := map[GuardName]Guard{
		NoOtherJob:       guardNoOtherJob,
		WholeGroup:       guardWholeGroup,
		RightDirection:   guardRightDirection,
		NoTestRunning:    guardNoTest,
		TestToClean:      guardTestToClean,
		HasPoint:         guardHasPoint,
		StandbyGatewayUp: func(_ Operation, f Facts) *Refusal { return gatewayUp("standby", f.StandbyGateway, f.StandbyUp) },
		SourceGatewayUp:  func(_ Operation, f Facts) *Refusal { return gatewayUp("active", f.ActiveGateway, f.ActiveUp) },
		BothGatewaysUp:   guardBothGateways,
		BothGatewaysUpOrForce: func(op Operation, f Facts) *Refusal {
			if f.Force {
				return nil
			}
			return guardBothGateways(op, f)
		},
		RecoveredRuns:    guardRecoveredRuns,
		RecoveredAnswers: guardRecoveredAnswers,
		SourceExists:     guardSourceExists,
		AwayFromHome:     guardAwayFromHome,
		SourceOff:        guardSourceOff,
		ActiveRuns:       guardActiveRuns,
		AgentRegistered:  guardAgent,
	}
	maps.Copy(all, endGuards())
	return all
}

func guardNoOtherJob(_ Operation, f Facts) *Refusal {
	if f.RunningJob == "" {
		return nil
	}
	return &Refusal{problem.OperationRunning, fmt.Sprintf("Job %s is at work on it.", f.RunningJob), waitJob}
}

func guardWholeGroup(op Operation, f Facts) *Refusal {
	if !f.LoneMember {
		return nil
	}
	return &Refusal{problem.GroupMemberAlone, "The item is one of several members of a replication group, which share one order of writes.", fmt.Sprintf("Run '%s' on the group.", op)}
}

func guardRightDirection(op Operation, f Facts) *Refusal {
	want := RulesFor(f.Direction).Failover
	if op == want {
		return nil
	}
	where := "at its home site"
	if f.Direction == dr.Back {
		where = "at its recovery site"
	}
	return &Refusal{problem.OperationNotAllowed, fmt.Sprintf("The machine runs %s, from where the way is a %s.", where, want), fmt.Sprintf("Use '%s'.", want)}
}

func guardNoTest(_ Operation, f Facts) *Refusal {
	if f.Test == NoTest {
		return nil
	}
	return &Refusal{problem.OperationNotAllowed, "A test failover has not been cleaned up.", "Run 'test-cleanup' first."}
}

func guardTestToClean(_ Operation, f Facts) *Refusal {
	if f.Test != NoTest {
		return nil
	}
	return &Refusal{problem.OperationNotAllowed, "There is no test failover.", "Nothing needs to be done."}
}

func guardHasPoint(_ Operation, f Facts) *Refusal {
	if len(f.Lacking) > 0 {
		return &Refusal{problem.NoRecoveryPoint, fmt.Sprintf("No recovery point exists for %v.", f.Lacking), waitFirst}
	}
	if f.Points == 0 {
		return &Refusal{problem.NoRecoveryPoint, "No recovery point exists.", waitFirst}
	}
	return nil
}

func gatewayUp(role string, gw dr.GatewayID, up bool) *Refusal {
	if up {
		return nil
	}
	return &Refusal{problem.GatewayUnreachable, fmt.Sprintf("The vault does not hear from gateway %q of the %s site.", gw, role), "Start the gateway or mend its link to the vault."}
}

func guardBothGateways(_ Operation, f Facts) *Refusal {
	if r := gatewayUp("active", f.ActiveGateway, f.ActiveUp); r != nil {
		return r
	}
	return gatewayUp("standby", f.StandbyGateway, f.StandbyUp)
}

func guardRecoveredRuns(_ Operation, f Facts) *Refusal {
	if f.RecoveredRunning {
		return nil
	}
	return &Refusal{problem.CommitNotProven, "Not every machine that would survive runs.", "Look at its console; start it, change the recovery point if it does not boot, or undo."}
}

// guardRecoveredAnswers: machines that are not committed run on the journal of
// the standby's gateway. Without it nothing of them can be kept, by force
// neither.
func guardRecoveredAnswers(_ Operation, f Facts) *Refusal {
	if f.State != CommitPending && f.State != Committing || f.StandbyUp {
		return nil
	}
	return &Refusal{problem.GatewayUnreachable, fmt.Sprintf("The recovered machines run on the journal of gateway %q, which is away.", f.StandbyGateway), "Start the gateway: until the commit the machines cannot live without it, whatever is forced."}
}

func guardSourceExists(op Operation, f Facts) *Refusal {
	if len(f.SourceGone) == 0 {
		return nil
	}
	remedy := "Disable the item: there is nothing left to protect. Protect the machine anew where it is now."
	if op == Undo {
		remedy = "Commit the failover, or change its recovery point; there is nothing to go back to."
	}
	return &Refusal{problem.UnknownMachine, fmt.Sprintf("%v is not at its site any more; somebody deleted it.", f.SourceGone), remedy}
}

func guardAwayFromHome(_ Operation, f Facts) *Refusal {
	if f.Direction == dr.Forward {
		return nil
	}
	return &Refusal{problem.OperationNotAllowed, "The machines are coming home: that is no migration.", "Commit the failback; disable the item afterwards if it is to be protected no more."}
}

func guardSourceOff(_ Operation, f Facts) *Refusal {
	if f.SourceOff || !RulesFor(f.Direction).CommitDeletesSource {
		return nil
	}
	return &Refusal{problem.CommitNotProven, "The machine that the commit would delete still runs, or its site does not answer.", "Stop it, or mend its gateway, then commit again."}
}

func guardActiveRuns(_ Operation, f Facts) *Refusal {
	if f.ActiveRunning {
		return nil
	}
	return &Refusal{problem.MachineNotRunning, "Not every machine runs at the active site.", "Start it, then reprotect again."}
}

// AgentWindow is how long an agent may take to register after its machine
// started (Azure Site Recovery's number). Within it waiting helps.
const AgentWindow = 15 * time.Minute

func guardAgent(_ Operation, f Facts) *Refusal {
	if !f.AgentRequired || len(f.AgentPending) == 0 {
		return nil
	}
	since := f.PendingSince.UTC().Format(time.RFC3339)
	if f.Now.Sub(f.PendingSince) < AgentWindow {
		return &Refusal{
			problem.AgentNotInstalled,
			fmt.Sprintf("The agent of %v has not registered; registration is pending since %s and can take up to 15 minutes after a start.", f.AgentPending, since),
			"Wait a few minutes and run it again; nothing else is needed.",
		}
	}
	return &Refusal{
		problem.AgentNotInstalled,
		fmt.Sprintf("The agent of %v did not register: registration is pending since %s, longer than the 15 minutes that it may take.", f.AgentPending, since),
		"Install or start the agent in the machine and let it reach the vault ('rebound agent'), then run it again.",
	}
}
