package segment

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// mend makes the checksums of a frame right again, so that the fuzzer gets
// past them to the checks behind.
func mend(b []byte) {
	if len(b) < HeaderSize {
		return
	}
	le := binary.LittleEndian
	h := Header{Sealed: b[4] == sealedVersion, Size: int(le.Uint32(b[8:])), Count: int(le.Uint32(b[40:])), Blocks: int(le.Uint32(b[44:]))}
	if h.Count <= MaxEntries && h.Blocks <= maxBlocks && h.Size <= len(b) && h.TablesOffset() >= HeaderSize {
		le.PutUint32(b[48:], Checksum(b[h.TablesOffset():h.Size]))
	}
	le.PutUint32(b[60:], Checksum(b[:60]))
}

func FuzzParseFrame(f *testing.F) {
	for _, codec := range codecs() {
		b := NewBuilder(codec)
		b.Reset(1, 1)
		b.Add(Entry{Seq: 1, Kind: KindWrite, Data: bytes.Repeat([]byte("xyz"), 2000)})
		b.Add(Entry{Seq: 2, Kind: KindBreak, Data: []byte("e")})
		buf, err := b.Finish()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(bytes.Clone(buf), true)
	}
	f.Fuzz(func(t *testing.T, buf []byte, mended bool) {
		buf = bytes.Clone(buf)
		if mended {
			mend(buf)
		}
		fr, err := ParseFrame(buf)
		if err != nil {
			return
		}
		var data [MaxPayload]byte
		n := 0
		for m := range fr.Entries() {
			n += m.PayloadLength
			if err := fr.ReadPayload(data[:m.PayloadLength], m.PayloadOffset); err != nil {
				return // a block that does not decompress
			}
		}
		if n != fr.Payload || len(fr.Bytes()) != fr.Size {
			t.Fatalf("entries hold %d bytes, frame %d", n, fr.Payload)
		}
	})
}

func FuzzPayloads(f *testing.F) {
	m, _ := Marker{ID: "a", Name: "b"}.MarshalBinary()
	f.Add(m)
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, v := range []interface {
			UnmarshalBinary([]byte) error
			MarshalBinary() ([]byte, error)
		}{&Marker{}, &Beacon{}, &Break{}, &Definition{}, &SyncBegin{}, &SyncEnd{}} {
			if v.UnmarshalBinary(b) != nil {
				continue
			}
			again, err := v.MarshalBinary()
			if err != nil || !bytes.Equal(again, b) {
				t.Fatalf("%T %x encodes as %x, %v", v, b, again, err)
			}
		}
	})
}

func FuzzFileParts(f *testing.F) {
	h, _ := FileHeader{Number: 1}.MarshalBinary()
	f.Add(h)
	f.Add(AppendIndex(nil, []Record{{Kind: KindZero, Length: 1, Seq: 1}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var h FileHeader
		var tr Trailer
		_ = h.UnmarshalBinary(b)
		_ = tr.UnmarshalBinary(b)
		if cs, err := ParseControls(b); err == nil {
			var again []byte
			for _, c := range cs {
				again = AppendControl(again, c)
			}
			if len(again) != len(b) {
				t.Fatalf("controls of %d bytes encode to %d", len(b), len(again))
			}
		}
		if len(b) == IndexPageSize {
			b = bytes.Clone(b)
			binary.LittleEndian.PutUint32(b, Checksum(b[4:]))
		}
		if rs, err := ParseIndexPage(nil, b); err == nil && (len(rs) == 0 || len(rs) > RecordsPerPage) {
			t.Fatalf("%d records", len(rs))
		}
	})
}
