package qemu

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"rebound/internal/dr"
	"rebound/internal/qmp"
	"rebound/internal/site"
)

// graph is what QEMU says about one disk of a machine.
type graph struct {
	qdev      string // QOM path of the guest's device
	root      string // node that the device stands on
	nodes     map[string]bool
	backing   string // node below the overlay
	direct    bool   // how the overlay was opened
	bitmap    bool   // site.CommitBitmap is on the base
	job       *jobInfo
	throttled bool
}

// blockDevice is a row of query-block.
type blockDevice struct {
	Qdev     string     `json:"qdev"`
	Inserted *blockNode `json:"inserted"`
}

// blockNode is a row of query-named-block-nodes.
type blockNode struct {
	Name  string `json:"node-name"`
	IOPS  int64  `json:"iops_wr"`
	Cache struct {
		Direct bool `json:"direct"`
	} `json:"cache"`
	Bitmaps []struct {
		Name string `json:"name"`
	} `json:"dirty-bitmaps"`
}

// isDevice reports whether a QOM path is that of a disk's device, or of the
// part of it that holds the drive ("/machine/peripheral/disk0/virtio-backend").
func isDevice(qdev string, id dr.DiskID) bool {
	return slices.Contains(strings.Split(qdev, "/"), string(id))
}

// graph asks QEMU where a disk stands.
func (c *commit) graph(ctx context.Context, id dr.DiskID) (*graph, error) {
	devices, err := qmp.Call[[]blockDevice](ctx, c.mon, "query-block", nil)
	if err != nil {
		return nil, err
	}
	g := &graph{nodes: map[string]bool{}}
	for _, dev := range devices {
		if dev.Inserted != nil && isDevice(dev.Qdev, id) {
			g.qdev, g.root, g.throttled = dev.Qdev, dev.Inserted.Name, dev.Inserted.IOPS > 0
		}
	}
	if g.root == "" {
		return nil, fmt.Errorf("QEMU shows no device for disk %s", id)
	}
	nodes, err := qmp.Call[[]blockNode](ctx, c.mon, "query-named-block-nodes", map[string]bool{"flat": true})
	if err != nil {
		return nil, err
	}
	for _, n := range nodes {
		g.nodes[n.Name] = true
		switch n.Name {
		case overlayNode(id):
			g.direct = n.Cache.Direct
		case rawNode(id):
			for _, b := range n.Bitmaps {
				g.bitmap = g.bitmap || b.Name == site.CommitBitmap
			}
		}
	}
	if g.backing, err = c.backing(ctx, id); err != nil {
		return nil, err
	}
	g.job, err = c.job(ctx, id)
	return g, err
}

// backing returns the node that the overlay lies on, by the edges of QEMU's
// block graph: file names do not tell nodes apart.
func (c *commit) backing(ctx context.Context, id dr.DiskID) (string, error) {
	dump, err := qmp.Call[struct {
		Nodes []struct {
			ID   int64  `json:"id"`
			Name string `json:"name"`
		} `json:"nodes"`
		Edges []struct {
			Name   string `json:"name"`
			Parent int64  `json:"parent"`
			Child  int64  `json:"child"`
		} `json:"edges"`
	}](ctx, c.mon, "x-debug-query-block-graph", nil)
	if err != nil {
		return "", err
	}
	names := map[int64]string{}
	for _, n := range dump.Nodes {
		names[n.ID] = n.Name
	}
	for _, e := range dump.Edges {
		if e.Name == "backing" && names[e.Parent] == overlayNode(id) {
			return names[e.Child], nil
		}
	}
	return "", nil
}
