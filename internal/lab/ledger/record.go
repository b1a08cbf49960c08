// Package ledger is the workload that proves a recovery: numbered, checksummed
// records, each naming the checksum of the one before it, written alternately
// to two files on two disks, each durable before the next begins.
//
// What it promises: if record n is found then, on disks that keep the order of
// writes, every record before it is there too. Odd records lie in the first
// file and even ones in the second, so a disk that runs ahead of the other
// shows as a gap. The format and its rules are pure; the lab's guest writes
// it, the lab's checker reads it. It imports the standard library only.
package ledger

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
)

// RecordSize is the size of every record in bytes.
const RecordSize = 128

// Files is the number of files, and of disks, that a ledger lies on.
const Files = 2

const (
	magic      = 0x474c4252 // "RBLG", little endian
	version    = 1
	guestBytes = 24
)

// Ref names a record of some ledger: its number and its checksum. The zero Ref
// names none.
type Ref struct {
	N   uint64 `json:"n"`
	CRC uint32 `json:"crc"`
}

// Record is one line of a ledger.
type Record struct {
	// N counts from 1 without gaps.
	N uint64
	// Wall is the guest's clock just before the record was written.
	Wall time.Time
	// Boot is the boot id of the guest that wrote it.
	Boot [16]byte
	// Peer is the newest record of the peer's ledger that this guest knew
	// to be durable; zero when it knew none or has no peer.
	Peer Ref
	// Prev is the checksum of record N-1; 0 for the first.
	Prev uint32
	// Guest is the writer's name, at most 24 bytes.
	Guest string
	// CRC is the record's own CRC32C; Append sets it, Decode checks it.
	CRC uint32
}

// Ref returns the record's number and checksum.
func (r Record) Ref() Ref { return Ref{N: r.N, CRC: r.CRC} }

// FileOf returns the index of the file that record n lies in and its byte
// offset there.
func FileOf(n uint64) (file int, offset int64) {
	return int((n - 1) % Files), int64((n-1)/Files) * RecordSize
}

// castagnoli returns the CRC32C table; the package crc32 keeps it.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// Encode appends the record's 128 bytes to dst and returns its checksum too.
func (r Record) Encode(dst []byte) ([]byte, uint32, error) {
	if r.N == 0 {
		return nil, 0, errors.New("encode ledger record: number 0")
	}
	if len(r.Guest) > guestBytes {
		return nil, 0, fmt.Errorf("encode ledger record: guest name %q is longer than %d bytes", r.Guest, guestBytes)
	}
	var b [RecordSize]byte
	le := binary.LittleEndian
	le.PutUint32(b[0:], magic)
	le.PutUint16(b[4:], version)
	le.PutUint16(b[6:], RecordSize)
	le.PutUint64(b[8:], r.N)
	le.PutUint64(b[16:], uint64(r.Wall.UnixNano()))
	copy(b[24:40], r.Boot[:])
	le.PutUint64(b[40:], r.Peer.N)
	le.PutUint32(b[48:], r.Peer.CRC)
	le.PutUint32(b[52:], r.Prev)
	copy(b[56:56+guestBytes], r.Guest)
	// The filler differs from record to record, so that a stale sector can
	// never pass for a new one.
	for i := 80; i < 124; i += 4 {
		le.PutUint32(b[i:], uint32(r.N)*2654435761+uint32(i))
	}
	crc := crc32.Checksum(b[:124], castagnoli())
	le.PutUint32(b[124:], crc)
	return append(dst, b[:]...), crc, nil
}

// errNoRecord is wrapped by every reason why 128 bytes are no record.
var errNoRecord = errors.New("no ledger record")

// Decode reads the record at the start of b.
func Decode(b []byte) (Record, error) {
	if len(b) < RecordSize {
		return Record{}, fmt.Errorf("%w: %d of %d bytes", errNoRecord, len(b), RecordSize)
	}
	b = b[:RecordSize]
	le := binary.LittleEndian
	if le.Uint32(b) != magic || le.Uint16(b[4:]) != version || le.Uint16(b[6:]) != RecordSize {
		return Record{}, fmt.Errorf("%w: wrong magic or version", errNoRecord)
	}
	crc := crc32.Checksum(b[:124], castagnoli())
	if le.Uint32(b[124:]) != crc {
		return Record{}, fmt.Errorf("%w: wrong checksum", errNoRecord)
	}
	r := Record{
		N:     le.Uint64(b[8:]),
		Wall:  time.Unix(0, int64(le.Uint64(b[16:]))).UTC(),
		Peer:  Ref{N: le.Uint64(b[40:]), CRC: le.Uint32(b[48:])},
		Prev:  le.Uint32(b[52:]),
		Guest: string(bytes.TrimRight(b[56:56+guestBytes], "\x00")),
		CRC:   crc,
	}
	copy(r.Boot[:], b[24:40])
	if r.N == 0 {
		return Record{}, fmt.Errorf("%w: number 0", errNoRecord)
	}
	return r, nil
}
