package segment

import (
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"iter"
	"math"

	"github.com/klauspost/compress/s2"

	"rebound/internal/dr"
)

var frameMagic = [4]byte{'R', 'B', 'F', '1'}

// Header is the first HeaderSize bytes of a frame.
type Header struct {
	Codec      Codec
	Size       int // of the whole frame, in bytes
	Payload    int // of the payload before compression, in bytes
	Generation dr.Generation
	Epoch      dr.Epoch
	First      dr.Seq
	Count      int // entries, at least 1
	Blocks     int
	// Sealed: the blocks are encrypted. Frames that travel never are.
	Sealed   bool
	tableSum uint32
}

// Last returns the seq of the frame's last entry.
func (h *Header) Last() dr.Seq { return h.First + dr.Seq(h.Count) - 1 }

// TablesOffset returns where in the frame the entry and block tables lie:
// they are its last bytes.
func (h *Header) TablesOffset() int {
	return h.Size - h.Count*entrySize - h.Blocks*blockRefSize - h.saltSize()
}

// saltSize is how many bytes of salt precede the entries.
func (h *Header) saltSize() int {
	if h.Sealed {
		return saltSize
	}
	return 0
}

func (h *Header) put(dst []byte) {
	le := binary.LittleEndian
	copy(dst, frameMagic[:])
	dst[4], dst[5], dst[6], dst[7] = version, byte(h.Codec), 0, 0
	if h.Sealed {
		dst[4], dst[6] = sealedVersion, cipherAES
	}
	le.PutUint32(dst[8:], uint32(h.Size))
	le.PutUint32(dst[12:], uint32(h.Payload))
	le.PutUint64(dst[16:], uint64(h.Generation))
	le.PutUint64(dst[24:], uint64(h.Epoch))
	le.PutUint64(dst[32:], uint64(h.First))
	le.PutUint32(dst[40:], uint32(h.Count))
	le.PutUint32(dst[44:], uint32(h.Blocks))
	le.PutUint32(dst[48:], h.tableSum)
	le.PutUint64(dst[52:], 0)
	le.PutUint32(dst[60:], Checksum(dst[:60]))
}

// ParseHeader reads and checks the header of a frame that travels.
func ParseHeader(buf []byte) (Header, error) { return parseHeader(buf, false) }

// parseHeader takes headers of encrypted frames if sealed is set.
func parseHeader(buf []byte, sealed bool) (Header, error) {
	if len(buf) < HeaderSize {
		return Header{}, fmt.Errorf("%w: %d bytes of header", ErrShort, len(buf))
	}
	buf = buf[:HeaderSize]
	le := binary.LittleEndian
	if [4]byte(buf) != frameMagic {
		return Header{}, fmt.Errorf("%w: no frame magic", ErrDamaged)
	}
	if le.Uint32(buf[60:]) != Checksum(buf[:60]) {
		return Header{}, fmt.Errorf("%w: checksum of frame header", ErrDamaged)
	}
	isSealed := buf[4] == sealedVersion
	if buf[4] != version && !(isSealed && sealed) {
		return Header{}, fmt.Errorf("%w: frame version %d, want %d", ErrVersion, buf[4], version)
	}
	if isSealed && buf[6] != cipherAES {
		return Header{}, fmt.Errorf("%w: cipher %d", ErrVersion, buf[6])
	}
	h := Header{
		Codec: Codec(buf[5]), Size: int(le.Uint32(buf[8:])), Payload: int(le.Uint32(buf[12:])),
		Generation: dr.Generation(le.Uint64(buf[16:])), Epoch: dr.Epoch(le.Uint64(buf[24:])),
		First: dr.Seq(le.Uint64(buf[32:])), Count: int(le.Uint32(buf[40:])),
		Blocks: int(le.Uint32(buf[44:])), Sealed: isSealed, tableSum: le.Uint32(buf[48:]),
	}
	if h.Codec > CodecS2 {
		return Header{}, fmt.Errorf("%w: codec %d", ErrVersion, h.Codec)
	}
	if err := h.checkSizes(); err != nil {
		return Header{}, err
	}
	return h, nil
}

func (h *Header) checkSizes() error {
	most, tags := MaxFrame, 0
	if h.Sealed {
		most, tags = MaxStored, maxBlocks*tagSize
	}
	switch {
	case h.Size > most, h.Payload > MaxPayload,
		h.Count < 1, h.Count > MaxEntries,
		h.Blocks != (h.Payload+BlockSize-1)/BlockSize,
		h.First == 0, uint64(h.First) > math.MaxUint64-uint64(h.Count),
		h.TablesOffset() < HeaderSize, h.TablesOffset() > HeaderSize+h.Payload+tags:
		return fmt.Errorf("%w: sizes in frame header", ErrDamaged)
	}
	return nil
}

// FrameSize returns the length in bytes of the frame at rest whose header is
// given. buf holds at least HeaderSize bytes.
func FrameSize(buf []byte) (int, error) {
	h, err := parseHeader(buf, true)
	if err != nil {
		return 0, err
	}
	return h.Size, nil
}

// Frame is a parsed frame. It refers to the buffer that it was parsed from,
// and may be read by many goroutines at the same time.
type Frame struct {
	Header
	tables Tables
	buf    []byte
}

// ParseFrame parses one whole frame and checks everything in it: all
// checksums, and every entry against the rules of its kind. Bytes after the
// frame are ignored. An encrypted frame is ErrVersion: see ParseStored.
func ParseFrame(buf []byte) (Frame, error) { return parseFrame(buf, false) }

func parseFrame(buf []byte, sealed bool) (Frame, error) {
	h, err := parseHeader(buf, sealed)
	if err != nil {
		return Frame{}, err
	}
	if len(buf) < h.Size {
		return Frame{}, fmt.Errorf("%w: %d bytes of a frame of %d", ErrShort, len(buf), h.Size)
	}
	buf = buf[:h.Size:h.Size]
	t, err := ParseTables(h, buf[h.TablesOffset():])
	if err != nil {
		return Frame{}, err
	}
	f := Frame{Header: h, tables: t, buf: buf}
	at := HeaderSize
	for i := range h.Blocks {
		ref := t.block(i)
		stored := buf[at : at+ref.stored]
		if ref.stored > 0 && Checksum(stored) != ref.sum {
			return Frame{}, fmt.Errorf("%w: checksum of block %d", ErrDamaged, i)
		}
		at += ref.stored
	}
	return f, nil
}

// Bytes returns the frame as it was parsed.
func (f *Frame) Bytes() []byte { return f.buf }

// Tables returns the frame's tables; they refer to the frame's buffer.
func (f *Frame) Tables() Tables { return f.tables }

// Entries yields the entries in order, without data.
func (f *Frame) Entries() iter.Seq[Meta] { return f.tables.Entries() }

// Scratch is memory for ReadPayload, to be reused between calls.
type Scratch struct {
	block [BlockSize]byte
	open  []byte // a decrypted block
}

// ReadPayload fills dst with the payload from off on, decompressing only the
// blocks it needs.
func (f *Frame) ReadPayload(dst []byte, off int) error {
	return f.ReadPayloadWith(nil, dst, off)
}

// ReadPayloadWith is ReadPayload with the caller's scratch memory; nil lets it
// allocate where a part of a compressed block is needed.
func (f *Frame) ReadPayloadWith(s *Scratch, dst []byte, off int) error {
	if off < 0 || off > f.Payload || len(dst) > f.Payload-off {
		return fmt.Errorf("%w: payload [%d, +%d) of %d", ErrEntry, off, len(dst), f.Payload)
	}
	for len(dst) > 0 {
		b := f.tables.BlockAt(off)
		in := off - b.Start
		n := min(len(dst), b.Length-in)
		if err := b.Read(s, dst[:n], in, f.buf[b.Offset:b.Offset+b.Stored]); err != nil {
			return err
		}
		dst, off = dst[n:], off+n
	}
	return nil
}

// Tables are a frame's entry and block tables, enough to find and check any
// part of its payload without reading all of it.
type Tables struct {
	h       Header
	salt    []byte // of an encrypted frame
	entries []byte
	blocks  []byte
	aead    cipher.AEAD // nil without the key
}

// ParseTables checks the tables of a frame against its header. buf is what
// lies from TablesOffset to the frame's end; the result refers to it.
func ParseTables(h Header, buf []byte) (Tables, error) {
	if len(buf) != h.Size-h.TablesOffset() {
		return Tables{}, fmt.Errorf("%w: tables of %d bytes", ErrShort, len(buf))
	}
	if Checksum(buf) != h.tableSum {
		return Tables{}, fmt.Errorf("%w: checksum of frame tables", ErrDamaged)
	}
	t := Tables{h: h, salt: buf[:h.saltSize()]}
	buf = buf[h.saltSize():]
	t.entries, t.blocks = buf[:h.Count*entrySize], buf[h.Count*entrySize:]
	if err := t.checkEntries(); err != nil {
		return Tables{}, err
	}
	total := HeaderSize
	for i := range h.Blocks {
		ref := t.block(i)
		total += ref.stored
		if h.Sealed && ref.stored > 0 {
			if ref.stored -= tagSize; ref.stored <= 0 {
				return Tables{}, fmt.Errorf("%w: stored length of block %d", ErrDamaged, i)
			}
		}
		if ref.raw && ref.stored != t.blockLength(i) {
			return Tables{}, fmt.Errorf("%w: stored length of block %d", ErrDamaged, i)
		}
		if ref.stored > BlockSize || (!ref.raw && ref.stored > 0 && h.Codec == CodecNone) {
			return Tables{}, fmt.Errorf("%w: stored length of block %d", ErrDamaged, i)
		}
	}
	if total != h.TablesOffset() {
		return Tables{}, fmt.Errorf("%w: blocks of %d bytes before tables at %d", ErrDamaged, total, h.TablesOffset())
	}
	return t, nil
}

func (t *Tables) checkEntries() error {
	payload := 0
	for i := range t.h.Count {
		m := t.meta(i, payload)
		if err := m.check(); err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
		if m.Kind == KindBreak && i != t.h.Count-1 {
			return fmt.Errorf("entry %d: %w: entries after a break", i, ErrEntry)
		}
		payload += m.PayloadLength
		if payload > t.h.Payload {
			break
		}
	}
	if payload != t.h.Payload {
		return fmt.Errorf("%w: entries do not fill the payload", ErrDamaged)
	}
	return nil
}

func (t *Tables) meta(i, payload int) Meta {
	le := binary.LittleEndian
	b := t.entries[i*entrySize : i*entrySize+entrySize]
	m := Meta{
		Seq: t.h.First + dr.Seq(i), Kind: Kind(b[0]), Flags: Flags(b[1]), Disk: le.Uint16(b[2:]),
		Offset: int64(le.Uint64(b[4:])), Length: int64(le.Uint64(b[12:])), PayloadOffset: payload,
	}
	if m.Kind.HasPayload() && m.Length >= 0 && m.Length <= MaxPayload {
		m.PayloadLength = int(m.Length)
	}
	return m
}

// Header returns the header that the tables belong to.
func (t *Tables) Header() Header { return t.h }

// Entries yields the entries in order, without data.
func (t *Tables) Entries() iter.Seq[Meta] {
	return func(yield func(Meta) bool) {
		payload := 0
		for i := range t.h.Count {
			m := t.meta(i, payload)
			payload += m.PayloadLength
			if !yield(m) {
				return
			}
		}
	}
}

type blockRef struct {
	stored int
	raw    bool
	sum    uint32
}

func (t *Tables) block(i int) blockRef {
	le := binary.LittleEndian
	stored := le.Uint32(t.blocks[i*blockRefSize:])
	return blockRef{int(stored &^ rawBit), stored&rawBit != 0, le.Uint32(t.blocks[i*blockRefSize+4:])}
}

func (t *Tables) blockLength(i int) int { return min(BlockSize, t.h.Payload-i*BlockSize) }

// Block says where one block of payload lies in its frame.
type Block struct {
	Start  int // where it begins in the payload
	Length int // of its payload, in bytes
	Offset int // of its stored bytes from the frame's beginning
	Stored int // how many bytes are stored; 0 for a block of zeroes
	raw    bool
	sum    uint32
	seal   *blockSeal // of an encrypted block
}

// BlockAt returns the block that holds payload byte off, which must lie within
// the payload.
func (t *Tables) BlockAt(off int) Block {
	i := off / BlockSize
	at := HeaderSize
	for j := range i {
		at += t.block(j).stored
	}
	ref := t.block(i)
	b := Block{Start: i * BlockSize, Length: t.blockLength(i), Offset: at, Stored: ref.stored, raw: ref.raw, sum: ref.sum}
	if t.h.Sealed {
		b.seal = &blockSeal{aead: t.aead}
		b.seal.nonce, b.seal.aad = t.h.sealing(i)
	}
	return b
}

// Costly reports whether reading a part of the block decompresses or decrypts
// all of it.
func (b *Block) Costly() bool { return b.Stored > 0 && (!b.raw || b.seal != nil) }

// Read fills dst with the block's payload from in on, given its stored bytes,
// which it checks first.
func (b *Block) Read(s *Scratch, dst []byte, in int, stored []byte) error {
	if in < 0 || len(dst) > b.Length-in || len(stored) != b.Stored {
		return fmt.Errorf("%w: block [%d, +%d) of %d", ErrEntry, in, len(dst), b.Length)
	}
	if b.Stored == 0 {
		clear(dst)
		return nil
	}
	if Checksum(stored) != b.sum {
		return fmt.Errorf("%w: checksum of payload block", ErrDamaged)
	}
	if s == nil && (b.seal != nil || (!b.raw && len(dst) < b.Length)) {
		s = new(Scratch)
	}
	if b.seal != nil {
		var err error
		if stored, err = b.open(s.open[:0], stored); err != nil {
			return err
		}
		s.open = stored
	}
	if b.raw {
		if len(stored) != b.Length {
			return fmt.Errorf("%w: block of %d bytes, want %d", ErrDamaged, len(stored), b.Length)
		}
		copy(dst, stored[in:])
		return nil
	}
	n, err := s2.DecodedLen(stored)
	if err != nil || n != b.Length {
		return fmt.Errorf("%w: compressed block of %d bytes, want %d", ErrDamaged, n, b.Length)
	}
	if len(dst) == b.Length {
		if _, err := s2.Decode(dst[:b.Length:b.Length], stored); err != nil {
			return fmt.Errorf("%w: decompress block: %w", ErrDamaged, err)
		}
		return nil
	}
	out, err := s2.Decode(s.block[:b.Length:b.Length], stored)
	if err != nil {
		return fmt.Errorf("%w: decompress block: %w", ErrDamaged, err)
	}
	copy(dst, out[in:])
	return nil
}
