package qemu

import (
	"context"
	"slices"
	"strings"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/qmp"
	"rebound/internal/site"
)

var _ site.DiskWatcher = (*Driver)(nil)

// ExtraDisks implements site.DiskWatcher: it asks QEMU for its block devices, so
// that a disk is seen that was added with device_add.
func (d *Driver) ExtraDisks(ctx context.Context, name dr.MachineName) ([]site.ExtraDisk, error) {
	c, err := d.glance(ctx, name)
	if problem.HasCode(err, problem.MachineNotRunning) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out, err := c.extraDisks(ctx)
	return out, c.fault(err, "look for disks that were added")
}

func (c *capturing) extraDisks(ctx context.Context) ([]site.ExtraDisk, error) {
	rows, err := qmp.Call[[]deviceRow](ctx, c.mon, "query-block", nil)
	if err != nil {
		return nil, err
	}
	known := c.rec.present().Disks
	var out []site.ExtraDisk
	for _, r := range rows {
		if r.Inserted == nil || r.Inserted.ReadOnly || r.Qdev == "" {
			continue
		}
		if slices.ContainsFunc(known, func(s dr.DiskSpec) bool { return r.is(c.rec, s.ID) }) {
			continue
		}
		kind, err := get[string](ctx, c.mon, r.Qdev, "type")
		if err != nil {
			return nil, err
		}
		if noHardDisk(kind) {
			continue
		}
		out = append(out, site.ExtraDisk{Name: deviceName(r), SizeBytes: r.Inserted.Image.Size})
	}
	return out, nil
}

// noHardDisk reports whether a device type is a drive for media, or firmware.
func noHardDisk(kind string) bool {
	return kind == "scsi-cd" || kind == "ide-cd" || kind == "floppy" || strings.HasPrefix(kind, "cfi.pflash")
}

// deviceName is what people call a device: the id they gave it, or its place in
// QEMU's tree.
func deviceName(r deviceRow) string {
	path := strings.TrimSuffix(r.Qdev, "/virtio-backend")
	path = strings.TrimPrefix(path, "/machine/peripheral/")
	return strings.Trim(path, "/")
}
