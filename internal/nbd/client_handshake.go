package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"
)

// Bounds of what a server may send during the handshake.
const (
	maxOptReply   = 64 << 10
	maxOptReplies = 64 << 10
)

// handshake is the client's side of one negotiation.
type handshake struct {
	o        Options
	ctx      context.Context
	nc       net.Conn
	t        transport
	in       *input
	fixed    bool
	noZeroes bool
	info     ExportInfo
	contexts map[uint32]string
	stop     func() bool
	ended    bool
	ok       bool
}

// newHandshake reads the greeting and, if wanted, raises TLS.
func newHandshake(ctx context.Context, nc net.Conn, o Options) (*handshake, error) {
	t := newNetTransport(nc)
	h := &handshake{o: o, ctx: ctx, nc: nc, t: t, in: newInput(t), contexts: map[uint32]string{}}
	h.info.Name = o.Export
	h.info.BlockSize = BlockSizes{1, 4096, MaxPayload}
	if err := nc.SetDeadline(time.Now().Add(o.HandshakeTimeout)); err != nil {
		return nil, fmt.Errorf("set deadline: %w", err)
	}
	h.stop = context.AfterFunc(ctx, func() { nc.Close() })
	err := h.greet()
	if err == nil && o.TLSMode != TLSOff {
		err = h.startTLS()
	}
	if err != nil {
		h.end()
		return nil, fmt.Errorf("negotiate with nbd server: %w", h.reason(err))
	}
	return h, nil
}

// reason prefers the context's error to its consequence.
func (h *handshake) reason(err error) error {
	if h.ctx.Err() != nil {
		return h.ctx.Err()
	}
	return err
}

// end stops watching the context; false means that it ended in between.
func (h *handshake) end() bool {
	if !h.ended {
		h.ended = true
		h.ok = h.stop() && h.nc.SetDeadline(time.Time{}) == nil
	}
	return h.ok
}

func (h *handshake) greet() error {
	b, err := h.in.next(18)
	if err != nil {
		return fmt.Errorf("read greeting: %w", noEOF(err))
	}
	if be.Uint64(b) != magicInit || be.Uint64(b[8:]) != magicOption {
		return fmt.Errorf("%w: no newstyle greeting", ErrProtocol)
	}
	flags := be.Uint16(b[16:])
	h.fixed, h.noZeroes = flags&flagFixedNewstyle != 0, flags&flagNoZeroes != 0
	reply := uint32(flags & (flagFixedNewstyle | flagNoZeroes))
	return h.t.write(vector{}.add(be.AppendUint32(nil, reply)))
}

func (h *handshake) send(opt option, data []byte) error {
	if err := h.t.write(vector{}.add(appendOption(nil, opt, data))); err != nil {
		return fmt.Errorf("write option: %w", err)
	}
	return nil
}

// optError is a server's refusal of an option.
type optError struct {
	opt option
	rep optReply
	msg string
}

func (e *optError) Error() string {
	return fmt.Sprintf("server refused option %d (error %d) %s", e.opt, e.rep-repErrBit, e.msg)
}

// Is maps refusals to this package's errors.
func (e *optError) Is(target error) bool {
	switch e.rep {
	case repErrTLSReqd:
		return target == ErrTLSRequired
	case repErrUnknown:
		return target == ErrNoExport
	case repErrUnsup:
		return target == errors.ErrUnsupported
	}
	return false
}

// recv reads one reply to opt; refusals are errors. data is valid until the
// next read.
func (h *handshake) recv(opt option) (rep optReply, data []byte, err error) {
	b, err := h.in.next(optReplySize)
	if err != nil {
		return 0, nil, fmt.Errorf("read option reply: %w", noEOF(err))
	}
	r, err := parseOptReply(b)
	if err != nil {
		return 0, nil, err
	}
	if r.opt != opt || r.length > maxOptReply {
		return 0, nil, fmt.Errorf("%w: reply of %d bytes to option %d", ErrProtocol, r.length, r.opt)
	}
	if data, err = h.in.next(int(r.length)); err != nil {
		return 0, nil, fmt.Errorf("read option reply: %w", noEOF(err))
	}
	if r.rep&repErrBit != 0 {
		return 0, nil, &optError{opt, r.rep, string(data[:min(len(data), MaxString)])}
	}
	return r.rep, data, nil
}

// ask sends an option and hands every reply before the final ACK to each.
func (h *handshake) ask(opt option, data []byte, each func(rep optReply, data []byte) error) error {
	if err := h.send(opt, data); err != nil {
		return err
	}
	for range maxOptReplies {
		rep, data, err := h.recv(opt)
		if err != nil {
			return err
		}
		if rep == repAck {
			return nil
		}
		if each == nil {
			return fmt.Errorf("%w: reply type %d to option %d", ErrProtocol, rep, opt)
		}
		if err := each(rep, data); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: endless replies to option %d", ErrProtocol, opt)
}

func (h *handshake) startTLS() error {
	err := fmt.Errorf("server has no fixed newstyle negotiation: %w", ErrTLSRequired)
	if h.fixed {
		err = h.ask(optStartTLS, nil, nil)
	}
	if _, refused := errors.AsType[*optError](err); (refused || !h.fixed) && h.o.TLSMode == TLSAllow {
		return nil
	} else if refused {
		return fmt.Errorf("%w: %w", ErrTLSRequired, err)
	}
	if err != nil {
		return err
	}
	if h.in.buffered() != 0 {
		return fmt.Errorf("%w: data between STARTTLS and the TLS handshake", ErrProtocol)
	}
	t, err := startTLS(h.ctx, h.nc, h.o.TLS, tls.Client)
	if err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	h.t, h.in.r = t, t
	return nil
}

// open negotiates what the options ask for and enters the transmission phase.
func (h *handshake) open() error {
	if !h.fixed {
		return h.exportName()
	}
	if !h.o.NoStructuredReply {
		err := h.ask(optStructuredReply, nil, nil)
		if err := h.tolerate(err); err != nil {
			return err
		}
		h.info.Structured = err == nil
	}
	if h.info.Structured && len(h.o.MetaContexts) > 0 {
		if err := h.metaContexts(); err != nil {
			return err
		}
	}
	if h.o.NoGo {
		return h.exportName()
	}
	gotExport := false
	data := appendExportOpt(nil, h.o.Export, infoName, infoDescription, infoBlockSize)
	err := h.ask(optGo, data, func(rep optReply, data []byte) error {
		if rep != repInfo {
			return fmt.Errorf("%w: reply type %d to GO", ErrProtocol, rep)
		}
		gotExport = gotExport || (len(data) >= 2 && be.Uint16(data) == infoExport)
		return parseInfo(data, &h.info)
	})
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return h.exportName()
	case err == nil && !gotExport:
		return fmt.Errorf("%w: GO without export information", ErrProtocol)
	}
	return err
}

// tolerate drops the refusal of an option that we can do without; a server that
// wants TLS refuses everything.
func (h *handshake) tolerate(err error) error {
	if _, refused := errors.AsType[*optError](err); refused && !errors.Is(err, ErrTLSRequired) {
		return nil
	}
	return err
}

func (h *handshake) metaContexts() error {
	err := h.ask(optSetMetaContext, appendMetaOpt(nil, h.o.Export, h.o.MetaContexts), func(rep optReply, data []byte) error {
		if rep != repMetaContext || len(data) < 4 || len(data) > 4+MaxString || len(h.contexts) >= maxContexts {
			return fmt.Errorf("%w: reply type %d to SET_META_CONTEXT", ErrProtocol, rep)
		}
		id, name := be.Uint32(data), string(data[4:])
		if _, twice := h.contexts[id]; twice {
			return fmt.Errorf("%w: two metadata contexts of id %d", ErrProtocol, id)
		}
		h.contexts[id] = name
		h.info.Contexts = append(h.info.Contexts, name)
		return nil
	})
	if refused := h.tolerate(err) == nil && err != nil; refused {
		clear(h.contexts)
		h.info.Contexts = nil
	}
	return h.tolerate(err)
}

// exportName chooses the export the old way: a server that does not have it
// closes the connection.
func (h *handshake) exportName() error {
	if err := h.send(optExportName, []byte(h.o.Export)); err != nil {
		return err
	}
	n := 10
	if !h.noZeroes {
		n += 124
	}
	b, err := h.in.next(n)
	if err != nil {
		return fmt.Errorf("%w, or the server failed: %w", ErrNoExport, noEOF(err))
	}
	return h.info.setExport(be.Uint64(b), be.Uint16(b[8:]))
}

func (h *handshake) list() ([]ExportInfo, error) {
	if !h.fixed {
		return nil, errors.ErrUnsupported
	}
	var list []ExportInfo
	err := h.ask(optList, nil, func(rep optReply, data []byte) error {
		name, rest, ok := takeString(data)
		if rep != repServer || !ok || len(rest) > MaxString {
			return fmt.Errorf("%w: reply type %d to LIST", ErrProtocol, rep)
		}
		list = append(list, ExportInfo{Name: name, Description: string(rest)})
		return nil
	})
	if err != nil {
		return nil, err
	}
	h.ask(optAbort, nil, nil) //nolint:errcheck // a courtesy
	return list, nil
}
