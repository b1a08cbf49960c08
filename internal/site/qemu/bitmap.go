package qemu

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"rebound/internal/dr"
	"rebound/internal/extent"
	"rebound/internal/nbd"
	"rebound/internal/problem"
	"rebound/internal/qmp"
)

// Names of what is made for reading.
const (
	sourcePrefix = ourPrefix + "src-"   // exports for other processes
	readPrefix   = ourPrefix + "read-"  // exports of OpenSource
	unionPrefix  = ourPrefix + "union-" // bitmaps and their exports
	sourceSocket = "source.sock"
)

func hasBitmap(d *liveDisk, bitmap string) bool { return slices.Contains(d.Bitmaps, bitmap) }

// BeginBitmap implements site.Capturer.
func (d *Driver) BeginBitmap(ctx context.Context, name dr.MachineName, bitmap string) error {
	return d.eachBitmap(ctx, name, "begin bitmap", func(disk *liveDisk) *qmp.Action {
		if hasBitmap(disk, bitmap) {
			return nil
		}
		return &qmp.Action{Type: "block-dirty-bitmap-add", Data: object{
			"node": disk.Node, "name": bitmap, "granularity": grain(disk.Size), "persistent": false,
		}}
	})
}

// DropBitmap implements site.Capturer; a bitmap that is not there is dropped.
func (d *Driver) DropBitmap(ctx context.Context, name dr.MachineName, bitmap string) error {
	return d.eachBitmap(ctx, name, "drop bitmap", func(disk *liveDisk) *qmp.Action {
		if !hasBitmap(disk, bitmap) {
			return nil
		}
		return &qmp.Action{Type: "block-dirty-bitmap-remove", Data: object{"node": disk.Node, "name": bitmap}}
	})
}

// eachBitmap runs one action a writable disk in one transaction.
func (d *Driver) eachBitmap(ctx context.Context, name dr.MachineName, doing string, act func(*liveDisk) *qmp.Action) error {
	c, unlock, err := d.capture(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	disks, err := c.disks(ctx)
	if err != nil {
		return c.fault(err, doing)
	}
	var actions []qmp.Action
	for _, disk := range disks.writable() {
		if a := act(disk); a != nil {
			actions = append(actions, *a)
		}
	}
	if len(actions) == 0 {
		return nil
	}
	return c.fault(qmp.Transaction(ctx, c.mon, actions...), doing)
}

// Bitmaps implements site.Capturer: the bitmaps that are on every writable
// disk, in order of name. Those made for reading are left out.
func (d *Driver) Bitmaps(ctx context.Context, name dr.MachineName) ([]string, error) {
	c, err := d.glance(ctx, name)
	if err != nil {
		return nil, err
	}
	disks, err := c.disks(ctx)
	if err != nil {
		return nil, c.fault(err, "list bitmaps")
	}
	count := map[string]int{}
	writable := disks.writable()
	for _, disk := range writable {
		for _, b := range disk.Bitmaps {
			count[b]++
		}
	}
	var out []string
	for b, n := range count {
		if n == len(writable) && !strings.HasPrefix(b, unionPrefix) {
			out = append(out, b)
		}
	}
	slices.Sort(out)
	return out, nil
}

// Dirty implements site.Capturer: the bitmaps are merged into a disabled one,
// which is exported for as long as it is read.
func (d *Driver) Dirty(ctx context.Context, name dr.MachineName, disk dr.DiskID, bitmaps []string) (set *extent.Set, err error) {
	c, unlock, err := d.capture(ctx, name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	disks, err := c.disks(ctx)
	if err != nil {
		return nil, c.fault(err, "read bitmaps")
	}
	live := disks[disk]
	if live == nil {
		return nil, problem.New(problem.UnknownDisk, "%s of machine %s", disk, name)
	}
	if live.IOThread {
		return nil, live.refuseIOThread()
	}
	if len(bitmaps) == 0 {
		return extent.NewSet(), nil
	}
	for _, b := range bitmaps {
		if !hasBitmap(live, b) {
			return nil, problem.New(problem.HypervisorError, "machine %s has no bitmap %q on disk %s", name, b, disk)
		}
	}
	union := unionPrefix + string(disk)
	if err := c.dropUnion(ctx, live, union, hasBitmap(live, union)); err != nil {
		return nil, c.fault(err, "clear old union of bitmaps")
	}
	err = qmp.Transaction(ctx, c.mon,
		qmp.Action{Type: "block-dirty-bitmap-add", Data: object{"node": live.Node, "name": union, "granularity": grain(live.Size), "disabled": true}},
		qmp.Action{Type: "block-dirty-bitmap-merge", Data: object{"node": live.Node, "target": union, "bitmaps": bitmaps}},
	)
	if err != nil {
		return nil, c.fault(err, "unite bitmaps")
	}
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), statusTimeout)
		defer cancel()
		err = errors.Join(err, c.fault(c.dropUnion(clean, live, union, true), "drop union of bitmaps"))
	}()
	return c.readUnion(ctx, live, union)
}

func (c *capturing) readUnion(ctx context.Context, disk *liveDisk, union string) (*extent.Set, error) {
	socket, err := c.startExports(ctx)
	if err != nil {
		return nil, err
	}
	err = c.mon.Run(ctx, "block-export-add", object{
		"type": "nbd", "id": union, "node-name": disk.Node, "name": union, "writable": false, "bitmaps": []string{union},
	}, nil)
	if err != nil {
		return nil, c.fault(err, "export bitmap")
	}
	context := nbd.DirtyBitmapContext(union)
	client, err := nbd.Dial(ctx, "unix", socket, nbd.Options{Export: union, MetaContexts: []string{context}})
	if err != nil {
		return nil, c.fault(err, "read bitmap")
	}
	set, err := dirtyRuns(ctx, client, context, disk.Size)
	return set, errors.Join(c.fault(err, "read bitmap"), client.Close())
}

// dirtyRuns walks a bitmap's context over the whole disk.
func dirtyRuns(ctx context.Context, client *nbd.Client, context string, size int64) (*extent.Set, error) {
	const step = 1 << 30 // a request's length must fit 32 bits
	set := extent.NewSet()
	for off := int64(0); off < size; {
		runs, err := client.BlockStatus(ctx, context, off, min(size-off, step))
		if err != nil {
			return nil, err
		}
		for _, r := range runs {
			if r.Flags&nbd.StatusDirty != 0 {
				set.Add(extent.Range{Off: off, Len: r.Length})
			}
			off += r.Length
		}
	}
	return set, nil
}

// dropUnion removes an export and, if it is there, the bitmap of that name.
func (c *capturing) dropUnion(ctx context.Context, disk *liveDisk, union string, bitmap bool) error {
	if err := c.dropExports(ctx, func(id string) bool { return id == union }); err != nil {
		return err
	}
	if !bitmap {
		return nil
	}
	return c.mon.Run(ctx, "block-dirty-bitmap-remove", object{"node": disk.Node, "name": union}, nil)
}

// dropExports removes exports and waits until they are gone: QEMU closes their
// clients first.
func (c *capturing) dropExports(ctx context.Context, which func(id string) bool) error {
	client, err := c.mon.Client(ctx)
	if err != nil {
		return err
	}
	events := client.Subscribe("BLOCK_EXPORT_DELETED")
	defer events.Close()
	for first := true; ; first = false {
		list, err := qmp.Call[[]struct {
			ID string `json:"id"`
		}](ctx, c.mon, "query-block-exports", nil)
		if err != nil {
			return err
		}
		left := 0
		for _, e := range list {
			if !which(e.ID) {
				continue
			}
			left++
			if !first {
				continue
			}
			err := c.mon.Run(ctx, "block-export-del", object{"id": e.ID, "mode": "hard"}, nil)
			if err != nil && !qmp.Refused(err) {
				return err
			}
		}
		if left == 0 {
			return nil
		}
		if err := eventOrPoll(ctx, events); err != nil {
			return fmt.Errorf("wait for export's end: %w", err)
		}
	}
}

// startExports starts QEMU's NBD server, of which there is one a process, and
// returns its socket.
func (c *capturing) startExports(ctx context.Context) (string, error) {
	path, err := c.m.socketPath(sourceSocket)
	if err != nil {
		return "", err
	}
	// QEMU resolves the path itself: our own machines work in their folder.
	theirs := sourceSocket
	if c.rec.Socket != "" {
		theirs = c.m.path(sourceSocket)
	}
	err = c.mon.Run(ctx, "nbd-server-start", object{"addr": object{"type": "unix", "data": object{"path": theirs}}}, nil)
	if err == nil || !qmp.Refused(err) {
		return path, c.fault(err, "start export server")
	}
	if _, lerr := nbd.List(ctx, "unix", path, nbd.Options{HandshakeTimeout: proofTimeout}); lerr != nil {
		return "", problem.Wrap(errors.Join(err, lerr), problem.HypervisorError, "machine %s: QEMU's only NBD server cannot be used", c.m.name)
	}
	return path, nil
}
