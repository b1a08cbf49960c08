package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"

	"rebound/internal/site"
)

// Scratch makes a driver over a new folder of the datastore; site.Scratcher has
// the contract.
func (d *Driver) Scratch(ctx context.Context) (site.Driver, func() error, error) {
	dir, err := os.MkdirTemp(d.cfg.Dir, "scratch-")
	if err != nil {
		return nil, nil, fmt.Errorf("make scratch place: %w", err)
	}
	cfg := d.cfg
	cfg.Dir, cfg.Networks, cfg.Datastores = dir, d.networks, nil
	s, err := New(cfg)
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	done := func() error {
		// Also what a caller that was cut short has left.
		return errors.Join(s.killAll(context.WithoutCancel(ctx)), s.Close(), os.RemoveAll(dir))
	}
	return s, done, nil
}

// killAll ends every machine of the datastore, hard.
func (d *Driver) killAll(ctx context.Context) error {
	names, err := d.names()
	for _, name := range names {
		err = errors.Join(err, d.at(name).killMachine(ctx))
	}
	return err
}
