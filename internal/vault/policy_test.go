package vault_test

import (
	"testing"
	"time"

	"rebound/internal/control"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
)

func goldPolicy() rest.Policy {
	return rest.Policy{
		ID: "gold", RPOThreshold: 60, CrashInterval: 30, AppInterval: 600, RedoWindow: 7200, Retention: 86400, Compression: "s2",
		ShutdownTimeout: 60, BootTimeout: 60,
	}
}

// TestFailbackPolicyIsMade: each policy comes with one for the way back, of
// values of its own, and it can be changed.
func TestFailbackPolicyIsMade(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	made, err := l.c.PutPolicy(t.Context(), goldPolicy())
	if err != nil {
		t.Fatal(err)
	}
	f := made.Failback
	if f == nil || f.RPOThreshold != 15*60 || f.Retention != 24*3600 || f.AppInterval != 60*60 {
		t.Fatalf("the failback policy is %+v", f)
	}
	changed := made
	own := *f
	own.RPOThreshold = 1234
	changed.Failback = &own
	if _, err := l.c.PutPolicy(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
	without := goldPolicy()
	without.RPOThreshold = 61
	kept, err := l.c.PutPolicy(t.Context(), without)
	if err != nil {
		t.Fatal(err)
	}
	if kept.Failback == nil || kept.Failback.RPOThreshold != 1234 || kept.RPOThreshold != 61 {
		t.Errorf("a change of the policy alone left %+v, failback %+v", kept, kept.Failback)
	}
}

func TestPolicyValuesMustFit(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for name, change := range map[string]func(*rest.Policy){
		"app points are rarer than what is kept": func(p *rest.Policy) { p.AppInterval = p.Retention },
		"without a retention the redo window is": func(p *rest.Policy) { p.Retention, p.AppInterval = 0, p.RedoWindow },
		"less is kept than the redo window":      func(p *rest.Policy) { p.Retention = p.RedoWindow - 1 },
		"more than 30 days":                      func(p *rest.Policy) { p.Retention = 30*86400 + 1 },
		"another compression":                    func(p *rest.Policy) { p.Compression = "zip" },
		"another word for unmapped networks":     func(p *rest.Policy) { p.UnmappedNetworks = "guess" },
		"no time between points":                 func(p *rest.Policy) { p.CrashInterval = 0 },
		"the failback policy too": func(p *rest.Policy) {
			f := rest.NewFailbackPolicy(*p)
			f.AppInterval = f.Retention
			p.Failback = &f
		},
	} {
		p := goldPolicy()
		change(&p)
		if _, err := l.c.PutPolicy(t.Context(), p); !problem.HasCode(err, problem.InvalidRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := l.c.Policy(t.Context(), "gold"); !problem.HasCode(err, problem.UnknownPolicy) {
		t.Errorf("a refused policy was kept: %v", err)
	}
}

// TestPolicyChangeReachesItsItems: at once, without a command, and at a gateway
// that was away when it is back; in the direction back the failback policy holds.
func TestPolicyChangeReachesItsItems(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	p, err := l.c.Policy(t.Context(), "default")
	if err != nil {
		t.Fatal(err)
	}
	starts := l.world.Count("StartReplication", "app")
	l.cloud.Stop()
	p.CrashInterval, p.AppInterval, p.RedoWindow, p.Retention = 11, 700, 7300, 90000
	p.Failback.CrashInterval, p.Failback.AppInterval, p.Failback.RedoWindow = 22, 800, 7400
	if _, err := l.c.PutPolicy(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	l.until("the source goes by the new policy", func() bool {
		got := l.home.Policy("app")
		return got.CrashInterval == 11*time.Second && got.AppInterval == 700*time.Second
	})
	l.startGateway(l.cloud)
	want := control.PolicySettings{RedoWindow: 7300 * time.Second, Retention: 90000 * time.Second}
	l.until("the standby, which was away, goes by it too", func() bool { return l.cloud.Policy("app") == want })
	if n := l.world.Count("StartReplication", "app"); n != starts {
		t.Errorf("the stream was started %d times more", n-starts)
	}

	l.untilState("app", lifecycle.Protected)
	l.operate(lifecycle.Failover, rest.OperationRequest{Mode: "planned"})
	l.untilState("app", lifecycle.CommitPending)
	l.operate(lifecycle.Commit, rest.OperationRequest{})
	l.operate(lifecycle.Reprotect, rest.OperationRequest{})
	if got := l.cloud.Policy("app"); got.CrashInterval != 22*time.Second || got.AppInterval != 800*time.Second {
		t.Errorf("on the way back the source goes by %+v", got)
	}
	if got := l.home.Policy("app"); got.RedoWindow != 7400*time.Second || got.Retention != 86400*time.Second {
		t.Errorf("on the way back the standby goes by %+v", got)
	}
	g, err := l.c.Group(t.Context(), "app")
	if err != nil || g.RPO.ThresholdSeconds != 900 {
		t.Errorf("on the way back the RPO threshold is %d s, %v", g.RPO.ThresholdSeconds, err)
	}
	if err := l.c.DeletePolicy(t.Context(), "default"); !problem.HasCode(err, problem.OperationNotAllowed) {
		t.Errorf("a policy in use was deleted: %v", err)
	}
}
