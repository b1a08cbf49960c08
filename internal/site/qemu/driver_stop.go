package qemu

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/qmp"
	"rebound/internal/site"
)

// powerdownRepeat is how often the power button is pressed: a guest that is
// still booting does not hear it.
const powerdownRepeat = 3 * time.Second

// errStillOn means that the guest did not power off in time.
var errStillOn = errors.New("the guest did not power off in time")

// Stop stops a machine and ends its QEMU; site.Driver has the contract.
func (d *Driver) Stop(ctx context.Context, name dr.MachineName, mode site.StopMode, timeout time.Duration) error {
	m, rec, unlock, err := d.lockKnown(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	if mode == site.Graceful || mode == site.GracefulThenHard {
		err := m.powerdown(ctx, rec, timeout)
		if ctx.Err() != nil {
			return fmt.Errorf("stop machine %s: %w", name, context.Cause(ctx))
		}
		if err != nil && mode == site.Graceful {
			return problem.Wrap(err, problem.MachineRunning, "machine %s did not stop", name)
		}
		if err != nil {
			d.log.Warn("pulling the plug", "machine", name, "reason", err)
		}
	}
	return m.end(ctx, rec)
}

// end makes QEMU exit, ours or an imported one.
func (m *machine) end(ctx context.Context, rec *record) error {
	if rec.Socket == "" {
		return m.quit(ctx, rec)
	}
	if _, err := m.status(ctx, rec); qmp.Gone(err) {
		return nil
	}
	if err := m.quitImported(ctx, rec); err != nil {
		return err
	}
	// The socket refuses connections once its process is gone.
	ctx, cancel := context.WithTimeout(ctx, quitTimeout)
	defer cancel()
	for wait := dialFirst; ; wait = min(2*wait, dialMax) {
		mon, err := m.monitor(rec)
		if err != nil {
			return err
		}
		if _, err = mon.Client(ctx); qmp.Gone(err) {
			return nil
		}
		select {
		case <-ctx.Done():
			return problem.Wrap(context.Cause(ctx), problem.HypervisorError, "stop imported machine %s", m.name)
		case <-time.After(wait):
		}
	}
}

// powerdown asks the guest to power off and waits until it has.
func (m *machine) powerdown(ctx context.Context, rec *record, timeout time.Duration) error {
	switch s := m.state(ctx, rec); s {
	case site.Off:
		return nil
	case site.Running:
	default:
		return fmt.Errorf("it is %s and cannot hear", s)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errStillOn)
	defer cancel()
	mon, err := m.monitor(rec)
	if err != nil {
		return err
	}
	client, err := mon.Client(ctx)
	if err != nil {
		return fmt.Errorf("ask it to power off: %w", err)
	}
	events := client.Subscribe("SHUTDOWN", "STOP")
	defer events.Close()
	for {
		if err := client.Run(ctx, "system_powerdown", nil, nil); err != nil {
			return m.offOr(ctx, rec, err)
		}
		again, cancel := context.WithTimeout(ctx, powerdownRepeat)
		for {
			_, err = events.Next(again)
			if err != nil {
				break
			}
			if m.state(ctx, rec) == site.Off {
				cancel()
				return nil
			}
		}
		cancel()
		if ctx.Err() != nil {
			return m.offOr(ctx, rec, context.Cause(ctx))
		}
		if client.Err() != nil { // QEMU has gone, as an imported one does
			return m.offOr(ctx, rec, client.Err())
		}
	}
}

// offOr returns nil if the machine is off after all.
func (m *machine) offOr(ctx context.Context, rec *record, err error) error {
	if m.state(context.WithoutCancel(ctx), rec) == site.Off {
		return nil
	}
	return err
}

// containsLock knows QEMU's words for an image that another process holds.
func containsLock(text string) bool {
	return strings.Contains(text, "Failed to get \"write\" lock") ||
		strings.Contains(text, "Failed to get shared \"write\" lock") ||
		strings.Contains(text, "lock: Resource temporarily unavailable") ||
		strings.Contains(text, "Is another process using the image")
}

// lockName makes any name fit a file name.
func lockName(name string) string {
	sum := sha256.Sum256([]byte(name))
	return fmt.Sprintf("%x", sum[:8])
}
