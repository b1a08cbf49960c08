package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"rebound/internal/dr"
	"rebound/internal/lab/collector"
	"rebound/internal/lab/image"
	"rebound/internal/site/qemu"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// commandLineFile is where the qemu driver keeps the command line of a
// machine's last start, as a shell script.
const commandLineFile = "command"

// The names in the demo's world.
const (
	homeSite  dr.SiteID    = "home"
	cloudSite dr.SiteID    = "cloud"
	homeGW    dr.GatewayID = "gw-home"
	cloudGW   dr.GatewayID = "gw-cloud"
	groupName dr.GroupID   = "shop"
	network                = "default"
)

// WorldConfig says where a world lives.
type WorldConfig struct {
	// Program is the rebound binary.
	Program string
	// Dir gets everything; EvidenceDir what may be kept.
	Dir, EvidenceDir string
	Log              *slog.Logger
}

// World is a vault, two sites with a gateway each, and the host that listens to
// the guests, all as processes of their own on loopback.
type World struct {
	cfg WorldConfig
	// run is a short directory for sockets.
	run   string
	procs map[string]*process

	Collector *collector.Collector
	Client    *client.Client
	rec       *recorder
	vaultAddr string
	Token     string
	ca        []byte
	gateways  map[dr.GatewayID]gatewayArgs
}

type gatewayArgs struct{ listen, dir, datastore, runDir string }

// readyTimeout bounds the start of a process.
const readyTimeout = 60 * time.Second

// NewWorld starts vault and gateways. Close must be called, also after an error.
func NewWorld(ctx context.Context, cfg WorldConfig) (*World, error) {
	w := &World{cfg: cfg, procs: map[string]*process{}, gateways: map[dr.GatewayID]gatewayArgs{}}
	for _, dir := range []string{cfg.Dir, cfg.EvidenceDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return w, fmt.Errorf("make directory: %w", err)
		}
	}
	var err error
	if w.run, err = os.MkdirTemp("", "rbd-"); err != nil {
		return w, fmt.Errorf("make socket directory: %w", err)
	}
	if w.Collector, err = collector.Start(ctx, collector.Config{EvidenceDir: cfg.EvidenceDir, Logger: cfg.Log}); err != nil {
		return w, err
	}
	if err := w.startVault(ctx); err != nil {
		return w, err
	}
	for site, gw := range map[dr.SiteID]dr.GatewayID{homeSite: homeGW, cloudSite: cloudGW} {
		if _, err := w.Client.CreateSite(ctx, rest.NewSite{ID: site, Description: "the demo's " + string(site)}); err != nil {
			return w, err
		}
		if err := w.addGateway(ctx, site, gw); err != nil {
			return w, err
		}
	}
	return w, nil
}

// startVault starts the vault on a free port and logs in with its first token.
func (w *World) startVault(ctx context.Context) error {
	addr, err := freeAddr(ctx)
	if err != nil {
		return err
	}
	w.vaultAddr = addr
	if err := w.RunVault(ctx); err != nil {
		return err
	}
	dir := w.vaultDir()
	for _, name := range []string{vaultTokenFile, vaultCAFile} {
		if err := waitFile(ctx, filepath.Join(dir, name), w.procs["vault"]); err != nil {
			return err
		}
	}
	token, err := os.ReadFile(filepath.Join(dir, vaultTokenFile))
	if err != nil {
		return fmt.Errorf("read first token: %w", err)
	}
	if w.ca, err = os.ReadFile(filepath.Join(dir, vaultCAFile)); err != nil {
		return fmt.Errorf("read vault certificate: %w", err)
	}
	w.Token = string(trim(token))
	return w.login(ctx)
}

// RunVault starts the vault's process, again after it was killed.
func (w *World) RunVault(ctx context.Context) error {
	return w.start(ctx, "vault", "vault", "serve", "--dir", w.vaultDir(), "--listen", w.vaultAddr)
}

func (w *World) vaultDir() string { return filepath.Join(w.cfg.Dir, "vault") }

// login makes a client whose exchanges are recorded.
func (w *World) login(ctx context.Context) error {
	next, err := transport(w.ca)
	if err != nil {
		return err
	}
	if w.rec, err = newRecorder(filepath.Join(w.cfg.EvidenceDir, "api.jsonl"), next); err != nil {
		return err
	}
	w.Client, err = client.New(client.Config{URL: "https://" + w.vaultAddr, Token: w.Token, CA: w.ca, Transport: w.rec})
	if err != nil {
		return err
	}
	return poll(ctx, readyTimeout, "the vault", func() error { _, err := w.Client.Status(ctx); return err })
}

// addGateway announces a gateway, starts it, and waits until the vault hears it.
func (w *World) addGateway(ctx context.Context, site dr.SiteID, gw dr.GatewayID) error {
	enr, err := w.Client.EnrollGateway(ctx, rest.NewGateway{ID: gw, Site: site})
	if err != nil {
		return err
	}
	addr, err := freeAddr(ctx)
	if err != nil {
		return err
	}
	args := gatewayArgs{listen: addr, dir: filepath.Join(w.cfg.Dir, string(site)), datastore: w.Datastore(site), runDir: filepath.Join(w.run, string(site))}
	w.gateways[gw] = args
	caFile := filepath.Join(w.vaultDir(), vaultCAFile)
	err = w.runGateway(ctx, gw, "--name", string(gw), "--vault", w.vaultAddr, "--vault-ca", caFile, "--passphrase", enr.Passphrase)
	if err != nil {
		return err
	}
	return w.waitGateway(ctx, gw)
}

// Datastore is where a site keeps its machines.
func (w *World) Datastore(site dr.SiteID) string {
	return filepath.Join(w.cfg.Dir, string(site)+"-datastore")
}

// RunGateway starts a gateway again after it was killed.
func (w *World) RunGateway(ctx context.Context, gw dr.GatewayID) error { return w.runGateway(ctx, gw) }

func (w *World) runGateway(ctx context.Context, gw dr.GatewayID, first ...string) error {
	a := w.gateways[gw]
	args := append([]string{"gateway", "serve", "--dir", a.dir, "--datastore", a.datastore, "--run-dir", a.runDir, "--listen", a.listen}, first...)
	return w.start(ctx, string(gw), args...)
}

func (w *World) waitGateway(ctx context.Context, gw dr.GatewayID) error {
	return poll(ctx, readyTimeout, "gateway "+string(gw), func() error {
		g, err := w.Client.Gateway(ctx, gw)
		if err == nil && !g.Connected {
			err = errors.New("not connected")
		}
		if p := w.procs[string(gw)]; err != nil && p.ended() {
			return stopPolling{fmt.Errorf("gateway %s ended: see %s", gw, p.log)}
		}
		return err
	})
}

// AddMachine makes a machine of the site from built disks; it does not start it.
func (w *World) AddMachine(ctx context.Context, site dr.SiteID, r *image.Result) error {
	d, err := w.Driver(site)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Create(ctx, r.Definition); err != nil {
		return fmt.Errorf("create machine %s: %w", r.Definition.Name, err)
	}
	for i, disk := range r.Definition.Disks {
		path, err := d.DiskPath(ctx, r.Definition.Name, disk.ID)
		if err != nil {
			return err
		}
		if err := os.Rename(r.Disks[i], path); err != nil {
			return fmt.Errorf("move disk into datastore: %w", err)
		}
	}
	return nil
}

// Driver opens a site's datastore as an administrator of the site would, past
// the gateway.
func (w *World) Driver(site dr.SiteID) (*qemu.Driver, error) {
	return qemu.New(qemu.Config{Dir: w.Datastore(site), Admin: true, Logger: w.cfg.Log})
}

// Close ends every process of the world and lets go of its directories; Dir
// itself stays.
func (w *World) Close() error {
	var errs []error
	if w.Client != nil {
		w.Client.Close()
	}
	if w.rec != nil {
		errs = append(errs, w.rec.close())
	}
	for _, p := range w.procs {
		p.kill()
	}
	errs = append(errs, killLeftovers(w.cfg.Dir, w.run))
	if w.Collector != nil {
		errs = append(errs, w.Collector.Close())
	}
	if w.run != "" {
		errs = append(errs, os.RemoveAll(w.run))
	}
	return errors.Join(errs...)
}

// output opens the log of a process.
func (w *World) output(name string) (io.WriteCloser, string, error) {
	dir := filepath.Join(w.cfg.Dir, "logs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, "", fmt.Errorf("make log directory: %w", err)
	}
	path := filepath.Join(dir, name+".log")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	return f, path, err
}
