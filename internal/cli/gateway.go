package cli

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/gateway"
	"rebound/internal/gateway/runbook"
	"rebound/internal/journal/keyring"
	"rebound/internal/problem"
	"rebound/internal/site/qemu"
	"rebound/internal/spool"
)

// serveGateway are the flags of "gateway serve".
type serveGateway struct {
	name, dir, runDir, datastore, listen, dataAddr string
	passphrase, caFile                             string
	spoolDir                                       string
	spoolLimit                                     int64
	accel, metrics, scripts                        string
	roles                                          []string
	datastores, volumes                            map[string]string
	diskLimit                                      int
	keyFile                                        string
}

func (a *app) newGateway() *cobra.Command {
	return a.parent("gateway", "Gateways: the data plane of a site", "  rebound gateway list\n  rebound gateway serve --help", a.newGatewayServe(), a.newGatewayRejoin(), a.newGatewayPrerequisites())
}

func (a *app) newGatewayServe() *cobra.Command {
	var o serveGateway
	cmd := &cobra.Command{
		Use:   "serve --name GATEWAY --vault HOST:PORT --dir DIR",
		Short: "Run a gateway until SIGTERM",
		Long: `Run a gateway: it dials the vault, listens for streams of other gateways, keeps
journals, and captures the writes of its site's machines.

The first start enrols: it needs the passphrase that 'rebound gateway enroll' showed
(--passphrase, or $REBOUND_PASSPHRASE) and the vault's certificate (--vault-ca). Later
starts need only --dir.`,
		Example: `  rebound gateway serve --name gw-home --vault vault:8443 --vault-ca ca.pem \
      --passphrase 3k9x-… --dir /var/lib/rebound
  rebound gateway serve --dir /var/lib/rebound`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runGateway(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.name, "name", "", "the gateway's name in the vault (first start)")
	f.StringVar(&o.dir, "dir", "/var/lib/rebound/gateway", "directory for journals and state")
	f.StringVar(&o.runDir, "run-dir", "", "directory for sockets; its path is at most 60 bytes (default: DIR/run)")
	f.StringVar(&o.datastore, "datastore", "", "directory of the site's machines (default: DIR/datastore)")
	f.StringSliceVar(&o.roles, "roles", nil, "the parts that the gateway takes: process-server, master-target (default: both)")
	f.StringToStringVar(&o.datastores, "more-datastores", nil, "further directories for disks, NAME=DIR")
	f.StringToStringVar(&o.volumes, "retention-volume", nil, "further directories for journals, NAME=DIR, each on a volume of its own")
	f.IntVar(&o.diskLimit, "disk-limit", control.DefaultDiskLimit, "how many disks the master target takes")
	f.StringVar(&o.spoolDir, "spool-dir", "", "directory for what a slow or broken link holds up (default: DIR/spool)")
	f.Int64Var(&o.spoolLimit, "spool-limit", 16<<10, "MiB that the spool of one group may take; 0 keeps none: a long outage then leaves a hole in the history")
	f.StringVar(&o.keyFile, "key-file", "", "file with the keys that wrap those of journals and spools: with one, they are encrypted at rest (default: $"+keyring.EnvVar+")")
	f.StringVar(&o.listen, "listen", ":9443", "address to take streams on")
	f.StringVar(&o.dataAddr, "data-addr", "", "host:port told to other gateways (default: the one listened on)")
	f.StringVar(&o.passphrase, "passphrase", "", "one-time passphrase of the enrolment (default: $REBOUND_PASSPHRASE)")
	f.StringVar(&o.caFile, "vault-ca", "", "file with the vault's certificate (first start)")
	f.StringVar(&o.metrics, "metrics", "", "address for the metrics of gateway and captures, without TLS and token, such as 127.0.0.1:9101")
	f.StringVar(&o.scripts, "scripts", "any", "which scripts of recovery plans may run here: any, folder (those in the folder scripts of --dir) or none")
	f.StringVar(&o.accel, "accel", "", "kvm or tcg (default: what is proven to work)")
	return cmd
}

// maxRunDir bounds the path of the socket directory: a Unix socket's path has
// at most 107 bytes, and names of groups and sockets follow.
const maxRunDir = 60

// complete fills in what was left out and makes every path absolute:
// hypervisors and captures are started in directories of their own.
func (o *serveGateway) complete() error {
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return usageError{fmt.Errorf("--dir: %w", err)}
	}
	o.dir = dir
	if o.runDir, err = filepath.Abs(cmp.Or(o.runDir, filepath.Join(dir, "run"))); err != nil {
		return usageError{fmt.Errorf("--run-dir: %w", err)}
	}
	if o.datastore, err = filepath.Abs(cmp.Or(o.datastore, filepath.Join(dir, "datastore"))); err != nil {
		return usageError{fmt.Errorf("--datastore: %w", err)}
	}
	for _, r := range o.roles {
		if !slices.Contains(control.Roles(), control.Role(r)) {
			return usageError{fmt.Errorf("--roles: %q is neither process-server nor master-target", r)}
		}
	}
	if len(o.runDir) > maxRunDir {
		return usageError{fmt.Errorf("--run-dir %q has %d bytes, at most %d fit before the names of sockets", o.runDir, len(o.runDir), maxRunDir)}
	}
	return nil
}

func (a *app) runGateway(ctx context.Context, o serveGateway) error {
	log, err := a.logger()
	if err != nil {
		return err
	}
	if err := o.complete(); err != nil {
		return err
	}
	enr, holder, ok, err := gateway.LoadEnrolment(o.dir)
	if err != nil {
		return err
	}
	if !ok {
		if err := a.enroll(ctx, o); err != nil {
			return err
		}
		if enr, holder, _, err = gateway.LoadEnrolment(o.dir); err != nil {
			return err
		}
	}
	keys, err := keyring.Load(o.keyFile, os.Getenv)
	if err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	driver, err := qemu.New(qemu.Config{Dir: o.datastore, Datastores: o.moreDatastores(), Accel: o.accel, Logger: log, ThawGuard: []string{exe, "thaw-guard"}})
	if err != nil {
		return err
	}
	defer driver.Close()
	vault := enr.VaultAddr
	if a.vault != "" {
		vault = a.vault
	}
	g, err := gateway.Open(ctx, gateway.Config{
		Name: enr.Name, Site: enr.Site, Dir: o.dir, RunDir: o.runDir, VaultAddr: vault,
		DataListen: o.listen, DataAddr: o.dataAddr, Identity: holder, Driver: driver, Version: Version, Metrics: o.metrics, Recent: a.recent,
		CaptureArgv: []string{exe, "--log-level", a.logLevel, "--log-format", a.logFormat, "capture"}, Log: log.With("gateway", enr.Name),
		Roles: o.gatewayRoles(), RetentionVolumes: o.retentionVolumes(), DiskLimit: o.diskLimit,
		SpoolDir: o.spoolDir, SpoolLimits: o.spoolLimits(), Scripts: runbook.Scripts(o.scripts), Keys: keys,
	})
	if err != nil {
		return err
	}
	return g.Run(ctx)
}

// spoolLimits translates --spool-limit.
func (o *serveGateway) spoolLimits() spool.Limits {
	if o.spoolLimit <= 0 {
		return spool.Limits{Bytes: -1}
	}
	return spool.Limits{Bytes: o.spoolLimit << 20}
}

// enroll is the first start.
func (a *app) enroll(ctx context.Context, o serveGateway) error {
	if o.name == "" || a.vault == "" || o.caFile == "" {
		return usageError{fmt.Errorf("the gateway in %s has not enrolled: give --name, --vault, --vault-ca and --passphrase", o.dir)}
	}
	if err := dr.ValidName(o.name); err != nil {
		return problem.Wrap(err, problem.InvalidName, "--name")
	}
	ca, err := os.ReadFile(o.caFile)
	if err != nil {
		return usageError{fmt.Errorf("--vault-ca: %w", err)}
	}
	pass := o.passphrase
	if pass == "" {
		pass = os.Getenv("REBOUND_PASSPHRASE")
	}
	return gateway.Enroll(ctx, o.dir, gateway.Enrolment{Name: dr.GatewayID(o.name), VaultAddr: a.vault}, pass, ca)
}
