package fake

import (
	"context"
	"slices"

	"rebound/internal/dr"
	"rebound/internal/site"
)

var _ site.DiskWatcher = (*Driver)(nil)

// AddDisk adds a disk to a machine that runs, as somebody does by hand; it is gone
// with the run.
func (d *Driver) AddDisk(ctx context.Context, name dr.MachineName, disk site.ExtraDisk) error {
	return d.withRun(ctx, "AddDisk", name, func(_ *machine, r *run) error {
		r.extra = append(r.extra, disk)
		return nil
	})
}

// ExtraDisks implements site.DiskWatcher.
func (d *Driver) ExtraDisks(ctx context.Context, name dr.MachineName) (out []site.ExtraDisk, err error) {
	err = d.with(ctx, "ExtraDisks", name, func(m *machine) error {
		if m.run != nil {
			out = slices.Clone(m.run.extra)
		}
		return nil
	})
	return out, err
}
