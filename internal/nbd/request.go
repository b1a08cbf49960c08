package nbd

import (
	"sync/atomic"

	"rebound/internal/block"
)

// Request is one command of a client, owned by the Handler from Handle to Done.
// Requests are pooled: nothing of one may be touched after Done.
type Request struct {
	Op     Op
	Flags  CmdFlags
	Offset int64
	Length int64
	// Data is the payload of a WRITE, or the buffer that a READ must fill
	// (Length bytes, content arbitrary). Valid until Done.
	Data []byte
	// Extents is the answer to BLOCK_STATUS: at least one, in order from
	// Offset, not beyond Length. Left empty it means all data.
	Extents []block.Extent

	conn   *Conn
	cookie uint64
	buf    *Buffer
	next   *Request
	errno  Errno
	msg    string
	parts  []readPart
	open   atomic.Bool
	cost   int64
}

// readPart is one chunk of a structured READ reply.
type readPart struct {
	off, length int64
	hole        bool
}

// Conn returns the connection that the request came by.
func (r *Request) Conn() *Conn { return r.conn }

// Done completes the request: err nil is success; an Errno in err's chain is
// sent as it is; anything else is mapped (block's errors, ENOSPC) or becomes
// EIO, with err's text as message where the client negotiated structured
// replies. It never blocks on the client. A second call panics.
func (r *Request) Done(err error) { r.conn.finish(r, err, false) }

// Detach hands the payload of a WRITE over to the caller for longer than the
// request lives: it stays valid until the returned Buffer is released.
// r.Data is nil afterwards. It returns nil if there is no payload.
func (r *Request) Detach() *Buffer {
	if r.Op != OpWrite || r.buf == nil {
		return nil
	}
	b := r.buf
	r.buf, r.Data = nil, nil
	return b
}
