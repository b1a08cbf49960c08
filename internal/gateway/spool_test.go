package gateway_test

import (
	"testing"

	"rebound/internal/capture"
	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/resync"
)

// outage takes the standby away and waits until the stream goes into the spool.
func (w *world) outage() {
	w.t.Helper()
	w.cloud.closeHost()
	w.eventually("way into the spool", func() bool { return w.captureStatus(w.home).Route == capture.RouteSpool })
	w.eventually("event", func() bool { return w.home.count("SpoolBegan") > 0 })
}

// confirmed waits until everything written so far is confirmed, and returns its
// position.
func (w *world) confirmed() dr.Position {
	w.t.Helper()
	at := w.captureStatus(w.home).Head
	w.eventually("confirmation", func() bool { return w.captureStatus(w.home).Confirmed >= at.Seq })
	return at
}

// TestOutageKeepsHistory: with the standby away every moment goes on being
// recorded, the epoch goes on, and afterwards any moment of the outage can be
// recovered.
func TestOutageKeepsHistory(t *testing.T) {
	w := protect(t)
	w.scribble(w.home)
	w.upToDate(w.home, w.cloud)
	epoch := w.captureStatus(w.home).Head.Epoch
	w.outage()
	w.scribble(w.home)
	first, then := w.snapshot(), w.confirmed()
	if got := w.home.src.Report(); got.Phase != control.PhaseStreaming || !got.Durable.Before(then) {
		t.Errorf("the source says %s, durable %s; the standby lacks %s", got.Phase, got.Durable, then)
	}
	w.scribble(w.home)
	w.cloud.openHost()
	w.eventually("direct stream", func() bool { return w.captureStatus(w.home).Route == capture.RouteDirect })
	w.eventually("event", func() bool { return w.home.count("SpoolEnded") > 0 })
	w.scribble(w.home)
	w.upToDate(w.home, w.cloud)
	w.recovers(w.cloud, then, first)
	if now := w.captureStatus(w.home).Head.Epoch; now != epoch {
		t.Errorf("epoch %d, before the outage %d", now, epoch)
	}
}

// TestSpoolOutlivesItsGateway: a gateway that is restarted in an outage goes on
// where the one before stopped.
func TestSpoolOutlivesItsGateway(t *testing.T) {
	w := protect(t)
	epoch := w.captureStatus(w.home).Head.Epoch
	w.outage()
	w.scribble(w.home)
	first, then := w.snapshot(), w.confirmed()
	w.home.closeSource()
	w.home.openSource()
	w.streams(w.home)
	w.scribble(w.home)
	w.cloud.openHost()
	w.eventually("direct stream", func() bool { return w.captureStatus(w.home).Route == capture.RouteDirect })
	w.upToDate(w.home, w.cloud)
	w.recovers(w.cloud, then, first)
	if now := w.captureStatus(w.home).Head.Epoch; now != epoch {
		t.Errorf("epoch %d, before the outage %d", now, epoch)
	}
}

// TestBreakInOutage: a capture that dies in an outage loses no confirmed moment
// that had reached the spool: that is delivered before a new epoch begins.
func TestBreakInOutage(t *testing.T) {
	w := protect(t)
	w.outage()
	w.scribble(w.home)
	first, then := w.snapshot(), w.confirmed()
	w.eventually("spool", func() bool { return w.captureStatus(w.home).Durable >= w.captureStatus(w.home).Confirmed })
	w.home.killCapture()
	w.eventually("tracking", func() bool { return w.home.src.Report().Phase == control.PhaseTracking })
	w.scribble(w.home) // only bitmaps know of it
	w.cloud.openHost()
	w.streams(w.home)
	if st := w.captureStatus(w.home); st.Sync.Mode != resync.ModeBitmap {
		t.Errorf("resynchronised with mode %q", st.Sync.Mode)
	}
	w.upToDate(w.home, w.cloud)
	w.recovers(w.cloud, then, first)
}

// TestFenceDiscardsTheSpool: what a fenced source had not delivered never comes.
func TestFenceDiscardsTheSpool(t *testing.T) {
	w := protect(t)
	w.outage()
	w.scribble(w.home)
	w.confirmed()
	w.must(w.home.src.Fence(w.ctx, 2))
	if n := w.home.count("SpoolDiscarded"); n != 1 {
		t.Errorf("%d events of a discarded spool", n)
	}
	if got := w.home.src.Report().Counters.SpoolBytes; got != 0 {
		t.Errorf("%d bytes are in the spool", got)
	}
}
