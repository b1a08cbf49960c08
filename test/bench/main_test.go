package main

import (
	"errors"
	"slices"
	"testing"
)

// TestTable: the names are those of the table of goals, each once.
func TestTable(t *testing.T) {
	want := []string{
		"write_4k_qd1", "write_4k_qd32", "write_64k_qd8", "write_1m_qd4", "p99_64k_half", "p99_1m_half",
		"throughput_incompressible", "throughput_half", "throughput_sustained", "rpo_p50_ms", "rpo_p99_ms",
		"view_open_ms", "view_rss_mib", "view_read_us", "rto_over_boot_s", "first_copy", "failback_bytes",
		"failback_time", "history_cost", "gateway_rss_mib",
	}
	var got []string
	for _, m := range table() {
		if (m.run == nil) == (m.why == "") {
			t.Errorf("%s: want a way to measure it or a reason why not", m.specs[0].Name)
		}
		for _, s := range m.specs {
			got = append(got, s.Name)
			if s.Goal <= 0 || s.Unit == "" || (s.GoalOf == "ratio") != (s.PeerName != "") {
				t.Errorf("%+v", s)
			}
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("axes\n%v\nwant\n%v", got, want)
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		args           []string
		form           string
		pairs, seconds int
	}{
		{nil, "full", 5, 10},
		{[]string{"-quick"}, "quick", 2, 3},
		{[]string{"-short"}, "short", 1, 1},
		{[]string{"-quick", "-pairs", "7"}, "custom", 7, 3},
	} {
		o, err := parse(c.args)
		if err != nil || o.form != c.form || o.pairs != c.pairs || o.seconds != c.seconds {
			t.Errorf("%v: %+v, %v", c.args, o, err)
		}
	}
	for _, args := range [][]string{{"-quick", "-short"}, {"-pairs", "-1"}, {"-size", "1"}, {"what"}} {
		if o, err := parse(args); err == nil {
			t.Errorf("%v was taken: %+v", args, o)
		}
	}
}

func TestKnown(t *testing.T) {
	if err := known(table(), []string{"first_copy", "rpo_p99_ms"}); err != nil {
		t.Error(err)
	}
	if known(table(), []string{"first_cop"}) == nil {
		t.Error("an unknown axis was taken")
	}
}

func TestAlternate(t *testing.T) {
	var got string
	say := func(s string) func(int) error {
		return func(int) error { got += s; return nil }
	}
	if err := alternate(3, say("o"), say("p")); err != nil || got != "oppoop" {
		t.Errorf("%q, %v", got, err)
	}
	broken := errors.New("broken")
	got = ""
	if err := alternate(3, say("o"), func(int) error { return broken }); !errors.Is(err, broken) || got != "o" {
		t.Errorf("%q, %v", got, err)
	}
}
