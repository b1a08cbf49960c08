package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/gateway/source"
	"rebound/internal/gateway/standby"
	"rebound/internal/problem"
	"rebound/internal/site"
	"rebound/internal/site/fake"
)

// TestStaleWordIsNotObeyed lets the vault's answer arrive after a command that
// was given later: the machine that was started meanwhile goes on.
func TestStaleWordIsNotObeyed(t *testing.T) {
	ctx := t.Context()
	driver := fake.New(fake.Options{Dir: t.TempDir()})
	def := func(name dr.MachineName) dr.Definition {
		return dr.Definition{Name: name, CPUs: 1, MemoryMiB: 64, Disks: []dr.DiskSpec{{ID: "sys", Bus: "virtio", SizeBytes: 1 << 20}}}
	}
	if err := driver.Create(ctx, def("web")); err != nil {
		t.Fatal(err)
	}
	if err := driver.Start(ctx, "web", site.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	host, err := standby.Open(ctx, standby.Config{
		Dir: t.TempDir(), RunDir: t.TempDir(), Driver: driver, Log: log, Event: func(control.Event) {}, Changed: func() {},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	_, err = host.Create(ctx, control.CreateJournalRequest{
		Group: "grp", Generation: 1, Source: "gw", Definitions: []dr.Definition{def("other")},
		Disks: []dr.GroupDisk{{Machine: "other", Disk: "sys", SizeBytes: 1 << 20}},
	}, func(context.Context) dr.Position { return dr.Position{} })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := host.Seal(ctx, control.SealRequest{Group: "grp", Generation: 2}); err != nil {
		t.Fatal(err)
	}
	g := &Gateway{
		cfg: Config{Site: "cloud"}, log: log, driver: driver, standby: host, sources: map[dr.GroupID]*source.Group{},
		fences: map[dr.GroupID]dr.Generation{}, busy: map[dr.GroupID]bool{}, poke: make(chan struct{}, 1),
	}
	g.events = newEventLog(g.Poke)
	for _, told := range []struct {
		gen  dr.Generation
		want site.PowerState
	}{{1, site.Running}, {2, site.Off}} {
		g.obey(ctx, control.Desired{Groups: []control.DesiredGroup{
			{Group: "grp", Generation: told.gen, Active: "home", Machines: []dr.MachineName{"web"}},
		}})
		g.obeying.Wait()
		if m, err := driver.Machine(ctx, "web"); err != nil || m.State != told.want {
			t.Errorf("told generation %d: %s, %v", told.gen, m.State, err)
		}
	}
	if err := g.admitGeneration("grp", 1); !problem.HasCode(err, problem.StaleGeneration) {
		t.Errorf("work of an older generation: %v", err)
	}
}

// TestEventsAreDeliveredOnce also loses the oldest while a report is under way.
func TestEventsAreDeliveredOnce(t *testing.T) {
	l := newEventLog(func() {})
	add := func(from, to int) {
		for i := from; i < to; i++ {
			l.add(control.Event{Code: fmt.Sprint(i)})
		}
	}
	add(0, maxEvents)
	_, next := l.pending()
	add(maxEvents, maxEvents+10) // the first ten are gone
	l.delivered(next)
	left, _ := l.pending()
	if len(left) != 10 || left[0].Code != fmt.Sprint(maxEvents) {
		t.Errorf("%d events left, the first is %+v", len(left), left[0])
	}
}
