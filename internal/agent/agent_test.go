package agent

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"rebound/internal/agent/agenttest"
	"rebound/internal/identity"
	"rebound/internal/problem"
)

func config(v *agenttest.Vault, dir string) Config {
	return Config{Vault: "https://" + v.Addr, Machine: "alpha", Passphrase: "once", CA: v.CA.PEM(), StateDir: dir, Interval: 5 * time.Millisecond}
}

// runAgent runs an agent until the returned function is called.
func runAgent(t *testing.T, cfg Config) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg) }()
	return func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("agent ended with %v", err)
		}
	}
}

func TestEnrolRegisterHeartbeat(t *testing.T) {
	v, dir := agenttest.New(t), filepath.Join(t.TempDir(), "agent")
	v.Fail(2) // it tries again
	stop := runAgent(t, config(v, dir))
	v.Until("heartbeats", func(s agenttest.State) bool { return s.Heartbeats > 3 })
	stop()
	if r := v.State().Registered; len(r) != 1 || r[0].BootID == "" || time.Since(r[0].Booted) < 0 || r[0].Booted.IsZero() {
		t.Errorf("registered %+v", r)
	}
	if st, err := os.Stat(filepath.Join(dir, "key.pem")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("key: %v, %v", st, err)
	}

	// The next boot needs no passphrase.
	cfg := config(v, dir)
	cfg.Passphrase, cfg.CA, cfg.BootID = "", nil, "second"
	stop = runAgent(t, cfg)
	v.Until("second registration", func(s agenttest.State) bool { return len(s.Registered) == 2 && s.Registered[1].BootID == "second" })
	stop()
}

// TestOutage: after an outage the agent registers anew, by itself.
func TestOutage(t *testing.T) {
	v, dir := agenttest.New(t), t.TempDir()
	stop := runAgent(t, config(v, dir))
	defer stop()
	v.Until("heartbeats", func(s agenttest.State) bool { return s.Heartbeats > 1 })
	v.Fail(2)
	v.Until("registration after the outage", func(s agenttest.State) bool { return len(s.Registered) == 2 })
}

func TestRefused(t *testing.T) {
	v, other := agenttest.New(t), agenttest.New(t)
	saved := t.TempDir()
	b, err := v.CA.Issue(identity.RoleAgent, "beta", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Save(saved); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		change func(*Config)
		code   problem.Code
	}{
		{"wrong passphrase", func(c *Config) { c.Passphrase = "guess" }, problem.NotAuthenticated},
		{"no passphrase", func(c *Config) { c.Passphrase = "" }, problem.NotAuthenticated},
		{"other vault", func(c *Config) { c.CA = other.CA.PEM() }, problem.WrongVault},
		{"no certificate", func(c *Config) { c.CA = []byte("junk") }, problem.InvalidRequest},
		{"other machine's identity", func(c *Config) { c.StateDir = saved }, problem.NotAuthenticated},
		{"bad name", func(c *Config) { c.Machine = "a b" }, problem.InvalidName},
		{"plain http", func(c *Config) { c.Vault = "http://" + v.Addr }, problem.InvalidRequest},
		{"no state directory", func(c *Config) { c.StateDir = "" }, problem.InvalidRequest},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := config(v, t.TempDir())
			tc.change(&cfg)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := Run(ctx, cfg); !problem.HasCode(err, tc.code) {
				t.Errorf("Run = %v, want %s", err, tc.code)
			}
		})
	}
	if v.State().Enrolled {
		t.Error("a refused enrolment used the passphrase up")
	}
}
