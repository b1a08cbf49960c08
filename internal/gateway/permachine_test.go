package gateway_test

import (
	"bytes"
	"errors"
	"slices"
	"sync/atomic"
	"testing"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site/fake"
)

// withOneDisk gives the machines of a list one disk instead of two.
func withOneDisk(names ...dr.MachineName) func(dr.MachineName, int) dr.Definition {
	return func(m dr.MachineName, i int) dr.Definition {
		def := definition(m, i)
		for _, n := range names {
			if n == m {
				def.Disks = def.Disks[:1]
			}
		}
		return def
	}
}

// asked is what resolves each member at its own newest moment.
func (w *world) asked() map[dr.MachineName]control.StartRecoveredRequest {
	w.t.Helper()
	res, err := w.cloud.host.Resolve(w.ctx, control.ResolveRequest{Group: group, Selector: dr.Latest, PerMachine: true})
	w.must(err)
	out := map[dr.MachineName]control.StartRecoveredRequest{}
	for _, m := range res.Members {
		out[m.Machine] = control.StartRecoveredRequest{Group: group, Machine: m.Machine, Position: m.Position, Alone: true}
	}
	return out
}

// loseTheTail lets every guest write while the hypervisor cannot be asked, so
// that nothing confirms it, waits until all of it has arrived, and ends the
// source. It returns where each member is taken to.
func (w *world) loseTheTail(single []dr.MachineName) map[dr.MachineName]control.StartRecoveredRequest {
	w.t.Helper()
	var silent atomic.Bool
	w.home.setFault(func(c fake.Call) error {
		if c.Method == "Attached" {
			silent.Store(true)
			return errors.New("the hypervisor does not answer")
		}
		return nil
	})
	// Beacons come one after the other: from the first refusal on there is none.
	w.eventually("no more confirmations", silent.Load)
	var confirmed dr.Position
	w.eventually("the last confirmation arrives", func() bool {
		confirmed = w.resolve(w.cloud, dr.Latest).Position
		return confirmed.Seq == w.captureStatus(w.home).Confirmed
	})
	w.scribble(w.home)
	for _, m := range single {
		i := slices.IndexFunc(w.disks, func(d dr.GroupDisk) bool { return d.Machine == m })
		w.write(w.home, w.disks[i], 4096, 512)
		w.eventually("the last write of "+string(m)+" arrives", func() bool { return w.testHolds(w.asked()[m], w.disks[i]) })
	}
	w.seal(w.cloud, 2)
	w.home.setFault(nil)
	w.fence(w.home, 2)
	members := w.asked()
	if latest := w.resolve(w.cloud, dr.Latest).Position; latest != confirmed {
		w.t.Fatalf("the group's latest moved from %v to %v while nothing was confirmed", confirmed, latest)
	}
	for m, at := range members {
		if ahead := confirmed.Before(at.Position); ahead != slices.Contains(single, m) {
			w.t.Errorf("%s at %v, the group at %v", m, at.Position, confirmed)
		}
	}
	if members[web].Position == members[db].Position {
		w.t.Errorf("both members at %v", members[web].Position)
	}
	return members
}

// testHolds reports whether a test machine at the place holds what its guest
// wrote to a disk.
func (w *world) testHolds(at control.StartRecoveredRequest, d dr.GroupDisk) bool {
	w.t.Helper()
	at.Test, at.Network = true, "bubble"
	_, err := w.cloud.host.StartRecovered(w.ctx, at)
	w.must(err)
	got := w.read(w.cloud, at.Machine+"-test", d)
	w.must(w.cloud.host.DiscardRecovered(w.ctx, control.DiscardRecoveredRequest{Group: group, Machine: at.Machine, Test: true}))
	return bytes.Equal(got, w.snapshot()[d])
}

// commitMembers commits each member where it runs. The gateway dies in the
// middle of the first attempt, and the last one repeats what was done.
func (w *world) commitMembers(members map[dr.MachineName]control.StartRecoveredRequest, want map[dr.GroupDisk][]byte) {
	w.t.Helper()
	req := control.CommitRequest{Group: group, Members: map[dr.MachineName]dr.Position{}}
	for m, at := range members {
		req.Members[m] = at.Position
		if req.Position.IsZero() || at.Position.Before(req.Position) {
			req.Position = at.Position
		}
	}
	wrong := control.CommitRequest{Group: group, Position: req.Position}
	if _, err := w.cloud.host.Commit(w.ctx, wrong, func(int64, int64) {}); !problem.HasCode(err, problem.OperationNotAllowed) {
		w.t.Errorf("a commit of one position for all: %v", err)
	}
	w.cloud.setFault(failing("CommitRecovered", db))
	if _, err := w.cloud.host.Commit(w.ctx, req, func(int64, int64) {}); err == nil {
		w.t.Fatal("committed")
	}
	w.cloud.setFault(nil)
	w.cloud.closeHost()
	w.cloud.openHost()
	w.must(w.cloud.driver.ReopenViews(w.ctx))
	w.holds(w.cloud, "", want)
	for range 2 {
		_, err := w.cloud.host.Commit(w.ctx, req, func(int64, int64) {})
		w.must(err)
	}
}

// backAgain protects from the cloud to home, and fails unless home then holds
// what the guests wrote.
func (w *world) backAgain() {
	w.t.Helper()
	w.scribble(w.cloud)
	w.must(w.home.src.Forget(w.ctx))
	w.home.closeSource()
	w.home.openHost()
	w.journal(w.cloud, w.home, 2)
	w.cloud.openSource()
	w.must(w.cloud.src.Start(w.ctx, w.spec(w.home, 2)))
	w.streams(w.cloud)
	w.scribble(w.cloud)
	w.upToDate(w.cloud, w.home)
}

// TestPerMachine takes each member to its own newest moment, which really are
// different ones, across a restart of the gateway and a commit; and protects
// the other way after it.
func TestPerMachine(t *testing.T) {
	for name, single := range map[string][]dr.MachineName{"one of one disk": {web}, "both of one disk": {web, db}} {
		t.Run(name, func(t *testing.T) {
			w := newWorldOf(t, withOneDisk(single...))
			w.protect()
			w.scribble(w.home)
			w.point(w.home)
			early := w.snapshot()
			members := w.loseTheTail(single)
			want := w.snapshot()
			for d := range want {
				if !slices.Contains(single, d.Machine) {
					want[d] = early[d] // two disks: no further than the group
				}
			}
			for _, m := range []dr.MachineName{web, db} {
				strict := members[m]
				strict.Alone = false
				_, err := w.cloud.host.StartRecovered(w.ctx, strict)
				if confirmed := problem.HasCode(err, problem.PointNotConfirmed); confirmed != slices.Contains(single, m) {
					t.Errorf("%s as a member of the group at %v: %v", m, strict.Position, err)
				}
				w.must(w.cloud.host.DiscardRecovered(w.ctx, control.DiscardRecoveredRequest{Group: group, Machine: m}))
				_, err = w.cloud.host.StartRecovered(w.ctx, members[m])
				w.must(err)
			}
			w.holds(w.cloud, "", want)
			w.cloud.closeHost()
			w.cloud.openHost()
			w.must(w.cloud.driver.ReopenViews(w.ctx))
			w.holds(w.cloud, "", want)
			w.commitMembers(members, want)
			w.holds(w.cloud, "", want)
			w.mu.Lock()
			w.model = want // the guests go on from there
			w.mu.Unlock()
			w.backAgain()
		})
	}
}
