package nbd

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"

	"rebound/internal/block"
)

var be = binary.BigEndian

// Sizes of the fixed structures on the wire, in bytes.
const (
	requestSize  = 28
	simpleSize   = 16
	chunkSize    = 20
	optSize      = 16
	optReplySize = 20
	// maxReplyHead is the longest run of header bytes before the data of a
	// reply: a chunk header and an offset.
	maxReplyHead = chunkSize + 8
)

// reqHeader is a request of the transmission phase.
type reqHeader struct {
	flags  CmdFlags
	op     Op
	cookie uint64
	off    uint64
	length uint32
}

func parseRequest(b []byte) (reqHeader, error) {
	if len(b) < requestSize {
		return reqHeader{}, fmt.Errorf("%w: short request", ErrProtocol)
	}
	if m := be.Uint32(b); m != magicRequest {
		return reqHeader{}, fmt.Errorf("%w: request magic %#x", ErrProtocol, m)
	}
	return reqHeader{
		flags:  CmdFlags(be.Uint16(b[4:])),
		op:     Op(be.Uint16(b[6:])),
		cookie: be.Uint64(b[8:]),
		off:    be.Uint64(b[16:]),
		length: be.Uint32(b[24:]),
	}, nil
}

func appendRequest(b []byte, h reqHeader) []byte {
	b = be.AppendUint32(b, magicRequest)
	b = be.AppendUint16(b, uint16(h.flags))
	b = be.AppendUint16(b, uint16(h.op))
	b = be.AppendUint64(b, h.cookie)
	b = be.AppendUint64(b, h.off)
	return be.AppendUint32(b, h.length)
}

func appendSimple(b []byte, errno Errno, cookie uint64) []byte {
	b = be.AppendUint32(b, magicSimple)
	b = be.AppendUint32(b, uint32(errno))
	return be.AppendUint64(b, cookie)
}

// chunkHeader is the head of one structured reply chunk.
type chunkHeader struct {
	done   bool
	typ    uint16
	cookie uint64
	length uint32
}

func appendChunk(b []byte, h chunkHeader) []byte {
	b = be.AppendUint32(b, magicStructured)
	var flags uint16
	if h.done {
		flags = chunkFlagDone
	}
	b = be.AppendUint16(b, flags)
	b = be.AppendUint16(b, h.typ)
	b = be.AppendUint64(b, h.cookie)
	return be.AppendUint32(b, h.length)
}

// parseChunk reads the head of a structured reply after its magic, b being the
// whole head.
func parseChunk(b []byte) chunkHeader {
	return chunkHeader{
		done:   be.Uint16(b[4:])&chunkFlagDone != 0,
		typ:    be.Uint16(b[6:]),
		cookie: be.Uint64(b[8:]),
		length: be.Uint32(b[16:]),
	}
}

// appendError appends a whole error chunk, the final one of its reply.
func appendError(b []byte, cookie uint64, errno Errno, msg string) []byte {
	if len(msg) > MaxString {
		msg = msg[:MaxString]
	}
	b = appendChunk(b, chunkHeader{true, chunkError, cookie, uint32(6 + len(msg))})
	b = be.AppendUint32(b, uint32(errno))
	b = be.AppendUint16(b, uint16(len(msg)))
	return append(b, msg...)
}

// parseError reads the payload of an error chunk of any type. offset is -1
// unless the type carries one.
func parseError(typ uint16, b []byte) (errno Errno, msg string, offset int64, err error) {
	tail := 0
	if typ == chunkErrorOffset {
		tail = 8
	}
	if len(b) < 6+tail {
		return 0, "", -1, fmt.Errorf("%w: error chunk of %d bytes", ErrProtocol, len(b))
	}
	errno = Errno(be.Uint32(b))
	n := int(be.Uint16(b[4:]))
	known := typ == chunkError || typ == chunkErrorOffset
	if n > len(b)-6-tail || (known && n > MaxString) {
		return 0, "", -1, fmt.Errorf("%w: message of %d bytes in an error chunk of %d", ErrProtocol, n, len(b))
	}
	if errno == 0 {
		return 0, "", -1, fmt.Errorf("%w: error chunk without an error", ErrProtocol)
	}
	offset = -1
	if typ == chunkErrorOffset {
		offset = int64(be.Uint64(b[6+n:]))
	}
	return errno, string(b[6 : 6+n]), offset, nil
}

// statusFlags maps an extent to the flags of base:allocation.
func statusFlags(e block.Extent) uint32 {
	var f uint32
	if e.Hole {
		f |= StatusHole
	}
	if e.Zero {
		f |= StatusZero
	}
	return f
}

// appendBlockStatus appends a whole BLOCK_STATUS chunk of base:allocation.
func appendBlockStatus(b []byte, cookie uint64, context uint32, extents []block.Extent) []byte {
	b = appendChunk(b, chunkHeader{true, chunkBlockStatus, cookie, uint32(4 + 8*len(extents))})
	b = be.AppendUint32(b, context)
	for _, e := range extents {
		b = be.AppendUint32(b, uint32(e.Length))
		b = be.AppendUint32(b, statusFlags(e))
	}
	return b
}

// parseBlockStatus reads the payload of a BLOCK_STATUS chunk. The last run may
// reach beyond what was asked for; every run has at least one byte.
func parseBlockStatus(b []byte) (context uint32, runs []Status, err error) {
	if len(b) < 12 || (len(b)-4)%8 != 0 {
		return 0, nil, fmt.Errorf("%w: block status of %d bytes", ErrProtocol, len(b))
	}
	context = be.Uint32(b)
	runs = make([]Status, 0, (len(b)-4)/8)
	for b = b[4:]; len(b) > 0; b = b[8:] {
		n := be.Uint32(b)
		if n == 0 {
			return 0, nil, fmt.Errorf("%w: block status run of no bytes", ErrProtocol)
		}
		runs = append(runs, Status{int64(n), be.Uint32(b[4:])})
	}
	return context, runs, nil
}

// optHeader is the head of an option.
type optHeader struct {
	opt    option
	length uint32
}

func appendOption(b []byte, opt option, data []byte) []byte {
	b = be.AppendUint64(b, magicOption)
	b = be.AppendUint32(b, uint32(opt))
	b = be.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

func parseOption(b []byte) (optHeader, error) {
	if len(b) < optSize {
		return optHeader{}, fmt.Errorf("%w: short option", ErrProtocol)
	}
	if m := be.Uint64(b); m != magicOption {
		return optHeader{}, fmt.Errorf("%w: option magic %#x", ErrProtocol, m)
	}
	return optHeader{option(be.Uint32(b[8:])), be.Uint32(b[12:])}, nil
}

func appendOptReply(b []byte, opt option, rep optReply, data []byte) []byte {
	b = be.AppendUint64(b, magicOptReply)
	b = be.AppendUint32(b, uint32(opt))
	b = be.AppendUint32(b, uint32(rep))
	b = be.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// optReplyHeader is the head of a reply to an option.
type optReplyHeader struct {
	opt    option
	rep    optReply
	length uint32
}

func parseOptReply(b []byte) (optReplyHeader, error) {
	if len(b) < optReplySize {
		return optReplyHeader{}, fmt.Errorf("%w: short option reply", ErrProtocol)
	}
	if m := be.Uint64(b); m != magicOptReply {
		return optReplyHeader{}, fmt.Errorf("%w: option reply magic %#x", ErrProtocol, m)
	}
	return optReplyHeader{option(be.Uint32(b[8:])), optReply(be.Uint32(b[12:])), be.Uint32(b[16:])}, nil
}

// takeString cuts a string with its 32-bit length off the front of b.
func takeString(b []byte) (s string, rest []byte, ok bool) {
	if len(b) < 4 {
		return "", nil, false
	}
	n := be.Uint32(b)
	if n > MaxString || int(n) > len(b)-4 || !utf8.Valid(b[4:4+n]) {
		return "", nil, false
	}
	return string(b[4 : 4+n]), b[4+n:], true
}

func appendString(b []byte, s string) []byte {
	return append(be.AppendUint32(b, uint32(len(s))), s...)
}

// parseExportOpt reads the payload of INFO and GO.
func parseExportOpt(b []byte) (name string, infos []uint16, ok bool) {
	name, b, ok = takeString(b)
	if !ok || len(b) < 2 {
		return "", nil, false
	}
	n := int(be.Uint16(b))
	if b = b[2:]; len(b) != 2*n {
		return "", nil, false
	}
	for i := range n {
		infos = append(infos, be.Uint16(b[2*i:]))
	}
	return name, infos, true
}

func appendExportOpt(b []byte, name string, infos ...uint16) []byte {
	b = appendString(b, name)
	b = be.AppendUint16(b, uint16(len(infos)))
	for _, i := range infos {
		b = be.AppendUint16(b, i)
	}
	return b
}

// parseMetaOpt reads the payload of LIST_META_CONTEXT and SET_META_CONTEXT.
func parseMetaOpt(b []byte) (name string, queries []string, ok bool) {
	name, b, ok = takeString(b)
	if !ok || len(b) < 4 {
		return "", nil, false
	}
	n := be.Uint32(b)
	b = b[4:]
	if uint64(n)*4 > uint64(len(b)) {
		return "", nil, false
	}
	for range n {
		var q string
		if q, b, ok = takeString(b); !ok {
			return "", nil, false
		}
		queries = append(queries, q)
	}
	return name, queries, len(b) == 0
}

func appendMetaOpt(b []byte, name string, queries []string) []byte {
	b = appendString(b, name)
	b = be.AppendUint32(b, uint32(len(queries)))
	for _, q := range queries {
		b = appendString(b, q)
	}
	return b
}

// parseInfo merges one NBD_REP_INFO payload into info.
func parseInfo(b []byte, info *ExportInfo) error {
	if len(b) < 2 {
		return fmt.Errorf("%w: information of %d bytes", ErrProtocol, len(b))
	}
	typ, body := be.Uint16(b), b[2:]
	switch typ {
	case infoExport:
		if len(body) != 10 {
			return fmt.Errorf("%w: export information of %d bytes", ErrProtocol, len(b))
		}
		return info.setExport(be.Uint64(body), be.Uint16(body[8:]))
	case infoName, infoDescription:
		if len(body) > MaxString || !utf8.Valid(body) {
			return fmt.Errorf("%w: export name or description", ErrProtocol)
		}
		if typ == infoName {
			info.Name = string(body)
		} else {
			info.Description = string(body)
		}
	case infoBlockSize:
		if len(body) != 12 {
			return fmt.Errorf("%w: block size information of %d bytes", ErrProtocol, len(b))
		}
		info.BlockSize = BlockSizes{be.Uint32(body), be.Uint32(body[4:]), be.Uint32(body[8:])}
		bs := info.BlockSize
		if bs.Min == 0 || bs.Min&(bs.Min-1) != 0 || bs.Min > 64<<10 || bs.Max < bs.Min {
			return fmt.Errorf("%w: block sizes %+v", ErrProtocol, bs)
		}
	}
	return nil // unknown kinds are to be ignored
}

func (i *ExportInfo) setExport(size uint64, flags uint16) error {
	if int64(size) < 0 {
		return fmt.Errorf("%w: export of %d bytes", ErrProtocol, size)
	}
	if TransmissionFlags(flags)&FlagHasFlags == 0 {
		return fmt.Errorf("%w: transmission flags %#x", ErrProtocol, flags)
	}
	i.Size, i.Flags = int64(size), TransmissionFlags(flags)
	return nil
}
