package qemu

import (
	"context"
	"time"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site"
)

var _ site.Quiescer = (*Driver)(nil)

// Quiesce implements site.Quiescer. QEMU is told to pause instead of exiting
// when its guest powers off; "stop" drains all disks, mirrors included.
func (d *Driver) Quiesce(ctx context.Context, name dr.MachineName, mode site.StopMode, timeout time.Duration) error {
	c, unlock, err := d.capture(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	if err := c.mon.Run(ctx, "set-action", object{"shutdown": "pause"}, nil); err != nil {
		return c.fault(err, "quiesce")
	}
	if mode != site.Hard {
		err := c.m.powerdown(ctx, c.rec, timeout)
		if err == nil {
			return nil
		}
		if mode == site.Graceful {
			return problem.Wrap(err, problem.MachineRunning, "machine %s", name)
		}
	}
	return c.fault(c.mon.Run(ctx, "stop", nil, nil), "stop processors")
}
