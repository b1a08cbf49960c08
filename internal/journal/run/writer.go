package run

import (
	"encoding/binary"
	"fmt"
	"io"

	"rebound/internal/segment"
)

// writeBuffer is how many bytes of pages are collected before they are written.
const writeBuffer = 256 << 10

// Writer writes a run, from its first byte on, in order of disks and offsets. It keeps
// 8 bytes of memory for each page that is full.
type Writer struct {
	w     io.WriterAt
	owner uint32
	at    int64  // of what was written
	buf   []byte // pages that were not
	pages uint64

	disks []disk
	leaf  []byte // the page that grows
	count int
	keys  []int64 // first offsets of the present disk's leaves
	end   int64   // of the last record
}

// NewWriter returns a Writer; owner is a checksum that a reader demands.
func NewWriter(w io.WriterAt, owner uint32) *Writer {
	return &Writer{w: w, owner: owner, leaf: make([]byte, PageSize)}
}

// Add takes the next record of a disk. Records of a disk come in order and do
// not overlap; the disks come in order too.
func (w *Writer) Add(index uint16, r Record) error {
	n := len(w.disks)
	if n == 0 || w.disks[n-1].index != index {
		if n > 0 && w.disks[n-1].index > index {
			return fmt.Errorf("write run: disk %d after %d", index, w.disks[n-1].index)
		}
		if err := w.endDisk(); err != nil {
			return err
		}
		w.disks = append(w.disks, disk{index: index, firstLeaf: w.pages})
		w.end = 0
	}
	if r.Offset < w.end || r.Len <= 0 || r.End() < 0 {
		return fmt.Errorf("write run: range [%d, +%d) after %d", r.Offset, r.Len, w.end)
	}
	w.end = r.End()
	if w.count == 0 {
		w.keys = append(w.keys, r.Offset)
	}
	r.put(w.leaf[pageHeader+w.count*recordSize:])
	w.count++
	w.disks[len(w.disks)-1].records++
	if w.count == RecordsPerPage {
		return w.endLeaf()
	}
	return nil
}

func (w *Writer) endLeaf() error {
	if w.count == 0 {
		return nil
	}
	err := w.page(w.leaf, w.count, 0)
	clear(w.leaf)
	w.count = 0
	w.disks[len(w.disks)-1].leaves++
	return err
}

// page completes a page's header and writes it.
func (w *Writer) page(b []byte, count int, level uint8) error {
	le := binary.LittleEndian
	le.PutUint16(b[4:], uint16(count))
	le.PutUint16(b[6:], w.disks[len(w.disks)-1].index)
	b[8] = level
	le.PutUint32(b[12:], uint32(w.pages)) // a page in the wrong place is noticed
	le.PutUint32(b, segment.Checksum(b[4:PageSize]))
	w.pages++
	w.buf = append(w.buf, b...)
	if len(w.buf) >= writeBuffer {
		return w.flush()
	}
	return nil
}

func (w *Writer) flush() error {
	_, err := w.w.WriteAt(w.buf, w.at)
	w.at += int64(len(w.buf))
	w.buf = w.buf[:0]
	if err != nil {
		return fmt.Errorf("write run: %w", err)
	}
	return nil
}

// endDisk writes the levels above the present disk's leaves.
func (w *Writer) endDisk() error {
	if len(w.disks) == 0 {
		return nil
	}
	if err := w.endLeaf(); err != nil {
		return err
	}
	d := &w.disks[len(w.disks)-1]
	first := d.firstLeaf
	d.height = 1
	for keys := w.keys; len(keys) > 1; d.height++ {
		at := w.pages
		var above []int64
		for i := 0; i < len(keys); i += keysPerPage {
			part := keys[i:min(i+keysPerPage, len(keys))]
			above = append(above, part[0])
			if err := w.inner(part, first+uint64(i), uint8(d.height)); err != nil {
				return err
			}
		}
		keys, first = above, at
	}
	d.root = w.pages - 1
	w.keys = w.keys[:0]
	return nil
}

// inner writes a page that names children: the first one's number, and of each
// the first offset.
func (w *Writer) inner(keys []int64, firstChild uint64, level uint8) error {
	b := make([]byte, PageSize)
	binary.LittleEndian.PutUint64(b[pageHeader:], firstChild)
	for i, k := range keys {
		binary.LittleEndian.PutUint64(b[innerHeader+8*i:], uint64(k))
	}
	return w.page(b, len(keys), level)
}

// Finish writes what is left, with the caller's text, and returns the size of
// the run. The file is not synced.
func (w *Writer) Finish(meta []byte) (int64, error) {
	if err := w.endDisk(); err != nil {
		return 0, err
	}
	list := make([]byte, diskSize*len(w.disks))
	for i := range w.disks {
		w.disks[i].put(list[i*diskSize:])
	}
	t := trailer{
		pages: w.pages, disks: uint32(len(w.disks)), diskSum: segment.Checksum(list),
		metaSize: uint32(len(meta)), metaSum: segment.Checksum(meta), owner: w.owner,
	}
	end := make([]byte, TrailerSize)
	t.put(end)
	w.buf = append(append(append(w.buf, list...), meta...), end...)
	err := w.flush()
	return w.at, err
}
