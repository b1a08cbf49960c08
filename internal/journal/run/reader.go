package run

import (
	"encoding/binary"
	"fmt"
	"runtime/debug"
	"slices"
	"sort"

	"rebound/internal/segment"
)

// Reader reads a run that lies in memory, as a rule mapped from its file. It may be
// used concurrently.
type Reader struct {
	data  []byte
	pages uint64
	disks []disk
	meta  []byte
}

// Open checks what frames a run and returns a Reader of it. The pages are checked
// when they are used. data must stay as it is.
func Open(data []byte, owner uint32) (r *Reader, err error) {
	defer rescue(debug.SetPanicOnFault(true), &err)
	if len(data) < TrailerSize {
		return nil, fmt.Errorf("%w: %d bytes", ErrDamaged, len(data))
	}
	t, err := readTrailer(data[len(data)-TrailerSize:])
	if err != nil {
		return nil, err
	}
	size := uint64(len(data) - TrailerSize)
	if t.owner != owner || t.pages > size/PageSize || t.pages*PageSize+uint64(t.disks)*diskSize+uint64(t.metaSize) != size {
		return nil, fmt.Errorf("%w: owner or sizes", ErrDamaged)
	}
	list := data[t.pages*PageSize:][:uint64(t.disks)*diskSize]
	meta := data[t.pages*PageSize+uint64(len(list)):][:t.metaSize]
	if segment.Checksum(list) != t.diskSum || segment.Checksum(meta) != t.metaSum {
		return nil, fmt.Errorf("%w: checksum of the directory", ErrDamaged)
	}
	r = &Reader{data: data, pages: t.pages, meta: slices.Clone(meta)}
	for ; len(list) > 0; list = list[diskSize:] {
		d := readDisk(list)
		if d.height < 1 || d.height > maxHeight || d.leaves == 0 || d.root >= t.pages || d.leaves > t.pages || d.firstLeaf > t.pages-d.leaves {
			return nil, fmt.Errorf("%w: tree of disk %d", ErrDamaged, d.index)
		}
		r.disks = append(r.disks, d)
	}
	return r, nil
}

// Meta returns the caller's text.
func (r *Reader) Meta() []byte { return r.meta }

// Pages returns how many pages there are.
func (r *Reader) Pages() uint64 { return r.pages }

// Records returns how many records there are of all disks.
func (r *Reader) Records() uint64 {
	var n uint64
	for i := range r.disks {
		n += r.disks[i].records
	}
	return n
}

func (r *Reader) find(index uint16) *disk {
	for i := range r.disks {
		if r.disks[i].index == index {
			return &r.disks[i]
		}
	}
	return nil
}

// rescue turns a fault of the mapping (the volume cannot read the page, the
// file was cut) into an error. It is deferred, with what the setting was.
func rescue(old bool, err *error) {
	debug.SetPanicOnFault(old)
	p := recover()
	if p == nil {
		return
	}
	fault, ok := p.(interface {
		error
		Addr() uintptr
	})
	if !ok {
		panic(p)
	}
	*err = fmt.Errorf("%w: page cannot be read: %w", ErrDamaged, fault)
}

// page returns a page after checking it.
func (r *Reader) page(d *disk, number uint64, level uint8) ([]byte, int, error) {
	if number >= r.pages {
		return nil, 0, fmt.Errorf("%w: page %d of %d", ErrDamaged, number, r.pages)
	}
	le := binary.LittleEndian
	b := r.data[number*PageSize:][:PageSize]
	n := int(le.Uint16(b[4:]))
	most := RecordsPerPage
	if level > 0 {
		most = keysPerPage
	}
	if le.Uint32(b) != segment.Checksum(b[4:]) || n < 1 || n > most || le.Uint16(b[6:]) != d.index || b[8] != level ||
		le.Uint32(b[12:]) != uint32(number) {
		return nil, 0, fmt.Errorf("%w: page %d", ErrDamaged, number)
	}
	return b, n, nil
}

// leafOf returns the number of the leaf in which the last record at or before an
// offset lies, or the first leaf.
func (r *Reader) leafOf(d *disk, off int64) (uint64, error) {
	number := d.root
	for level := uint8(d.height - 1); level > 0; level-- {
		b, n, err := r.page(d, number, level)
		if err != nil {
			return 0, err
		}
		i := sort.Search(n, func(i int) bool {
			return int64(binary.LittleEndian.Uint64(b[innerHeader+8*i:])) > off
		})
		number = binary.LittleEndian.Uint64(b[pageHeader:]) + uint64(max(i-1, 0))
	}
	if number < d.firstLeaf || number-d.firstLeaf >= d.leaves {
		return 0, fmt.Errorf("%w: leaf %d", ErrDamaged, number)
	}
	return number, nil
}

// Lookup appends the records of a disk that share a byte with [off, end), in
// order.
func (r *Reader) Lookup(dst []Record, index uint16, off, end int64) (_ []Record, err error) {
	d := r.find(index)
	if d == nil {
		return dst, nil
	}
	defer rescue(debug.SetPanicOnFault(true), &err)
	number, err := r.leafOf(d, off)
	if err != nil {
		return dst, err
	}
	for ; number-d.firstLeaf < d.leaves; number++ {
		b, n, err := r.page(d, number, 0)
		if err != nil {
			return dst, err
		}
		i := sort.Search(n, func(i int) bool {
			at := b[pageHeader+i*recordSize:]
			return int64(binary.LittleEndian.Uint64(at))+int64(binary.LittleEndian.Uint64(at[8:])) > off
		})
		for ; i < n; i++ {
			rec := readRecord(b[pageHeader+i*recordSize:])
			if rec.Offset >= end {
				return dst, nil
			}
			dst = append(dst, rec)
		}
	}
	return dst, nil
}

// Cursor goes through the records of one disk. It is not safe for concurrent use.
type Cursor struct {
	r    *Reader
	d    *disk
	leaf uint64 // the next one
	page []Record
	err  error
}

// Cursor returns a cursor that begins with the first record that ends after off.
func (r *Reader) Cursor(index uint16, off int64) *Cursor {
	c := &Cursor{r: r, d: r.find(index)}
	if c.d == nil {
		return c
	}
	c.leaf, c.err = r.guardedLeaf(c.d, off)
	for c.err == nil && c.more() {
		for i := range c.page {
			if c.page[i].End() > off {
				c.page = c.page[i:]
				return c
			}
		}
		c.page = nil
	}
	return c
}

func (r *Reader) guardedLeaf(d *disk, off int64) (n uint64, err error) {
	defer rescue(debug.SetPanicOnFault(true), &err)
	return r.leafOf(d, off)
}

// more reads the next page.
func (c *Cursor) more() bool {
	if c.d == nil || c.err != nil || c.leaf-c.d.firstLeaf >= c.d.leaves {
		return false
	}
	c.err = c.read()
	return c.err == nil
}

func (c *Cursor) read() (err error) {
	defer rescue(debug.SetPanicOnFault(true), &err)
	b, n, err := c.r.page(c.d, c.leaf, 0)
	if err != nil {
		return err
	}
	c.leaf++
	c.page = make([]Record, n)
	for i := range c.page {
		c.page[i] = readRecord(b[pageHeader+i*recordSize:])
	}
	return nil
}

// Next returns the next record; false at the end or with an error.
func (c *Cursor) Next() (Record, bool, error) {
	if len(c.page) == 0 && !c.more() {
		return Record{}, false, c.err
	}
	rec := c.page[0]
	c.page = c.page[1:]
	return rec, true, nil
}

// Disks returns the indexes of the disks that have records, in order.
func (r *Reader) Disks() []uint16 {
	var out []uint16
	for i := range r.disks {
		out = append(out, r.disks[i].index)
	}
	return out
}

// CheckPage checks one page, by its number: for a scrub.
func (r *Reader) CheckPage(number uint64) (err error) {
	defer rescue(debug.SetPanicOnFault(true), &err)
	if number >= r.pages {
		return fmt.Errorf("%w: page %d of %d", ErrDamaged, number, r.pages)
	}
	b := r.data[number*PageSize:][:PageSize]
	if binary.LittleEndian.Uint32(b) != segment.Checksum(b[4:]) || binary.LittleEndian.Uint32(b[12:]) != uint32(number) {
		return fmt.Errorf("%w: page %d", ErrDamaged, number)
	}
	return nil
}
