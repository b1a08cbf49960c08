package link

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"math"

	"rebound/internal/dr"
	"rebound/internal/segment"
)

// msgType says what a message is. Numbers are on the wire: never reuse one.
type msgType uint8

const (
	msgHello   msgType = 1  // source: Hello, JSON
	msgWelcome msgType = 2  // standby: Welcome, JSON
	msgRefusal msgType = 3  // either end: why it ends the connection, JSON
	msgFrame   msgType = 16 // source: one frame of package segment
	msgAck     msgType = 17 // standby: ack
	msgPing    msgType = 18 // either end: 8 bytes, sent back in a pong
	msgPong    msgType = 19
	msgBye     msgType = 20 // source: nothing follows; standby: all is durable
	msgAsk     msgType = 32 // source: CompareRequest
	msgAnswer  msgType = 33 // standby: CompareAnswer
)

const (
	headerSize = 20
	magic      = 0x4252 // "RB"
	// maxHandshake holds a Hello with maxDisks disks.
	maxHandshake = 1 << 20
	ackSize      = 24
	pingSize     = 8
	askHeader    = 24
	askRunSize   = 16
	// maxUnits is the most hashes in one answer: every run may end with a
	// short unit.
	maxUnits = MaxCompareBytes/MinCompareUnit + MaxCompareRuns
)

// errWire is wrapped by every error of a decoder.
var errWire = errors.New("link: damaged message")

// maxPayload returns the longest payload of a message of the type, or -1 for
// an unknown type.
func (t msgType) maxPayload() int {
	switch t {
	case msgHello, msgWelcome, msgRefusal:
		return maxHandshake
	case msgFrame:
		return segment.MaxFrame
	case msgAck:
		return ackSize
	case msgPing, msgPong:
		return pingSize
	case msgBye:
		return 0
	case msgAsk:
		return askHeader + MaxCompareRuns*askRunSize
	case msgAnswer:
		return 1 + maxUnits*HashSize
	}
	return -1
}

// header precedes every payload.
type header struct {
	typ    msgType
	length int
	// number counts the messages of a direction from 1, so that one that
	// is missing, repeated or out of order is noticed.
	number uint64
	sum    uint32
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// headerSum covers the header and, for all but frames, the payload. Frames
// carry checksums of their own, which the receiver verifies once.
func headerSum(head []byte, typ msgType, payload []byte) uint32 {
	sum := crc32.Update(0, castagnoli, head[:16])
	if typ != msgFrame {
		sum = crc32.Update(sum, castagnoli, payload)
	}
	return sum
}

// putHeader writes the header of a message into dst.
func putHeader(dst []byte, typ msgType, number uint64, payload []byte) {
	le := binary.LittleEndian
	le.PutUint16(dst[0:], magic)
	dst[2], dst[3] = byte(typ), 0
	le.PutUint32(dst[4:], uint32(len(payload)))
	le.PutUint64(dst[8:], number)
	le.PutUint32(dst[16:], headerSum(dst, typ, payload))
}

// parseHeader reads a header and checks everything but the sum, which needs
// the payload (checkSum).
func parseHeader(b []byte) (header, error) {
	le := binary.LittleEndian
	if len(b) < headerSize || le.Uint16(b) != magic || b[3] != 0 {
		return header{}, fmt.Errorf("%w: no message header", errWire)
	}
	h := header{typ: msgType(b[2]), number: le.Uint64(b[8:]), sum: le.Uint32(b[16:])}
	limit := h.typ.maxPayload()
	if limit < 0 {
		return header{}, fmt.Errorf("%w: unknown type %d", errWire, h.typ)
	}
	if n := le.Uint32(b[4:]); n > uint32(limit) {
		return header{}, fmt.Errorf("%w: type %d of %d bytes", errWire, h.typ, n)
	}
	h.length = int(le.Uint32(b[4:]))
	return h, nil
}

func (h *header) checkSum(head, payload []byte) error {
	if headerSum(head, h.typ, payload) != h.sum {
		return fmt.Errorf("%w: checksum of message %d", errWire, h.number)
	}
	return nil
}

// ack says what is durable and how much may be sent. Credits are totals since
// the connection began, so that a lost or late one does no harm.
type ack struct {
	durable dr.Seq
	bytes   uint64
	frames  uint64
}

func (a *ack) put(dst *[ackSize]byte) []byte {
	le := binary.LittleEndian
	le.PutUint64(dst[0:], uint64(a.durable))
	le.PutUint64(dst[8:], a.bytes)
	le.PutUint64(dst[16:], a.frames)
	return dst[:]
}

func parseAck(b []byte) (ack, error) {
	if len(b) != ackSize {
		return ack{}, fmt.Errorf("%w: acknowledgement of %d bytes", errWire, len(b))
	}
	le := binary.LittleEndian
	return ack{dr.Seq(le.Uint64(b)), le.Uint64(b[8:]), le.Uint64(b[16:])}, nil
}

// parsePing returns the 8 bytes of a ping or pong.
func parsePing(b []byte) (uint64, error) {
	if len(b) != pingSize {
		return 0, fmt.Errorf("%w: ping of %d bytes", errWire, len(b))
	}
	return binary.LittleEndian.Uint64(b), nil
}

// Validate checks the limits of a request.
func (r *CompareRequest) Validate() error {
	if len(r.Runs) == 0 || len(r.Runs) > MaxCompareRuns {
		return fmt.Errorf("compare request: %d runs, want 1 to %d", len(r.Runs), MaxCompareRuns)
	}
	var total int64
	for _, run := range r.Runs {
		if run.Off < 0 || run.Len <= 0 || run.Len > MaxCompareBytes || run.Off > math.MaxInt64-run.Len {
			return fmt.Errorf("compare request: run of %d bytes at %d", run.Len, run.Off)
		}
		if run.Unit < MinCompareUnit || run.Unit > MaxCompareBytes {
			return fmt.Errorf("compare request: unit of %d bytes", run.Unit)
		}
		total += run.Len
	}
	if total > MaxCompareBytes {
		return fmt.Errorf("compare request: %d bytes, want at most %d", total, MaxCompareBytes)
	}
	return nil
}

// Units returns how many hashes the request asks for.
func (r *CompareRequest) Units() int {
	n := 0
	for _, run := range r.Runs {
		n += run.Units()
	}
	return n
}

// appendAsk encodes a valid request.
func appendAsk(dst []byte, r *CompareRequest) []byte {
	le := binary.LittleEndian
	dst = le.AppendUint16(dst, r.Disk)
	dst = le.AppendUint16(dst, 0)
	dst = le.AppendUint32(dst, uint32(len(r.Runs)))
	dst = le.AppendUint64(dst, uint64(r.Epoch))
	dst = le.AppendUint64(dst, uint64(r.After))
	for _, run := range r.Runs {
		dst = le.AppendUint64(dst, uint64(run.Off))
		dst = le.AppendUint32(dst, uint32(run.Len))
		dst = le.AppendUint32(dst, run.Unit)
	}
	return dst
}

func parseAsk(b []byte) (*CompareRequest, error) {
	le := binary.LittleEndian
	if len(b) < askHeader || le.Uint16(b[2:]) != 0 {
		return nil, fmt.Errorf("%w: compare request of %d bytes", errWire, len(b))
	}
	n := int64(le.Uint32(b[4:]))
	if n > MaxCompareRuns || int64(len(b)) != askHeader+n*askRunSize {
		return nil, fmt.Errorf("%w: compare request of %d runs in %d bytes", errWire, n, len(b))
	}
	r := &CompareRequest{
		Disk: le.Uint16(b), Epoch: dr.Epoch(le.Uint64(b[8:])), After: dr.Seq(le.Uint64(b[16:])),
		Runs: make([]CompareRun, n),
	}
	for i := range r.Runs {
		p := b[askHeader+i*askRunSize:]
		off := le.Uint64(p)
		if off > math.MaxInt64 {
			return nil, fmt.Errorf("%w: offset in compare request", errWire)
		}
		r.Runs[i] = CompareRun{int64(off), int64(le.Uint32(p[8:])), le.Uint32(p[12:])}
	}
	if err := r.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", errWire, err)
	}
	return r, nil
}

// appendAnswerHead begins an answer; the hashes follow.
func appendAnswerHead(dst []byte, caught bool) []byte {
	if caught {
		return append(dst, 1)
	}
	return append(dst, 0)
}

// parseAnswer reads the answer to a request for units hashes; the result
// refers to b.
func parseAnswer(b []byte, units int) (CompareAnswer, error) {
	if len(b) != 1+units*HashSize || b[0] > 1 {
		return CompareAnswer{}, fmt.Errorf("%w: answer of %d bytes for %d hashes", errWire, len(b), units)
	}
	return CompareAnswer{Caught: b[0] == 1, Hashes: b[1:]}, nil
}

// parseJSON decodes a handshake message. Unknown fields are ignored: a newer
// peer may send them.
func parseJSON[T any](b []byte) (*T, error) {
	v := new(T)
	if err := json.Unmarshal(b, v); err != nil {
		return nil, fmt.Errorf("%w: %w", errWire, err)
	}
	return v, nil
}
