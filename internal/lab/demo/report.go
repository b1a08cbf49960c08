package demo

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
)

// Report is out/demo/report.json.
type Report struct {
	OK              bool         `json:"ok"`
	Seed            uint64       `json:"seed"`
	Steps           []Step       `json:"steps"`
	Unplanned       Unplanned    `json:"unplanned"`
	PointInTime     PointInTime  `json:"point_in_time"`
	Reprotect       Transfer     `json:"reprotect"`
	PlannedFailback Planned      `json:"planned_failback"`
	SecondReprotect Transfer     `json:"second_reprotect"`
	Group           GroupVerdict `json:"group"`
	Fencing         Fencing      `json:"fencing"`
	// Failures say in words what is not as it has to be.
	Failures []string `json:"failures,omitempty"`
}

// Step is one step of the demo.
type Step struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
	OK      bool    `json:"ok"`
	Detail  string  `json:"detail"`
}

// Unplanned is the loss of the site and the failover after it.
type Unplanned struct {
	Acked     uint64 `json:"acked"`
	Recovered uint64 `json:"recovered"`
	Lost      uint64 `json:"lost"`
	// ShownRPO was read from the API at most 200 ms before the cut.
	ShownRPO      float64 `json:"shown_rpo_seconds"`
	OldestLostAge float64 `json:"oldest_lost_age_seconds"`
	// RTO is from the POST of the failover to the first new record that the
	// host received; BareBoot the same ends for a plain start, median of 3.
	RTO      float64 `json:"rto_seconds"`
	BareBoot float64 `json:"bare_boot_seconds"`
}

// PointInTime is the change to a moment before the machine was changed.
type PointInTime struct {
	Asked        string `json:"asked"`
	ExpectedLow  uint64 `json:"expected_low"`
	ExpectedHigh uint64 `json:"expected_high"`
	Recovered    uint64 `json:"recovered"`
}

// Transfer is what a reprotect sent, against what differed.
type Transfer struct {
	DiskBytes int64 `json:"disk_bytes"`
	// ChangedBytes: 4 KiB blocks that differ, counted by the lab; SentBytes:
	// all bytes on the data sockets, compression off.
	ChangedBytes int64 `json:"changed_bytes"`
	SentBytes    int64 `json:"sent_bytes"`
}

// Planned is the failback.
type Planned struct {
	Acked     uint64  `json:"acked"`
	Recovered uint64  `json:"recovered"`
	Lost      uint64  `json:"lost"`
	Downtime  float64 `json:"downtime_seconds"`
}

// GroupVerdict sums the order of writes over all recoveries.
type GroupVerdict struct {
	Members         int `json:"members"`
	OrderViolations int `json:"order_violations"`
}

// Fencing is the return of the old primary.
type Fencing struct {
	StaleFramesAccepted int64   `json:"stale_frames_accepted"`
	OldVMOff            float64 `json:"old_vm_off_seconds"`
	StandbyStartRefused bool    `json:"standby_start_refused"`
}

// maxTransferRatio is how much more than the difference a reprotect may send.
const maxTransferRatio = 1.25

// judge fills Failures and OK from the numbers.
func (r *Report) judge() {
	fail := func(bad bool, format string, args ...any) {
		if bad {
			r.Failures = append(r.Failures, fmt.Sprintf(format, args...))
		}
	}
	for _, s := range r.Steps {
		fail(!s.OK, "step %q failed: %s", s.Name, s.Detail)
	}
	u, p := r.Unplanned, r.PointInTime
	fail(r.Group.OrderViolations != 0, "%d order violations", r.Group.OrderViolations)
	fail(u.ShownRPO > 1, "the RPO shown before the cut was %.3f s", u.ShownRPO)
	fail(u.Lost > 0 && u.OldestLostAge > u.ShownRPO, "a record of %.3f s before the cut is lost, the RPO shown was %.3f s", u.OldestLostAge, u.ShownRPO)
	fail(u.RTO > u.BareBoot+2, "RTO %.2f s, a bare boot takes %.2f s", u.RTO, u.BareBoot)
	fail(p.ExpectedLow == 0 || p.ExpectedHigh-p.ExpectedLow > 64, "the moment was judged too loosely: %d to %d", p.ExpectedLow, p.ExpectedHigh)
	fail(p.Recovered < p.ExpectedLow || p.Recovered > p.ExpectedHigh, "at the moment %d records, expected %d to %d", p.Recovered, p.ExpectedLow, p.ExpectedHigh)
	fail(r.PlannedFailback.Lost != 0, "the planned failback lost %d records", r.PlannedFailback.Lost)
	for name, t := range map[string]Transfer{"reprotect": r.Reprotect, "second reprotect": r.SecondReprotect} {
		fail(t.SentBytes == 0 || float64(t.SentBytes) > maxTransferRatio*float64(t.ChangedBytes), "the %s sent %d bytes for %d changed", name, t.SentBytes, t.ChangedBytes)
	}
	f := r.Fencing
	fail(f.StaleFramesAccepted != 0, "%d stale frames were accepted", f.StaleFramesAccepted)
	fail(f.OldVMOff > 5, "the old machine was off after %.1f s only", f.OldVMOff)
	fail(!f.StandbyStartRefused, "a standby machine could be started by hand")
	r.OK = len(r.Failures) == 0
}

// write saves the report.
func (r *Report) write(dir string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode report: %w", err)
	}
	return os.WriteFile(filepath.Join(dir, "report.json"), append(b, '\n'), 0o644)
}

// print writes the table for people.
func (r *Report) print(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	row := func(what, value, want string) { fmt.Fprintf(t, "  %s\t%s\t%s\n", what, value, want) }
	fmt.Fprintln(w)
	row("WHAT", "MEASURED", "HAS TO BE")
	u := r.Unplanned
	row("site lost: RPO shown before the cut", seconds(u.ShownRPO), "at most 1 s")
	row("site lost: writes acknowledged / recovered / lost", fmt.Sprintf("%d / %d / %d", u.Acked, u.Recovered, u.Lost), "lost ones younger than the RPO")
	row("site lost: age of the oldest lost write", seconds(u.OldestLostAge), "at most the RPO shown")
	row("failover: from the order to the first new write", seconds(u.RTO), "at most "+seconds(u.BareBoot+2)+" (a plain boot + 2 s)")
	p := r.PointInTime
	row("a moment of the past: writes there", fmt.Sprint(p.Recovered), fmt.Sprintf("%d to %d", p.ExpectedLow, p.ExpectedHigh))
	row("order of writes over both machines: violations", fmt.Sprint(r.Group.OrderViolations), "0")
	row("old machine after its gateway's return: off in", seconds(r.Fencing.OldVMOff), "at most 5 s")
	row("stale writes accepted", fmt.Sprint(r.Fencing.StaleFramesAccepted), "0")
	row("standby machine started by hand", map[bool]string{true: "refused", false: "STARTED"}[r.Fencing.StandbyStartRefused], "refused")
	row("reprotect: sent / differing", transfer(r.Reprotect), "at most 1.25 times")
	row("planned failback: writes lost", fmt.Sprint(r.PlannedFailback.Lost), "0")
	row("planned failback: downtime", seconds(r.PlannedFailback.Downtime), "")
	row("second reprotect: sent / differing", transfer(r.SecondReprotect), "at most 1.25 times")
	_ = t.Flush()
	fmt.Fprintln(w)
	for _, f := range r.Failures {
		fmt.Fprintln(w, "  NOT OK:", f)
	}
	if r.OK {
		fmt.Fprintln(w, "  Everything is as it has to be.")
	}
}

func seconds(s float64) string { return fmt.Sprintf("%.2f s", s) }

func transfer(t Transfer) string {
	ratio := 0.0
	if t.ChangedBytes > 0 {
		ratio = float64(t.SentBytes) / float64(t.ChangedBytes)
	}
	const mib = 1 << 20
	return fmt.Sprintf("%.1f / %.1f MiB of %.0f (%.2f times)", float64(t.SentBytes)/mib, float64(t.ChangedBytes)/mib, float64(t.DiskBytes)/mib, ratio)
}
