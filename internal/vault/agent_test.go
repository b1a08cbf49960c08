package vault_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/vault"
	"rebound/internal/vault/rest"
)

// agent enrols a machine's agent and returns how it registers.
func (l *lab) agent(m dr.MachineName) (register func(boot string) int) {
	l.t.Helper()
	e, err := l.c.EnrollAgent(l.t.Context(), m)
	if err != nil {
		l.t.Fatal(err)
	}
	cfg, err := l.identity("agent", string(m), e).ClientTLS(identity.RoleVault, "vault")
	if err != nil {
		l.t.Fatal(err)
	}
	hc := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg}}
	l.t.Cleanup(hc.CloseIdleConnections)
	return func(boot string) int {
		l.t.Helper()
		b, _ := json.Marshal(rest.AgentRegistration{BootID: boot, Booted: time.Now()})
		resp, err := hc.Post("https://"+l.addr+rest.AgentRegisterPath, "application/json", bytes.NewReader(b))
		if err != nil {
			l.t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
}

// TestAgentProvesTheBoot: with an agent known, a failover waits for its new
// boot id, and reprotect is refused until it has registered.
func TestAgentProvesTheBoot(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	p, err := l.c.Policy(t.Context(), "default")
	if err != nil {
		t.Fatal(err)
	}
	p.RequireAgent, p.BootTimeout = true, 1
	if _, err := l.c.PutPolicy(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	l.protected()
	one, two := l.agent("vm1"), l.agent("vm2")
	if s := one("boot-1"); s != http.StatusOK {
		t.Fatalf("register: %d", s)
	}
	two("boot-1")
	// Nobody registers: the job says so and goes on.
	job := l.operate(lifecycle.Failover, rest.OperationRequest{Mode: "planned"}, rest.JobWarning)
	if len(job.Warnings) != 2 || !strings.Contains(job.Warnings[0], "has not registered") {
		t.Errorf("warnings %v", job.Warnings)
	}
	l.operate(lifecycle.Commit, rest.OperationRequest{})
	one("boot-2")
	g := l.untilState("app", lifecycle.Committed)
	for _, s := range g.AllowedOperations {
		if s.Name == lifecycle.Reprotect && (s.Allowed || s.Code != problem.AgentNotInstalled || !strings.Contains(s.Reason, "vm2") || strings.Contains(s.Reason, "vm1")) {
			t.Errorf("reprotect with one agent pending: %+v", s)
		}
	}
	two("boot-2")
	l.reprotect(dr.Back)
}

// TestAgentCertificateEnding: a certificate that ends in a few days is a condition
// of the item, and a new one clears it.
func TestAgentCertificateEnding(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.protected()
	l.stop()
	l.life = 10 * 24 * time.Hour
	l.startVault()
	l.agent("vm1")("boot-1")
	c := l.appears("AgentCertificateEnding")
	if c.Severity != rest.SeverityWarning || !strings.Contains(c.Text, "vm1") {
		t.Errorf("condition %+v", c)
	}
	l.stop()
	l.life = 0
	l.startVault()
	l.agent("vm1")("boot-1")
	l.clears(c)
}

// TestOneVaultADirectory: the second process waits for the lease.
func TestOneVaultADirectory(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err := vault.Serve(ctx, vault.Config{Dir: l.dir, Listen: "127.0.0.1:0", Ready: func(net.Addr) { t.Error("two vaults on one directory") }})
	if !problem.HasCode(err, problem.StaleLease) {
		t.Errorf("second vault: %v", err)
	}
}
