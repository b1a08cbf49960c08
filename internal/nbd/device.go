package nbd

import (
	"context"
	"errors"

	"rebound/internal/block"
)

// deviceHandler serves a block.Device: one goroutine a request, bounded by the
// connection's limits.
type deviceHandler struct {
	dev    block.Device
	mapper block.Mapper // nil if dev has none
	zeroer block.Zeroer // nil if dev has none
}

func newDeviceHandler(dev block.Device) *deviceHandler {
	d := &deviceHandler{dev: dev}
	d.mapper, _ = dev.(block.Mapper)
	d.zeroer, _ = dev.(block.Zeroer)
	return d
}

// Handle implements Handler.
func (d *deviceHandler) Handle(r *Request) { go d.run(r) }

func (d *deviceHandler) run(r *Request) {
	c := r.conn
	err := d.do(c.ctx, r)
	if err == nil && r.Flags&CmdFUA != 0 && (r.Op == OpWrite || r.Op == OpWriteZeroes || r.Op == OpTrim) {
		err = d.dev.Flush(c.ctx)
	}
	c.finish(r, err, true)
}

func (d *deviceHandler) do(ctx context.Context, r *Request) error {
	switch r.Op {
	case OpRead:
		return d.read(ctx, r)
	case OpWrite:
		return d.dev.WriteAt(ctx, r.Data, r.Offset)
	case OpFlush:
		return d.dev.Flush(ctx)
	case OpTrim:
		return d.dev.Trim(ctx, r.Offset, r.Length)
	case OpWriteZeroes:
		return d.zero(ctx, r)
	case OpBlockStatus:
		return d.status(ctx, r)
	}
	return EINVAL
}

const (
	// minSparseRead is the shortest read that is worth asking for holes.
	minSparseRead = 64 << 10
	// maxReadParts bounds the chunks of one sparse reply.
	maxReadParts = 64
)

func (d *deviceHandler) read(ctx context.Context, r *Request) error {
	if r.conn.structured && r.Flags&CmdDF == 0 && d.mapper != nil && r.Length >= minSparseRead {
		if extents, err := d.mapper.Extents(ctx, r.Offset, r.Length); err == nil {
			r.parts = sparseParts(r.parts[:0], r.Offset, r.Length, extents)
			for _, p := range r.parts {
				if p.hole {
					continue
				}
				at := p.off - r.Offset
				if err := d.dev.ReadAt(ctx, r.Data[at:at+p.length], p.off); err != nil {
					return err
				}
			}
			return nil
		}
	}
	return d.dev.ReadAt(ctx, r.Data, r.Offset)
}

// sparseParts cuts a read into holes and data. Whatever the extents do not
// cover, and what is beyond maxReadParts, is data.
func sparseParts(parts []readPart, off, length int64, extents []block.Extent) []readPart {
	for _, e := range extents {
		if e.Length <= 0 || length == 0 || len(parts) == maxReadParts-1 {
			break
		}
		n := min(e.Length, length)
		if last := len(parts) - 1; last >= 0 && parts[last].hole == e.Zero {
			parts[last].length += n
		} else {
			parts = append(parts, readPart{off, n, e.Zero})
		}
		off += n
		length -= n
	}
	if length == 0 {
		return parts
	}
	if last := len(parts) - 1; last >= 0 && !parts[last].hole {
		parts[last].length += length
		return parts
	}
	return append(parts, readPart{off, length, false})
}

// zeroChunk is how much NO_HOLE writes at a time to a device that cannot be
// told to keep a range allocated.
const zeroChunk = 1 << 20

func (d *deviceHandler) zero(ctx context.Context, r *Request) error {
	if d.zeroer != nil {
		var mode block.ZeroMode
		if r.Flags&CmdNoHole != 0 {
			mode |= block.ZeroKeep
		}
		if r.Flags&CmdFastZero != 0 {
			mode |= block.ZeroFastOnly
		}
		if mode != 0 {
			return d.zeroer.WriteZeroesMode(ctx, r.Offset, r.Length, mode)
		}
		return d.dev.WriteZeroes(ctx, r.Offset, r.Length)
	}
	if r.Flags&CmdNoHole == 0 {
		return d.dev.WriteZeroes(ctx, r.Offset, r.Length)
	}
	b := r.conn.s.buffers.get(int(min(r.Length, zeroChunk)))
	defer b.Release()
	clear(b.data)
	for off, left := r.Offset, r.Length; left > 0; {
		n := min(left, zeroChunk)
		if err := d.dev.WriteAt(ctx, b.data[:n], off); err != nil {
			return err
		}
		off, left = off+n, left-n
	}
	return nil
}

func (d *deviceHandler) status(ctx context.Context, r *Request) error {
	if d.mapper == nil {
		return nil
	}
	limit := maxStatusExtents
	if r.Flags&CmdReqOne != 0 {
		limit = 1
	}
	var out []block.Extent
	off, left := r.Offset, r.Length
	for left > 0 && len(out) <= limit {
		extents, err := d.mapper.Extents(ctx, off, left)
		if err != nil {
			return err
		}
		if len(extents) == 0 {
			return errors.New("device answered no extents")
		}
		for _, e := range extents {
			if e.Length <= 0 || e.Length > left {
				return errors.New("device answered an extent out of range")
			}
			if last := len(out) - 1; last >= 0 && out[last].Hole == e.Hole && out[last].Zero == e.Zero {
				out[last].Length += e.Length
			} else {
				out = append(out, e)
			}
			off += e.Length
			left -= e.Length
		}
	}
	r.Extents = out
	return nil
}
