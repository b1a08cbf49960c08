package segment

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/klauspost/compress/s2"

	"rebound/internal/dr"
)

// Marker is the payload of a recovery point.
type Marker struct {
	ID   dr.PointID
	Kind dr.PointKind
	Name string
	Time time.Time // the source's clock
}

// Beacon says that all that arrived at the source before Wall has a seq <= N,
// and confirms all up to N: when it was made, every member of the group was
// known to be captured.
type Beacon struct {
	Wall time.Time     // the source's clock
	Mono time.Duration // the source's monotonic clock, from an arbitrary zero
	N    dr.Seq
}

// Break ends an epoch.
type Break struct{ Reason string }

// maxDefinition bounds an unpacked definition, in bytes: UEFI variable stores
// have up to a few hundred KiB.
const maxDefinition = 16 << 20

// Definition is a machine's definition from its position on. Its JSON travels
// packed: the variable store in it is mostly empty.
type Definition struct {
	Machine dr.MachineName
	JSON    []byte // a dr.Definition
}

// SyncBegin begins a synchronisation.
type SyncBegin struct {
	Mode  string // "copy", "bitmap" or "compare"
	Bytes int64  // how many bytes it looks at
}

// SyncEnd ends a synchronisation: from its seq on the standby is consistent.
type SyncEnd struct {
	Compared int64 // bytes looked at
	Copied   int64 // bytes that differed and were sent
}

// Thawed says that the file systems of all members were frozen when the marker
// with the ID was placed, and were found frozen still after it: its point is
// application-consistent, and has the name.
type Thawed struct {
	ID   dr.PointID
	Name string
}

// MarshalBinary encodes m.
func (m Marker) MarshalBinary() ([]byte, error) {
	w := newPayload()
	w.string(string(m.ID))
	w.string(string(m.Kind))
	w.string(m.Name)
	w.time(m.Time)
	return w.b, nil
}

// UnmarshalBinary decodes m.
func (m *Marker) UnmarshalBinary(b []byte) error {
	r := openPayload(b)
	*m = Marker{ID: dr.PointID(r.string()), Kind: dr.PointKind(r.string()), Name: r.string(), Time: r.time()}
	return r.end("marker")
}

// MarshalBinary encodes b.
func (b Beacon) MarshalBinary() ([]byte, error) {
	w := newPayload()
	w.time(b.Wall)
	w.int(int64(b.Mono))
	w.int(int64(b.N))
	return w.b, nil
}

// UnmarshalBinary decodes b.
func (b *Beacon) UnmarshalBinary(buf []byte) error {
	r := openPayload(buf)
	*b = Beacon{Wall: r.time(), Mono: time.Duration(r.int()), N: dr.Seq(r.int())}
	return r.end("beacon")
}

// MarshalBinary encodes b.
func (b Break) MarshalBinary() ([]byte, error) {
	w := newPayload()
	w.string(b.Reason)
	return w.b, nil
}

// UnmarshalBinary decodes b.
func (b *Break) UnmarshalBinary(buf []byte) error {
	r := openPayload(buf)
	*b = Break{Reason: r.string()}
	return r.end("break")
}

// MarshalBinary encodes d.
func (d Definition) MarshalBinary() ([]byte, error) {
	w := newPayload()
	w.string(string(d.Machine))
	w.string(string(s2.EncodeBest(nil, d.JSON)))
	return w.b, nil
}

// UnmarshalBinary decodes d.
func (d *Definition) UnmarshalBinary(b []byte) error {
	r := openPayload(b)
	d.Machine = dr.MachineName(r.string())
	packed := []byte(r.string())
	if err := r.end("definition"); err != nil {
		return err
	}
	if n, err := s2.DecodedLen(packed); err != nil || n > maxDefinition {
		return fmt.Errorf("decode definition: %w: %d bytes unpacked", ErrDamaged, n)
	}
	text, err := s2.Decode(nil, packed)
	if err != nil {
		return fmt.Errorf("decode definition: %w: %w", ErrDamaged, err)
	}
	d.JSON = text
	return nil
}

// MarshalBinary encodes s.
func (s SyncBegin) MarshalBinary() ([]byte, error) {
	w := newPayload()
	w.string(s.Mode)
	w.int(s.Bytes)
	return w.b, nil
}

// UnmarshalBinary decodes s.
func (s *SyncBegin) UnmarshalBinary(b []byte) error {
	r := openPayload(b)
	*s = SyncBegin{Mode: r.string(), Bytes: r.int()}
	return r.end("sync-begin")
}

// MarshalBinary encodes s.
func (s SyncEnd) MarshalBinary() ([]byte, error) {
	w := newPayload()
	w.int(s.Compared)
	w.int(s.Copied)
	return w.b, nil
}

// UnmarshalBinary decodes s.
func (s *SyncEnd) UnmarshalBinary(b []byte) error {
	r := openPayload(b)
	*s = SyncEnd{Compared: r.int(), Copied: r.int()}
	return r.end("sync-end")
}

// MarshalBinary encodes t.
func (t Thawed) MarshalBinary() ([]byte, error) {
	w := newPayload()
	w.string(string(t.ID))
	w.string(t.Name)
	return w.b, nil
}

// UnmarshalBinary decodes t.
func (t *Thawed) UnmarshalBinary(b []byte) error {
	r := openPayload(b)
	*t = Thawed{ID: dr.PointID(r.string()), Name: r.string()}
	return r.end("thawed")
}

// payloadWriter writes a version byte, then fields in order: integers as 8
// bytes little-endian, strings as a 4-byte length and bytes, times as Unix
// nanoseconds (the zero time as the lowest integer).
type payloadWriter struct{ b []byte }

func newPayload() *payloadWriter { return &payloadWriter{b: append(make([]byte, 0, 64), version)} }

func (w *payloadWriter) int(v int64) { w.b = binary.LittleEndian.AppendUint64(w.b, uint64(v)) }

func (w *payloadWriter) string(s string) {
	w.b = binary.LittleEndian.AppendUint32(w.b, uint32(len(s)))
	w.b = append(w.b, s...)
}

const zeroTime = -1 << 63

func (w *payloadWriter) time(t time.Time) {
	if t.IsZero() {
		w.int(zeroTime)
		return
	}
	w.int(t.UnixNano())
}

type payloadReader struct {
	b   []byte
	err error
}

func openPayload(b []byte) *payloadReader {
	r := &payloadReader{b: b}
	switch {
	case len(b) == 0:
		r.err = ErrShort
	case b[0] != version:
		r.err = fmt.Errorf("%w: payload version %d, want %d", ErrVersion, b[0], version)
	default:
		r.b = b[1:]
	}
	return r
}

func (r *payloadReader) take(n int) []byte {
	if r.err == nil && n > len(r.b) {
		r.err = ErrShort
	}
	if r.err != nil {
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *payloadReader) int() int64 {
	b := r.take(8)
	if b == nil {
		return 0
	}
	return int64(binary.LittleEndian.Uint64(b))
}

func (r *payloadReader) string() string {
	b := r.take(4)
	if b == nil {
		return ""
	}
	return string(r.take(int(min(binary.LittleEndian.Uint32(b), 1<<30))))
}

func (r *payloadReader) time() time.Time {
	v := r.int()
	if v == zeroTime || r.err != nil {
		return time.Time{}
	}
	return time.Unix(0, v).UTC()
}

func (r *payloadReader) end(what string) error {
	if r.err == nil && len(r.b) > 0 {
		r.err = fmt.Errorf("%w: %d bytes too many", ErrDamaged, len(r.b))
	}
	if r.err != nil {
		return fmt.Errorf("decode %s: %w", what, r.err)
	}
	return nil
}
