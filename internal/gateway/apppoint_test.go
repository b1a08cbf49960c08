package gateway_test

import (
	"testing"
	"time"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site/fake"
)

func (w *world) appPoint(name string) (dr.Point, error) {
	return w.home.src.CreatePoint(w.ctx, control.CreatePointRequest{Group: group, Kind: dr.AppConsistent, Name: name})
}

// thawed fails unless no guest is frozen.
func (w *world) thawed() {
	w.t.Helper()
	for _, m := range []dr.MachineName{web, db} {
		if _, frozen := w.home.driver.Froze(m); frozen {
			w.t.Errorf("%s is frozen", m)
		}
	}
}

// TestAppConsistentPoint: the point holds what the guests had written when they
// froze, and nothing that waited for the thaw; no guest stays frozen.
func TestAppConsistentPoint(t *testing.T) {
	w := protect(t)
	w.scribble(w.home)
	want := w.snapshot()
	waiting := make(chan struct{})
	late := make(chan struct{})
	first := true
	w.home.setFault(func(c fake.Call) error {
		if _, frozen := w.home.driver.Froze(web); c.Method == "Frozen" && frozen && first { // all are frozen, the marker is placed
			first = false
			go func() {
				defer close(late)
				close(waiting)
				w.scribble(w.home)
			}()
			<-waiting
		}
		return nil
	})
	p, err := w.appPoint("before the upgrade")
	w.must(err)
	w.thawed()
	<-late
	if p.Kind != dr.AppConsistent || p.Name != "before the upgrade" {
		t.Errorf("point %+v", p)
	}
	for _, sel := range []dr.PointSelector{dr.LatestApp, dr.LatestMultiVMApp, dr.PointSelector(p.ID)} {
		r := w.resolve(w.cloud, sel)
		if r.Position != p.Position || r.Point == nil || r.Point.Kind != dr.AppConsistent || r.Point.Name != p.Name {
			t.Errorf("%s: %+v, want %+v", sel, r, p)
		}
	}
	w.recovers(w.cloud, p.Position, want)
	w.upToDate(w.home, w.cloud)
	if times, _ := w.home.driver.Froze(web); times != 1 {
		t.Errorf("frozen %d times", times)
	}
}

// TestPointIsNotAppConsistent: the label is given only when every guest was
// frozen from before the marker until the thaw; whatever happens, all are thawed.
func TestPointIsNotAppConsistent(t *testing.T) {
	w := protect(t)
	d := w.home.driver
	at := func(method string, do func() error) func(fake.Call) error {
		return func(c fake.Call) error {
			if c.Method == method && c.Machine == db {
				return do()
			}
			return nil
		}
	}
	for name, fault := range map[string]func(fake.Call) error{
		"no agent":   at("Freeze", func() error { return problem.New(problem.GuestNotFrozen, "no agent answers") }),
		"hypervisor": at("Freeze", func() error { return problem.New(problem.HypervisorError, "gone") }),
		"agent dies": at("Frozen", func() error {
			if _, frozen := d.Froze(db); !frozen {
				return nil
			}
			return problem.New(problem.GuestNotFrozen, "no agent answers")
		}),
		"thaws at once":    at("Frozen", func() error { return d.ThawByItself(db) }),
		"thaws in the end": at("Thaw", func() error { return d.ThawByItself(db) }),
		"cannot be thawed": once(at("Thaw", func() error { return problem.New(problem.GuestNotFrozen, "no agent answers") })),
	} {
		w.home.setFault(fault)
		if p, err := w.appPoint("x"); err == nil {
			t.Errorf("%s: made %+v", name, p)
		}
		w.eventually(name+": all are thawed", func() bool {
			_, a := d.Froze(web)
			_, b := d.Froze(db)
			return !a && !b
		})
		w.home.setFault(nil)
		w.streams(w.home)
		w.upToDate(w.home, w.cloud)
		if got := w.points(w.cloud, dr.AppConsistent); len(got) != 0 {
			t.Fatalf("%s: %+v", name, got)
		}
	}
	w.eventually("the next point", func() bool { _, err := w.appPoint("y"); return err == nil })
	w.thawed()
}

// TestNobodyFrozenInVain: one silent agent, or one guest that another program
// froze, costs the other members nothing.
func TestNobodyFrozenInVain(t *testing.T) {
	w := protect(t)
	d := w.home.driver
	w.must(d.StopAgent(db, true))
	if p, err := w.appPoint("x"); !problem.HasCode(err, problem.GuestNotFrozen) {
		t.Errorf("one is silent: %+v, %v", p, err)
	}
	w.must(d.StopAgent(db, false))
	w.must(d.Freeze(w.ctx, db, time.Hour))
	if p, err := w.appPoint("x"); !problem.HasCode(err, problem.GuestNotFrozen) {
		t.Errorf("one is frozen already: %+v, %v", p, err)
	}
	if _, frozen := d.Froze(db); !frozen {
		t.Error("thawed what another program froze")
	}
	if times, _ := d.Froze(web); times != 0 {
		t.Errorf("the other one was frozen %d times", times)
	}
	w.must(d.ThawByItself(db))
	if _, err := w.appPoint("y"); err != nil {
		t.Error(err)
	}
	w.thawed()
}

// once lets a fault happen the first time only.
func once(fault func(fake.Call) error) func(fake.Call) error {
	done := false
	return func(c fake.Call) error {
		if done {
			return nil
		}
		err := fault(c)
		done = err != nil
		return err
	}
}

// TestPolicyMakesAppPoints by itself, and says so when it cannot.
func TestPolicyMakesAppPoints(t *testing.T) {
	w := newWorld(t)
	w.cloud.openHost()
	w.journal(w.home, w.cloud, 1)
	w.home.openSource()
	spec := w.spec(w.cloud, 1)
	spec.AppInterval = 100 * time.Millisecond
	w.must(w.home.src.Start(w.ctx, spec))
	w.streams(w.home)
	w.eventually("application-consistent points", func() bool { return len(w.points(w.cloud, dr.AppConsistent)) >= 3 })
	w.must(w.home.driver.StopAgent(db, true))
	w.eventually("an event", func() bool { return w.home.count("PointNotAppConsistent") >= 2 })
	w.eventually("web is thawed", func() bool { _, frozen := w.home.driver.Froze(web); return !frozen })
	apps, all := len(w.points(w.cloud, dr.AppConsistent)), len(w.points(w.cloud, ""))
	w.eventually("crash-consistent points", func() bool { return len(w.points(w.cloud, "")) > all })
	if n := len(w.points(w.cloud, dr.AppConsistent)); n != apps {
		t.Errorf("%d application-consistent points without an agent, before %d", n, apps)
	}
	w.must(w.home.driver.StopAgent(db, false))
	w.eventually("points again", func() bool { return len(w.points(w.cloud, dr.AppConsistent)) > apps })
	w.quiesce(w.home) // is not held up, and finds nobody frozen
	w.thawed()
}

// TestNextGatewayThaws what the one before left frozen.
func TestNextGatewayThaws(t *testing.T) {
	w := protect(t)
	w.home.setFault(func(c fake.Call) error {
		if c.Method == "Thaw" {
			return problem.New(problem.GuestNotFrozen, "the gateway died here")
		}
		return nil
	})
	if p, err := w.appPoint("x"); !problem.HasCode(err, problem.GuestNotFrozen) {
		t.Fatalf("made %+v, %v", p, err)
	}
	w.home.closeSource()
	for _, m := range []dr.MachineName{web, db} {
		if _, frozen := w.home.driver.Froze(m); !frozen {
			t.Fatalf("%s is not frozen: nothing is shown by this", m)
		}
	}
	w.home.setFault(nil)
	w.home.openSource()
	w.eventually("all are thawed", func() bool {
		_, a := w.home.driver.Froze(web)
		_, b := w.home.driver.Froze(db)
		return !a && !b
	})
	w.eventually("the next point", func() bool { _, err := w.appPoint("y"); return err == nil })
}
