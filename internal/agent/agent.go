// Package agent is the mobility agent: it runs in a machine (physical, or a
// guest on any site), enrols with the vault by a passphrase that works once,
// registers after each boot and sends heartbeats. So the vault knows that a
// machine has really booted, and which boot it is in.
//
// It promises that its key never leaves the machine, that it speaks only to
// the vault whose CA it was given, and that it goes on by itself after any
// outage of vault or network. "rebound agent" and the lab's guests run it.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/problem"
)

const (
	// DefaultInterval is the time between heartbeats. The vault calls a
	// machine critical after 15 minutes without one.
	DefaultInterval = 5 * time.Second
	// firstRetry and lastRetry bound the wait after a failure.
	firstRetry = 200 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// Config configures an agent.
type Config struct {
	// Vault is its address, "https://host:8443" or "host:8443".
	Vault   string
	Machine string
	// Passphrase is needed for the first start only; it works once.
	Passphrase string
	// CA is the vault's certificate, PEM; needed for the first start only.
	CA []byte
	// StateDir keeps the identity: key, certificate and the vault's CA.
	StateDir string
	// BootID is the boot that is reported; empty reads the kernel's.
	BootID  string
	Version string
	// Interval is the time between heartbeats; 0 is DefaultInterval.
	Interval time.Duration
	Logger   *slog.Logger // nil: discard
	// Numbers are counted when they are not nil.
	Numbers *Numbers
}

// Validate checks the fields and fills in defaults.
func (c *Config) Validate() error {
	addr, err := vaultAddr(c.Vault)
	if err != nil {
		return err
	}
	c.Vault = addr
	if err := dr.ValidName(c.Machine); err != nil {
		return problem.Wrap(err, problem.InvalidName, "machine")
	}
	if c.StateDir == "" {
		return problem.New(problem.InvalidRequest, "the agent has no state directory")
	}
	if c.Interval < 0 {
		return problem.New(problem.InvalidRequest, "heartbeat interval %v", c.Interval)
	}
	if c.Interval == 0 {
		c.Interval = DefaultInterval
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// vaultAddr returns host:port of a vault's address.
func vaultAddr(s string) (string, error) {
	if !strings.Contains(s, "://") {
		s = "https://" + s
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" {
		return "", problem.New(problem.InvalidRequest, "vault %q: want https://HOST:PORT", s)
	}
	port := u.Port()
	if port == "" {
		port = "8443"
	}
	return u.Hostname() + ":" + port, nil
}

// Run enrols when needed, then reports until ctx ends, which is no error. It
// returns a problem when the configuration is wrong or the vault refuses the
// enrolment; a vault that cannot be reached is tried again for ever.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	SetAddresses(cfg.Logger) // the vault may be reached by them only
	booted, err := bootTime()
	if err != nil {
		return err
	}
	if cfg.BootID == "" {
		if cfg.BootID, err = readBootID(); err != nil {
			return err
		}
	}
	if _, err := enrolled(ctx, cfg); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	id, err := identity.OpenHolder(cfg.StateDir)
	if err != nil {
		return fmt.Errorf("load agent's identity: %w", err)
	}
	s := newSession(cfg, id, booted)
	defer s.close()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { _ = control.KeepRenewed(ctx, cfg.Vault, id, cfg.Logger) }) // ends with ctx
	s.report(ctx)
	cancel()
	wg.Wait()
	return nil
}

// enrolled returns the saved identity, or enrols.
func enrolled(ctx context.Context, cfg Config) (identity.Bundle, error) {
	id, err := identity.LoadBundle(cfg.StateDir)
	if err == nil {
		return id, checkIdentity(id, cfg)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return id, fmt.Errorf("load agent's identity: %w", err)
	}
	if cfg.Passphrase == "" || len(cfg.CA) == 0 {
		return id, problem.New(problem.NotAuthenticated, "machine %s has not enrolled: a passphrase and the vault's CA certificate are needed", cfg.Machine)
	}
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return id, fmt.Errorf("make state directory: %w", err)
	}
	tlsConf, err := identity.PinnedTLS(cfg.CA)
	if err != nil {
		return id, problem.Wrap(err, problem.InvalidRequest, "the vault's CA certificate cannot be used")
	}
	key, csr, err := identity.PendingRequest(cfg.StateDir, cfg.Machine)
	if err != nil {
		return id, err
	}
	req := control.EnrollRequest{Role: string(identity.RoleAgent), Name: cfg.Machine, Passphrase: cfg.Passphrase, CSR: string(csr)}
	enrol := func() (control.EnrollResponse, error) {
		res, err := control.Enroll(ctx, cfg.Vault, tlsConf, req)
		if err != nil && permanent(err) {
			return res, backoff.Permanent(err)
		}
		return res, err
	}
	notify := func(err error, wait time.Duration) {
		cfg.Logger.Warn("enrolment failed, will try again", "vault", cfg.Vault, "wait", wait, "error", err)
	}
	res, err := backoff.Retry(ctx, enrol, backoff.WithBackOff(newBackOff()), backoff.WithMaxElapsedTime(0), backoff.WithNotify(notify))
	if err != nil {
		return id, err
	}
	id = identity.Bundle{CA: cfg.CA, Cert: []byte(res.Certificate), Key: key}
	if err := checkIdentity(id, cfg); err != nil {
		return id, err
	}
	if err := id.Save(cfg.StateDir); err != nil {
		return id, fmt.Errorf("save agent's identity: %w", err)
	}
	if err := syncDirs(cfg.StateDir, filepath.Dir(cfg.StateDir)); err != nil {
		return id, err
	}
	if err := identity.ClearPending(cfg.StateDir); err != nil {
		return id, err
	}
	cfg.Logger.Info("enrolled", "vault", res.Vault, "machine", cfg.Machine)
	return id, nil
}

// syncDirs makes names in directories durable: the passphrase is used up, so a
// power cut must not take the identity away again.
func syncDirs(dirs ...string) error {
	for _, dir := range dirs {
		f, err := os.Open(dir)
		if err == nil {
			err = errors.Join(f.Sync(), f.Close())
		}
		if err != nil {
			return fmt.Errorf("sync %s: %w", dir, err)
		}
	}
	return nil
}

// checkIdentity refuses an identity that is not this machine's agent's.
func checkIdentity(id identity.Bundle, cfg Config) error {
	self, err := id.Self()
	if err != nil {
		return fmt.Errorf("read agent's identity: %w", err)
	}
	if self.Role != identity.RoleAgent || self.Name != cfg.Machine {
		return problem.New(problem.NotAuthenticated, "the certificate is that of %s, not of the agent of machine %s", self, cfg.Machine)
	}
	return nil
}

// permanent says that asking again cannot help.
func permanent(err error) bool {
	switch problem.From(err).Kind {
	case problem.NotAllowed, problem.Invalid, problem.NotFound, problem.Conflict:
		return true
	}
	return false
}

func newBackOff() *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval = firstRetry, lastRetry
	return b
}

func readBootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// bootTime returns when the kernel started, by the machine's clock
// (proc(5): btime in /proc/stat).
func bootTime() (time.Time, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return time.Time{}, fmt.Errorf("read boot time: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if text, ok := strings.CutPrefix(line, "btime "); ok {
			sec, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
			if err != nil {
				return time.Time{}, fmt.Errorf("read boot time: %w", err)
			}
			return time.Unix(sec, 0).UTC(), nil
		}
	}
	return time.Time{}, errors.New("read boot time: /proc/stat has none")
}
