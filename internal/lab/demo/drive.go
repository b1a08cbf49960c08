package demo

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"

	"rebound/internal/dr"
	"rebound/internal/lab/wire"
)

// The names in every world, for tests that drive one.
const (
	HomeSite  = homeSite
	CloudSite = cloudSite
	HomeGW    = homeGW
	CloudGW   = cloudGW
	// VaultProcess is the vault's name in Kill, Restart and PID; a gateway's
	// is its own.
	VaultProcess = "vault"
	// Network is the network that the guests' cards are in.
	Network = network
)

// PID returns the process of a name, 0 when it does not run.
func (w *World) PID(name string) int {
	p, ok := w.procs[name]
	if !ok || p.ended() {
		return 0
	}
	return p.cmd.Process.Pid
}

// Kill ends a process with SIGKILL and returns once it is gone.
func (w *World) Kill(name string) error {
	p, ok := w.procs[name]
	if !ok {
		return fmt.Errorf("kill %s: there is no such process", name)
	}
	p.kill()
	return nil
}

// Restart starts a process that was killed and waits until it answers: the
// vault to its client, a gateway to the vault.
func (w *World) Restart(ctx context.Context, name string) error {
	if p, ok := w.procs[name]; ok && !p.ended() {
		return fmt.Errorf("restart %s: it still runs", name)
	}
	if name != VaultProcess {
		if err := w.RunGateway(ctx, dr.GatewayID(name)); err != nil {
			return err
		}
		return w.waitGateway(ctx, dr.GatewayID(name))
	}
	if err := w.RunVault(ctx); err != nil {
		return err
	}
	return poll(ctx, readyTimeout, "the vault", func() error {
		if _, err := w.Client.Status(ctx); err != nil {
			if w.procs[VaultProcess].ended() {
				return stopPolling{errors.New("it ended at once")}
			}
			return err
		}
		return nil
	})
}

// Guests returns the processes of a site's running machines.
func (w *World) Guests(site dr.SiteID) []int {
	return processesOf("qemu-system", w.Datastore(site)+"/")
}

// Captures returns the capture processes of a site.
func (w *World) Captures(site dr.SiteID) []int {
	return processesOf(" capture ", filepath.Join(w.run, string(site))+"/")
}

// KillAll sends SIGKILL to processes and returns once they are gone.
func KillAll(pids ...int) error { return killAll(pids) }

// RunDir is where the world's sockets are.
func (w *World) RunDir() string { return w.run }

// GatewayDir is where a gateway of the site keeps its state and its journals.
func (w *World) GatewayDir(site dr.SiteID) string { return filepath.Join(w.cfg.Dir, string(site)) }

// VaultAddr is where the vault listens.
func (w *World) VaultAddr() string { return w.vaultAddr }

// VaultCA is the path of the vault's certificate.
func (w *World) VaultCA() string { return filepath.Join(w.vaultDir(), vaultCAFile) }

// LogFile is where a process writes what it has to say.
func (w *World) LogFile(name string) string { return filepath.Join(w.cfg.Dir, "logs", name+".log") }

// Ports are the TCP ports that the world's processes listen on.
func (w *World) Ports() []int {
	addrs := []string{w.vaultAddr}
	for _, g := range w.gateways {
		addrs = append(addrs, g.listen)
	}
	var out []int
	for _, a := range addrs {
		if n, err := strconv.Atoi(portOf(a)); err == nil {
			out = append(out, n)
		}
	}
	return out
}

// AgentConfig announces a machine's agent and returns what its guest needs.
func (w *World) AgentConfig(ctx context.Context, name dr.MachineName) (*wire.AgentConfig, error) {
	enr, err := w.Client.EnrollAgent(ctx, name)
	if err != nil {
		return nil, err
	}
	return &wire.AgentConfig{Vault: "https://10.0.2.2:" + portOf(w.vaultAddr), Machine: string(name), Passphrase: enr.Passphrase, CA: enr.CA}, nil
}

// StartVaultAt starts a second vault with a directory of its own, which must
// be killed with Kill under the name given. It returns its address.
func (w *World) StartVaultAt(ctx context.Context, name, dir string) (string, error) {
	addr, err := freeAddr(ctx)
	if err != nil {
		return "", err
	}
	if err := w.start(ctx, name, "vault", "serve", "--dir", dir, "--listen", addr); err != nil {
		return "", err
	}
	return addr, waitFile(ctx, filepath.Join(dir, vaultCAFile), w.procs[name])
}
