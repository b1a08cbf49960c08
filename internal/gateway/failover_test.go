package gateway_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/link"
	"rebound/internal/problem"
	"rebound/internal/resync"
	"rebound/internal/site"
	"rebound/internal/site/fake"
)

// seal raises the generation at a standby.
func (w *world) seal(p *place, gen dr.Generation) control.SealResult {
	w.t.Helper()
	res, err := p.host.Seal(w.ctx, control.SealRequest{Group: group, Generation: gen})
	w.must(err)
	return res
}

func (w *world) resolve(p *place, sel dr.PointSelector) control.Resolved {
	w.t.Helper()
	r, err := p.host.Resolve(w.ctx, control.ResolveRequest{Group: group, Selector: sel})
	w.must(err)
	return r
}

func (w *world) points(p *place, kind dr.PointKind) []dr.Point {
	w.t.Helper()
	r, err := p.host.Points(w.ctx, control.PointsRequest{Group: group, Kind: kind})
	w.must(err)
	return r.Points
}

// fence ends p's part and powers its machines off.
func (w *world) fence(p *place, gen dr.Generation) {
	w.t.Helper()
	w.must(p.src.Fence(w.ctx, gen))
	for _, m := range []dr.MachineName{web, db} {
		w.must(p.driver.Stop(w.ctx, m, site.Hard, 0))
	}
}

func (w *world) drain(p *place) control.StopReplicationResult {
	w.t.Helper()
	res, err := p.src.Stop(w.ctx, control.StopReplicationRequest{Group: group, Drain: true})
	w.must(err)
	if !res.Clean {
		w.t.Fatalf("drained, but not clean: %+v", res)
	}
	return res
}

// TestPlannedRoundTrip loses nothing on the way there, nor back.
func TestPlannedRoundTrip(t *testing.T) {
	w := protect(t)
	w.scribble(w.home)
	w.quiesce(w.home)
	w.drain(w.home)
	w.seal(w.cloud, 2)
	w.must(w.home.src.Fence(w.ctx, 2))
	at := w.resolve(w.cloud, dr.Latest).Position
	w.start(w.cloud, at, false)
	w.holds(w.cloud, "", w.snapshot())
	w.scribble(w.cloud)
	commit := func(p *place) {
		t.Helper()
		for range 2 { // the second time it has been done
			_, err := p.host.Commit(w.ctx, control.CommitRequest{Group: group, Position: at}, func(int64, int64) {})
			w.must(err)
		}
		w.holds(p, "", w.snapshot())
	}
	commit(w.cloud)

	// Reprotect: the old disks are the seed, of a known position, so that
	// only what was written since is looked at.
	w.scribble(w.cloud)
	seed := w.home.src.Seed()
	w.home.seed = func(ctx context.Context) dr.Position { return seed.Position(ctx, w.home.driver) }
	w.must(w.home.src.Forget(w.ctx))
	w.home.closeSource()
	w.home.openHost()
	res := w.journal(w.cloud, w.home, 2)
	if !res.Seeded || res.Seed.IsZero() {
		t.Errorf("the old disks are not taken for a seed: %+v", res)
	}
	w.cloud.openSource()
	spec := w.spec(w.home, 2)
	spec.Seed = res.Seed
	w.must(w.cloud.src.Start(w.ctx, spec))
	w.streams(w.cloud)
	if s := w.captureStatus(w.cloud).Sync; s.Mode != resync.ModeBitmap || s.Total == 0 || s.Total > 4<<20 {
		t.Errorf("reprotected with mode %q, looked at %d", s.Mode, s.Total)
	}
	w.upToDate(w.cloud, w.home)
	if points := w.points(w.home, dr.Diverged); len(points) != 0 {
		t.Errorf("nothing diverged, and yet: %v", points)
	}

	// Failback.
	w.scribble(w.cloud)
	w.quiesce(w.cloud)
	w.drain(w.cloud)
	w.seal(w.home, 3)
	w.must(w.cloud.src.Fence(w.ctx, 3))
	at = w.resolve(w.home, dr.Latest).Position
	w.start(w.home, at, false)
	commit(w.home)
}

// TestCleanStopComparesNothing undoes a planned failover.
func TestCleanStopComparesNothing(t *testing.T) {
	w := protect(t)
	w.scribble(w.home)
	w.quiesce(w.home)
	w.drain(w.home)
	w.drain(w.home) // repeated
	w.seal(w.cloud, 2)
	w.must(w.home.src.Fence(w.ctx, 2))
	w.seal(w.cloud, 3)
	spec := w.spec(w.cloud, 3)
	spec.StartStopped = true
	w.must(w.home.src.Start(w.ctx, spec))
	w.streams(w.home)
	st := w.captureStatus(w.home)
	if st.Sync.Mode != resync.ModeBitmap || st.Sync.Done != 0 || st.Counters.SyncBytes != 0 {
		t.Errorf("after a clean stop: %+v, %d bytes sent", st.Sync, st.Counters.SyncBytes)
	}
	w.scribble(w.home)
	w.upToDate(w.home, w.cloud)
}

// TestCleanStopIsNotTrustedWhenTouched writes by hand between stop and start.
func TestCleanStopIsNotTrustedWhenTouched(t *testing.T) {
	w := protect(t)
	w.quiesce(w.home)
	w.drain(w.home)
	w.must(w.home.driver.Start(w.ctx, web, site.StartOptions{}))
	w.write(w.home, w.disks[0], 8192, 4096)
	w.must(w.home.driver.Stop(w.ctx, web, site.Hard, 0))
	spec := w.spec(w.cloud, 1)
	spec.StartStopped = true
	w.must(w.home.src.Start(w.ctx, spec))
	w.streams(w.home)
	if mode := w.captureStatus(w.home).Sync.Mode; mode != resync.ModeCompare {
		t.Errorf("mode %q", mode)
	}
	w.upToDate(w.home, w.cloud)
}

// TestQuiescedStayStill restarts everything at the source between the stop of
// the machines and the drain: what they wrote last arrives, and none runs again.
func TestQuiescedStayStill(t *testing.T) {
	w := newWorld(t)
	w.cloud.openHost()
	w.journal(w.home, w.cloud, 1)
	w.home.openSource()
	spec := w.spec(w.cloud, 1)
	spec.StartStopped = true
	w.must(w.home.src.Start(w.ctx, spec))
	w.streams(w.home)
	w.must(w.home.driver.Deafen(db, true))
	w.cloud.closeHost()
	w.scribble(w.home)
	w.must(w.home.src.Quiesce(w.ctx, db, site.GracefulThenHard, 10*time.Millisecond))
	w.must(w.home.src.Quiesce(w.ctx, web, site.GracefulThenHard, time.Second))
	w.home.closeSource()
	w.home.endCapture()
	w.cloud.openHost()
	w.home.openSource()
	w.drain(w.home)
	for m, want := range map[dr.MachineName]site.PowerState{web: site.Off, db: site.Off} {
		got, err := w.home.driver.Machine(w.ctx, m)
		if err != nil || got.State != want {
			t.Errorf("%s is %s, %v", m, got.State, err)
		}
	}
	w.recovers(w.cloud, w.resolve(w.cloud, dr.Latest).Position, w.snapshot())
}

// TestDrainCutShortIsFinished lets the gateway die between the drain and the
// end of the machines.
func TestDrainCutShortIsFinished(t *testing.T) {
	w := protect(t)
	w.scribble(w.home)
	w.quiesce(w.home)
	w.home.setFault(func(c fake.Call) error {
		if c.Method == "Stop" {
			return errors.New("the gateway died here")
		}
		return nil
	})
	if _, err := w.home.src.Stop(w.ctx, control.StopReplicationRequest{Group: group, Drain: true}); err == nil {
		t.Fatal("stopped")
	}
	w.home.setFault(nil)
	w.home.closeSource()
	w.home.openSource()
	if p := w.home.src.Report().Phase; p != control.PhaseIdle {
		t.Errorf("after a restart the phase is %s", p)
	}
	w.drain(w.home)
	w.recovers(w.cloud, w.resolve(w.cloud, dr.Latest).Position, w.snapshot())
}

func TestDrainOfRunningMachinesIsRefused(t *testing.T) {
	w := protect(t)
	_, err := w.home.src.Stop(w.ctx, control.StopReplicationRequest{Group: group, Drain: true})
	if !problem.HasCode(err, problem.MachineRunning) {
		t.Fatalf("drain: %v", err)
	}
	w.upToDate(w.home, w.cloud)
}

// TestUnplannedFailoverAndUndo also changes the point on the way.
func TestUnplannedFailoverAndUndo(t *testing.T) {
	w := protect(t)
	w.scribble(w.home)
	first, early := w.snapshot(), w.point(w.home)
	w.scribble(w.home)
	w.point(w.home)
	w.seal(w.cloud, 2)
	w.fence(w.home, 2)
	last := w.resolve(w.cloud, dr.Latest).Position
	w.start(w.cloud, last, false)
	w.holds(w.cloud, "", w.snapshot())
	_, err := w.cloud.host.StartRecovered(w.ctx, control.StartRecoveredRequest{Group: group, Machine: web, Position: early.Position})
	if !problem.HasCode(err, problem.MachineRunning) {
		t.Errorf("another point while it runs: %v", err)
	}
	w.discard(w.cloud, false)
	w.start(w.cloud, early.Position, false)
	w.holds(w.cloud, "", first)
	w.discard(w.cloud, false)
	w.discard(w.cloud, false) // repeated

	w.seal(w.cloud, 3)
	if err := w.home.src.Start(w.ctx, w.spec(w.cloud, 2)); !problem.HasCode(err, problem.StaleGeneration) {
		t.Errorf("start of the fenced generation: %v", err)
	}
	spec := w.spec(w.cloud, 3)
	spec.StartStopped = true
	w.must(w.home.src.Start(w.ctx, spec))
	w.streams(w.home)
	w.scribble(w.home)
	w.upToDate(w.home, w.cloud)
}

// TestStaleSourceIsRefused lets a source go on that does not know that it was
// failed over. No member of it is touched, it is counted, and told of once.
func TestStaleSourceIsRefused(t *testing.T) {
	w := protect(t)
	w.upToDate(w.home, w.cloud)
	durable := w.seal(w.cloud, 2).Durable
	w.scribble(w.home)
	w.eventually("refused", func() bool { return w.home.count("StaleSource") > 0 })
	w.cloud.closeHost()
	w.cloud.openHost()
	var attached int
	w.home.setFault(func(c fake.Call) error {
		if c.Method == "Attach" {
			attached++
		}
		return nil
	})
	before := w.cloud.host.Reports()[0].Counters.StaleFrames
	w.eventually("counted", func() bool { return w.cloud.host.Reports()[0].Counters.StaleFrames > before+1 })
	rep := w.cloud.host.Reports()[0]
	if rep.Durable != durable || rep.Generation != 2 {
		t.Errorf("durable %s, generation %d; sealed at %s", rep.Durable, rep.Generation, durable)
	}
	if n := w.home.count("StaleSource"); n != 1 {
		t.Errorf("%d events", n)
	}
	w.home.setFault(nil)
	if attached > 0 {
		t.Errorf("%d members were attached", attached)
	}
	// Nor may it look at what the standby holds.
	conf := w.home.identity.ClientTLS(identity.RoleGateway, string(w.cloud.name))
	conn, err := link.DialCompare(w.ctx, link.DialConfig{Address: w.cloud.addr, TLS: conf, Hello: link.Hello{Group: group, Generation: 1, Disks: w.disks}})
	if err == nil {
		_ = conn.Close()
	}
	if !problem.HasCode(err, problem.StaleGeneration) {
		t.Errorf("comparison at the old generation: %v", err)
	}
}

// TestFenceDoesNotWait fences while a drain hangs on a standby that is away.
func TestFenceDoesNotWait(t *testing.T) {
	w := protect(t)
	w.quiesce(w.home)
	w.cloud.closeHost()
	begun := make(chan struct{})
	var once sync.Once
	w.home.setFault(func(c fake.Call) error {
		if c.Method == "Machine" { // the drain looks whether they are still
			once.Do(func() { close(begun) })
		}
		return nil
	})
	done := make(chan error, 1)
	go func() {
		_, err := w.home.src.Stop(w.ctx, control.StopReplicationRequest{Group: group, Drain: true})
		done <- err
	}()
	<-begun
	w.must(w.home.src.Fence(w.ctx, 2))
	if err := <-done; err == nil {
		t.Error("the drain succeeded")
	}
	if r := w.home.src.Report(); r.Phase != control.PhaseFenced || r.Generation != 2 {
		t.Errorf("after the fence: %+v", r)
	}
}

// TestRecoveredRunThroughARestart restarts the standby under machines that run
// on its views.
func TestRecoveredRunThroughARestart(t *testing.T) {
	w := protect(t)
	w.scribble(w.home)
	w.point(w.home)
	w.seal(w.cloud, 2)
	w.fence(w.home, 2)
	w.start(w.cloud, w.resolve(w.cloud, dr.Latest).Position, false)
	w.scribble(w.cloud)
	w.cloud.closeHost()
	begun := time.Now()
	w.cloud.openHost()
	w.must(w.cloud.driver.ReopenViews(w.ctx))
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("the views were away for %s", took)
	}
	w.holds(w.cloud, "", w.snapshot())
}

// TestCommitCutShortIsFinished ends the gateway at each step of a commit.
func TestCommitCutShortIsFinished(t *testing.T) {
	for _, method := range []string{"SetStandby", "CommitRecovered"} {
		t.Run(method, func(t *testing.T) {
			w := protect(t)
			w.scribble(w.home)
			w.point(w.home)
			w.seal(w.cloud, 2)
			w.fence(w.home, 2)
			at := w.resolve(w.cloud, dr.Latest).Position
			w.start(w.cloud, at, false)
			w.scribble(w.cloud)
			w.cloud.setFault(func(c fake.Call) error {
				if c.Method == method && c.Machine == db {
					return errors.New("the gateway died here")
				}
				return nil
			})
			req := control.CommitRequest{Group: group, Position: at}
			if _, err := w.cloud.host.Commit(w.ctx, req, func(int64, int64) {}); err == nil {
				t.Fatal("committed")
			}
			w.cloud.setFault(nil)
			w.cloud.closeHost()
			w.cloud.openHost()
			if r := w.cloud.host.Reports()[0]; r.Phase != control.PhaseCommitting || r.Generation != 2 {
				t.Errorf("after the restart: %+v", r)
			}
			w.must(w.cloud.driver.ReopenViews(w.ctx))
			w.holds(w.cloud, "", w.snapshot())
			if err := w.cloud.host.DiscardRecovered(w.ctx, control.DiscardRecoveredRequest{Group: group, Machine: db}); err == nil {
				t.Error("a machine was discarded in the middle of its commit")
			}
			_, err := w.cloud.host.Commit(w.ctx, req, func(int64, int64) {})
			w.must(err)
			w.holds(w.cloud, "", w.snapshot())
		})
	}
}

// TestDivergedIsReadable reprotects over a home whose machines wrote after the
// failover: what they wrote stays a point.
func TestDivergedIsReadable(t *testing.T) {
	w := protect(t)
	w.scribble(w.home)
	w.point(w.home)
	w.seal(w.cloud, 2)
	at := w.resolve(w.cloud, dr.Latest).Position
	recovered := w.snapshot()
	w.start(w.cloud, at, false)
	w.scribble(w.home) // nobody has fenced it yet
	diverged := w.snapshot()
	w.fence(w.home, 2)
	_, err := w.cloud.host.Commit(w.ctx, control.CommitRequest{Group: group, Position: at}, func(int64, int64) {})
	w.must(err)
	w.model = recovered
	w.scribble(w.cloud)
	w.must(w.home.src.Forget(w.ctx))
	w.home.closeSource()
	w.home.openHost()
	w.journal(w.cloud, w.home, 2)
	w.cloud.openSource()
	w.must(w.cloud.src.Start(w.ctx, w.spec(w.home, 2)))
	w.streams(w.cloud)
	w.recovers(w.home, w.resolve(w.home, "diverged-2").Position, diverged)
	w.upToDate(w.cloud, w.home)
}
