package vaultkill

import (
	"path/filepath"
	"strings"
	"testing"

	"rebound/internal/dr"
	"rebound/internal/gateway"
	"rebound/internal/lifecycle"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// operate runs an operation to its end.
func (l *lab) operate(op lifecycle.Operation, req rest.OperationRequest) rest.Job {
	l.t.Helper()
	l.until(string(op)+" is allowed", func() bool { return l.allowed(op) })
	job, err := l.c.Operate(l.t.Context(), client.GroupTarget(app), op, req)
	l.must(err)
	job, err = l.c.WaitJob(l.t.Context(), job.ID, nil)
	l.must(err)
	if job.State != rest.JobSucceeded && job.State != rest.JobWarning {
		l.t.Fatalf("%s is %s: %+v", op, job.State, job.Errors)
	}
	return job
}

func (l *lab) protect() {
	l.t.Helper()
	l.addMachines()
	job, err := l.c.Protect(l.t.Context(), rest.ProtectRequest{Machines: members, To: "cloud", Group: app})
	l.must(err)
	_, err = l.c.WaitJob(l.t.Context(), job.ID, nil)
	l.must(err)
	l.untilState(lifecycle.Protected)
}

// loseVault takes the vault's directory away and starts a new vault at its
// address, of which nobody knows; the named gateways join it.
func (l *lab) loseVault(join ...*place) {
	l.t.Helper()
	l.stopVault()
	l.dir, l.c = filepath.Join(l.t.TempDir(), "vault"), nil
	l.must(makeDir(l.dir))
	l.startVault()
	for _, s := range []*place{l.home, l.cloud} {
		_, err := l.c.CreateSite(l.t.Context(), rest.NewSite{ID: s.at})
		l.must(err)
	}
	for _, s := range join {
		e, err := l.c.EnrollGateway(l.t.Context(), rest.NewGateway{ID: s.name, Site: s.at})
		l.must(err)
		s.do(order{Do: "stop"})
		_, err = gateway.Rejoin(l.t.Context(), s.dir, l.addr, e.Passphrase, []byte(e.CA))
		l.must(err)
		s.do(order{Do: "start"})
		l.until(string(s.name)+" is connected", func() bool {
			g, err := l.c.Gateway(l.t.Context(), s.name)
			return err == nil && g.Connected
		})
	}
}

func (l *lab) adopt(req rest.AdoptRequest, result string) rest.AdoptedGroup {
	l.t.Helper()
	out, err := l.c.Adopt(l.t.Context(), req)
	l.must(err)
	if len(out.Groups) != 1 || out.Groups[0].Group != app || out.Groups[0].Result != result {
		l.t.Fatalf("adopt %+v: %+v, want %s", req, out, result)
	}
	if len(out.Unknown) == 0 {
		l.t.Error("the answer does not say what is not known")
	}
	return out.Groups[0]
}

// alone demands that each machine runs at one site only, with the content.
func (l *lab) alone(at, other *place, content byte) {
	l.t.Helper()
	here, there := at.machines(), other.machines()
	for i, m := range members {
		if here[m].State != "running" || here[m].Byte != content+byte(i) {
			l.t.Errorf("%s at %s: %+v, want it running with %d", m, at.at, here[m], content+byte(i))
		}
		if v, ok := there[m]; ok && v.State == "running" {
			l.t.Errorf("%s runs at %s too", m, other.at)
		}
	}
}

// TestVaultLostAndRebuilt: at each resting place of the round trip the vault's
// directory is lost. A new vault learns from the gateways alone how things
// stand, and the trip goes on.
func TestVaultLostAndRebuilt(t *testing.T) {
	t.Parallel()
	l := newLab(t, 0)
	l.protect()

	l.loseVault(l.home, l.cloud)
	if g := l.adopt(rest.AdoptRequest{DryRun: true}, "adopted"); g.Generation != 1 || g.Active != "home" {
		t.Errorf("dry run: %+v", g)
	}
	if _, err := l.group(); err == nil {
		t.Error("the dry run made the group")
	}
	l.adopt(rest.AdoptRequest{}, "adopted")
	l.adopt(rest.AdoptRequest{}, "known")
	l.untilState(lifecycle.Protected)
	l.operate(lifecycle.Failover, rest.OperationRequest{Mode: "planned"})
	l.alone(l.cloud, l.home, 1)

	l.loseVault(l.home, l.cloud)
	l.adopt(rest.AdoptRequest{}, "adopted")
	if g := l.untilState(lifecycle.CommitPending); g.Generation != 2 || g.ActiveSite != "cloud" || g.Direction != dr.Forward {
		t.Fatalf("in the middle of a failover: %+v", g)
	}
	l.alone(l.cloud, l.home, 1)
	l.operate(lifecycle.Commit, rest.OperationRequest{})

	l.loseVault(l.home, l.cloud)
	l.adopt(rest.AdoptRequest{}, "adopted")
	if g := l.untilState(lifecycle.Committed); g.Generation != 2 || g.ActiveSite != "cloud" || g.Direction != dr.Back {
		t.Fatalf("after a commit: %+v", g)
	}
	l.operate(lifecycle.Reprotect, rest.OperationRequest{})
	l.untilState(lifecycle.Protected)

	l.loseVault(l.home, l.cloud)
	l.adopt(rest.AdoptRequest{}, "adopted")
	if g := l.untilState(lifecycle.Protected); g.Direction != dr.Back || g.ActiveSite != "cloud" {
		t.Fatalf("after a reprotect: %+v", g)
	}
	l.operate(lifecycle.Failback, rest.OperationRequest{Mode: "planned"})
	l.operate(lifecycle.Commit, rest.OperationRequest{})
	l.alone(l.home, l.cloud, 1)
}

// TestVaultAndSiteLost: with the home site gone too, the word of the one gateway
// that is left is enough, when it is asked for.
func TestVaultAndSiteLost(t *testing.T) {
	t.Parallel()
	l := newLab(t, 0)
	l.protect()
	l.home.do(order{Do: "stop"})
	l.loseVault(l.cloud)
	if g := l.adopt(rest.AdoptRequest{}, "refused"); !strings.Contains(strings.Join(g.Notes, " "), "gw-home") {
		t.Errorf("refused with %v", g.Notes)
	}
	g := l.adopt(rest.AdoptRequest{Partial: true}, "adopted")
	if g.State != lifecycle.Tracking || !strings.Contains(strings.Join(g.Notes, " "), "gw-home") {
		t.Errorf("adopted: %+v", g)
	}
	l.operate(lifecycle.Failover, rest.OperationRequest{Mode: "unplanned"})
	for i, m := range members {
		if v := l.cloud.machines()[m]; v.State != "running" || v.Byte != byte(i+1) {
			t.Errorf("%s: %+v", m, v)
		}
	}
	l.home.do(order{Do: "start"}) // for the clean-up
}
