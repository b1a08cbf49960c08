package segment

import (
	"encoding/binary"
	"fmt"

	"rebound/internal/dr"
)

// Sizes of the parts of a segment file, in bytes.
const (
	controlHeaderSize = 16

	FileHeaderSize = 64
	TrailerSize    = 64
	// IndexPageSize is the unit in which a sealed segment's index is
	// checked, so that one page can be believed without reading the rest.
	IndexPageSize = 4096

	recordSize     = 40
	pageHeaderSize = 8
	// RecordsPerPage is how many records fit a page of the index.
	RecordsPerPage = (IndexPageSize - pageHeaderSize) / recordSize
)

var (
	fileMagic    = [8]byte{'R', 'B', 'S', 'E', 'G', 0, 0, version}
	trailerMagic = [8]byte{'R', 'B', 'E', 'N', 'D', 0, 0, version}
)

// FileHeader begins a segment file. All frames of a file are of one epoch.
type FileHeader struct {
	Number     uint64 // of the segment within its journal, from 1
	Generation dr.Generation
	Epoch      dr.Epoch
	First      dr.Seq // of the first frame
	Group      uint32 // checksum of the group's id: a file in the wrong journal is noticed
	// Key names the key that the file's frames and controls are encrypted
	// with; zero if they are not.
	Key KeyID
}

// MarshalBinary encodes h into FileHeaderSize bytes.
func (h FileHeader) MarshalBinary() ([]byte, error) {
	le := binary.LittleEndian
	b := make([]byte, FileHeaderSize)
	copy(b, fileMagic[:])
	if !h.Key.IsZero() {
		b[7] = sealedVersion
		copy(b[44:], h.Key[:])
	}
	le.PutUint64(b[8:], h.Number)
	le.PutUint64(b[16:], uint64(h.Generation))
	le.PutUint64(b[24:], uint64(h.Epoch))
	le.PutUint64(b[32:], uint64(h.First))
	le.PutUint32(b[40:], h.Group)
	le.PutUint32(b[60:], Checksum(b[:60]))
	return b, nil
}

// UnmarshalBinary decodes and checks h.
func (h *FileHeader) UnmarshalBinary(b []byte) error {
	want := fileMagic
	sealed := len(b) == FileHeaderSize && b[7] == sealedVersion
	if sealed {
		want[7] = sealedVersion
	}
	if err := checkFixed(b, FileHeaderSize, want, "segment header"); err != nil {
		return err
	}
	le := binary.LittleEndian
	*h = FileHeader{
		Number: le.Uint64(b[8:]), Generation: dr.Generation(le.Uint64(b[16:])),
		Epoch: dr.Epoch(le.Uint64(b[24:])), First: dr.Seq(le.Uint64(b[32:])), Group: le.Uint32(b[40:]),
	}
	if h.Key = KeyID(b[44:52]); sealed == h.Key.IsZero() {
		return fmt.Errorf("decode segment header: %w: key %s", ErrDamaged, h.Key)
	}
	return nil
}

// Trailer is the last TrailerSize bytes of a sealed segment file.
type Trailer struct {
	IndexOffset int64  // where the index begins: the frames end there
	Records     uint64 // in the index
	Last        dr.Seq // of the last frame
	Frames      uint32
	// ControlsSize and ControlsSum are length and checksum of the list of
	// control entries, which lies between index and trailer.
	ControlsSize uint32
	ControlsSum  uint32
}

// MarshalBinary encodes t into TrailerSize bytes.
func (t Trailer) MarshalBinary() ([]byte, error) {
	le := binary.LittleEndian
	b := make([]byte, TrailerSize)
	copy(b, trailerMagic[:])
	le.PutUint64(b[8:], uint64(t.IndexOffset))
	le.PutUint64(b[16:], t.Records)
	le.PutUint64(b[24:], uint64(t.Last))
	le.PutUint32(b[32:], t.Frames)
	le.PutUint32(b[36:], t.ControlsSize)
	le.PutUint32(b[40:], t.ControlsSum)
	le.PutUint32(b[60:], Checksum(b[:60]))
	return b, nil
}

// UnmarshalBinary decodes and checks t.
func (t *Trailer) UnmarshalBinary(b []byte) error {
	if err := checkFixed(b, TrailerSize, trailerMagic, "segment trailer"); err != nil {
		return err
	}
	le := binary.LittleEndian
	*t = Trailer{
		IndexOffset: int64(le.Uint64(b[8:])), Records: le.Uint64(b[16:]),
		Last: dr.Seq(le.Uint64(b[24:])), Frames: le.Uint32(b[32:]),
		ControlsSize: le.Uint32(b[36:]), ControlsSum: le.Uint32(b[40:]),
	}
	if t.IndexOffset < FileHeaderSize || t.Records > 1<<32 {
		return fmt.Errorf("%w: sizes in segment trailer", ErrDamaged)
	}
	return nil
}

func checkFixed(b []byte, size int, magic [8]byte, what string) error {
	if len(b) != size {
		return fmt.Errorf("decode %s: %w: %d bytes, want %d", what, ErrShort, len(b), size)
	}
	if [7]byte(b) != [7]byte(magic[:7]) || binary.LittleEndian.Uint32(b[size-4:]) != Checksum(b[:size-4]) {
		return fmt.Errorf("decode %s: %w: magic or checksum", what, ErrDamaged)
	}
	if b[7] != magic[7] {
		return fmt.Errorf("decode %s: %w: %d, want %d", what, ErrVersion, b[7], magic[7])
	}
	return nil
}

// Record is one extent of a sealed segment's index: a write or a zero. Records
// are sorted by disk, offset and seq; ranges of different records may overlap,
// and then the higher seq is the newer content.
type Record struct {
	Disk    uint16
	Kind    Kind // KindWrite or KindZero
	Flags   Flags
	Payload uint32 // where the data begins in its frame's payload
	Offset  int64
	Length  int64
	Seq     dr.Seq
	Frame   uint64 // where the frame begins in the file
}

// Compare orders records as the index does.
func (r *Record) Compare(s *Record) int {
	switch {
	case r.Disk != s.Disk:
		return int(r.Disk) - int(s.Disk)
	case r.Offset != s.Offset:
		return sign(r.Offset < s.Offset)
	case r.Seq != s.Seq:
		return sign(r.Seq < s.Seq)
	}
	return 0
}

func sign(less bool) int {
	if less {
		return -1
	}
	return 1
}

// IndexSize returns how many bytes an index of n records takes.
func IndexSize(n uint64) int64 {
	return int64((n+RecordsPerPage-1)/RecordsPerPage) * IndexPageSize
}

// AppendIndex appends the pages of an index to dst. The records are sorted.
func AppendIndex(dst []byte, records []Record) []byte {
	le := binary.LittleEndian
	for len(records) > 0 {
		n := min(len(records), RecordsPerPage)
		at := len(dst)
		dst = append(dst, make([]byte, IndexPageSize)...)
		page := dst[at:]
		le.PutUint32(page[4:], uint32(n))
		for i := range records[:n] {
			putRecord(page[pageHeaderSize+i*recordSize:], &records[i])
		}
		le.PutUint32(page, Checksum(page[4:]))
		records = records[n:]
	}
	return dst
}

// ParseIndexPage checks one page and appends its records to dst.
func ParseIndexPage(dst []Record, page []byte) ([]Record, error) {
	le := binary.LittleEndian
	if len(page) != IndexPageSize {
		return dst, fmt.Errorf("decode index page: %w: %d bytes", ErrShort, len(page))
	}
	n := int(le.Uint32(page[4:]))
	if le.Uint32(page) != Checksum(page[4:]) || n < 1 || n > RecordsPerPage {
		return dst, fmt.Errorf("decode index page: %w: checksum or count", ErrDamaged)
	}
	for i := range n {
		r := readRecord(page[pageHeaderSize+i*recordSize:])
		if (r.Kind != KindWrite && r.Kind != KindZero) || r.Offset < 0 || r.Length <= 0 ||
			r.Offset+r.Length < 0 || (r.Kind == KindWrite && r.Length > MaxPayload) {
			return dst, fmt.Errorf("decode index page: %w: record %d", ErrDamaged, i)
		}
		dst = append(dst, r)
	}
	return dst, nil
}

func putRecord(b []byte, r *Record) {
	le := binary.LittleEndian
	le.PutUint16(b, r.Disk)
	b[2], b[3] = byte(r.Kind), byte(r.Flags)
	le.PutUint32(b[4:], r.Payload)
	le.PutUint64(b[8:], uint64(r.Offset))
	le.PutUint64(b[16:], uint64(r.Length))
	le.PutUint64(b[24:], uint64(r.Seq))
	le.PutUint64(b[32:], r.Frame)
}

func readRecord(b []byte) Record {
	le := binary.LittleEndian
	return Record{
		Disk: le.Uint16(b), Kind: Kind(b[2]), Flags: Flags(b[3]), Payload: le.Uint32(b[4:]),
		Offset: int64(le.Uint64(b[8:])), Length: int64(le.Uint64(b[16:])),
		Seq: dr.Seq(le.Uint64(b[24:])), Frame: le.Uint64(b[32:]),
	}
}

// Control is a marker, beacon, break, definition or end of a synchronisation,
// as repeated behind the index of a sealed segment.
type Control struct {
	Seq  dr.Seq
	Kind Kind
	Data []byte
}

// AppendControl appends c to a list of control entries.
func AppendControl(dst []byte, c Control) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, uint64(c.Seq))
	dst = append(dst, byte(c.Kind), 0, 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(c.Data)))
	return append(dst, c.Data...)
}

// ParseControls reads a list whose checksum was found right. The data refers
// to buf.
func ParseControls(buf []byte) ([]Control, error) {
	var list []Control
	le := binary.LittleEndian
	for len(buf) > 0 {
		if len(buf) < controlHeaderSize {
			return nil, fmt.Errorf("decode controls: %w: %d bytes", ErrShort, len(buf))
		}
		c := Control{Seq: dr.Seq(le.Uint64(buf)), Kind: Kind(buf[8])}
		n := int(le.Uint32(buf[12:]))
		buf = buf[controlHeaderSize:]
		if c.Kind < KindMarker || c.Kind > KindThawed || n > len(buf) {
			return nil, fmt.Errorf("decode controls: %w: %v of %d bytes", ErrDamaged, c.Kind, n)
		}
		c.Data, buf = buf[:n:n], buf[n:]
		list = append(list, c)
	}
	return list, nil
}
