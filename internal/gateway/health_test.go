package gateway_test

import (
	"syscall"
	"testing"

	"rebound/internal/control"
	"rebound/internal/site"
)

// TestReportTellsOfTrouble: what the vault's conditions need of a source.
func TestReportTellsOfTrouble(t *testing.T) {
	w := protect(t)
	rep := w.home.src.Report()
	if len(rep.Unprotected) != 0 || rep.BreaksLastHour != 0 || rep.CaptureRestarts != 0 {
		t.Fatalf("before: %+v", rep)
	}
	if rep.Counters.RingLimit <= 0 {
		t.Error("the report has no size of the ring")
	}
	w.must(w.home.driver.AddDisk(w.ctx, db, site.ExtraDisk{Name: "vdz", SizeBytes: 7 << 20}))
	want := control.UnprotectedDisk{Machine: db, Disk: "vdz", SizeBytes: 7 << 20}
	w.eventually("the disk is told of", func() bool {
		u := w.home.src.Report().Unprotected
		return len(u) == 1 && u[0] == want
	})
	w.must(syscall.Kill(w.captureStatus(w.home).PID, syscall.SIGKILL))
	w.eventually("the break is counted", func() bool {
		rep := w.home.src.Report()
		return rep.BreaksLastHour >= 1 && rep.CaptureRestarts == 1
	})
	w.streams(w.home)
}
