package vaultkill

import (
	"os"
	"path/filepath"
	"testing"

	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/vault/backup"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

func makeDir(dir string) error { return os.MkdirAll(dir, 0o700) }

const secret = "correct horse battery staple"

func (l *lab) backup() string {
	l.t.Helper()
	out := filepath.Join(l.t.TempDir(), "vault.rbk")
	m, err := backup.Write(l.t.Context(), l.dir, out, backup.Options{Passphrase: secret, Program: "test"})
	l.must(err)
	if m.Vault == "" || len(m.Files) < 4 {
		l.t.Fatalf("manifest %+v", m)
	}
	return out
}

// restore takes the vault's directory away and starts what a backup makes.
func (l *lab) restore(file string) {
	l.t.Helper()
	l.stopVault()
	l.dir = filepath.Join(l.t.TempDir(), "restored")
	_, err := backup.Restore(l.t.Context(), file, l.dir, backup.Options{Passphrase: secret})
	l.must(err)
	l.startVault()
	l.connected() // with the certificates that they have
}

// TestBackupBeforeAFailover: a failover, and after it a commit, that a restored
// vault knows nothing of. It learns both from the gateways; no machine runs
// twice at any time, and the generation does not fall back.
func TestBackupBeforeAFailover(t *testing.T) {
	t.Parallel()
	l := newLab(t, 0)
	l.protect()
	file := l.backup()
	l.operate(lifecycle.Failover, rest.OperationRequest{Mode: "planned"})
	l.restore(file)
	if g := l.untilState(lifecycle.CommitPending); g.Generation != 2 || g.ActiveSite != "cloud" {
		t.Fatalf("learned %+v", g)
	}
	l.alone(l.cloud, l.home, 1)
	l.operate(lifecycle.Commit, rest.OperationRequest{})
	l.restore(file)
	if g := l.untilState(lifecycle.Committed); g.Generation != 2 || g.ActiveSite != "cloud" || g.Direction != dr.Back {
		t.Fatalf("learned %+v", g)
	}
	l.alone(l.cloud, l.home, 1)
	l.operate(lifecycle.Reprotect, rest.OperationRequest{})
	l.untilState(lifecycle.Protected)
}

// TestBackupInTheMiddleOfAFailover: the job of the backup's moment was finished
// and taken back since. It ends visibly and does nothing any more.
func TestBackupInTheMiddleOfAFailover(t *testing.T) {
	t.Parallel()
	l := newLab(t, 0)
	l.protect()
	l.arm("raise-generation after")
	l.until("failover is allowed", func() bool { return l.allowed(lifecycle.Failover) })
	_, _ = l.c.Operate(t.Context(), client.GroupTarget(app), lifecycle.Failover, rest.OperationRequest{Mode: "planned"})
	end := <-l.vault.done
	l.vault.done <- end
	if !killed(end) {
		t.Fatalf("the vault ended: %v", end)
	}
	l.arm()
	file := l.backup()
	l.startVault()
	l.connected()
	l.untilState(lifecycle.CommitPending)
	l.operate(lifecycle.Undo, rest.OperationRequest{})
	g := l.untilState(lifecycle.Protected)
	l.effects()

	l.restore(file)
	after := l.untilState(lifecycle.Protected)
	if after.Generation < g.Generation || after.ActiveSite != "home" {
		t.Errorf("learned %+v, was %+v", after, g)
	}
	jobs, err := l.c.Jobs(t.Context(), app)
	l.must(err)
	if jobs[0].Operation != lifecycle.Failover || jobs[0].State != rest.JobFailed || len(jobs[0].Errors) == 0 || jobs[0].Errors[0].Code != problem.StateUnconfirmed {
		t.Errorf("the job of the backup is %s: %+v", jobs[0].State, jobs[0].Errors)
	}
	for _, e := range l.effects() {
		t.Errorf("the restored vault did %s", e)
	}
	l.alone(l.home, l.cloud, 1)
	l.operate(lifecycle.Failover, rest.OperationRequest{Mode: "planned"})
	l.alone(l.cloud, l.home, 1)
}

// TestBackupBeforeADisable: a group that was disabled after the backup is gone,
// and its machines can be protected again.
func TestBackupBeforeADisable(t *testing.T) {
	t.Parallel()
	l := newLab(t, 0)
	l.protect()
	file := l.backup()
	job, err := l.c.Operate(t.Context(), client.GroupTarget(app), lifecycle.Disable, rest.OperationRequest{})
	l.must(err)
	_, err = l.c.WaitJob(t.Context(), job.ID, nil)
	l.must(err)
	l.restore(file)
	l.until("the group is gone", func() bool { _, err := l.group(); return problem.HasCode(err, problem.UnknownGroup) })
	job, err = l.c.Protect(t.Context(), rest.ProtectRequest{Machines: members, To: "cloud", Group: app})
	l.must(err)
	_, err = l.c.WaitJob(t.Context(), job.ID, nil)
	l.must(err)
	if g := l.untilState(lifecycle.Protected); g.Generation < 2 {
		t.Errorf("the generation fell back to %d", g.Generation)
	}
}
