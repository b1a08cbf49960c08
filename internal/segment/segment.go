// Package segment is the format in which writes travel and rest: entries,
// packed into frames, packed into segment files. The link ships frames and the
// journal stores the same bytes, compressed once, at the source.
//
// It promises that a decoder never panics and never believes a byte that no
// checksum covers, that the layout stays readable (golden bytes hold it still)
// and that packing and parsing allocate nothing per entry. FORMAT.md says what
// lies where and why. It is a leaf: anyone may import it; it does no I/O.
package segment

import (
	"errors"
	"fmt"
	"hash/crc32"

	"rebound/internal/dr"
)

// Kind says what an entry is.
type Kind uint8

// The kinds. Numbers are on disk: never reuse one.
const (
	// KindWrite carries Length bytes of Data for Offset of Disk.
	KindWrite Kind = 1
	// KindZero makes a range read as zeroes.
	KindZero Kind = 2
	// KindTrim says that the guest no longer cares for a range. It leaves
	// the content as it was: a source whose discarded ranges read as
	// zeroes sends KindZero instead.
	KindTrim Kind = 3
	// KindMarker is a recovery point: a Marker.
	KindMarker Kind = 4
	// KindBeacon is a Beacon: time, and how far the stream is confirmed.
	KindBeacon Kind = 5
	// KindBreak is a Break: the last entry of its epoch.
	KindBreak Kind = 6
	// KindDefinition is a Definition of one machine.
	KindDefinition Kind = 7
	// KindSyncBegin and KindSyncEnd enclose a synchronisation: a SyncBegin
	// and a SyncEnd.
	KindSyncBegin Kind = 8
	KindSyncEnd   Kind = 9
	// KindThawed is a Thawed: it makes an earlier marker of its epoch an
	// application-consistent point.
	KindThawed Kind = 10
)

// HasRange reports whether entries of the kind name a range of a disk.
func (k Kind) HasRange() bool { return k >= KindWrite && k <= KindTrim }

// HasPayload reports whether entries of the kind carry Data.
func (k Kind) HasPayload() bool { return k == KindWrite || (k >= KindMarker && k <= KindThawed) }

// String names the kind for people.
func (k Kind) String() string {
	names := [...]string{"", "write", "zero", "trim", "marker", "beacon", "break", "definition", "sync-begin", "sync-end", "thawed"}
	if k == 0 || int(k) >= len(names) {
		return fmt.Sprintf("kind(%d)", uint8(k))
	}
	return names[k]
}

// Flags qualify an entry.
type Flags uint8

// FlagSync marks entries that a synchronisation made, not the guest.
const FlagSync Flags = 1

// Codec says how a frame's blocks are compressed.
type Codec uint8

// The codecs. Numbers are on disk and on the wire.
const (
	CodecNone Codec = 0
	CodecS2   Codec = 1
)

// Limits of the format.
const (
	// MaxPayload is the most payload a frame holds, in bytes; so it is
	// also the longest write.
	MaxPayload = 1 << 20
	// MaxEntries is the most entries a frame holds.
	MaxEntries = 8192
	// BlockSize is how much payload is compressed and checked as one piece.
	BlockSize = 64 << 10
	// HeaderSize is the length of a frame's header, in bytes.
	HeaderSize = 64
	// MaxFrame is the length of the longest frame, in bytes.
	MaxFrame = HeaderSize + MaxPayload + MaxEntries*entrySize + maxBlocks*blockRefSize
)

const (
	entrySize    = 20
	blockRefSize = 8
	maxBlocks    = MaxPayload / BlockSize
	version      = 1
	// sealedVersion is that of encrypted frames and of files that hold them;
	// cipherAES is the one cipher so far.
	sealedVersion = 2
	cipherAES     = 1
	rawBit        = 1 << 31 // in a block's stored length: not compressed
)

// The errors of decoders. Each decoding error wraps one of them.
var (
	// ErrDamaged means that bytes are not what was written: a checksum, a
	// length or an order is wrong.
	ErrDamaged = errors.New("segment: damaged")
	// ErrVersion means a format of another version.
	ErrVersion = errors.New("segment: unknown format version")
	// ErrShort means that the buffer ends before the frame does.
	ErrShort = errors.New("segment: buffer too short")
	// ErrEntry means that an entry breaks the rules of its kind.
	ErrEntry = errors.New("segment: invalid entry")
)

// Entry is one entry of a stream.
type Entry struct {
	Seq    dr.Seq
	Kind   Kind
	Flags  Flags
	Disk   uint16 // index in the group's disk table; 0 for kinds without range
	Offset int64  // bytes; 0 for kinds without range
	// Length is the range's, in bytes; for kinds with Data it is ignored
	// and len(Data) counts.
	Length int64
	Data   []byte
}

// Meta is an entry as found in a frame, without its data.
type Meta struct {
	Seq    dr.Seq
	Kind   Kind
	Flags  Flags
	Disk   uint16
	Offset int64
	Length int64 // of the range, or of the payload for kinds without range
	// PayloadOffset is where the entry's data begins in the frame's
	// payload; PayloadLength is 0 for kinds without data.
	PayloadOffset int
	PayloadLength int
}

// check applies the rules that builder and parser share.
func (m *Meta) check() error {
	switch {
	case m.Kind < KindWrite || m.Kind > KindThawed:
		return fmt.Errorf("%w: unknown %v", ErrEntry, m.Kind)
	case m.Flags&^FlagSync != 0:
		return fmt.Errorf("%w: unknown flags %#x", ErrEntry, m.Flags)
	case m.Length < 0 || m.Offset < 0 || m.Offset+m.Length < 0:
		return fmt.Errorf("%w: %v of %d bytes at %d", ErrEntry, m.Kind, m.Length, m.Offset)
	case m.Kind.HasRange() && m.Length == 0:
		return fmt.Errorf("%w: empty %v", ErrEntry, m.Kind)
	case !m.Kind.HasRange() && (m.Disk != 0 || m.Offset != 0 || m.Flags != 0):
		return fmt.Errorf("%w: %v with a range", ErrEntry, m.Kind)
	case m.Kind.HasPayload() && m.Length > MaxPayload:
		return fmt.Errorf("%w: %v of %d bytes, limit %d", ErrEntry, m.Kind, m.Length, MaxPayload)
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum is CRC32C, the checksum of every structure of the journal.
func Checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }
