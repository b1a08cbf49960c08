package fake

import (
	"context"
	"fmt"
	"os"

	"rebound/internal/site"
)

// Scratch makes a site with the same networks and nothing in it.
func (d *Driver) Scratch(ctx context.Context) (site.Driver, func() error, error) {
	if err := d.enter(ctx, "Scratch", ""); err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp(d.opts.Dir, "scratch-")
	if err != nil {
		return nil, nil, fmt.Errorf("make scratch place: %w", err)
	}
	return New(Options{Dir: dir, Networks: d.opts.Networks}), func() error { return os.RemoveAll(dir) }, nil
}
