// Package run is the format of sorted runs: files that say, for ranges of a
// group's disks, where their content lies. A journal uses one form for the
// index of its redo and for its layers.
//
// It promises that nothing of a page is believed that its checksum does not
// cover, that a look-up touches a few pages only, and that a page that cannot
// be read any more (the file is mapped) is an error and no crash. FORMAT.md
// says what lies where. Package journal is its only caller.
package run

import (
	"encoding/binary"
	"errors"
	"fmt"

	"rebound/internal/dr"
	"rebound/internal/segment"
)

// Sizes of the format, in bytes. Pages are small, because each look-up checks
// one page of every level.
const (
	PageSize    = 1024
	TrailerSize = 64

	pageHeader     = 16
	recordSize     = 40
	RecordsPerPage = (PageSize - pageHeader) / recordSize
	innerHeader    = pageHeader + 8
	keysPerPage    = (PageSize - innerHeader) / 8
	diskSize       = 40
	version        = 1
	maxHeight      = 12
)

var magic = [8]byte{'R', 'B', 'R', 'U', 'N', 0, 0, version}

// ErrDamaged means that a run is not what was written.
var ErrDamaged = errors.New("run: damaged")

// Zeroes as a Record's Payload means that the range reads as zeroes.
const Zeroes = 1<<32 - 1

// Record says where the content of a range of a disk lies. Offset, Len and Frame are
// in bytes.
type Record struct {
	Offset, Len int64
	// Seq is that of the entry.
	Seq dr.Seq
	// Frame is where the entry's frame begins in its file, Payload where the
	// range begins in the frame's payload, or Zeroes.
	Frame   int64
	Payload uint32
	// File is the number of the file, counted from the run's first.
	File uint32
}

// End returns the first byte after the range.
func (r *Record) End() int64 { return r.Offset + r.Len }

func (r *Record) put(b []byte) {
	le := binary.LittleEndian
	le.PutUint64(b, uint64(r.Offset))
	le.PutUint64(b[8:], uint64(r.Len))
	le.PutUint64(b[16:], uint64(r.Seq))
	le.PutUint64(b[24:], uint64(r.Frame))
	le.PutUint32(b[32:], r.Payload)
	le.PutUint32(b[36:], r.File)
}

func readRecord(b []byte) Record {
	le := binary.LittleEndian
	return Record{
		Offset: int64(le.Uint64(b)), Len: int64(le.Uint64(b[8:])), Seq: dr.Seq(le.Uint64(b[16:])),
		Frame: int64(le.Uint64(b[24:])), Payload: le.Uint32(b[32:]), File: le.Uint32(b[36:]),
	}
}

// disk is one disk's tree: its leaves lie one after the other, then each level
// above them; the root is the last page.
type disk struct {
	index     uint16
	height    uint16 // levels, at least 1
	firstLeaf uint64 // page numbers
	leaves    uint64
	root      uint64
	records   uint64
}

func (d *disk) put(b []byte) {
	le := binary.LittleEndian
	le.PutUint16(b, d.index)
	le.PutUint16(b[2:], d.height)
	le.PutUint64(b[8:], d.firstLeaf)
	le.PutUint64(b[16:], d.leaves)
	le.PutUint64(b[24:], d.root)
	le.PutUint64(b[32:], d.records)
}

func readDisk(b []byte) disk {
	le := binary.LittleEndian
	return disk{le.Uint16(b), le.Uint16(b[2:]), le.Uint64(b[8:]), le.Uint64(b[16:]), le.Uint64(b[24:]), le.Uint64(b[32:])}
}

// trailer is the last TrailerSize bytes.
type trailer struct {
	pages    uint64
	disks    uint32
	diskSum  uint32
	metaSize uint32
	metaSum  uint32
	owner    uint32
}

func (t *trailer) put(b []byte) {
	le := binary.LittleEndian
	copy(b, magic[:])
	le.PutUint64(b[8:], t.pages)
	le.PutUint32(b[16:], t.disks)
	le.PutUint32(b[20:], t.diskSum)
	le.PutUint32(b[24:], t.metaSize)
	le.PutUint32(b[28:], t.metaSum)
	le.PutUint32(b[32:], t.owner)
	le.PutUint32(b[60:], segment.Checksum(b[:60]))
}

func readTrailer(b []byte) (trailer, error) {
	le := binary.LittleEndian
	if [7]byte(b) != [7]byte(magic[:7]) || le.Uint32(b[60:]) != segment.Checksum(b[:60]) {
		return trailer{}, fmt.Errorf("%w: magic or checksum of the trailer", ErrDamaged)
	}
	if b[7] != version {
		return trailer{}, fmt.Errorf("%w: version %d, want %d", ErrDamaged, b[7], version)
	}
	return trailer{le.Uint64(b[8:]), le.Uint32(b[16:]), le.Uint32(b[20:]), le.Uint32(b[24:]), le.Uint32(b[28:]), le.Uint32(b[32:])}, nil
}
