package vault_test

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"rebound/internal/control"
	"rebound/internal/control/controltest"
	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/lifecycle"
	"rebound/internal/site"
	"rebound/internal/vault/rest"
)

// unpackOld writes a stored vault directory of an older program to dir.
func unpackOld(t *testing.T, name, dir string) {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zip, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for in := tar.NewReader(zip); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(h.Name)), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNewerProgramFinishesAnOldJob opens the directory of a vault of schema 1,
// which was killed before its failover raised the generation: the source is
// shut down and drained. Today's program brings both databases to its schema
// and finishes the job by the tasks that the older one had planned.
func TestNewerProgramFinishesAnOldJob(t *testing.T) {
	t.Parallel()
	l := &lab{t: t, dir: t.TempDir(), addr: freeAddr(t), log: testLog(t), world: controltest.NewWorld(), ids: map[*controltest.Gateway]identity.Bundle{}}
	unpackOld(t, "schema-1.tar.gz", l.dir)
	l.startVault()
	t.Cleanup(func() {
		for _, g := range []*controltest.Gateway{l.home, l.cloud} {
			if g != nil {
				g.Stop()
			}
		}
		if l.stop != nil {
			l.stop()
		}
	})
	l.home, l.cloud = l.oldGateway("gw-home", "home"), l.oldGateway("gw-cloud", "cloud")
	l.asTheOldVaultLeftIt()
	l.startGateway(l.home)
	l.startGateway(l.cloud)

	g := l.untilState("app", lifecycle.CommitPending)
	if g.Generation != 2 || g.ActiveSite != "cloud" {
		t.Errorf("generation %d, active %s", g.Generation, g.ActiveSite)
	}
	job, err := l.c.Job(t.Context(), g.LastJob)
	if err != nil || job.State != rest.JobSucceeded && job.State != rest.JobWarning {
		t.Fatalf("the old job is %s (%v): %+v", job.State, err, job.Errors)
	}
	for _, vm := range []dr.MachineName{"vm1", "vm2"} {
		if n := l.world.Count("StartRecovered", string(vm)); n != 1 {
			t.Errorf("%s was started %d times", vm, n)
		}
		if _, state, _ := l.home.Content(vm); state != site.Off {
			t.Errorf("%s at home is %q", vm, state)
		}
	}
	l.operate(lifecycle.Commit, rest.OperationRequest{})
}

// oldGateway enrols a gateway anew that the old vault knows: the certificates
// of its time have ended.
func (l *lab) oldGateway(id dr.GatewayID, at dr.SiteID) *controltest.Gateway {
	l.t.Helper()
	e, err := l.c.EnrollGateway(l.t.Context(), rest.NewGateway{ID: id, Site: at})
	if err != nil {
		l.t.Fatal(err)
	}
	g := l.world.NewGateway(id, at, filepath.Join(l.t.TempDir(), "ledger"))
	l.ids[g] = l.identity("gateway", string(id), e)
	return g
}

// asTheOldVaultLeftIt brings the gateways to where the old vault had brought
// them: a journal with a drained stream, and the source's machines off.
func (l *lab) asTheOldVaultLeftIt() {
	l.t.Helper()
	ctx := l.t.Context()
	must := func(err error) {
		l.t.Helper()
		if err != nil {
			l.t.Fatal(err)
		}
	}
	var defs []dr.Definition
	var disks []dr.GroupDisk
	for _, vm := range []dr.MachineName{"vm1", "vm2"} {
		l.home.AddMachine(vm)
		l.home.Write(vm)
		disks = append(disks, dr.GroupDisk{Machine: vm, Disk: "disk0", SizeBytes: 1 << 20})
	}
	inv, err := l.home.Inventory(ctx)
	must(err)
	for _, m := range inv.Machines {
		defs = append(defs, m.Definition)
	}
	_, err = l.cloud.CreateJournal(ctx, control.Origin{}, control.CreateJournalRequest{Group: "app", Generation: 1, Source: "gw-home", Definitions: defs, Disks: disks})
	must(err)
	must(l.home.StartReplication(ctx, control.Origin{}, control.ReplicationSpec{Group: "app", Generation: 1, Disks: disks, Standby: "gw-cloud"}))
	for _, d := range disks {
		must(l.home.StopMachine(ctx, control.Origin{}, control.StopRequest{Machine: d.Machine}))
	}
	_, err = l.home.StopReplication(ctx, control.Origin{}, control.StopReplicationRequest{Group: "app", Drain: true})
	must(err)
}
