package report

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		in   []float64
		want float64
	}{
		{[]float64{3}, 3},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 1, 3, 2}, 2.5},
	} {
		if got := Median(c.in); got != c.want {
			t.Errorf("Median(%v) = %v, want %v", c.in, got, c.want)
		}
	}
	if in := []float64{2, 1}; Median(in) != 1.5 || in[0] != 2 {
		t.Errorf("Median changed its argument: %v", in)
	}
	if !math.IsNaN(Median(nil)) {
		t.Error("the median of nothing is a number")
	}
}

func TestPercentile(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[99-i] = float64(i + 1)
	}
	for p, want := range map[float64]float64{0: 1, 50: 50, 99: 99, 99.5: 100, 100: 100} {
		if got := Percentile(hundred, p); got != want {
			t.Errorf("Percentile(%v) = %v, want %v", p, got, want)
		}
	}
	if !math.IsNaN(Percentile(nil, 50)) {
		t.Error("the percentile of nothing is a number")
	}
}

var (
	rate = Spec{Name: "rate", Unit: "MB/s", Better: Higher, Goal: 0.75, GoalOf: OfRatio, PeerName: "the other"}
	lag  = Spec{Name: "lag", Unit: "ms", Better: Lower, Goal: 50, GoalOf: OfOurs}
)

func TestMeasured(t *testing.T) {
	a, err := Measured(rate, []float64{70, 90, 80}, []float64{100, 110, 90})
	if err != nil {
		t.Fatal(err)
	}
	if *a.Ours != 80 || *a.Peer != 100 || *a.Ratio != 0.8 || *a.Min != 70 || *a.Max != 90 || a.Runs != 3 || !*a.Met {
		t.Errorf("%+v", a)
	}
	slow, err := Measured(rate, []float64{70}, []float64{100})
	if err != nil || *slow.Met {
		t.Errorf("0.70 reaches 0.75: %+v, %v", slow, err)
	}
	b, err := Measured(lag, []float64{60}, nil)
	if err != nil || *b.Met || b.Ratio != nil || b.Peer != nil {
		t.Errorf("%+v, %v", b, err)
	}
	c, err := Measured(lag, []float64{50}, nil)
	if err != nil || !*c.Met {
		t.Errorf("50 does not reach 50: %+v, %v", c, err)
	}
}

func TestMeasuredRefuses(t *testing.T) {
	for name, f := range map[string]func() (Axis, error){
		"no run":            func() (Axis, error) { return Measured(rate, nil, nil) },
		"half a pair":       func() (Axis, error) { return Measured(rate, []float64{1, 2}, []float64{1}) },
		"goal without peer": func() (Axis, error) { return Measured(rate, []float64{1}, nil) },
		"peer without goal": func() (Axis, error) { return Measured(lag, []float64{1}, []float64{1}) },
		"a dead peer":       func() (Axis, error) { return Measured(rate, []float64{1}, []float64{0}) },
	} {
		if a, err := f(); err == nil {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

func testReport(t *testing.T) *Report {
	t.Helper()
	a, err := Measured(rate, []float64{80}, []float64{100})
	if err != nil {
		t.Fatal(err)
	}
	return &Report{Form: "quick", Machine: "two cores", Axes: []Axis{
		a, NotMeasured(lag, "nobody looked"), Failed(Spec{Name: "broken", GoalOf: OfOurs}, errors.New("hashes differ")),
	}}
}

// TestJSON holds the names that readers of the file go by.
func TestJSON(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out", "report.json")
	if err := testReport(t).Save(path); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Axes []map[string]any }
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	for i, axis := range got.Axes {
		for _, key := range []string{"name", "unit", "better", "goal", "ours", "peer", "ratio", "runs", "min", "median", "max"} {
			if _, ok := axis[key]; !ok {
				t.Errorf("axis %d has no %q", i, key)
			}
		}
	}
	if r := got.Axes[0]["ratio"]; r != 0.8 || got.Axes[0]["peer_name"] != "the other" {
		t.Errorf("%v", got.Axes[0])
	}
	for i, key := range map[int]string{1: "reason", 2: "error"} {
		if got.Axes[i]["ours"] != nil || got.Axes[i]["met"] != nil || got.Axes[i][key] == nil {
			t.Errorf("an axis without a result: %v", got.Axes[i])
		}
	}
}

func TestFailures(t *testing.T) {
	if f := testReport(t).Failures(); len(f) != 1 || f[0] != "broken" {
		t.Errorf("failures %v", f)
	}
}

func TestDocument(t *testing.T) {
	path := filepath.Join(t.TempDir(), "doc.md")
	write := func(s string) {
		if err := os.WriteFile(path, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := testReport(t)
	write("# Speed\n\n<!-- bench -->\nold\n<!-- /bench -->\n\nafter\n")
	for range 2 { // the second time on its own work
		if err := r.Document(path); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s := string(b)
	if !strings.HasPrefix(s, "# Speed\n") || !strings.HasSuffix(s, "\nafter\n") || strings.Contains(s, "old") {
		t.Errorf("document:\n%s", s)
	}
	for _, want := range []string{"| rate | MB/s | 80 | 100 | 0.8 | ≥ 0.75 × peer | met |", "not measured |", "FAILED", "- lag: nobody looked", "- broken: hashes differ"} {
		if strings.Count(s, want) != 1 {
			t.Errorf("not once in the document: %s\n%s", want, s)
		}
	}
	write("<!-- bench --> without an end")
	if err := r.Document(path); err == nil {
		t.Error("a document without marks was rewritten")
	}
}

func TestPrint(t *testing.T) {
	var b strings.Builder
	if err := testReport(t).Print(&b); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(b.String(), "\n"); lines != 6 {
		t.Errorf("%d lines:\n%s", lines, b.String())
	}
}
