package gateway_test

import (
	"errors"
	"syscall"
	"testing"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/resync"
	"rebound/internal/site"
	"rebound/internal/site/fake"
)

func TestFirstCopyAndLiveWrites(t *testing.T) {
	w := protect(t)
	if mode := w.captureStatus(w.home).Sync.Mode; mode != resync.ModeCopy {
		t.Errorf("the first synchronisation is %q", mode)
	}
	w.upToDate(w.home, w.cloud)
	w.scribble(w.home)
	first, then := w.snapshot(), w.point(w.home)
	w.scribble(w.home)
	w.upToDate(w.home, w.cloud)
	w.recovers(w.cloud, then.Position, first)
}

func TestBreakIsResynchronisedByBitmap(t *testing.T) {
	w := protect(t)
	w.scribble(w.home)
	w.upToDate(w.home, w.cloud)
	before := w.captureStatus(w.home).Head.Epoch
	w.cloud.closeHost()
	w.must(w.home.src.Resync(w.ctx, control.SyncAuto)) // breaks; the standby is away
	w.eventually("tracking", func() bool { return w.home.src.Report().Phase == control.PhaseTracking })
	w.scribble(w.home) // only bitmaps know of it
	w.cloud.openHost()
	w.streams(w.home)
	st := w.captureStatus(w.home)
	if st.Sync.Mode != resync.ModeBitmap || st.Head.Epoch == before {
		t.Errorf("resynchronised with mode %q in epoch %d (before %d)", st.Sync.Mode, st.Head.Epoch, before)
	}
	w.upToDate(w.home, w.cloud)
}

func TestHypervisorRestartedIsCompared(t *testing.T) {
	w := protect(t)
	w.must(w.home.driver.Crash(db))
	w.eventually("tracking", func() bool { return w.home.src.Report().Phase == control.PhaseTracking })
	w.must(w.home.driver.Start(w.ctx, db, site.StartOptions{}))
	w.scribble(w.home)
	w.streams(w.home)
	if mode := w.captureStatus(w.home).Sync.Mode; mode != resync.ModeCompare {
		t.Errorf("after a crash of a hypervisor the mode is %q", mode)
	}
	w.upToDate(w.home, w.cloud)
}

func TestMemberThatWasSwitchedOffStaysOff(t *testing.T) {
	w := newWorld(t)
	w.cloud.openHost()
	w.journal(w.home, w.cloud, 1)
	w.home.openSource()
	w.must(w.home.driver.Stop(w.ctx, db, site.Hard, 0))
	spec := w.spec(w.cloud, 1)
	spec.StartStopped = true
	if err := w.home.src.Start(w.ctx, spec); err != nil {
		t.Logf("the first attempt: %v", err) // a busy machine: it goes on trying
	}
	w.streams(w.home)
	w.must(w.home.driver.Stop(w.ctx, db, site.Hard, 0))
	w.eventually("tracking", func() bool { return w.home.src.Report().Phase == control.PhaseTracking })
	w.home.closeSource()
	w.home.openSource()
	w.eventually("told", func() bool { return w.home.src.Report().Problem != "" })
	m, err := w.home.driver.Machine(w.ctx, db)
	if err != nil || m.State != site.Off {
		t.Fatalf("the machine is %s, %v", m.State, err)
	}
}

func TestGatewayRestartAdoptsTheStream(t *testing.T) {
	w := protect(t)
	before := w.captureStatus(w.home)
	w.home.closeSource()
	w.scribble(w.home)
	w.home.openSource()
	w.streams(w.home)
	after := w.captureStatus(w.home)
	if before.PID != after.PID || before.Head.Epoch != after.Head.Epoch {
		t.Errorf("process %d epoch %d before, %d and %d after", before.PID, before.Head.Epoch, after.PID, after.Head.Epoch)
	}
	w.upToDate(w.home, w.cloud)
	// A break after the adoption still finds every bitmap it needs.
	w.cloud.closeHost()
	w.scribble(w.home) // not durable
	w.must(w.home.src.Resync(w.ctx, control.SyncAuto))
	w.scribble(w.home)
	w.cloud.openHost()
	w.streams(w.home)
	w.upToDate(w.home, w.cloud)
}

func TestAdoptionAfterVerification(t *testing.T) {
	w := protect(t)
	res, err := w.home.src.Verify(w.ctx)
	if err != nil || res.Differing != 0 || res.Bytes == 0 {
		t.Fatalf("verify: %+v, %v", res, err)
	}
	w.home.closeSource()
	w.home.openSource()
	w.streams(w.home)
	w.upToDate(w.home, w.cloud)
}

func TestVerifyFindsAPlantedDifference(t *testing.T) {
	w := protect(t)
	w.upToDate(w.home, w.cloud)
	// Behind everybody's back, as rot would.
	w.must(w.home.plant(w.disks[1], 8192, []byte("rot")))
	res, err := w.home.src.Verify(w.ctx)
	if err != nil || res.Differing == 0 {
		t.Fatalf("verify: %+v, %v", res, err)
	}
}

func TestPauseAndResume(t *testing.T) {
	w := protect(t)
	if _, err := w.home.src.Stop(w.ctx, control.StopReplicationRequest{Group: group, Pause: true}); err != nil {
		t.Fatal(err)
	}
	w.scribble(w.home)
	w.home.closeSource()
	w.home.openSource()
	if p := w.home.src.Report().Phase; p != control.PhasePaused {
		t.Fatalf("after a restart the phase is %s", p)
	}
	w.must(w.home.src.Start(w.ctx, w.spec(w.cloud, 1)))
	w.streams(w.home)
	if mode := w.captureStatus(w.home).Sync.Mode; mode != resync.ModeBitmap {
		t.Errorf("resumed with mode %q", mode)
	}
	w.upToDate(w.home, w.cloud)
}

// TestOneMembersBreakEndsTheGroupsPoints lets the capture of one member end
// while the other goes on writing: no point holds what came after.
func TestOneMembersBreakEndsTheGroupsPoints(t *testing.T) {
	w := protect(t)
	w.upToDate(w.home, w.cloud)
	before := w.captureStatus(w.home).Head.Epoch
	w.home.setFault(func(c fake.Call) error {
		if c.Method == "Attach" {
			return errors.New("no")
		}
		return nil
	})
	w.must(w.home.driver.Detach(w.ctx, db)) // as a job that somebody cancelled
	want := w.snapshot()
	w.write(w.home, w.disks[0], 0, 4096) // web
	w.write(w.home, w.disks[3], 0, 4096) // db: it never leaves the site
	w.write(w.home, w.disks[0], 4096, 4096)
	w.eventually("tracking", func() bool { return w.home.src.Report().Phase == control.PhaseTracking })
	r, err := w.cloud.host.Resolve(w.ctx, control.ResolveRequest{Group: group, Selector: dr.Latest})
	w.must(err)
	if r.Position.Epoch != before {
		t.Errorf("latest is %s, the epoch before the break %d", r.Position, before)
	}
	w.recovers(w.cloud, r.Position, want)
	w.home.setFault(nil)
	w.streams(w.home)
	w.upToDate(w.home, w.cloud)
}

// TestLinkOutageIsCaughtUp keeps the epoch: the ring has what the standby lacks.
func TestLinkOutageIsCaughtUp(t *testing.T) {
	w := protect(t)
	before := w.captureStatus(w.home)
	w.cloud.closeHost()
	w.scribble(w.home)
	w.cloud.openHost()
	w.upToDate(w.home, w.cloud)
	if after := w.captureStatus(w.home); after.Head.Epoch != before.Head.Epoch || after.PID != before.PID {
		t.Errorf("epoch %d before, %d after", before.Head.Epoch, after.Head.Epoch)
	}
}

// TestBitmapsOutliveAdoption writes what never becomes durable, then rotates,
// restarts the gateway and breaks the stream: only the older bitmaps know of it.
func TestBitmapsOutliveAdoption(t *testing.T) {
	w := protectRotating(t)
	w.rotates(w.home, 3)
	w.upToDate(w.home, w.cloud)
	w.cloud.closeHost()
	w.scribble(w.home)
	w.rotates(w.home, 3)
	pid := w.captureStatus(w.home).PID
	w.home.closeSource()
	w.home.openSource()
	w.streams(w.home)
	if now := w.captureStatus(w.home).PID; now != pid {
		t.Fatalf("not adopted: process %d, before %d", now, pid)
	}
	w.rotates(w.home, 3)
	w.must(w.home.src.Resync(w.ctx, control.SyncAuto))
	w.cloud.openHost()
	w.streams(w.home)
	if mode := w.captureStatus(w.home).Sync.Mode; mode != resync.ModeBitmap {
		t.Errorf("mode %q", mode)
	}
	w.upToDate(w.home, w.cloud)
	// Once everything is durable, few are left.
	w.rotates(w.home, 4)
	names, err := w.home.driver.Bitmaps(w.ctx, web)
	w.must(err)
	if len(names) > 5 {
		t.Errorf("bitmaps %v", names)
	}
}

// TestFirstCopyCutShortIsCompared: bitmaps say nothing of a standby that was
// never whole.
func TestFirstCopyCutShortIsCompared(t *testing.T) {
	w := newWorld(t)
	w.cloud.openHost()
	w.journal(w.home, w.cloud, 1)
	w.home.openSource()
	w.home.setFault(failing("Resume", db)) // the stream is open by then
	w.must(w.home.driver.Stop(w.ctx, db, site.Hard, 0))
	spec := w.spec(w.cloud, 1)
	spec.StartStopped = true
	if err := w.home.src.Start(w.ctx, spec); err == nil {
		t.Fatal("started")
	}
	w.home.setFault(nil)
	w.streams(w.home)
	if mode := w.captureStatus(w.home).Sync.Mode; mode != resync.ModeCompare {
		t.Errorf("mode %q", mode)
	}
	w.scribble(w.home)
	w.upToDate(w.home, w.cloud)
}

// TestBreakIsToldAtOnce: a hypervisor may take seconds to let go; until then
// nobody must be told that the stream goes on.
func TestBreakIsToldAtOnce(t *testing.T) {
	w := protect(t)
	release := make(chan struct{})
	w.home.setFault(func(c fake.Call) error {
		if c.Method == "Detach" {
			<-release
		}
		return nil
	})
	w.must(syscall.Kill(w.captureStatus(w.home).PID, syscall.SIGKILL))
	defer close(release)
	w.eventually("tracking while the members are being detached", func() bool {
		return w.home.src.Report().Phase == control.PhaseTracking
	})
}
