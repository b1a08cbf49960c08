package capture

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"

	"rebound/internal/dr"
	"rebound/internal/nbd"
	"rebound/internal/segment"
)

// errNotReadable answers reads: capture keeps no content.
var errNotReadable = fmt.Errorf("capture: exports cannot be read: %w", nbd.ENOTSUP)

// exports serves the group's disks over NBD into the sequencer.
type exports struct {
	q      *sequencer
	server *nbd.Server
	names  []string
}

// newExports makes the server of a disk table. Minimum block 1, else QEMU reads
// the target for partial writes; maximum 1 MiB, else it sends up to 32 MiB.
func newExports(q *sequencer, disks []dr.GroupDisk, log *slog.Logger) (*exports, error) {
	server, err := nbd.NewServer(nbd.ServerOptions{Logger: log})
	if err != nil {
		return nil, fmt.Errorf("make nbd server: %w", err)
	}
	e := &exports{q: q, server: server}
	for i, d := range disks {
		h := &diskHandler{q: q, disk: uint16(i), size: d.SizeBytes}
		name := ExportName(i)
		err := server.Add(nbd.Export{
			Name: name, Description: string(d.Machine) + "/" + string(d.Disk),
			Handler: h, Size: d.SizeBytes, BlockSize: nbd.BlockSizes{Min: 1, Preferred: 4096, Max: segment.MaxPayload},
			NoMultiConn: true, BlockingIO: true, OnOpen: h.opened, OnClose: h.closed, OnRefuse: h.refusing,
		})
		if err != nil {
			return nil, fmt.Errorf("export disk %s/%s: %w", d.Machine, d.Disk, err)
		}
		e.names = append(e.names, name)
	}
	return e, nil
}

// serve accepts connections until ctx ends.
func (e *exports) serve(ctx context.Context, l net.Listener) error { return e.server.Serve(ctx, l) }

// whole reports a socket that its client has closed, as the kernel knows it: the
// reader may not have come to that yet.
func (e *exports) whole() error {
	for _, name := range e.names {
		for _, c := range e.server.Conns(name) {
			if c.HungUp() {
				return fmt.Errorf("%w: the socket of %s is closed", errRefused, name)
			}
		}
	}
	return nil
}

// close cuts all connections. The stream must be sealed.
func (e *exports) close() error { return e.server.Close() }

// diskHandler takes the requests of one disk.
type diskHandler struct {
	q    *sequencer
	disk uint16
	size int64
	// writer is the connection that wrote last; wrote holds all that did.
	writer atomic.Pointer[nbd.Conn]
	mu     sync.Mutex
	wrote  map[uint64]bool
}

func (h *diskHandler) opened(*nbd.Conn) { h.q.connected(h.disk) }

func (h *diskHandler) closed(c *nbd.Conn, err error) {
	h.mu.Lock()
	wrote := h.wrote[c.ID()]
	delete(h.wrote, c.ID())
	h.mu.Unlock()
	h.writer.CompareAndSwap(c, nil)
	why := "the client said goodbye"
	if err != nil {
		why = err.Error()
	}
	h.q.disconnected(h.disk, wrote, why)
}

// Handle implements nbd.Handler. It never waits.
func (h *diskHandler) Handle(r *nbd.Request) {
	switch r.Op {
	case nbd.OpWrite, nbd.OpWriteZeroes, nbd.OpTrim:
		if h.writer.Load() != r.Conn() {
			h.note(r.Conn())
		}
		if r.Length == 0 {
			r.Done(nil)
			return
		}
		h.record(r)
	case nbd.OpFlush, nbd.OpBlockStatus:
		r.Done(nil)
	default:
		h.refuse(r)
	}
}

func (h *diskHandler) record(r *nbd.Request) {
	s := slot{off: r.Offset, length: r.Length, disk: h.disk, cost: entryCost}
	switch r.Op {
	case nbd.OpWriteZeroes:
		s.kind = segment.KindZero
	case nbd.OpTrim:
		s.kind = segment.KindTrim
	default:
		s.kind = segment.KindWrite
		buf := r.Detach()
		s.data, s.owner, s.cost = buf.Bytes(), buf, entryCost+int64(buf.Cap())
	}
	h.q.record(s, r)
}

// refuse answers with an error.
func (h *diskHandler) refuse(r *nbd.Request) {
	h.refusing(r.Conn(), errNotReadable)
	r.Done(errNotReadable)
}

// refusing is told of an error reply before it is sent. A client that has
// written stops sending after one, so the stream is sealed first.
func (h *diskHandler) refusing(c *nbd.Conn, err error) {
	h.mu.Lock()
	wrote := h.wrote[c.ID()]
	h.mu.Unlock()
	if wrote {
		h.q.seal(fmt.Sprintf("disk %s: a request was refused: %v", ExportName(int(h.disk)), err))
	}
}

// note remembers that a connection has written.
func (h *diskHandler) note(c *nbd.Conn) {
	h.mu.Lock()
	if h.wrote == nil {
		h.wrote = map[uint64]bool{}
	}
	h.wrote[c.ID()] = true
	h.mu.Unlock()
	h.writer.Store(c)
}
