package orchestrator

import (
	"context"
	"strings"
	"time"

	"rebound/internal/control"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// proofEvery is how often a booting machine is asked for proof; what its agent
// says is noticed at once.
const proofEvery = time.Second

// awaitHealthy waits until a machine proves that its guest runs: by a new boot
// id of its agent, by its guest agent, and by the probes of the policy, all of
// which have to pass. Where neither an agent nor a probe is known, the hypervisor's
// word counts. ok is false when ctx ended first.
func (r *run) awaitHealthy(ctx context.Context, m store.Member) (proof string, ok bool, err error) {
	if r.job.Part == nil || m.BootBefore == "" && len(r.probesOf(m.Machine)) == 0 {
		ok, err = r.awaitBoot(ctx, m)
		return "running", ok, err
	}
	timer := time.NewTicker(proofEvery)
	defer timer.Stop()
	for {
		changed := r.o.live.Changed()
		proofs, err := r.proofOf(control.WithPatience(context.WithoutCancel(ctx), prerequisitePatience), m)
		if err == nil {
			return evidence(proofs), true, nil
		}
		if !problem.HasCode(err, problem.CommitNotProven) {
			return "", false, err
		}
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			return "", false, nil
		}
	}
}

func evidence(list []rest.Proof) string {
	words := make([]string, len(list))
	for i, p := range list {
		words[i] = p.Evidence
	}
	return strings.Join(words, ", ")
}
