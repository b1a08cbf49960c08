package orchestrator

import (
	"context"
	"fmt"
	"strings"
	"time"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/site"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// The kinds of evidence in a rest.Proof.
const (
	byAgent      = "agent"
	byGuestAgent = "guest-agent"
	byProbe      = "probe"
	byAcceptance = "accepted"
)

// proveCommit demands that every recovered machine runs and, where the
// direction's rules say so, that its guest is proven to run and the other
// machine is off. It asks the sites, not the vault's rows, and changes nothing.
func proveCommit(ctx context.Context, r *run) error {
	if r.group.Recovered == nil {
		return problem.New(problem.CommitNotProven, "no machine was recovered")
	}
	proving := lifecycle.RulesFor(r.job.Direction).CommitNeedsProof
	again := lifecycle.State(r.job.FromState) == lifecycle.Committing
	if !proving && again {
		return nil // its machines may have been used, and stopped, since
	}
	if err := r.recoveredRun(ctx); err != nil {
		return err
	}
	if !proving {
		return nil
	}
	if err := r.sourceIsOff(ctx); err != nil {
		return err
	}
	proofs := make([][]rest.Proof, len(r.group.Members))
	err := r.each(ctx, func(ctx context.Context, m store.Member) (err error) {
		proofs[r.memberIndex(m)], err = r.proofOf(ctx, m)
		return err
	})
	if err != nil {
		return err
	}
	var all []rest.Proof
	for _, p := range proofs {
		all = append(all, p...)
	}
	r.set("proof", all)
	r.set("sourceOff", fmt.Sprintf("no machine runs at %s", r.group.SourceSite()))
	return nil
}

func (r *run) memberIndex(m store.Member) int {
	for i := range r.group.Members {
		if r.group.Members[i].Machine == m.Machine {
			return i
		}
	}
	return 0
}

// recoveredRun demands that every recovered machine is there and has power.
func (r *run) recoveredRun(ctx context.Context) error {
	_, here, err := r.inventory(ctx, r.standby())
	if err != nil {
		return err
	}
	for _, m := range r.group.Members {
		found, ok := here[m.Machine]
		if !ok {
			p := problem.New(problem.CommitNotProven, "machine %s is not at %s any more: somebody deleted it", m.Machine, r.group.StandbySite())
			p.RecommendedAction = "Change the recovery point, which makes it anew from the journal, or undo the failover."
			return p
		}
		if found.State != site.Running {
			return problem.New(problem.CommitNotProven, "machine %s at %s is %q, not running", m.Machine, r.group.StandbySite(), found.State)
		}
	}
	return nil
}

// sourceIsOff demands that no member has power at the site that was left. One
// that is not there any more has none.
func (r *run) sourceIsOff(ctx context.Context) error {
	_, old, err := r.inventory(ctx, r.source())
	if err != nil {
		return err
	}
	for _, m := range r.group.Members {
		if other, ok := old[m.Machine]; ok && other.State != site.Off {
			p := problem.New(problem.CommitNotProven, "machine %s at %s is %q, not off; the commit would delete it", m.Machine, r.group.SourceSite(), other.State)
			p.RecommendedAction = "Find out who started it; what it wrote since is lost with it. Stop it, then commit again."
			return p
		}
	}
	return nil
}

// proofOf returns by what one recovered machine is proven to run, or a
// CommitNotProven that says what was looked for. A probe of the user's that
// fails refuses, whatever else speaks for the machine.
func (r *run) proofOf(ctx context.Context, m store.Member) ([]rest.Proof, error) {
	var proofs []rest.Proof
	var missing []string
	boot, proven, err := r.newBoot(ctx, m)
	if err != nil {
		return nil, err
	}
	if proven {
		r.changeMember(m.Machine, func(row *store.Member) { row.Booted = true })
		proofs = append(proofs, rest.Proof{Machine: m.Machine, Evidence: byAgent, Detail: fmt.Sprintf("its agent was heard with boot id %s, which is new since the start at %s", boot, m.StartedAt.UTC().Format(time.RFC3339))})
	} else {
		missing = append(missing, "no agent was heard with a new boot id")
	}
	probes := r.probesOf(m.Machine)
	if proven && len(probes) == 0 {
		return proofs, nil
	}
	found, err := r.standby().MachineEvidence(ctx, control.EvidenceRequest{Machine: m.Machine, Probes: probes})
	if err != nil && !problem.HasCode(err, problem.ProtocolError) {
		return nil, err
	}
	if err != nil { // an older gateway, which looks for nothing
		missing = append(missing, problem.Text(err))
	}
	if len(found.Failed) > 0 {
		p := problem.New(problem.CommitNotProven, "machine %s runs, but does not pass: %s", m.Machine, strings.Join(found.Failed, "; "))
		p.RecommendedAction = "Look at the machine. Change the recovery point, or undo, if its service does not come up; mend the probe if it asks for the wrong thing."
		return nil, p
	}
	for _, text := range found.Passed {
		proofs = append(proofs, rest.Proof{Machine: m.Machine, Evidence: byProbe, Detail: text})
	}
	if found.GuestAgent {
		proofs = append(proofs, rest.Proof{Machine: m.Machine, Evidence: byGuestAgent, Detail: "the guest answered through the hypervisor's agent channel"})
	} else if found.GuestAgentSays != "" {
		missing = append(missing, "no guest agent answers ("+found.GuestAgentSays+")")
	}
	if len(proofs) == 0 && r.request().AcceptRunning {
		proofs = append(proofs, rest.Proof{Machine: m.Machine, Evidence: byAcceptance, Detail: fmt.Sprintf("the hypervisor says %s; %s took that for proof", found.State, r.job.By)})
	}
	if len(proofs) == 0 {
		return nil, notProven(m.Machine, missing)
	}
	return proofs, nil
}

func notProven(m dr.MachineName, missing []string) error {
	p := problem.New(problem.CommitNotProven, "machine %s has power, but nothing proves that its guest runs: %s, and no probe was given", m, strings.Join(missing, ", "))
	p.RecommendedAction = "Look at its console. Start an agent in it, give the commit a probe (--probe), or take the hypervisor's word (--accept-running)."
	return p
}

// probesOf returns the probes of one machine: the policy's and the request's.
func (r *run) probesOf(m dr.MachineName) []dr.Probe {
	var out []dr.Probe
	for _, list := range [][]dr.Probe{r.policy.Probes, r.request().Probes} {
		for _, p := range list {
			if p.Machine == "" || p.Machine == m {
				out = append(out, p.For(m))
			}
		}
	}
	return out
}

// newBoot returns the boot id that a machine's agent named since the machine was
// started, where it is another one than before.
func (r *run) newBoot(ctx context.Context, m store.Member) (boot string, proven bool, err error) {
	if beat, at := r.o.live.LastHeartbeat(m.Machine); beat != "" && beat != m.BootBefore && at.After(m.StartedAt) {
		return beat, true, nil
	}
	boot, err = r.lastBoot(ctx, m.Machine)
	return boot, boot != "" && boot != m.BootBefore, err
}

// checkProbes refuses probes that make no sense, and those of machines that
// are no members.
func checkProbes(g *store.Group, probes []dr.Probe) error {
	for _, p := range probes {
		if err := p.Validate(); err != nil {
			return problem.Wrap(err, problem.InvalidRequest, "")
		}
		if p.Machine == "" {
			continue
		}
		if !isMember(g, p.Machine) {
			return problem.New(problem.InvalidRequest, "the probe %s is of %s, which is no member of %s", p, p.Machine, g.ID)
		}
	}
	return nil
}

func isMember(g *store.Group, m dr.MachineName) bool {
	for _, x := range g.Members {
		if x.Machine == m {
			return true
		}
	}
	return false
}
