package qemu

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"rebound/internal/block"
	"rebound/internal/dr"
	"rebound/internal/nbd"
	"rebound/internal/problem"
	"rebound/internal/qmp"
	"rebound/internal/site"

	"github.com/google/uuid"
)

var _ site.SourceExporter = (*Driver)(nil)

// sourceDevice is a disk of a running machine, for reading.
type sourceDevice struct {
	*nbd.Client
	close func() error
}

var _ block.Mapper = (*sourceDevice)(nil)

// Close ends the connection and removes the export.
func (s *sourceDevice) Close() error { return errors.Join(s.Client.Close(), s.close()) }

// OpenSource implements site.Capturer: a read-only export of QEMU itself, below
// the mirror, so that it shows every write that the guest saw complete.
func (d *Driver) OpenSource(ctx context.Context, name dr.MachineName, disk dr.DiskID) (block.Device, error) {
	c, unlock, err := d.capture(ctx, name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	live, socket, err := c.readable(ctx, disk)
	if err != nil {
		return nil, err
	}
	id := fmt.Sprintf("%s%s-%s", readPrefix, disk, uuid.NewString())
	err = c.mon.Run(ctx, "block-export-add", object{"type": "nbd", "id": id, "node-name": live.Node, "name": id, "writable": false}, nil)
	if err != nil {
		return nil, c.fault(err, "export disk "+string(disk))
	}
	drop := func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), statusTimeout)
		defer cancel()
		err := c.dropExports(ctx, func(e string) bool { return e == id })
		if err == nil || !qmp.Refused(err) { // the machine may have ended
			return nil
		}
		return err
	}
	client, err := nbd.Dial(ctx, "unix", socket, nbd.Options{Export: id})
	if err != nil {
		return nil, errors.Join(c.fault(err, "open disk "+string(disk)), drop())
	}
	return &sourceDevice{Client: client, close: drop}, nil
}

// readable finds a disk and QEMU's server for it.
func (c *capturing) readable(ctx context.Context, disk dr.DiskID) (*liveDisk, string, error) {
	disks, err := c.disks(ctx)
	if err != nil {
		return nil, "", c.fault(err, "open source")
	}
	live := disks[disk]
	if live == nil {
		return nil, "", problem.New(problem.UnknownDisk, "%s of machine %s", disk, c.m.name)
	}
	if live.IOThread {
		return nil, "", live.refuseIOThread()
	}
	socket, err := c.startExports(ctx)
	return live, socket, err
}

// ExportSource implements site.SourceExporter.
func (d *Driver) ExportSource(ctx context.Context, name dr.MachineName, disk dr.DiskID) (socket, export string, err error) {
	c, unlock, err := d.capture(ctx, name)
	if err != nil {
		return "", "", err
	}
	defer unlock()
	live, _, err := c.readable(ctx, disk)
	if err != nil {
		return "", "", err
	}
	id := sourcePrefix + string(disk)
	list, err := qmp.Call[[]struct {
		ID   string `json:"id"`
		Node string `json:"node-name"`
		Gone bool   `json:"shutting-down"`
	}](ctx, c.mon, "query-block-exports", nil)
	if err != nil {
		return "", "", c.fault(err, "export disk "+string(disk))
	}
	for _, e := range list {
		if e.ID != id {
			continue
		}
		if e.Node == live.Node && !e.Gone {
			return c.m.path(sourceSocket), id, nil
		}
		if err := c.dropExports(ctx, func(x string) bool { return x == id }); err != nil {
			return "", "", c.fault(err, "export disk "+string(disk))
		}
	}
	err = c.mon.Run(ctx, "block-export-add", object{"type": "nbd", "id": id, "node-name": live.Node, "name": id, "writable": false}, nil)
	return c.m.path(sourceSocket), id, c.fault(err, "export disk "+string(disk))
}

// dropSources ends the exports of ExportSource.
func (c *capturing) dropSources(ctx context.Context) error {
	return c.dropExports(ctx, func(id string) bool { return strings.HasPrefix(id, sourcePrefix) })
}
