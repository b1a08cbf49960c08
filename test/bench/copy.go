package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"rebound/internal/extent"
	"rebound/internal/nbd"
	"rebound/internal/resync"
	"rebound/test/bench/report"
	"rebound/test/bench/rig"
)

const blockSize = 4096

// copies measures the first copy of a disk, and the way home after a hundredth
// of it has changed. One mechanism serves both directions, so that the way home
// is measured in the only one that is set up here.
func copies(ctx context.Context, b *bench) error {
	c := &copier{bench: b, rng: rand.New(rand.NewPCG(7, uint64(b.pairs)))}
	var err error
	if c.certs, err = b.NewCerts(); err != nil {
		return err
	}
	if c.standby, err = b.NewStandby(ctx); err != nil {
		return err
	}
	if c.host, err = b.NewHost(ctx, "source", b.size(), c.certs.Dir); err != nil {
		return err
	}
	err = alternate(b.pairs, func(i int) error { return c.ours(ctx) }, func(i int) error { return c.peer(ctx, i) })
	if err != nil {
		return err
	}
	mb := float64(b.size()) / 1e6
	rate := func(seconds []float64) (out []float64) {
		for _, s := range seconds {
			out = append(out, mb/s)
		}
		return out
	}
	if err := b.add("first_copy", rate(c.first), rate(c.full), func(a *report.Axis) { a.Verified = b.pairs }); err != nil {
		return err
	}
	err = b.add("failback_bytes", c.bytes, nil, func(a *report.Axis) {
		a.Verified = b.pairs
		a.Extra = map[string]float64{"compare_all": report.Median(c.bytesAll)}
		a.Note = fmt.Sprintf("by bitmap, half of whose blocks do not differ; comparing the whole disk instead sends %.2f times the bytes that differ", report.Median(c.bytesAll))
	})
	if err != nil {
		return err
	}
	return b.add("failback_time", c.home, c.full, func(a *report.Axis) {
		a.Verified = b.pairs
		a.Note = "from the attached disk to the last block durable, a hundredth changed"
	})
}

// copier holds what copies measures with.
type copier struct {
	*bench
	certs   *rig.Certs
	standby *rig.Standby
	host    *rig.Host
	rng     *rand.Rand

	first, full, home []float64 // seconds
	bytes, bytesAll   []float64 // ratios
}

// peer copies the disk with nbdcopy to a fresh file.
func (c *copier) peer(ctx context.Context, i int) error {
	s, err := c.NewFileServer(ctx, fmt.Sprintf("copy-%d", i), c.size(), c.certs)
	if err != nil {
		return err
	}
	took, err := c.NBDCopy(ctx, c.host, s)
	if err != nil {
		return err
	}
	c.full = append(c.full, took.Seconds())
	return s.Stop()
}

// ours copies the disk to a fresh journal, and then brings over what changed.
func (c *copier) ours(ctx context.Context) error {
	u, err := c.NewOurs(ctx, c.host, c.standby, rig.Options{Codec: "none"})
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := u.Begin(ctx); err != nil {
		return err
	}
	c.first = append(c.first, time.Since(begin).Seconds())
	if err := u.Verify(ctx); err != nil {
		return err
	}
	if err := u.Detach(ctx); err != nil {
		return err
	}
	home, ratio, err := c.again(ctx, u, resync.ModeBitmap)
	if err != nil {
		return err
	}
	c.home, c.bytes = append(c.home, home.Seconds()), append(c.bytes, ratio)
	_, ratio, err = c.again(ctx, u, resync.ModeCompare)
	if err != nil {
		return err
	}
	c.bytesAll = append(c.bytesAll, ratio)
	return u.End(ctx)
}

// again changes the detached disk, attaches it and synchronises. It returns how
// long that took and the bytes sent for each byte that differs.
func (c *copier) again(ctx context.Context, u *rig.Ours, mode resync.Mode) (time.Duration, float64, error) {
	ranges, differ, err := c.change(ctx)
	if err != nil {
		return 0, 0, err
	}
	if mode != resync.ModeBitmap {
		ranges = nil
	}
	settle()
	before, err := u.Status(ctx)
	if err != nil {
		return 0, 0, err
	}
	begin := time.Now()
	if err := u.Attach(ctx); err != nil {
		return 0, 0, err
	}
	if _, err := u.Sync(ctx, mode, ranges); err != nil {
		return 0, 0, err
	}
	took := time.Since(begin)
	after, err := u.Status(ctx)
	if err != nil {
		return 0, 0, err
	}
	if err := u.Verify(ctx); err != nil {
		return 0, 0, err
	}
	return took, float64(after.Counters.SentBytes-before.Counters.SentBytes) / float64(differ), u.Detach(ctx)
}

// change writes 4 KiB blocks at random to the disk: a hundredth of all with new
// content, as many with the content that they have. It returns what a bitmap
// would name and how many bytes differ.
func (c *copier) change(ctx context.Context) ([]extent.Range, int64, error) {
	disk, err := c.host.Guest(ctx)
	if err != nil {
		return nil, 0, err
	}
	defer disk.Close()
	n := int(c.size() / blockSize / 100)
	blocks := c.rng.Perm(int(c.size() / blockSize))[:2*n]
	gen := rand.NewChaCha8([32]byte{byte(c.rng.Uint32()), byte(c.rng.Uint32()), byte(c.rng.Uint32())})
	var ranges []extent.Range
	for i, blk := range blocks {
		off := int64(blk) * blockSize
		if err := rewrite(ctx, disk, off, i < n, gen); err != nil {
			return nil, 0, err
		}
		ranges = append(ranges, extent.Range{Off: off, Len: blockSize})
	}
	slices.SortFunc(ranges, func(a, b extent.Range) int { return int(a.Off - b.Off) })
	return ranges, int64(n) * blockSize, disk.Flush(ctx)
}

func rewrite(ctx context.Context, disk *nbd.Client, off int64, fresh bool, gen *rand.ChaCha8) error {
	buf := make([]byte, blockSize)
	if fresh {
		_, _ = gen.Read(buf) // never fails
	} else if err := disk.ReadAt(ctx, buf, off); err != nil {
		return err
	}
	return disk.WriteAt(ctx, buf, off)
}
