package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"rebound/internal/dr"
	"rebound/internal/lab/checker"
	"rebound/internal/lab/collector"
	"rebound/internal/lab/ledger"
	"rebound/internal/lifecycle"
	"rebound/internal/vault/rest"
)

// judged is what a recovery kept, over all guests.
type judged struct {
	acked, recovered, lost uint64
	oldest                 time.Duration
}

// ledgersOf returns what the guests' present boots found on their disks.
func (r *rig) ledgersOf() map[string]*ledger.Ledger {
	r.t.Helper()
	out := map[string]*ledger.Ledger{}
	for name, boot := range r.boots {
		if _, err := r.w.Collector.WaitLedger(r.ctx, boot); err != nil {
			r.t.Fatalf("no ledger of %s: %v", name, err)
		}
		l, ok := r.w.Collector.Ledger(boot)
		if !ok {
			r.t.Fatalf("no ledger of %s", name)
		}
		out[name] = l
	}
	return out
}

// judge waits for boots after a time and compares what they found with what
// the boots before them had acknowledged. With rpo < 0 nothing may be lost.
// From then on the new boots count.
func (r *rig) judge(what string, after, cut time.Time, rpo time.Duration) judged {
	r.t.Helper()
	acks := r.acks()
	r.newBoots(after)
	found := r.ledgersOf()
	var sum judged
	for name, l := range found {
		v := checker.Planned(l, acks[name], cut)
		if rpo >= 0 {
			v = checker.Unplanned(l, acks[name], cut, rpo)
		}
		if v.Acked == 0 {
			r.t.Errorf("%s: %s had acknowledged nothing: the test proves nothing", what, name)
		}
		if !v.OK {
			r.t.Errorf("%s: %s: %s", what, name, strings.Join(v.Reasons, "; "))
		}
		sum.acked, sum.recovered, sum.lost = sum.acked+v.Acked, sum.recovered+v.Recovered, sum.lost+v.Lost
		sum.oldest = max(sum.oldest, v.OldestLostAge)
	}
	r.judgeOrder(what, found)
	r.t.Logf("%s: %d records acknowledged, %d recovered, %d lost, the oldest %v before the cut", what, sum.acked, sum.recovered, sum.lost, sum.oldest)
	r.working()
	return sum
}

func (r *rig) judgeOrder(what string, found map[string]*ledger.Ledger) {
	r.t.Helper()
	if len(r.names) < 2 {
		return
	}
	if n := checker.OrderViolations(found[r.names[0]], found[r.names[1]]); n != 0 {
		r.t.Errorf("%s: %d records of %s name records of %s that are not there", what, n, r.names[1], r.names[0])
	}
}

// acks are the acknowledgements that count, by guest.
func (r *rig) acks() map[string][]collector.Ack {
	out := map[string][]collector.Ack{}
	for name, boot := range r.boots {
		out[name] = checker.SinceBoot(r.w.Collector.Acks(name), boot)
	}
	return out
}

// longestStall is the longest time between two acknowledgements of a guest
// within a stretch of time, its ends included.
func (r *rig) longestStall(name string, from, to time.Time) time.Duration {
	last, longest := from, time.Duration(0)
	for _, a := range r.acks()[name] {
		if a.Wall.Before(from) || a.Wall.After(to) {
			continue
		}
		longest, last = max(longest, a.Wall.Sub(last)), a.Wall
	}
	return max(longest, to.Sub(last))
}

// noGuestErrors reads a machine's console for what a kernel says when its
// disks fail.
func (r *rig) noGuestErrors(site dr.SiteID, name string) {
	r.t.Helper()
	b, err := os.ReadFile(filepath.Join(r.w.Datastore(site), "machines", name, "console.log"))
	must(r.t, err)
	if len(b) == 0 {
		r.t.Errorf("the console of %s is empty: nothing is proven", name)
	}
	for line := range strings.Lines(string(b)) {
		low := strings.ToLower(line)
		for _, bad := range []string{"i/o error", "ext4-fs error", "remounting filesystem read-only", `"event":"error"`} {
			if strings.Contains(low, bad) {
				r.t.Errorf("the console of %s says: %s", name, strings.TrimSpace(line))
			}
		}
	}
}

// verify compares both ends byte by byte, through the product's own verify.
func (r *rig) verify() {
	r.t.Helper()
	r.untilState(lifecycle.Protected)
	job := r.operate(lifecycle.Verify, rest.OperationRequest{})
	for _, task := range job.Tasks {
		if task.Name != "verify" {
			continue
		}
		bytes, _ := task.Result["bytes"].(float64)
		differing, ok := task.Result["differing"].(float64)
		if !ok || bytes == 0 || differing != 0 {
			r.t.Errorf("verify: %v", task.Result)
		}
		return
	}
	r.t.Errorf("verify has no such task: %v", job.Tasks)
}
