// Package checker decides whether a recovery kept what it had to keep. It
// compares recovered ledgers with the host's acknowledgement log and never
// asks the product. Its judgements are pure functions; reading a ledger off a
// disk at rest is in disk.go, comparing images in compare.go.
package checker

import (
	"fmt"
	"time"

	"rebound/internal/lab/collector"
	"rebound/internal/lab/ledger"
	"rebound/internal/lab/wire"
)

// Verdict is a judgement: OK, or the reasons why not.
type Verdict struct {
	OK      bool     `json:"ok"`
	Reasons []string `json:"reasons,omitempty"`
}

func (v *Verdict) fail(format string, args ...any) {
	v.OK = false
	v.Reasons = append(v.Reasons, fmt.Sprintf(format, args...))
}

// Loss compares one recovered ledger with the acknowledgements of its guest.
type Loss struct {
	Verdict
	Acked     uint64 `json:"acked"`     // newest record acknowledged before the cut
	Recovered uint64 `json:"recovered"` // newest record of the recovered prefix
	Lost      uint64 `json:"lost"`      // acknowledged records that are not there
	// OldestLostAge is how long before the cut the oldest lost record was
	// acknowledged; 0 when none was lost.
	OldestLostAge time.Duration `json:"oldestLostAgeNanos"`
}

// sound demands a gapless prefix whose chain is whole.
func (v *Verdict) sound(s ledger.State) {
	if !s.ChainOK {
		v.fail("the chain is broken: %s", s.Problem)
	}
	if s.Gaps != 0 {
		v.fail("%d records are missing before the newest: %s", s.Gaps, s.Problem)
	}
}

// loss finds what was acknowledged before the cut and is not in the recovered
// ledger, by number and checksum. A rewritten record counts as lost.
func loss(recovered *ledger.Ledger, acks []collector.Ack, cut time.Time) Loss {
	l := Loss{Verdict: Verdict{OK: true}, Recovered: recovered.State.Count}
	l.sound(recovered.State)
	lost := make(map[ledger.Ref]bool)
	for _, a := range acks {
		if a.Wall.After(cut) {
			continue
		}
		l.Acked = max(l.Acked, a.Record.N)
		if !recovered.Has(a.Record) {
			lost[a.Record] = true
			l.OldestLostAge = max(l.OldestLostAge, cut.Sub(a.Wall))
		}
	}
	l.Lost = uint64(len(lost))
	return l
}

// Planned judges a planned failover: of what the guest acknowledged up to the
// cut, nothing may be missing. acks are those of this guest, since its ledger
// last went back to an earlier moment.
func Planned(recovered *ledger.Ledger, acks []collector.Ack, cut time.Time) Loss {
	l := loss(recovered, acks, cut)
	if l.Lost != 0 {
		l.fail("%d acknowledged records are missing, the oldest from %v before the cut", l.Lost, l.OldestLostAge)
	}
	return l
}

// Unplanned judges an unplanned failover: no missing record may have been
// acknowledged longer before the cut than the RPO that was shown then.
func Unplanned(recovered *ledger.Ledger, acks []collector.Ack, cut time.Time, shownRPO time.Duration) Loss {
	l := loss(recovered, acks, cut)
	if l.OldestLostAge > shownRPO {
		l.fail("a record acknowledged %v before the cut is missing; the RPO shown was %v", l.OldestLostAge, shownRPO)
	}
	return l
}

// Moment compares one recovered ledger with a chosen moment.
type Moment struct {
	Verdict
	Asked        time.Time `json:"asked"`
	ExpectedLow  uint64    `json:"expectedLow"`
	ExpectedHigh uint64    `json:"expectedHigh"`
	Recovered    uint64    `json:"recovered"`
}

// MaxSpread is the largest ExpectedHigh - ExpectedLow that AtMoment accepts.
const MaxSpread = 64

// AtMoment judges a recovery to a moment while the guest was connected: all
// that had been acknowledged by then must be there, and nothing beyond what
// can have been in flight. A guest begins record n+Window+1 only after the
// collector answered record n (wire.Window), which bounds it from above; a
// record acknowledged later than its successor was possible bounds no further.
func AtMoment(recovered *ledger.Ledger, acks []collector.Ack, asked time.Time) Moment {
	m := Moment{Verdict: Verdict{OK: true}, Asked: asked, Recovered: recovered.State.Count}
	m.sound(recovered.State)
	for _, a := range acks {
		if !a.Wall.After(asked) {
			m.ExpectedLow = max(m.ExpectedLow, a.Record.N)
		}
	}
	m.ExpectedHigh = m.ExpectedLow + wire.Window + 1
	if m.ExpectedLow == 0 {
		m.fail("nothing had been acknowledged by then")
	}
	if m.ExpectedHigh-m.ExpectedLow > MaxSpread {
		m.fail("the expectation is too loose: %d to %d", m.ExpectedLow, m.ExpectedHigh)
	}
	if m.Recovered < m.ExpectedLow || m.Recovered > m.ExpectedHigh {
		m.fail("recovered %d, expected %d to %d", m.Recovered, m.ExpectedLow, m.ExpectedHigh)
	}
	for _, a := range acks {
		if !a.Wall.After(asked) && !recovered.Has(a.Record) {
			m.fail("record %d is not the one that was acknowledged", a.Record.N)
			break
		}
	}
	return m
}

// OrderViolations counts the records of the second ledger that name a record
// of the first which the recovered first ledger lacks: not 0 means that the
// second guest's disks are from a later moment than the first's.
func OrderViolations(first, second *ledger.Ledger) int {
	n := 0
	for _, r := range second.Records {
		if !first.Has(r.Peer) {
			n++
		}
	}
	return n
}

// SinceBoot returns the acknowledgements of the given boots, oldest first: the
// history of a guest whose ledger never went back.
func SinceBoot(acks []collector.Ack, boots ...string) []collector.Ack {
	want := make(map[string]bool, len(boots))
	for _, b := range boots {
		want[b] = true
	}
	var out []collector.Ack
	for _, a := range acks {
		if want[a.Boot] {
			out = append(out, a)
		}
	}
	return out
}
