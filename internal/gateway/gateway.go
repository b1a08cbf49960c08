package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/gateway/runbook"
	"rebound/internal/gateway/source"
	"rebound/internal/gateway/standby"
	"rebound/internal/gateway/statefile"
	"rebound/internal/identity"
	"rebound/internal/journal/keyring"
	"rebound/internal/link"
	"rebound/internal/logging"
	"rebound/internal/metrics"
	"rebound/internal/site"
	"rebound/internal/spool"
)

// Config of a gateway.
type Config struct {
	Name dr.GatewayID
	Site dr.SiteID
	// Dir keeps everything that the gateway must not lose: journals,
	// specs, the command ledger. RunDir keeps sockets; its path is short
	// (a Unix socket's path has at most 107 bytes).
	Dir, RunDir string
	// Roles that the gateway takes; none means both.
	Roles []control.Role
	// RetentionVolumes are further places for journals, beside Dir.
	RetentionVolumes []RetentionVolume
	// DiskLimit is how many disks the master target takes; 0 means
	// control.DefaultDiskLimit.
	DiskLimit int
	// VaultAddr is host:port.
	VaultAddr string
	// DataListen is where streams are accepted; DataAddr is the address
	// told to others, by default the one listened on.
	DataListen, DataAddr string
	Identity             *identity.Holder
	Driver               site.Driver
	// CaptureArgv starts a capture process, without its arguments.
	CaptureArgv []string
	// Scripts says which scripts of recovery plans may run; empty means any.
	Scripts runbook.Scripts
	// Recent holds the newest lines of Log, for support bundles; may be nil.
	Recent *logging.Recent
	// Metrics is the address of the metrics, without TLS; "" for none.
	Metrics string
	// Version of the program, for reports.
	Version string
	// SpoolDir keeps what a slow or broken link holds up; by default a folder
	// of Dir. SpoolLimits bound each group's spool; negative Bytes: there is
	// none.
	SpoolDir    string
	SpoolLimits spool.Limits
	// Keys wrap those that journals and spools are encrypted with; nil: what
	// is new is not encrypted, and what is encrypted is not opened.
	Keys *keyring.Wrapping
	Log  *slog.Logger
}

// Gateway is the process.
type Gateway struct {
	cfg    Config
	log    *slog.Logger
	driver site.Driver
	ledger *control.Ledger
	// actions runs those of recovery plans.
	actions *runbook.Runner
	events  *eventLog
	host    hostWatch
	// consoles are the newest looks at machines.
	consoles consoles

	standby *standby.Host
	link    *link.Server
	lis     net.Listener

	// ctx is the gateway's life; commands start work that outlives them.
	ctx context.Context

	admin   sync.Mutex // sources are made and dropped one at a time
	mu      sync.Mutex
	sources map[dr.GroupID]*source.Group
	fences  map[dr.GroupID]dr.Generation // newest generation known to have gone elsewhere
	busy    map[dr.GroupID]bool          // groups that obey is at work on
	obeying sync.WaitGroup
	// renewing is the keeping of our certificate.
	renewing sync.WaitGroup
	poke     chan struct{} // a report is due now
}

// Open reads the gateway's state, binds its data port and serves the views that
// machines run on; all else is Run's.
func Open(ctx context.Context, cfg Config) (*Gateway, error) {
	if cfg.SpoolDir == "" {
		cfg.SpoolDir = filepath.Join(cfg.Dir, "spool")
	}
	for _, dir := range []string{cfg.Dir, cfg.RunDir, filepath.Join(cfg.Dir, "sources"), filepath.Join(cfg.Dir, "seeds")} {
		if err := statefile.MakeDir(dir); err != nil {
			return nil, fmt.Errorf("make gateway directory: %w", err)
		}
	}
	if err := checkVolumes(cfg.RetentionVolumes); err != nil {
		return nil, err
	}
	ledger, err := control.OpenLedger(filepath.Join(cfg.Dir, "commands.ledger"), time.Now())
	if err != nil {
		return nil, err
	}
	g := &Gateway{
		cfg: cfg, log: cfg.Log, driver: cfg.Driver, ledger: ledger, ctx: ctx,
		sources: map[dr.GroupID]*source.Group{}, fences: map[dr.GroupID]dr.Generation{}, busy: map[dr.GroupID]bool{}, poke: make(chan struct{}, 1),
	}
	g.events = newEventLog(g.Poke)
	if err := g.openActions(); err != nil {
		ledger.Close()
		return nil, err
	}
	if err := g.openData(ctx); err != nil {
		ledger.Close()
		return nil, err
	}
	return g, nil
}

// openData binds the data port and opens the journals.
func (g *Gateway) openData(ctx context.Context) error {
	tlsCfg := g.cfg.Identity.ServerTLS(identity.RoleGateway)
	lis, err := net.Listen("tcp", g.cfg.DataListen)
	if err != nil {
		return fmt.Errorf("listen for data: %w", err)
	}
	host, err := standby.Open(ctx, standby.Config{
		Dir: filepath.Join(g.cfg.Dir, "journals"), RunDir: g.cfg.RunDir, Driver: g.driver, Volumes: g.journalDirs(), Site: g.cfg.Site, Keys: g.cfg.Keys,
		Log: g.log, Event: g.events.add, Changed: g.Poke,
	})
	if err != nil {
		lis.Close()
		return err
	}
	// A clock that is off is an alarm of the vault's, not a reason to stop
	// protecting: times in the journal are the source's own.
	srv, err := link.NewServer(link.ServerConfig{TLS: tlsCfg, Handler: host, Refuses: g.cfg.Identity.Refuses, MaxClockSkew: -1, Log: g.log})
	if err != nil {
		return errors.Join(err, host.Close(), lis.Close())
	}
	host.SetFence(srv.Fence)
	g.lis, g.standby, g.link = lis, host, srv
	return nil
}

// Run serves until ctx ends: the data port, the vault's commands, reports, and
// the sources and journals that were there before.
func (g *Gateway) Run(ctx context.Context) error {
	defer g.ledger.Close()
	tlsCfg := g.cfg.Identity.ClientTLS(identity.RoleVault, "")
	if err := g.openSources(ctx); err != nil {
		return errors.Join(err, g.lis.Close(), g.close())
	}
	grp, ctx := errgroup.WithContext(ctx)
	grp.Go(func() error { return ignoreStop(ctx, g.link.Serve(ctx, g.lis)) })
	grp.Go(func() error { return g.standby.Run(ctx) })
	if g.cfg.Metrics != "" {
		grp.Go(func() error { return ignoreStop(ctx, metrics.Serve(ctx, g.cfg.Metrics, g.log, g.MetricSource())) })
	}
	grp.Go(func() error { return ignoreStop(ctx, g.runReports(ctx, tlsCfg)) })
	srv := control.NewServer(ctx, g, g.ledger, g.log)
	grp.Go(func() error { return ignoreStop(ctx, srv.RunRenewed(ctx, g.cfg.VaultAddr, g.cfg.Identity)) })
	grp.Go(func() error { return ignoreStop(ctx, g.runRenewals(ctx)) })
	err := grp.Wait()
	srv.Close()
	return errors.Join(err, g.close())
}

// ignoreStop turns the error of something that ended because ctx did into nil.
func ignoreStop(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// close lets go of sources and journals. Captures go on by themselves: the
// next process adopts them.
func (g *Gateway) close() error {
	g.obeying.Wait()
	g.mu.Lock()
	all := slices.Collect(maps.Values(g.sources))
	g.mu.Unlock()
	for _, s := range all {
		s.Close()
	}
	return g.standby.Close()
}

func (g *Gateway) dataAddr() string {
	if g.cfg.DataAddr != "" {
		return g.cfg.DataAddr
	}
	return g.lis.Addr().String()
}

// Poke makes the gateway report at once.
func (g *Gateway) Poke() {
	select {
	case g.poke <- struct{}{}:
	default:
	}
}

var _ control.Commands = (*Gateway)(nil)
