package qemu

import (
	"context"
	"fmt"
	"strings"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/qmp"
)

// liveDisk is a disk of a running machine as QEMU shows it.
type liveDisk struct {
	ID   dr.DiskID
	Qdev string
	// Node is the root of the guest's device, below our filter.
	Node     string
	Size     int64
	ReadOnly bool
	Bitmaps  []string
	// IOThread: the disk is served by an I/O thread of QEMU.
	IOThread bool
	// job is a block job of somebody else that works on the disk.
	job string
}

// liveDisks are the disks of a machine that its definition names.
type liveDisks map[dr.DiskID]*liveDisk

// check refuses what cannot be captured.
func (l liveDisks) check(id dr.DiskID) error {
	d := l[id]
	switch {
	case d == nil:
		return problem.New(problem.UnknownDisk, "%s", id)
	case d.ReadOnly:
		return problem.New(problem.DiskNotSupported, "disk %s is read-only", id)
	case d.Size%512 != 0:
		return problem.New(problem.DiskNotSupported, "disk %s has %d bytes, which is no multiple of 512", id, d.Size)
	case d.IOThread:
		return d.refuseIOThread()
	case d.job != "":
		return problem.New(problem.DiskNotSupported, "block job %q works on disk %s", d.job, id)
	}
	return nil
}

// refuseIOThread: in QEMU 7.2 a client that leaves an NBD export which runs in
// an I/O thread aborts QEMU (nbd_blockdev_client_closed asserts the main
// thread), so such a disk could be mirrored but never be read.
func (d *liveDisk) refuseIOThread() error {
	return problem.New(problem.DiskNotSupported, "disk %s is served by an I/O thread; start the machine without iothread= for it", d.ID)
}

// writable returns the disks that can be captured.
func (l liveDisks) writable() []*liveDisk {
	var out []*liveDisk
	for _, d := range l {
		if !d.ReadOnly {
			out = append(out, d)
		}
	}
	return out
}

// deviceRow is a row of query-block.
type deviceRow struct {
	Device   string `json:"device"`
	Qdev     string `json:"qdev"`
	Inserted *struct {
		Name     string `json:"node-name"`
		ReadOnly bool   `json:"ro"`
		File     string `json:"file"`
		Driver   string `json:"drv"`
		Image    struct {
			Size int64 `json:"virtual-size"`
		} `json:"image"`
	} `json:"inserted"`
}

// is reports whether the row is the device of a disk.
func (r deviceRow) is(rec *record, id dr.DiskID) bool {
	if path, ok := rec.Devices[id]; ok && rec.Socket != "" {
		return path == r.Qdev
	}
	return isDevice(r.Qdev, id)
}

// disks asks QEMU where the machine's disks stand now.
func (c *capturing) disks(ctx context.Context) (liveDisks, error) {
	rows, err := qmp.Call[[]deviceRow](ctx, c.mon, "query-block", nil)
	if err != nil {
		return nil, err
	}
	g, err := readGraph(ctx, c.mon)
	if err != nil {
		return nil, err
	}
	out := liveDisks{}
	for _, spec := range c.rec.present().Disks {
		for _, r := range rows {
			if r.Inserted == nil || !r.is(c.rec, spec.ID) {
				continue
			}
			d := &liveDisk{ID: spec.ID, Qdev: r.Qdev, Node: g.below(r.Inserted.Name), Size: r.Inserted.Image.Size, ReadOnly: r.Inserted.ReadOnly || spec.ReadOnly}
			d.Bitmaps, d.job = g.bitmaps[d.Node], g.foreignJob(d.Node)
			if d.IOThread, err = c.inThread(ctx, r.Qdev); err != nil {
				return nil, err
			}
			out[spec.ID] = d
		}
	}
	return out, nil
}

// nodeGraph is QEMU's block graph as far as capture needs it.
type nodeGraph struct {
	names   map[int64]string
	types   map[int64]string
	edges   []graphEdge
	bitmaps map[string][]string // by node name
}

type graphEdge struct {
	Name   string `json:"name"`
	Parent int64  `json:"parent"`
	Child  int64  `json:"child"`
}

func readGraph(ctx context.Context, mon qmp.Runner) (*nodeGraph, error) {
	dump, err := qmp.Call[struct {
		Nodes []struct {
			ID   int64  `json:"id"`
			Type string `json:"type"`
			Name string `json:"name"`
		} `json:"nodes"`
		Edges []graphEdge `json:"edges"`
	}](ctx, mon, "x-debug-query-block-graph", nil)
	if err != nil {
		return nil, err
	}
	g := &nodeGraph{names: map[int64]string{}, types: map[int64]string{}, edges: dump.Edges, bitmaps: map[string][]string{}}
	for _, n := range dump.Nodes {
		g.names[n.ID], g.types[n.ID] = n.Name, n.Type
	}
	nodes, err := qmp.Call[[]blockNode](ctx, mon, "query-named-block-nodes", object{"flat": true})
	if err != nil {
		return nil, err
	}
	for _, n := range nodes {
		for _, b := range n.Bitmaps {
			if b.Name == "" {
				continue // a mirror's own
			}
			g.bitmaps[n.Name] = append(g.bitmaps[n.Name], b.Name)
		}
	}
	return g, nil
}

// below returns the node under our filter, or the node itself.
func (g *nodeGraph) below(node string) string {
	if !strings.HasPrefix(node, filterPrefix) {
		return node
	}
	for _, e := range g.edges {
		if g.names[e.Parent] == node && (e.Name == "backing" || e.Name == "file") {
			return g.names[e.Child]
		}
	}
	return node
}

// foreignJob returns the name of a block job of somebody else that holds a
// node, or "".
func (g *nodeGraph) foreignJob(node string) string {
	for _, e := range g.edges {
		if g.names[e.Child] == node && g.types[e.Parent] == "block-job" && !strings.HasPrefix(g.names[e.Parent], ourPrefix) {
			return fmt.Sprint(g.names[e.Parent])
		}
	}
	return ""
}

// inThread reports whether a device is served by an I/O thread. That of a SCSI
// disk is its controller's, so with SCSI any I/O thread counts.
func (c *capturing) inThread(ctx context.Context, qdev string) (bool, error) {
	threads, err := qmp.Call[[]any](ctx, c.mon, "query-iothreads", nil)
	if err != nil || len(threads) == 0 {
		return false, err
	}
	kind, err := get[string](ctx, c.mon, qdev, "type")
	if err != nil {
		return false, err
	}
	if strings.HasPrefix(kind, "scsi-") {
		return true, nil
	}
	thread, err := get[string](ctx, c.mon, qdev, "iothread")
	return thread != "", err
}
