package gateway_test

import (
	"path/filepath"
	"testing"
	"time"

	"rebound/internal/control"
	"rebound/internal/journal"
)

// TestPolicyReachesTheRunningStream: changed settings take effect without a
// break, and a gateway that restarts goes on with them.
func TestPolicyReachesTheRunningStream(t *testing.T) {
	w := protect(t)
	before := w.captureStatus(w.home).Head
	rare := control.PolicySettings{CrashInterval: time.Hour, Compression: "s2", RedoWindow: 3 * time.Hour, Retention: 48 * time.Hour}
	often := rare
	often.CrashInterval = 50 * time.Millisecond

	apply := func(p control.PolicySettings) {
		t.Helper()
		w.must(w.home.src.TakePolicy(p))
		w.must(w.cloud.host.TakePolicy(group, p))
	}
	points := func() int { return w.cloud.host.Reports()[0].Points }

	apply(rare)
	w.upToDate(w.home, w.cloud)
	had := points()
	w.scribble(w.home)
	w.upToDate(w.home, w.cloud)
	if now := points(); now > had+1 { // one may have been on its way
		t.Errorf("%d points were made although the interval is an hour", now-had)
	}
	packed := w.captureStatus(w.home).Counters
	apply(often)
	w.eventually("points are made every 50 ms", func() bool { return points() >= had+5 })
	w.scribble(w.home)
	w.upToDate(w.home, w.cloud)
	if st := w.captureStatus(w.home); st.Head.Epoch != before.Epoch {
		t.Errorf("the stream broke: epoch %d, before %d", st.Head.Epoch, before.Epoch)
	} else if st.Counters.CompressedBytes == packed.CompressedBytes {
		t.Error("nothing was shipped")
	}

	in, err := journal.Inspect(filepath.Join(w.cloud.dir, "journals", string(group), "journal"), nil)
	w.must(err)
	if in.RedoWindow != 3*time.Hour {
		t.Errorf("the journal's redo window is %s", in.RedoWindow)
	}

	// The source restarts and is not told again.
	w.home.closeSource()
	w.home.openSource()
	w.streams(w.home)
	had = points()
	w.eventually("points are still made every 50 ms", func() bool { return points() >= had+5 })

	// One that is not replicating keeps its hands off.
	if _, err := w.home.src.Stop(w.ctx, control.StopReplicationRequest{Group: group}); err != nil {
		t.Fatal(err)
	}
	w.must(w.home.src.TakePolicy(rare))
}
