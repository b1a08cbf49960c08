package journal

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"rebound/internal/dr"
	"rebound/internal/journal/keyring"
	"rebound/internal/journal/vfs"
	"rebound/internal/segment"
)

const (
	redoDir = "redo"
	// controlsUse is what the list of controls is encrypted for.
	controlsUse = "controls 1"
)

func segmentName(dir string, number uint64) string {
	return filepath.Join(dir, redoDir, fmt.Sprintf("%010d.seg", number))
}

// segmentNumbers lists the segment files of a journal in order.
func segmentNumbers(fsys vfs.FS, dir string) ([]uint64, error) {
	names, err := fsys.ReadDir(filepath.Join(dir, redoDir))
	if err != nil {
		return nil, fmt.Errorf("list redo: %w", err)
	}
	var out []uint64
	for _, name := range names {
		digits, ok := strings.CutSuffix(name, ".seg")
		if n, err := strconv.ParseUint(digits, 10, 64); ok && err == nil {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out, nil
}

// segmentFile is one file of redo. What is sealed does not change; the fields
// of the one that grows are guarded by the journal's mutex.
type segmentFile struct {
	segment.FileHeader
	file vfs.File
	path string
	// key is what the file is encrypted with; nil if it is not, or if it is
	// only looked at.
	key  *segment.Key
	last dr.Seq // of the last whole frame; First-1 while there is none
	size int64  // of header and frames, in bytes
	// of an unsealed segment: its index so far, in order of arrival
	records  []segment.Record
	controls []control
	frames   uint32
	// of a sealed one
	sealed  bool
	trailer segment.Trailer
	refs    atomic.Int64
}

func (s *segmentFile) at(n dr.Seq) dr.Position {
	return dr.Position{Generation: s.Generation, Epoch: s.Epoch, Seq: n}
}

// end returns the position of the segment's last entry.
func (s *segmentFile) end() dr.Position { return s.at(s.last) }

// hold keeps the file open. The journal holds each of its segments once.
func (s *segmentFile) hold() { s.refs.Add(1) }

func (s *segmentFile) release() {
	if s.refs.Add(-1) == 0 {
		_ = s.file.Close() // nothing of it is unsynced
	}
}

// createSegment makes a segment file and its header. It is durable with the
// first sync of its frames, and its name with syncing the directory, which
// comes first. What is in it is encrypted with key, unless that is nil.
func createSegment(fsys vfs.FS, dir string, h segment.FileHeader, key *segment.Key) (*segmentFile, error) {
	if key != nil {
		h.Key = key.ID()
	}
	path := segmentName(dir, h.Number)
	f, err := fsys.Create(path)
	if err != nil {
		return nil, fmt.Errorf("create segment: %w", err)
	}
	b, err := h.MarshalBinary()
	if err == nil {
		_, err = f.WriteAt(b, 0)
	}
	if err == nil {
		err = fsys.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		f.Close()
		_ = fsys.Remove(path)
		return nil, fmt.Errorf("create segment %s: %w", path, err)
	}
	s := &segmentFile{FileHeader: h, file: f, path: path, key: key, last: h.First - 1, size: segment.FileHeaderSize}
	s.hold()
	return s, nil
}

// openSegment opens a segment file. A sealed one is known by its trailer;
// of another the frames are read up to the last whole one.
func openSegment(fsys vfs.FS, dir string, number uint64, readOnly bool, keys *keyring.Ring) (*segmentFile, error) {
	return openSegmentWith(fsys, dir, number, readOnly, keys.Key)
}

// lookAtSegment opens a segment file without its key: its content and controls
// cannot be read.
func lookAtSegment(fsys vfs.FS, dir string, number uint64) (*segmentFile, error) {
	return openSegmentWith(fsys, dir, number, true, nil)
}

func openSegmentWith(fsys vfs.FS, dir string, number uint64, readOnly bool, keys func(segment.KeyID) (*segment.Key, error)) (*segmentFile, error) {
	path := segmentName(dir, number)
	f, err := fsys.Open(path, readOnly)
	if err != nil {
		return nil, fmt.Errorf("open segment: %w", err)
	}
	s := &segmentFile{file: f, path: path}
	s.hold()
	if err := s.load(number, keys); err != nil {
		s.release()
		return nil, fmt.Errorf("open segment %s: %w", path, err)
	}
	return s, nil
}

func (s *segmentFile) load(number uint64, keys func(segment.KeyID) (*segment.Key, error)) error {
	var head [segment.FileHeaderSize]byte
	if err := s.readAt(head[:], 0); err != nil {
		return err
	}
	if err := s.FileHeader.UnmarshalBinary(head[:]); err != nil {
		return err
	}
	if s.Number != number {
		return fmt.Errorf("%w: it is segment %d", segment.ErrDamaged, s.Number)
	}
	if keys != nil {
		key, err := keys(s.Key)
		if err != nil {
			return err
		}
		s.key = key
	}
	size, err := s.file.Size()
	if err != nil {
		return err
	}
	if s.loadTrailer(size) {
		return nil
	}
	return s.scan(size)
}

// loadTrailer reports whether the file ends with a valid trailer.
func (s *segmentFile) loadTrailer(size int64) bool {
	var b [segment.TrailerSize]byte
	if size < segment.FileHeaderSize+segment.TrailerSize || s.readAt(b[:], size-segment.TrailerSize) != nil {
		return false
	}
	var t segment.Trailer
	if t.UnmarshalBinary(b[:]) != nil ||
		t.IndexOffset+segment.IndexSize(t.Records)+int64(t.ControlsSize)+segment.TrailerSize != size {
		return false
	}
	s.sealed, s.trailer, s.last, s.size, s.frames = true, t, t.Last, t.IndexOffset, t.Frames
	return true
}

// readAt fills p; a file that ends too early is damaged.
func (s *segmentFile) readAt(p []byte, off int64) error { return segment.ReadFullAt(s.file, p, off) }

// scan reads the frames one by one and stops before the first that is not
// whole, or does not follow the one before.
func (s *segmentFile) scan(size int64) error {
	s.last, s.size = s.First-1, segment.FileHeaderSize
	buf := make([]byte, segment.MaxStored)
	for s.size < size {
		f, err := s.frameAt(buf, s.size, size)
		if err != nil && !segment.NoFrame(err) {
			return err
		}
		if err != nil || f.First != s.last+1 {
			return nil
		}
		if s.key != nil {
			if f, err = f.WithKey(s.key); err != nil {
				return err
			}
		}
		if _, _, err := s.note(&f, f.Size); err != nil {
			return err
		}
	}
	return nil
}

// frameAt reads and checks the frame at an offset into buf; end is where
// frames end.
func (s *segmentFile) frameAt(buf []byte, at, end int64) (segment.Frame, error) {
	return segment.ReadFrame(s.file, &s.FileHeader, buf, at, end)
}

// note adds a frame, which lies at s.size and takes size bytes there, to the
// index. It returns the frame's records and controls.
func (s *segmentFile) note(f *segment.Frame, size int) ([]segment.Record, []control, error) {
	nr, nc := len(s.records), len(s.controls)
	for m := range f.Entries() {
		switch {
		case m.Kind == segment.KindTrim:
		case m.Kind.HasRange():
			s.records = append(s.records, segment.Record{
				Disk: m.Disk, Kind: m.Kind, Flags: m.Flags, Payload: uint32(m.PayloadOffset),
				Offset: m.Offset, Length: m.Length, Seq: m.Seq, Frame: uint64(s.size),
			})
		case f.Sealed && s.key == nil: // only looked at
		default:
			c := control{pos: s.at(m.Seq), kind: m.Kind, data: make([]byte, m.PayloadLength)}
			if err := f.ReadPayload(c.data, m.PayloadOffset); err != nil {
				s.records, s.controls = s.records[:nr], s.controls[:nc]
				return nil, nil, err
			}
			s.controls = append(s.controls, c)
		}
	}
	s.last, s.size = f.Last(), s.size+int64(size)
	s.frames++
	return s.records[nr:], s.controls[nc:], nil
}

// seal writes index, controls and trailer. Nothing may be appended meanwhile.
func (s *segmentFile) seal() (segment.Trailer, error) {
	sorted := slices.Clone(s.records)
	slices.SortFunc(sorted, func(a, b segment.Record) int { return a.Compare(&b) })
	var list []byte
	for _, c := range s.controls {
		list = segment.AppendControl(list, segment.Control{Seq: c.pos.Seq, Kind: c.kind, Data: c.data})
	}
	if s.key != nil {
		var err error
		if list, err = s.key.SealBytes(nil, list, controlsUse); err != nil {
			return segment.Trailer{}, fmt.Errorf("seal segment: %w", err)
		}
	}
	t := segment.Trailer{
		IndexOffset: s.size, Records: uint64(len(sorted)), Last: s.last, Frames: s.frames,
		ControlsSize: uint32(len(list)), ControlsSum: segment.Checksum(list),
	}
	end, err := t.MarshalBinary()
	if err != nil {
		return t, fmt.Errorf("seal segment: %w", err)
	}
	buf := append(segment.AppendIndex(nil, sorted), list...)
	if _, err := s.file.WriteAt(append(buf, end...), s.size); err != nil {
		return t, fmt.Errorf("seal segment %s: %w", s.path, err)
	}
	return t, nil
}

// readIndex reads the records of a sealed segment, in order of arrival.
func (s *segmentFile) readIndex() ([]segment.Record, error) {
	buf := make([]byte, segment.IndexSize(s.trailer.Records))
	if err := s.readAt(buf, s.trailer.IndexOffset); err != nil {
		return nil, fmt.Errorf("read index of %s: %w", s.path, err)
	}
	records := make([]segment.Record, 0, s.trailer.Records)
	for ; len(buf) > 0; buf = buf[segment.IndexPageSize:] {
		var err error
		if records, err = segment.ParseIndexPage(records, buf[:segment.IndexPageSize]); err != nil {
			return nil, fmt.Errorf("read index of %s: %w", s.path, err)
		}
	}
	if uint64(len(records)) != s.trailer.Records {
		return nil, fmt.Errorf("read index of %s: %w: %d records, want %d", s.path, segment.ErrDamaged, len(records), s.trailer.Records)
	}
	slices.SortFunc(records, func(a, b segment.Record) int {
		switch {
		case a.Seq < b.Seq:
			return -1
		case a.Seq > b.Seq:
			return 1
		}
		return 0
	})
	return records, nil
}

func (s *segmentFile) readControls() ([]control, error) {
	buf := make([]byte, s.trailer.ControlsSize)
	if err := s.readAt(buf, s.trailer.IndexOffset+segment.IndexSize(s.trailer.Records)); err != nil {
		return nil, fmt.Errorf("read controls of %s: %w", s.path, err)
	}
	if segment.Checksum(buf) != s.trailer.ControlsSum {
		return nil, fmt.Errorf("read controls of %s: %w", s.path, segment.ErrDamaged)
	}
	if s.key != nil {
		var err error
		if buf, err = s.key.OpenBytes(buf, controlsUse); err != nil {
			return nil, fmt.Errorf("read controls of %s: %w", s.path, err)
		}
	}
	list, err := segment.ParseControls(buf)
	if err != nil {
		return nil, fmt.Errorf("read controls of %s: %w", s.path, err)
	}
	var out []control
	for _, c := range list {
		out = append(out, control{pos: s.at(c.Seq), kind: c.Kind, data: c.Data})
	}
	return out, nil
}

// pieceOf turns a record of this segment into a piece.
func (s *segmentFile) pieceOf(r *segment.Record) piece {
	p := piece{off: r.Offset, len: r.Length, seg: s, seq: r.Seq, frame: uint32(r.Frame), payload: r.Payload}
	if r.Kind == segment.KindZero {
		p.payload = zeroes
	}
	return p
}
