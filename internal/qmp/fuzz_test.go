package qmp

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// FuzzDecoder: nothing that a server sends makes the decoder panic, hold more
// than MaxMessage, or see other messages when the bytes come one by one.
func FuzzDecoder(f *testing.F) {
	f.Add([]byte(`{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}` + "\r\n"))
	f.Add([]byte(`{"return": {}, "id": 1}` + "\r\n" + `{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}` + "\r\n"))
	f.Add([]byte("{\n  \"error\": {\"class\": \"GenericError\", \"desc\": \"a } in \\\" text\"}\n}\n"))
	f.Add([]byte("}{\n\n[]\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		whole := decodeAll(bytes.NewReader(in))
		slow := decodeAll(iotest.OneByteReader(bytes.NewReader(in)))
		if whole != slow {
			t.Errorf("read at once: %s\nbyte by byte: %s", whole, slow)
		}
	})
}

func decodeAll(r io.Reader) string {
	d := newDecoder(r)
	var out strings.Builder
	for {
		m, err := d.next()
		if err != nil {
			out.WriteString(err.Error())
			return out.String()
		}
		out.WriteString(m.event().Name)
		out.Write(m.Return)
		if m.ID != nil {
			out.WriteByte('#')
		}
	}
}

func TestDecoderLimits(t *testing.T) {
	_, err := newDecoder(strings.NewReader("{" + strings.Repeat(" ", MaxMessage+1))).next()
	if !errors.Is(err, ErrMessageTooLong) {
		t.Errorf("an endless message = %v", err)
	}
	_, err = newDecoder(strings.NewReader(`{"return": `)).next()
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a torn message = %v", err)
	}
}
