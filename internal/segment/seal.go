package segment

import (
	"crypto/cipher"
	"encoding/binary"
	"fmt"
)

// frameUse is what a key is derived for to encrypt a frame's blocks.
const frameUse = "rebound frame 1"

// MaxStored is the length of the longest frame at rest, in bytes: an encrypted
// one has a salt, and a tag for each block.
const MaxStored = MaxFrame + saltSize + maxBlocks*tagSize

// MaxBlock is the length of the longest stored block, in bytes.
const MaxBlock = BlockSize + tagSize

// Seal appends a frame to dst as it rests encrypted under the key, and returns
// it all. The frame is a plain one that was parsed. Header, entries, and the
// lengths and checksums of the blocks stay readable: checksums are of the
// encrypted bytes, so that damage is found without the key.
func (k *Key) Seal(dst []byte, f *Frame) ([]byte, error) { return k.seal(dst, f, newSalt()) }

func (k *Key) seal(dst []byte, f *Frame, salt [saltSize]byte) ([]byte, error) {
	if f.Sealed {
		return nil, fmt.Errorf("seal frame %d: %w: it is encrypted already", f.First, ErrEntry)
	}
	aead, err := k.derive(salt[:], frameUse)
	if err != nil {
		return nil, err
	}
	start := len(dst)
	h := f.Header
	h.Sealed = true
	dst = append(dst, make([]byte, HeaderSize)...)
	var refs [maxBlocks * blockRefSize]byte
	from := HeaderSize
	for i := range h.Blocks {
		ref := f.tables.block(i)
		if ref.stored == 0 {
			continue // a block of zeroes: its reference is zero too
		}
		nonce, aad := h.sealing(i)
		at := len(dst)
		dst = aead.Seal(dst, nonce[:], f.buf[from:from+ref.stored], aad[:])
		from += ref.stored
		stored := uint32(len(dst) - at)
		if ref.raw {
			stored |= rawBit
		}
		binary.LittleEndian.PutUint32(refs[i*blockRefSize:], stored)
		binary.LittleEndian.PutUint32(refs[i*blockRefSize+4:], Checksum(dst[at:]))
	}
	tables := len(dst)
	dst = append(dst, salt[:]...)
	dst = append(dst, f.tables.entries...)
	dst = append(dst, refs[:h.Blocks*blockRefSize]...)
	h.Size, h.tableSum = len(dst)-start, Checksum(dst[tables:])
	h.put(dst[start:])
	return dst, nil
}

// sealing returns the nonce of a block, and what is authenticated with it: the
// frame's place in the stream and the block's number.
func (h *Header) sealing(block int) (nonce [12]byte, aad [44]byte) {
	binary.BigEndian.PutUint32(nonce[8:], uint32(block))
	le := binary.LittleEndian
	aad[0] = byte(h.Codec)
	le.PutUint32(aad[4:], uint32(h.Payload))
	le.PutUint64(aad[8:], uint64(h.Generation))
	le.PutUint64(aad[16:], uint64(h.Epoch))
	le.PutUint64(aad[24:], uint64(h.First))
	le.PutUint32(aad[32:], uint32(h.Count))
	le.PutUint32(aad[36:], uint32(h.Blocks))
	le.PutUint32(aad[40:], uint32(block))
	return nonce, aad
}

// ParseStored is ParseFrame for frames at rest: also encrypted ones are taken.
// Their content is read by a frame that WithKey returned.
func ParseStored(buf []byte) (Frame, error) { return parseFrame(buf, true) }

// ParseStoredHeader is ParseHeader for frames at rest.
func ParseStoredHeader(buf []byte) (Header, error) { return parseHeader(buf, true) }

// WithKey returns the frame with the key that its content is read with. A plain
// frame stays as it is.
func (f Frame) WithKey(k *Key) (Frame, error) {
	t, err := f.tables.WithKey(k)
	f.tables = t
	return f, err
}

// WithKey returns the tables with the key that the content of their frame is read
// with. Those of a plain frame stay as they are.
func (t Tables) WithKey(k *Key) (Tables, error) {
	if !t.h.Sealed {
		return t, nil
	}
	if k == nil {
		return t, fmt.Errorf("frame %d: %w", t.h.First, ErrSealed)
	}
	aead, err := k.derive(t.salt, frameUse)
	t.aead = aead
	return t, err
}

// Unseal appends the plain form of an encrypted frame to dst, as Builder would
// have made it, and returns it all. The frame has its key.
func (f *Frame) Unseal(dst []byte) ([]byte, error) {
	if !f.Sealed {
		return append(dst, f.buf...), nil
	}
	start := len(dst)
	h := f.Header
	h.Sealed = false
	dst = append(dst, make([]byte, HeaderSize)...)
	var refs [maxBlocks * blockRefSize]byte
	for i := range h.Blocks {
		b := f.tables.BlockAt(i * BlockSize)
		if b.Stored == 0 {
			continue
		}
		at := len(dst)
		var err error
		if dst, err = b.open(dst, f.buf[b.Offset:b.Offset+b.Stored]); err != nil {
			return nil, err
		}
		stored := uint32(len(dst) - at)
		if b.raw {
			stored |= rawBit
		}
		binary.LittleEndian.PutUint32(refs[i*blockRefSize:], stored)
		binary.LittleEndian.PutUint32(refs[i*blockRefSize+4:], Checksum(dst[at:]))
	}
	tables := len(dst)
	dst = append(dst, f.tables.entries...)
	dst = append(dst, refs[:h.Blocks*blockRefSize]...)
	h.Size, h.tableSum = len(dst)-start, Checksum(dst[tables:])
	h.put(dst[start:])
	return dst, nil
}

// blockSeal is what an encrypted block is opened with.
type blockSeal struct {
	aead  cipher.AEAD
	nonce [12]byte
	aad   [44]byte
}

// open appends the content of an encrypted block, still compressed, to dst.
func (b *Block) open(dst, stored []byte) ([]byte, error) {
	if b.seal.aead == nil {
		return nil, fmt.Errorf("read payload block: %w", ErrSealed)
	}
	dst, err := b.seal.aead.Open(dst, b.seal.nonce[:], stored, b.seal.aad[:])
	if err != nil {
		return nil, fmt.Errorf("%w: encrypted payload block: %w", ErrDamaged, err)
	}
	return dst, nil
}
