// Package report holds what a run of the benchmarks found: one axis a line of
// the table of goals, its statistics, and its three forms (the JSON file, the
// table on the terminal, the table in docs/performance.md).
//
// It promises that an axis without a result never looks like one with: what
// was not measured has a reason, what failed has an error, and neither has
// numbers. The benchmark program is its only caller.
package report

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Better says which way of an axis is good.
type Better string

// The two ways.
const (
	Higher Better = "higher"
	Lower  Better = "lower"
)

// Subject says which number of an axis its goal is about.
type Subject string

// The numbers that a goal can be about.
const (
	OfRatio Subject = "ratio"
	OfOurs  Subject = "ours"
)

// Spec is the definition of an axis, before it is measured.
type Spec struct {
	Name   string  `json:"name"`
	Unit   string  `json:"unit"`
	Better Better  `json:"better"`
	Goal   float64 `json:"goal"`
	// GoalOf says what the goal is compared with.
	GoalOf   Subject `json:"goal_of"`
	PeerName string  `json:"peer_name,omitempty"`
}

// Axis is one line of the report. Numbers are nil where there is none.
type Axis struct {
	Spec
	// Ours and Peer are the medians of the runs, Ratio is Ours / Peer.
	Ours  *float64 `json:"ours"`
	Peer  *float64 `json:"peer"`
	Ratio *float64 `json:"ratio"`
	// Runs is how often ours was measured; Min, Median and Max are of these.
	Runs   int      `json:"runs"`
	Min    *float64 `json:"min"`
	Median *float64 `json:"median"`
	Max    *float64 `json:"max"`
	// OursRuns and PeerRuns are the single runs, in pairs.
	OursRuns []float64 `json:"ours_runs,omitempty"`
	PeerRuns []float64 `json:"peer_runs,omitempty"`
	// Met says whether the goal was reached.
	Met *bool `json:"met"`
	// Verified is how often the newest view was found equal to the source.
	Verified int `json:"verified,omitempty"`
	// Extra are further numbers, by name.
	Extra map[string]float64 `json:"extra,omitempty"`
	// Note says what the reader should know of the measurement, Reason why
	// there is none, Error what went wrong in it.
	Note   string `json:"note,omitempty"`
	Reason string `json:"reason,omitempty"`
	Error  string `json:"error,omitempty"`
}

// Report is one run of the program.
type Report struct {
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"` // that the run took
	Form    string    `json:"form"`    // full, quick, short or custom
	Machine string    `json:"machine"`
	Axes    []Axis    `json:"axes"`
}

// NotMeasured makes the axis of something that was not measured, and why.
func NotMeasured(s Spec, reason string) Axis { return Axis{Spec: s, Reason: reason} }

// Failed makes the axis of a measurement that went wrong.
func Failed(s Spec, err error) Axis { return Axis{Spec: s, Error: err.Error()} }

// Measured makes an axis of its runs. Where there is a peer, its runs are as
// many as ours: pairs.
func Measured(s Spec, ours, peer []float64) (Axis, error) {
	if len(ours) == 0 {
		return Axis{}, fmt.Errorf("axis %s: no run", s.Name)
	}
	if len(peer) != 0 && len(peer) != len(ours) {
		return Axis{}, fmt.Errorf("axis %s: %d runs of ours, %d of the peer", s.Name, len(ours), len(peer))
	}
	if (s.GoalOf == OfRatio) != (len(peer) > 0) {
		return Axis{}, fmt.Errorf("axis %s: its goal is about the %s, and it has %d runs of a peer", s.Name, s.GoalOf, len(peer))
	}
	med := Median(ours)
	a := Axis{
		Spec: s, Ours: &med, Median: &med, Runs: len(ours), OursRuns: ours, PeerRuns: peer,
		Min: ptr(slices.Min(ours)), Max: ptr(slices.Max(ours)),
	}
	subject := med
	if len(peer) > 0 {
		p := Median(peer)
		if p <= 0 {
			return Axis{}, fmt.Errorf("axis %s: the peer's median is %v", s.Name, p)
		}
		subject = med / p
		a.Peer, a.Ratio = &p, ptr(subject)
	}
	met := subject >= s.Goal
	if s.Better == Lower {
		met = subject <= s.Goal
	}
	a.Met = &met
	return a, nil
}

func ptr[T any](v T) *T { return &v }

// Failures returns the names of axes that went wrong.
func (r *Report) Failures() []string {
	var out []string
	for i := range r.Axes {
		if r.Axes[i].Error != "" {
			out = append(out, r.Axes[i].Name)
		}
	}
	return out
}

// Save writes the report as JSON.
func (r *Report) Save(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode report: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("save report: %w", err)
	}
	if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("save report: %w", err)
	}
	return nil
}
