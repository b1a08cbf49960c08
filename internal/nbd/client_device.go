package nbd

import (
	"context"
	"fmt"
	"slices"

	"rebound/internal/block"
	"rebound/internal/extent"
)

// maxRange bounds the length of one request that carries no payload, in bytes:
// 1 GiB fits the 32-bit length and is a multiple of every minimum block size.
const maxRange = 1 << 30

// check rejects what the server would reject. writes tells that it changes
// content.
func (c *Client) check(off, length int64, writes bool) error {
	if writes && c.info.Flags&FlagReadOnly != 0 {
		return block.ErrReadOnly
	}
	return block.CheckRange(off, length, c.info.Size)
}

func (c *Client) has(f TransmissionFlags) bool { return c.info.Flags&f != 0 }

func (c *Client) min() int64 { return int64(c.info.BlockSize.Min) }

func (c *Client) aligned(off, length int64) bool { return (off|length)&(c.min()-1) == 0 }

// ReadAt implements block.Device.
func (c *Client) ReadAt(ctx context.Context, p []byte, off int64) error {
	n := int64(len(p))
	if err := c.check(off, n, false); err != nil || n == 0 {
		return err
	}
	if c.aligned(off, n) {
		return c.doParts(ctx, command{op: OpRead, off: off, length: n, data: p}, c.maxChunk)
	}
	for len(p) > 0 {
		r := extent.Range{Off: off, Len: min(int64(len(p)), max(c.maxChunk-2*c.min(), 1))}
		a := r.Align(c.min())
		buf := make([]byte, a.Len)
		if err := c.doParts(ctx, command{op: OpRead, off: a.Off, length: a.Len, data: buf}, c.maxChunk); err != nil {
			return err
		}
		copy(p, buf[r.Off-a.Off:][:r.Len])
		p, off = p[r.Len:], r.End()
	}
	return nil
}

// WriteAt implements block.Device.
func (c *Client) WriteAt(ctx context.Context, p []byte, off int64) error {
	n := int64(len(p))
	if err := c.check(off, n, true); err != nil || n == 0 {
		return err
	}
	return c.around(ctx, off, n, func(blk []byte, at int64) {
		copy(blk, p[at:])
	}, func(off, n, at int64) error {
		return c.doParts(ctx, command{op: OpWrite, off: off, length: n, data: p[at : at+n]}, c.maxChunk)
	})
}

// WriteZeroes implements block.Device.
func (c *Client) WriteZeroes(ctx context.Context, off, length int64) error {
	return c.WriteZeroesMode(ctx, off, length, 0)
}

// WriteZeroesMode implements block.Zeroer. Without the server's help zeroes are
// written, and nothing is fast.
func (c *Client) WriteZeroesMode(ctx context.Context, off, length int64, mode block.ZeroMode) error {
	if err := c.check(off, length, true); err != nil || length == 0 {
		return err
	}
	var flags CmdFlags
	if mode&block.ZeroKeep != 0 {
		flags |= CmdNoHole
	}
	if mode&block.ZeroFastOnly != 0 {
		if !c.has(FlagSendFastZero) || !c.has(FlagSendWriteZeroes) {
			return block.ErrNotFast
		}
		flags |= CmdFastZero
	}
	return c.around(ctx, off, length, func(blk []byte, _ int64) {
		clear(blk)
	}, func(off, n, _ int64) error {
		if c.has(FlagSendWriteZeroes) {
			return c.doParts(ctx, command{op: OpWriteZeroes, flags: flags, off: off, length: n}, maxRange)
		}
		return c.writeZeroData(ctx, off, n)
	})
}

func (c *Client) writeZeroData(ctx context.Context, off, n int64) error {
	zeroes := make([]byte, min(n, c.maxChunk))
	for n > 0 {
		k := min(n, c.maxChunk)
		if err := c.do(ctx, command{op: OpWrite, off: off, length: k, data: zeroes[:k]}, nil); err != nil {
			return err
		}
		off, n = off+k, n-k
	}
	return nil
}

// around runs inner on the whole minimum blocks of a range and, where the range
// ends inside a block, reads that block, lets edit change the part in the range
// (at is its distance from the range's start), and writes it back. Blocks are
// never edited while another write runs.
func (c *Client) around(ctx context.Context, off, n int64, edit func(part []byte, at int64), inner func(off, n, at int64) error) error {
	if c.min() == 1 {
		return inner(off, n, 0)
	}
	if c.aligned(off, n) {
		c.edges.RLock()
		defer c.edges.RUnlock()
		return inner(off, n, 0)
	}
	c.edges.Lock()
	defer c.edges.Unlock()
	want := extent.Range{Off: off, Len: n}
	for at := off; at < want.End(); {
		blk := extent.Range{Off: at, Len: 1}.Align(c.min())
		if blk.Off == at && blk.End() <= want.End() {
			whole := (want.End() - at) / c.min() * c.min()
			if err := inner(at, whole, at-off); err != nil {
				return err
			}
			at += whole
			continue
		}
		buf := make([]byte, blk.Len)
		if err := c.do(ctx, command{op: OpRead, off: blk.Off, length: blk.Len, data: buf}, nil); err != nil {
			return err
		}
		part := blk.Intersect(want)
		edit(buf[part.Off-blk.Off:][:part.Len], part.Off-off)
		if err := c.do(ctx, command{op: OpWrite, off: blk.Off, length: blk.Len, data: buf}, nil); err != nil {
			return err
		}
		at = part.End()
	}
	return nil
}

// Trim implements block.Device; it does nothing where the server cannot, and
// leaves blocks alone that it covers in part.
func (c *Client) Trim(ctx context.Context, off, length int64) error {
	if err := c.check(off, length, true); err != nil || !c.has(FlagSendTrim) {
		return err
	}
	m := c.min()
	end := (off + length) / m * m
	off = (off + m - 1) / m * m
	if off >= end {
		return nil
	}
	c.edges.RLock()
	defer c.edges.RUnlock()
	return c.doParts(ctx, command{op: OpTrim, off: off, length: end - off}, maxRange)
}

// Flush implements block.Device. A server that does not offer FLUSH is taken to
// write through, as other clients do: there is no way to ask for more.
func (c *Client) Flush(ctx context.Context) error {
	if !c.has(FlagSendFlush) {
		return c.Err()
	}
	return c.do(ctx, command{op: OpFlush}, nil)
}

// Extents implements block.Mapper by base:allocation; without that context
// everything is data.
func (c *Client) Extents(ctx context.Context, off, length int64) ([]block.Extent, error) {
	if err := c.check(off, length, false); err != nil || length == 0 {
		return nil, err
	}
	if !slices.Contains(c.info.Contexts, ContextAllocation) {
		return []block.Extent{{Length: length}}, nil
	}
	runs, err := c.BlockStatus(ctx, ContextAllocation, off, length)
	if err != nil {
		return nil, err
	}
	out := make([]block.Extent, 0, len(runs))
	for _, r := range runs {
		out = append(out, block.Extent{Length: r.Length, Hole: r.Flags&StatusHole != 0, Zero: r.Flags&StatusZero != 0})
	}
	return out, nil
}

// BlockStatus asks for the state of a range in a negotiated context. It returns
// at least one run when length > 0, in order from off; it may cover less than
// asked, never more. ErrNoContext if metaContext was not negotiated.
func (c *Client) BlockStatus(ctx context.Context, metaContext string, off, length int64) ([]Status, error) {
	if !slices.Contains(c.info.Contexts, metaContext) {
		return nil, fmt.Errorf("status of %q: %w", metaContext, ErrNoContext)
	}
	if err := c.check(off, length, false); err != nil || length == 0 {
		return nil, err
	}
	want := extent.Range{Off: off, Len: length}
	asked := want.Align(c.min())
	asked.Len = min(asked.Len, maxRange)
	var statuses []contextStatus
	err := c.do(ctx, command{op: OpBlockStatus, off: asked.Off, length: asked.Len}, func(s *slot) {
		statuses, s.statuses = s.statuses, nil
	})
	if err != nil {
		return nil, err
	}
	for _, s := range statuses {
		if c.contexts[s.id] == metaContext {
			runs := clip(s.runs, asked.Off, want)
			if len(runs) == 0 {
				return nil, fmt.Errorf("%w: block status below the minimum block size", ErrProtocol)
			}
			return runs, nil
		}
	}
	err = fmt.Errorf("%w: block status without context %q", ErrProtocol, metaContext)
	c.fail(err)
	return nil, err
}

// clip cuts runs that start at off down to want. Neighbours of one state are
// joined.
func clip(runs []Status, off int64, want extent.Range) []Status {
	out := runs[:0]
	for _, r := range runs {
		part := extent.Range{Off: off, Len: r.Length}.Intersect(want)
		off += r.Length
		if part.Empty() {
			continue
		}
		if last := len(out) - 1; last >= 0 && out[last].Flags == r.Flags {
			out[last].Length += part.Len
		} else {
			out = append(out, Status{part.Len, r.Flags})
		}
	}
	return out
}
