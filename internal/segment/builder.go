package segment

import (
	"encoding/binary"
	"fmt"

	"github.com/klauspost/compress/s2"

	"rebound/internal/dr"
)

// Builder packs consecutive entries into a frame. One Builder makes many
// frames, one after the other, without allocating. It is not safe for
// concurrent use.
type Builder struct {
	codec   Codec
	gen     dr.Generation
	epoch   dr.Epoch
	first   dr.Seq
	count   int
	ended   bool // a break was added: nothing may follow
	payload int
	err     error
	buf     []byte // header space, then the payload as it comes
	entries []byte
	blocks  [maxBlocks * blockRefSize]byte
	packed  []byte // the finished frame, when compressed
}

// NewBuilder returns a Builder for frames of a codec. Reset comes first.
func NewBuilder(codec Codec) *Builder {
	b := &Builder{
		codec:   codec,
		buf:     make([]byte, HeaderSize, MaxFrame),
		entries: make([]byte, 0, 4096),
	}
	b.SetCodec(codec)
	return b
}

// SetCodec changes the codec of the frames that are finished from now on; each
// frame says which one is its own.
func (b *Builder) SetCodec(codec Codec) {
	b.codec = codec
	if codec == CodecS2 && b.packed == nil {
		b.packed = make([]byte, 0, MaxFrame+s2.MaxEncodedLen(BlockSize))
	}
}

// Reset begins a new frame. The slice that Finish returned becomes invalid.
func (b *Builder) Reset(gen dr.Generation, epoch dr.Epoch) {
	b.gen, b.epoch, b.first = gen, epoch, 0
	b.count, b.payload, b.ended, b.err = 0, 0, false, nil
	b.buf = b.buf[:HeaderSize]
	b.entries = b.entries[:0]
}

// Count returns how many entries the frame holds.
func (b *Builder) Count() int { return b.count }

// Len returns how many bytes of payload the frame holds.
func (b *Builder) Len() int { return b.payload }

// Add puts an entry into the frame and copies its data. It returns false when
// the entry does not fit: nothing was added, and it belongs into the next
// frame. An entry that fits no frame (against the rules of its kind, or not
// the successor of the one before) is a defect of the caller: Add returns
// true and Finish reports it.
func (b *Builder) Add(e Entry) bool {
	if b.err != nil {
		return true
	}
	m := Meta{Seq: e.Seq, Kind: e.Kind, Flags: e.Flags, Disk: e.Disk, Offset: e.Offset, Length: e.Length}
	if e.Kind.HasPayload() {
		m.Length = int64(len(e.Data))
		m.PayloadLength = len(e.Data)
	}
	if err := m.check(); err != nil {
		b.err = err
		return true
	}
	if e.Seq == 0 || (b.count > 0 && e.Seq != b.first+dr.Seq(b.count)) || b.ended {
		b.err = fmt.Errorf("%w: seq %d after %d entries from %d", ErrEntry, e.Seq, b.count, b.first)
		return true
	}
	if b.count == MaxEntries || b.payload+m.PayloadLength > MaxPayload {
		return false
	}
	if b.count == 0 {
		b.first = e.Seq
	}
	b.ended = e.Kind == KindBreak
	b.entries = appendMeta(b.entries, &m)
	if m.PayloadLength > 0 {
		b.buf = append(b.buf, e.Data...)
	}
	b.payload += m.PayloadLength
	b.count++
	return true
}

// Finish returns the frame's bytes, valid until Reset. It fails on a frame
// without entries and on entries that broke the rules.
func (b *Builder) Finish() ([]byte, error) {
	if b.err != nil {
		return nil, b.err
	}
	if b.count == 0 {
		return nil, fmt.Errorf("%w: frame without entries", ErrEntry)
	}
	n := (b.payload + BlockSize - 1) / BlockSize
	var out []byte
	if b.codec == CodecS2 {
		out = b.compressBlocks()
	} else {
		out = b.packBlocks()
	}
	tables := len(out)
	out = append(out, b.entries...)
	out = append(out, b.blocks[:n*blockRefSize]...)
	h := Header{
		Codec: b.codec, Size: len(out), Payload: b.payload, Generation: b.gen, Epoch: b.epoch,
		First: b.first, Count: b.count, Blocks: n, tableSum: Checksum(out[tables:]),
	}
	h.put(out)
	return out, nil
}

// packBlocks leaves the payload where it was collected; only zero blocks are
// taken out.
func (b *Builder) packBlocks() []byte {
	raw := b.buf[HeaderSize : HeaderSize+b.payload]
	out := b.buf[:HeaderSize]
	for i := 0; len(raw) > 0; i++ {
		block := raw[:min(BlockSize, len(raw))]
		raw = raw[len(block):]
		if allZero(block) {
			b.putBlock(i, 0, 0)
			continue
		}
		b.putBlock(i, uint32(len(block))|rawBit, Checksum(block))
		out = append(out, block...) // moves down, or onto itself
	}
	return out
}

func (b *Builder) compressBlocks() []byte {
	raw := b.buf[HeaderSize : HeaderSize+b.payload]
	out := b.packed[:HeaderSize]
	for i := 0; len(raw) > 0; i++ {
		block := raw[:min(BlockSize, len(raw))]
		raw = raw[len(block):]
		if allZero(block) {
			b.putBlock(i, 0, 0)
			continue
		}
		room := out[len(out) : len(out)+s2.MaxEncodedLen(BlockSize)]
		enc := s2.Encode(room, block)
		stored := uint32(len(enc))
		if len(enc) >= len(block)-len(block)/16 {
			enc = room[:copy(room, block)] // not worth it
			stored = uint32(len(enc)) | rawBit
		}
		b.putBlock(i, stored, Checksum(enc))
		out = out[:len(out)+len(enc)]
	}
	return out
}

func (b *Builder) putBlock(i int, stored, sum uint32) {
	binary.LittleEndian.PutUint32(b.blocks[i*blockRefSize:], stored)
	binary.LittleEndian.PutUint32(b.blocks[i*blockRefSize+4:], sum)
}

func appendMeta(dst []byte, m *Meta) []byte {
	dst = append(dst, byte(m.Kind), byte(m.Flags))
	dst = binary.LittleEndian.AppendUint16(dst, m.Disk)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(m.Offset))
	return binary.LittleEndian.AppendUint64(dst, uint64(m.Length))
}

// allZero reports whether b holds nothing but zeroes.
func allZero(b []byte) bool {
	for len(b) >= 32 {
		if binary.LittleEndian.Uint64(b)|binary.LittleEndian.Uint64(b[8:])|
			binary.LittleEndian.Uint64(b[16:])|binary.LittleEndian.Uint64(b[24:]) != 0 {
			return false
		}
		b = b[32:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
