package checker

import (
	"testing"
	"time"

	"rebound/internal/lab/collector"
	"rebound/internal/lab/ledger"
)

// history makes a ledger of n records, each naming peers[i], and its
// acknowledgements, record n at second n.
func history(t *testing.T, n int, peers ...ledger.Ref) (*ledger.Ledger, []collector.Ack) {
	t.Helper()
	var files [ledger.Files][]byte
	var acks []collector.Ack
	var prev uint32
	for i := 1; i <= n; i++ {
		r := ledger.Record{N: uint64(i), Prev: prev, Guest: "g", Wall: at(i)}
		if len(peers) > 0 {
			r.Peer = peers[i-1]
		}
		b, crc, err := r.Encode(nil)
		if err != nil {
			t.Fatal(err)
		}
		prev = crc
		f, _ := ledger.FileOf(r.N)
		files[f] = append(files[f], b...)
		acks = append(acks, collector.Ack{Guest: "g", Boot: "b", Record: ledger.Ref{N: r.N, CRC: crc}, Wall: at(i)})
	}
	return ledger.Parse(files), acks
}

func at(second int) time.Time { return time.Unix(int64(second), 0).UTC() }

func first(t *testing.T, l *ledger.Ledger, n int) *ledger.Ledger {
	t.Helper()
	var files [ledger.Files][]byte
	for _, r := range l.Records[:n] {
		b, _, err := r.Encode(nil)
		if err != nil {
			t.Fatal(err)
		}
		f, _ := ledger.FileOf(r.N)
		files[f] = append(files[f], b...)
	}
	return ledger.Parse(files)
}

func TestPlannedAndUnplanned(t *testing.T) {
	whole, acks := history(t, 20)
	torn := first(t, whole, 20)
	torn.State.Gaps = 1
	for _, tc := range []struct {
		name      string
		recovered *ledger.Ledger
		cut       time.Time
		rpo       time.Duration
		planned   bool
		unplanned bool
		lost      uint64
		age       time.Duration
	}{
		{"nothing lost", whole, at(20), 0, true, true, 0, 0},
		{"more than acknowledged", whole, at(15), 0, true, true, 0, 0},
		{"lost within the RPO", first(t, whole, 17), at(20), 2 * time.Second, false, true, 3, 2 * time.Second},
		{"lost beyond the RPO", first(t, whole, 17), at(20), 1999 * time.Millisecond, false, false, 3, 2 * time.Second},
		{"all lost", first(t, whole, 0), at(20), time.Hour, false, true, 20, 19 * time.Second},
		{"gap", torn, at(20), time.Hour, false, false, 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, u := Planned(tc.recovered, acks, tc.cut), Unplanned(tc.recovered, acks, tc.cut, tc.rpo)
			if p.OK != tc.planned || u.OK != tc.unplanned {
				t.Errorf("planned %+v, unplanned %+v", p.Verdict, u.Verdict)
			}
			if p.Lost != tc.lost || u.OldestLostAge != tc.age || p.OK == (len(p.Reasons) > 0) {
				t.Errorf("planned %+v, unplanned %+v", p, u)
			}
		})
	}
}

// TestRewritten: a record of the same number but another content is not the
// one that was acknowledged.
func TestRewritten(t *testing.T) {
	whole, _ := history(t, 5)
	_, acks := history(t, 5, make([]ledger.Ref, 5)...)
	acks[4].Record.CRC++
	if l := Planned(whole, acks, at(9)); l.OK || l.Lost != 1 {
		t.Errorf("%+v", l)
	}
	if m := AtMoment(whole, acks, at(9)); m.OK {
		t.Errorf("%+v", m)
	}
}

func TestHelloCountsOnce(t *testing.T) {
	whole, acks := history(t, 5)
	hello := acks[4]
	hello.Hello, hello.Wall = true, at(6)
	if l := Unplanned(first(t, whole, 4), append(acks, hello), at(7), 2*time.Second); l.Lost != 1 || !l.OK {
		t.Errorf("%+v", l)
	}
}

func TestAtMoment(t *testing.T) {
	whole, acks := history(t, 100)
	for _, tc := range []struct {
		name  string
		n     int
		asked time.Time
		want  bool
	}{
		{"exactly", 50, at(50), true},
		{"in flight", 83, at(50), true},
		{"too new", 84, at(50), false},
		{"too old", 49, at(50), false},
		{"before the first", 1, at(0), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if m := AtMoment(first(t, whole, tc.n), acks, tc.asked); m.OK != tc.want {
				t.Errorf("%+v", m)
			}
		})
	}
}

func TestOrderViolations(t *testing.T) {
	a, acks := history(t, 10)
	names := make([]ledger.Ref, 6)
	for i := range names {
		names[i] = acks[i+3].Record // 4 to 9
	}
	names[0] = ledger.Ref{}
	b, _ := history(t, 6, names...)
	for n, want := range map[int]int{10: 0, 9: 0, 8: 1, 5: 4, 0: 5} {
		if got := OrderViolations(first(t, a, n), b); got != want {
			t.Errorf("first ledger at %d: %d violations, want %d", n, got, want)
		}
	}
}
