// Package vault is the control plane: it puts store, live, orchestrator and
// API together behind one HTTPS address. Serve is what 'rebound vault serve'
// runs; it promises that a vault started again on the same directory goes on
// with every job, and that guest data never passes through it.
package vault

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/renameio/v2"
	"github.com/google/uuid"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/lifecycle"
	"rebound/internal/logging"
	"rebound/internal/metrics"
	"rebound/internal/orchestrator"
	"rebound/internal/vault/api"
	"rebound/internal/vault/live"
	"rebound/internal/vault/monitor"
	"rebound/internal/vault/portal"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
	"rebound/internal/vault/webhook"
)

// The files of a vault's directory that others read.
const (
	// CAFile is the vault's certificate, for the command line, gateways
	// and agents to pin.
	CAFile = "vault-ca.pem"
	// TokenFile holds the first token, an owner's.
	TokenFile = "first-token"
)

// serverLife is how long the vault's own certificate lasts; each start makes a
// new one, and a vault that runs for long renews it.
const serverLife = 365 * 24 * time.Hour

// Config of a vault.
type Config struct {
	// Dir holds everything that the vault remembers. Needed.
	Dir string
	// Listen is the address, by default ":8443".
	Listen string
	// Hosts are further names and addresses in the vault's certificate.
	Hosts []string
	// CertificateLife is how long the certificates of gateways and agents
	// last, by default 90 days; they renew them after two thirds of it.
	CertificateLife time.Duration
	// Version is shown by the API.
	Version string
	Log     *slog.Logger
	// Recent holds the newest lines of Log, for support bundles; may be nil.
	Recent *logging.Recent
	// Metrics is a further address, without TLS and tokens, for the metrics
	// alone; "" for none.
	Metrics string
	// Now is the vault's clock, by default time.Now.
	Now func() time.Time
	// Ready is told the address once requests are answered; may be nil.
	Ready func(addr net.Addr)
	// FirstToken is told the first token when one is made; may be nil.
	FirstToken func(secret string)
	// Hook is orchestrator.Config.Hook, for tests.
	Hook func(job dr.JobID, task, moment string)
	// Guards are orchestrator.Config.Guards, for tests.
	Guards map[lifecycle.GuardName]lifecycle.Guard
}

func (c *Config) complete() error {
	if c.Dir == "" {
		return errors.New("serve vault: no directory")
	}
	if c.Listen == "" {
		c.Listen = ":8443"
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return os.MkdirAll(c.Dir, 0o700)
}

// Serve runs a vault until ctx ends. Jobs stop where they are and go on with
// the next Serve.
func Serve(ctx context.Context, c Config) error {
	if err := c.complete(); err != nil {
		return err
	}
	st, err := store.Open(ctx, filepath.Join(c.Dir, "vault.db"))
	if err != nil {
		return err
	}
	defer st.Close()
	ca, err := prepare(ctx, st, c)
	if err != nil {
		return err
	}
	ln, err := listen(ctx, c, ca)
	if err != nil {
		return err
	}
	defer ln.Close()
	return run(ctx, c, st, ca, ln)
}

func run(ctx context.Context, c Config, st *store.Store, ca *identity.CA, ln net.Listener) error {
	mem, err := remembered(ctx, st)
	if err != nil {
		return err
	}
	hub := control.NewHub()
	var server atomic.Pointer[api.Server]
	jobs, err := orchestrator.Open(ctx, orchestrator.Config{
		Dir: c.Dir, Store: st, Live: mem, Gateways: hub, Log: c.Log, Now: c.Now, Hook: c.Hook, Guards: c.Guards,
		Ended: func(rest.Job) {
			if s := server.Load(); s != nil {
				s.Refresh()
			}
		},
	})
	if err != nil {
		return err
	}
	watch, err := monitor.Open(ctx, monitor.Config{
		Store: st, Live: mem, Connected: hub.Connected, Vault: ca.Vault(), CAEnds: ca.Ends(), Dir: c.Dir, Log: c.Log, Now: c.Now,
	})
	if err != nil {
		return errors.Join(err, jobs.Close())
	}
	hooks := webhook.New(webhook.Config{Store: st, Vault: ca.Vault(), Log: c.Log, Now: c.Now})
	srv := api.New(ctx, api.Config{Store: st, Live: mem, Jobs: jobs, Hub: hub, Health: watch, Hooks: hooks, Recent: c.Recent, CA: ca, CertificateLife: c.CertificateLife, Log: c.Log, Now: c.Now, Version: c.Version})
	server.Store(srv)
	pages, err := portal.New(portal.Config{API: srv, Log: c.Log, Now: c.Now, Version: c.Version})
	if err != nil {
		srv.Close()
		return errors.Join(err, jobs.Close())
	}
	hs := &http.Server{Handler: pages, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, ErrorLog: slog.NewLogLogger(c.Log.Handler(), slog.LevelDebug)}
	var beside sync.WaitGroup
	side, endSide := context.WithCancel(context.WithoutCancel(ctx))
	beside.Go(func() { watch.Run(side) })
	beside.Go(func() { hooks.Run(side) })
	served := make(chan error, 2)
	if c.Metrics != "" {
		beside.Go(func() {
			if err := metrics.Serve(side, c.Metrics, c.Log, srv.MetricSource()); err != nil {
				served <- err
			}
		})
	}
	go func() { served <- hs.Serve(ln) }()
	if c.Ready != nil {
		c.Ready(ln.Addr())
	}
	select {
	case <-ctx.Done():
	case err = <-served:
	}
	// Jobs first: a step that is cut short must not see its gateway go away
	// and take that for a failure.
	closeErr := jobs.Close()
	endSide()
	beside.Wait()
	srv.Close()
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if e := hs.Shutdown(stop); e != nil {
		closeErr = errors.Join(closeErr, hs.Close())
	}
	return errors.Join(err, closeErr)
}

// prepare makes what a new directory lacks: the vault's id and authority, the
// default policy, the first token.
func prepare(ctx context.Context, st *store.Store, c Config) (*identity.CA, error) {
	var id string
	var first *rest.TokenSecret
	err := st.Update(ctx, func(tx *store.Tx) error {
		var err error
		if id, err = tx.Meta("vault-id"); err != nil {
			return err
		}
		if id == "" {
			id = uuid.NewString()
			if err := tx.SetMeta("vault-id", id); err != nil {
				return err
			}
			if err := tx.InsertPolicy(orchestrator.DefaultPolicy()); err != nil {
				return err
			}
		}
		toks, err := tx.Tokens()
		if err != nil || len(toks) > 0 {
			return err
		}
		t := api.NewToken(rest.NewToken{Name: "first", Role: "owner"}, c.Now())
		first = &t
		// The file before the row is committed: a token that nobody can
		// read would lock everybody out.
		if err := renameio.WriteFile(filepath.Join(c.Dir, TokenFile), []byte(t.Secret+"\n"), 0o600); err != nil {
			return err
		}
		return tx.InsertToken(t.Token, t.Secret)
	})
	if err != nil {
		return nil, fmt.Errorf("prepare vault: %w", err)
	}
	ca, err := identity.OpenCA(c.Dir, id)
	if err != nil {
		return nil, err
	}
	if err := renameio.WriteFile(filepath.Join(c.Dir, CAFile), ca.PEM(), 0o644); err != nil {
		return nil, fmt.Errorf("write the vault's certificate: %w", err)
	}
	if first != nil && c.FirstToken != nil {
		c.FirstToken(first.Secret)
	}
	return ca, nil
}

func listen(ctx context.Context, c Config, ca *identity.CA) (net.Listener, error) {
	hosts := append([]string{"localhost", "127.0.0.1", "::1"}, c.Hosts...)
	if h, _, err := net.SplitHostPort(c.Listen); err == nil && h != "" {
		hosts = append(hosts, h)
	}
	issue := func() (identity.Bundle, error) { return ca.Issue(identity.RoleVault, "vault", serverLife, hosts...) }
	bundle, err := issue()
	if err != nil {
		return nil, err
	}
	holder, err := identity.NewHolder(bundle)
	if err != nil {
		return nil, err
	}
	go keepServing(ctx, holder, issue, c.Log)
	cfg := holder.PublicServerTLS()
	cfg.NextProtos = []string{"h2", "http/1.1"}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return tls.NewListener(ln, cfg), nil
}

// remembered puts the kept snapshots back, so that a restarted vault shows how
// far each standby was before the first report comes.
func remembered(ctx context.Context, st *store.Store) (*live.State, error) {
	mem := live.New()
	err := st.View(ctx, func(tx *store.Tx) error {
		groups, err := tx.Groups()
		if err != nil {
			return err
		}
		for _, g := range groups {
			snap, err := tx.Snapshot(g.ID)
			if errors.Is(err, store.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			mem.Restore(g.ID, g.Standby(), snap)
		}
		return nil
	})
	return mem, err
}
