package nbd

import (
	"fmt"

	"rebound/internal/block"
)

// check decides whether a request is allowed; errno 0 means yes. Which value
// goes with which fault follows the document's section "Error values".
func (c *Conn) check(h reqHeader) (errno Errno, why string) {
	e := c.exp
	if errno, why = c.checkCommand(h); errno != 0 {
		return errno, why
	}
	writes := h.op == OpWrite || h.op == OpWriteZeroes || h.op == OpTrim
	if writes && e.ReadOnly {
		return EPERM, "the export is read-only"
	}
	if h.op == OpFlush {
		if h.off != 0 || h.length != 0 {
			return EINVAL, "flush with a range"
		}
		return 0, ""
	}
	if h.off > uint64(e.Size) || uint64(h.length) > uint64(e.Size)-h.off {
		if writes {
			return ENOSPC, "beyond the end of the export"
		}
		return EINVAL, "beyond the end of the export"
	}
	if m := uint64(e.BlockSize.Min); h.off%m != 0 || uint64(h.length)%m != 0 {
		return EINVAL, "not aligned to the minimum block size"
	}
	if (h.op == OpRead || h.op == OpWrite) && h.length > e.BlockSize.Max {
		if h.flags&CmdDF != 0 {
			return EOVERFLOW, "more than the maximum block size"
		}
		return EINVAL, "more than the maximum block size"
	}
	if h.op == OpBlockStatus && h.length == 0 {
		return EINVAL, "status of no bytes"
	}
	return 0, ""
}

// checkCommand looks at command and flags alone.
func (c *Conn) checkCommand(h reqHeader) (errno Errno, why string) {
	c.mu.Lock()
	draining := c.draining
	c.mu.Unlock()
	if draining {
		return ESHUTDOWN, "the export is being removed"
	}
	allowed := CmdFUA // valid for every command once FUA is advertised
	switch h.op {
	case OpRead:
		if c.structured {
			allowed |= CmdDF
		}
	case OpWrite, OpFlush, OpTrim:
	case OpWriteZeroes:
		allowed |= CmdNoHole
		if c.exp.flags&FlagSendFastZero != 0 {
			allowed |= CmdFastZero
		}
	case OpBlockStatus:
		if !c.allocation {
			return EINVAL, "no metadata context was negotiated"
		}
		allowed |= CmdReqOne
	default:
		return EINVAL, "unknown command"
	}
	if h.flags&^allowed != 0 {
		return EINVAL, "unknown command flag"
	}
	return 0, ""
}

// encodeBatch builds the bytes of the replies in c.batch. Headers lie in one
// array, which must not move once a buffer points into it.
func (c *Conn) encodeBatch() vector {
	need := 0
	for _, r := range c.batch {
		need += headSize(r)
	}
	if cap(c.heads) < need {
		c.heads = make([]byte, 0, 2*need)
	}
	b, v := c.heads[:0], c.vec[:0]
	from := 0 // b[from:] is not yet in v
	for _, r := range c.batch {
		switch {
		case r.errno != 0 && c.structured:
			b = appendError(b, r.cookie, r.errno, r.msg)
		case r.errno != 0 || (r.Op != OpRead && r.Op != OpBlockStatus):
			b = appendSimple(b, r.errno, r.cookie)
		case r.Op == OpBlockStatus:
			b = appendBlockStatus(b, r.cookie, contextAllocation, r.Extents)
		case !c.structured:
			b = appendSimple(b, 0, r.cookie)
			v, from = v.add(b[from:]).add(r.Data), len(b)
		default:
			b, v, from = encodeRead(b, v, from, r)
		}
	}
	c.vec = v.add(b[from:])
	return c.vec
}

// headSize bounds the header bytes of a reply.
func headSize(r *Request) int {
	switch {
	case r.errno != 0:
		return chunkSize + 6 + min(len(r.msg), MaxString)
	case r.Op == OpBlockStatus:
		return chunkSize + 4 + 8*max(1, len(r.Extents))
	}
	return maxReplyHead*max(1, len(r.parts)) + 4*len(r.parts)
}

// encodeRead encodes a structured READ reply.
func encodeRead(b []byte, v vector, from int, r *Request) ([]byte, vector, int) {
	if r.Length == 0 {
		return appendChunk(b, chunkHeader{true, chunkNone, r.cookie, 0}), v, from
	}
	if len(r.parts) == 0 {
		b = appendChunk(b, chunkHeader{true, chunkOffsetData, r.cookie, uint32(8 + r.Length)})
		b = be.AppendUint64(b, uint64(r.Offset))
		return b, v.add(b[from:]).add(r.Data), len(b)
	}
	for i, p := range r.parts {
		done := i == len(r.parts)-1
		if p.hole {
			b = appendChunk(b, chunkHeader{done, chunkOffsetHole, r.cookie, 12})
			b = be.AppendUint64(b, uint64(p.off))
			b = be.AppendUint32(b, uint32(p.length))
			continue
		}
		b = appendChunk(b, chunkHeader{done, chunkOffsetData, r.cookie, uint32(8 + p.length)})
		b = be.AppendUint64(b, uint64(p.off))
		at := p.off - r.Offset
		v, from = v.add(b[from:]).add(r.Data[at:at+p.length]), len(b)
	}
	return b, v, from
}

// checkExtents makes sure that what a back end answered to BLOCK_STATUS can be
// sent: runs of at least one byte, no more of them than one reply may hold, and
// none beyond what was asked for.
func (r *Request) checkExtents() error {
	if len(r.Extents) == 0 {
		r.Extents = []block.Extent{{Length: r.Length}}
	}
	limit := maxStatusExtents
	if r.Flags&CmdReqOne != 0 {
		limit = 1
	}
	if len(r.Extents) > limit {
		r.Extents = r.Extents[:limit]
	}
	left := r.Length
	for _, e := range r.Extents {
		if e.Length <= 0 || e.Length > left {
			return fmt.Errorf("back end answered a status run of %d bytes with %d left", e.Length, left)
		}
		left -= e.Length
	}
	return nil
}
