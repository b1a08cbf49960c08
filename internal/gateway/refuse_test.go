package gateway_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/problem"
	"rebound/internal/site"
)

func (w *world) createRequest(gen dr.Generation) control.CreateJournalRequest {
	return control.CreateJournalRequest{
		Group: group, Generation: gen, Source: w.home.name, Disks: w.disks, Definitions: []dr.Definition{definition(web, 0), definition(db, 1)},
	}
}

func TestGatewaysOfDifferentVaultsRefuse(t *testing.T) {
	w := newWorld(t)
	other, err := identity.OpenCA(t.TempDir(), "elsewhere")
	w.must(err)
	foreign, err := other.Issue(identity.RoleGateway, string(w.home.name), time.Hour, "127.0.0.1")
	w.must(err)
	w.home.identity, err = identity.NewHolder(foreign)
	w.must(err)
	w.cloud.openHost()
	w.journal(w.home, w.cloud, 1)
	w.home.openSource()
	if err := w.home.src.Start(w.ctx, w.spec(w.cloud, 1)); !problem.HasCode(err, problem.WrongVault) {
		t.Errorf("start: %v", err)
	}
	names, err := w.home.driver.Bitmaps(w.ctx, web)
	if err != nil || len(names) > 0 {
		t.Errorf("the machine was touched: %v, %v", names, err)
	}
}

func TestForeignSourceIsRefused(t *testing.T) {
	w := newWorld(t)
	w.cloud.openHost()
	req := w.createRequest(1)
	req.Source = "gw-third"
	_, err := w.create(w.cloud, req)
	w.must(err)
	w.home.openSource()
	if err := w.home.src.Start(w.ctx, w.spec(w.cloud, 1)); !problem.HasCode(err, problem.PermissionDenied) {
		t.Errorf("start: %v", err)
	}
}

func TestSpecsThatAreRefusedChangeNothing(t *testing.T) {
	w := newWorld(t)
	w.home.openSource()
	w.cloud.addr = "127.0.0.1:1"
	for name, c := range map[string]struct {
		spoil func(*control.ReplicationSpec)
		want  problem.Code
	}{
		"unknown machine": {func(s *control.ReplicationSpec) {
			s.Disks = []dr.GroupDisk{{Machine: "ghost", Disk: "sys", SizeBytes: mib}}
		}, problem.UnknownMachine},
		"unknown disk": {func(s *control.ReplicationSpec) { s.Disks = []dr.GroupDisk{{Machine: web, Disk: "no", SizeBytes: mib}} }, problem.UnknownDisk},
		"other size": {func(s *control.ReplicationSpec) {
			s.Disks = []dr.GroupDisk{{Machine: web, Disk: "sys", SizeBytes: 2 * mib}}
		}, problem.DiskNotSupported},
	} {
		spec := w.spec(w.cloud, 1)
		c.spoil(&spec)
		if err := w.home.src.Start(w.ctx, spec); !problem.HasCode(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if !w.home.src.Empty() {
			t.Errorf("%s: something was kept", name)
		}
	}
}

// TestCreateIsRefusedBeforeAnythingGoes asks for journals that cannot be made
// over one that is good.
func TestCreateIsRefusedBeforeAnythingGoes(t *testing.T) {
	w := protect(t)
	w.scribble(w.home)
	pt, want := w.point(w.home), w.snapshot()
	for name, c := range map[string]struct {
		spoil func(*control.CreateJournalRequest)
		want  problem.Code
	}{
		"the same generation": {func(r *control.CreateJournalRequest) { r.Generation, r.Source = 1, "gw-third" }, problem.NameTaken},
		"another machine":     {func(r *control.CreateJournalRequest) { r.Definitions[0].UUID = "x" }, problem.NameTaken},
		"other disks":         {func(r *control.CreateJournalRequest) { r.Definitions[0].Disks[0].SizeBytes *= 2 }, problem.NameTaken},
		"no room": {func(r *control.CreateJournalRequest) {
			big := definition("huge", 9)
			big.Disks[0].SizeBytes = 1 << 50
			r.Definitions = append(r.Definitions, big)
		}, problem.NoRoom},
		"a name that leads elsewhere": {func(r *control.CreateJournalRequest) { r.Definitions[0].Name = "../web" }, problem.InvalidName},
	} {
		req := w.createRequest(2)
		c.spoil(&req)
		if _, err := w.create(w.cloud, req); !problem.HasCode(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if res, err := w.create(w.cloud, w.createRequest(1)); err != nil || res.Seeded {
		t.Errorf("repeated: %+v, %v", res, err)
	}
	w.recovers(w.cloud, pt.Position, want)
	w.upToDate(w.home, w.cloud)
}

func TestCreateOverLeftovers(t *testing.T) {
	w := newWorld(t)
	w.cloud.openHost()
	// An attempt that ended before its settings were written.
	w.must(w.cloud.driver.Create(w.ctx, definition(web, 0)))
	w.must(os.MkdirAll(filepath.Join(w.cloud.dir, "journals", string(group), "journal", "redo"), 0o700))
	w.cloud.closeHost()
	w.cloud.openHost()
	if res := w.journal(w.home, w.cloud, 1); res.Seeded || len(res.PoweredOff) > 0 {
		t.Errorf("empty disks: %+v", res)
	}
	w.home.openSource()
	w.must(w.home.src.Start(w.ctx, w.spec(w.cloud, 1)))
	w.streams(w.home)
	w.upToDate(w.home, w.cloud)
}

func TestSeedsAreFoundAndPoweredOff(t *testing.T) {
	w := newWorld(t)
	w.must(w.cloud.driver.Create(w.ctx, definition(web, 0)))
	w.must(w.cloud.driver.Start(w.ctx, web, site.StartOptions{}))
	w.must(w.cloud.driver.GuestWrite(w.ctx, web, "sys", []byte("a guest lived here"), 0))
	w.cloud.openHost()
	res := w.journal(w.home, w.cloud, 1)
	if !res.Seeded || len(res.PoweredOff) != 1 || res.PoweredOff[0] != web {
		t.Errorf("%+v", res)
	}
	if err := w.cloud.driver.Start(w.ctx, web, site.StartOptions{}); !problem.HasCode(err, problem.MachineInUse) {
		t.Errorf("start of a standby: %v", err)
	}
	if g := w.cloud.host.GroupOf(web); g != group {
		t.Errorf("standby of %q", g)
	}
}

// TestBrokenJournalLeavesTheOthers damages one of two journals.
func TestBrokenJournalLeavesTheOthers(t *testing.T) {
	w := protect(t)
	w.scribble(w.home)
	pt, want := w.point(w.home), w.snapshot()
	other := definition("third", 7)
	_, err := w.create(w.cloud, control.CreateJournalRequest{
		Group: "other", Generation: 1, Source: w.home.name, Definitions: []dr.Definition{other},
		Disks: []dr.GroupDisk{{Machine: "third", Disk: "sys", SizeBytes: mib}},
	})
	w.must(err)
	w.cloud.closeHost()
	manifest := filepath.Join(w.cloud.dir, "journals", "other", "journal", "manifest")
	w.must(os.WriteFile(manifest, []byte("noise"), 0o600))
	w.cloud.openHost()
	w.recovers(w.cloud, pt.Position, want)
	if n := w.cloud.count("JournalDamaged"); n != 1 {
		t.Errorf("%d events", n)
	}
	_, err = w.create(w.cloud, control.CreateJournalRequest{
		Group: "other", Generation: 9, Source: w.home.name, Definitions: []dr.Definition{other},
		Disks: []dr.GroupDisk{{Machine: "third", Disk: "sys", SizeBytes: mib}},
	})
	if !problem.HasCode(err, problem.JournalDamaged) {
		t.Errorf("create over it: %v", err)
	}
	if text, err := os.ReadFile(manifest); err != nil || string(text) != "noise" {
		t.Errorf("what is left of it was changed: %q, %v", text, err)
	}
	// It goes only when somebody says so.
	w.must(w.cloud.host.Delete(w.ctx, control.DeleteJournalRequest{Group: "other"}))
	if _, err := w.cloud.driver.Machine(w.ctx, "third"); !problem.HasCode(err, problem.UnknownMachine) {
		t.Errorf("its machine: %v", err)
	}
}

// TestDeleteCutShortIsFinished restarts between two machines' deletion.
func TestDeleteCutShortIsFinished(t *testing.T) {
	w := newWorld(t)
	w.cloud.openHost()
	w.journal(w.home, w.cloud, 1)
	w.cloud.setFault(failing("Delete", db))
	req := control.DeleteJournalRequest{Group: group}
	if err := w.cloud.host.Delete(w.ctx, req); err == nil {
		t.Fatal("deleted")
	}
	w.cloud.setFault(nil)
	w.cloud.closeHost()
	w.cloud.openHost()
	w.must(w.cloud.host.Delete(w.ctx, req))
	w.must(w.cloud.host.Delete(w.ctx, req)) // repeated
	if list, err := w.cloud.driver.Machines(w.ctx); err != nil || len(list) > 0 {
		t.Errorf("left: %+v, %v", list, err)
	}
	if _, err := os.Stat(filepath.Join(w.cloud.dir, "journals", string(group))); !os.IsNotExist(err) {
		t.Errorf("the folder: %v", err)
	}
}

func TestDeleteWhileMachinesRunIsRefused(t *testing.T) {
	w := protect(t)
	pt := w.point(w.home)
	w.seal(w.cloud, 2)
	w.fence(w.home, 2)
	w.start(w.cloud, pt.Position, false)
	if err := w.cloud.host.Delete(w.ctx, control.DeleteJournalRequest{Group: group}); !problem.HasCode(err, problem.MachineRunning) {
		t.Errorf("delete: %v", err)
	}
	w.holds(w.cloud, "", w.snapshot())
}

// TestCommitIsRefused where it would not be of what runs.
func TestCommitIsRefused(t *testing.T) {
	w := protect(t)
	early := w.point(w.home)
	w.scribble(w.home)
	at := w.point(w.home).Position
	commit := func(pos dr.Position) error {
		_, err := w.cloud.host.Commit(w.ctx, control.CommitRequest{Group: group, Position: pos}, func(int64, int64) {})
		return err
	}
	if err := commit(at); !problem.HasCode(err, problem.MachineNotRunning) {
		t.Errorf("nothing runs: %v", err)
	}
	w.start(w.cloud, early.Position, true)
	if err := commit(early.Position); !problem.HasCode(err, problem.PointInUse) {
		t.Errorf("a test runs: %v", err)
	}
	w.discard(w.cloud, true)
	w.seal(w.cloud, 2)
	w.fence(w.home, 2)
	w.start(w.cloud, at, false)
	if err := commit(early.Position); !problem.HasCode(err, problem.OperationNotAllowed) {
		t.Errorf("another moment: %v", err)
	}
	w.must(w.cloud.driver.Crash(db))
	if err := commit(at); !problem.HasCode(err, problem.MachineNotRunning) {
		t.Errorf("one is off: %v", err)
	}
	if r := w.cloud.host.Reports()[0]; r.Phase != control.PhaseRecovered {
		t.Errorf("a refused commit left phase %s", r.Phase)
	}
}
