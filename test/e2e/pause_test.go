package e2e

import (
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/lab/demo"
	"rebound/internal/lifecycle"
	"rebound/internal/vault/rest"
)

// TestPauseResumeUndo goes the ways that lead back: a pause, a planned failover
// that is undone, an unplanned one with the source alive that is undone.
func TestPauseResumeUndo(t *testing.T) {
	r := newRig(t, options{guests: []string{"web"}})
	r.start()
	r.protect()

	r.operate(lifecycle.Pause, rest.OperationRequest{})
	r.untilState(lifecycle.Paused)
	r.working()
	before := r.group()
	r.operate(lifecycle.Resume, rest.OperationRequest{})
	after := r.untilState(lifecycle.Protected)
	sent := after.Counters.SentBytes
	if sent >= before.Counters.SentBytes {
		sent -= before.Counters.SentBytes
	}
	t.Logf("the resume sent %d bytes of %d", sent, r.diskBytes())
	if sent == 0 || sent > 16<<20 {
		t.Errorf("the resume sent %d bytes: it did not go by bitmap", sent)
	}
	r.verify()

	// Planned: nothing is lost on the way there, nor on the way back.
	at := time.Now()
	r.operate(lifecycle.Failover, rest.OperationRequest{Mode: "planned"})
	home := r.boots["web"]
	r.judge("planned failover", at, time.Now(), -1)
	r.boots["web"] = home // what the cloud wrote is discarded by the undo
	r.undo("undo of the planned failover")

	at = time.Now()
	rpo := r.shownRPO()
	r.operate(lifecycle.Failover, rest.OperationRequest{Mode: "unplanned", ShutdownSource: "try"})
	home = r.boots["web"]
	r.judge("unplanned failover, source alive", at, at, rpo)
	r.boots["web"] = home
	r.undo("undo of the unplanned failover")
	r.verify()
	r.noGuestErrors(demo.HomeSite, "web")
}

// undo goes back home, where nothing may be missing of what the home machine
// had acknowledged, and waits for protection by bitmap.
func (r *rig) undo(what string) {
	r.t.Helper()
	at := time.Now()
	r.operate(lifecycle.Undo, rest.OperationRequest{})
	r.judge(what, at, at, -1)
	g := r.untilState(lifecycle.Protected)
	if g.ActiveSite != demo.HomeSite || g.Direction != dr.Forward {
		r.t.Errorf("%s: active is %s, direction %s", what, g.ActiveSite, g.Direction)
	}
	if n := len(r.w.Guests(demo.CloudSite)); n != 0 {
		r.t.Errorf("%s: %d machines still run in the cloud", what, n)
	}
	r.t.Logf("%s: %d bytes sent", what, g.Counters.SentBytes)
	if g.Counters.SentBytes > 24<<20 {
		r.t.Errorf("%s sent %d bytes of %d", what, g.Counters.SentBytes, r.diskBytes())
	}
}

func (r *rig) diskBytes() int64 {
	var n int64
	for _, b := range r.built {
		for _, d := range b.Definition.Disks {
			n += d.SizeBytes
		}
	}
	return n
}

// shownRPO is what the API shows now.
func (r *rig) shownRPO() time.Duration {
	r.t.Helper()
	rpo, err := r.w.Client.GroupRPO(r.ctx, group)
	must(r.t, err)
	if rpo.Seconds == nil {
		r.t.Fatal("no RPO is shown")
	}
	return time.Duration(*rpo.Seconds * float64(time.Second))
}

func (r *rig) operatePlannedFailover() {
	r.t.Helper()
	r.operate(lifecycle.Failover, rest.OperationRequest{Mode: "planned"})
}
