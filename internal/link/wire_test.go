package link

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/segment"
)

// TestGoldenBytes holds the layout of messages still. A change here is a new
// protocol version.
func TestGoldenBytes(t *testing.T) {
	var head [headerSize]byte
	putHeader(head[:], msgPing, 7, []byte("12345678"))
	var ackBuf [ackSize]byte
	ask := appendAsk(nil, &CompareRequest{Disk: 3, Epoch: 4, After: 5, Runs: []CompareRun{{1 << 20, 65536, 4096}}})
	a := ack{1, 2, 3}
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{"header of a ping", head[:], "52421200080000000700000000000000a7d27d7c"},
		{"ack", a.put(&ackBuf), "010000000000000002000000000000000300000000000000"},
		{"ask", ask, "03000000010000000400000000000000050000000000000000001000000000000000010000100000"},
		{"answer", append(appendAnswerHead(nil, true), make([]byte, 2)...), "010000"},
	} {
		if got := hex.EncodeToString(c.got); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestHandshakeRoundTrip(t *testing.T) {
	h := Hello{
		Versions: []uint16{1}, Purpose: PurposeStream, Group: "g", Generation: 4, Epoch: 2, Gateway: "home",
		SourceClock: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
		Disks:       []dr.GroupDisk{{Machine: "m", Disk: "disk0", SizeBytes: 512}},
	}
	b, err := json.Marshal(&h)
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseJSON[Hello](b)
	if err != nil || !reflect.DeepEqual(*got, h) {
		t.Errorf("got %+v, %v", got, err)
	}
	if err := got.Validate(); err != nil {
		t.Error(err)
	}
}

func FuzzHeader(f *testing.F) {
	var head [headerSize]byte
	putHeader(head[:], msgAck, 1, make([]byte, ackSize))
	f.Add(head[:])
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHeader(b)
		if err != nil {
			return
		}
		if h.length < 0 || h.length > h.typ.maxPayload() {
			t.Errorf("accepted %+v", h)
		}
	})
}

func FuzzAsk(f *testing.F) {
	f.Add(appendAsk(nil, &CompareRequest{Disk: 1, Epoch: 2, After: 3, Runs: []CompareRun{{0, 4096, 4096}, {1 << 40, 1000, 65536}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseAsk(b)
		if err != nil {
			return
		}
		if err := r.Validate(); err != nil || r.Units() > maxUnits {
			t.Errorf("accepted %+v: %v", r, err)
		}
		if again := appendAsk(nil, r); !bytes.Equal(again, b) {
			t.Errorf("%x encodes as %x", b, again)
		}
	})
}

func FuzzSmall(f *testing.F) {
	f.Add(make([]byte, ackSize), 2)
	f.Add(append([]byte{1}, make([]byte, 32)...), 2)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		if a, err := parseAck(b); err == nil {
			var buf [ackSize]byte
			if !bytes.Equal(a.put(&buf), b) {
				t.Errorf("ack %x", b)
			}
		}
		_, _ = parsePing(b)
		if n >= 0 && n <= maxUnits {
			if a, err := parseAnswer(b, n); err == nil && len(a.Hashes) != n*HashSize {
				t.Errorf("answer %x for %d", b, n)
			}
		}
	})
}

func FuzzHandshake(f *testing.F) {
	f.Add([]byte(`{"versions":[1],"purpose":"stream","group":"g","generation":1,"disks":[{"sizeBytes":512}]}`))
	f.Add([]byte(`{"version":1,"epoch":3}`))
	f.Add([]byte(`{"code":"NoRoom","detail":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := parseJSON[Hello](b); err == nil && h.Validate() == nil && (h.Generation == 0 || len(h.Disks) == 0) {
			t.Errorf("accepted %+v", h)
		}
		if w, err := parseJSON[Welcome](b); err == nil {
			_ = checkWelcome(&Hello{Purpose: PurposeStream}, w)
		}
		if readRefusal(b) == nil {
			t.Error("a refusal that is none")
		}
	})
}

// FuzzMessages feeds arbitrary bytes to the parser of a whole stream of
// messages, frames included, as an inbound stream handles it.
func FuzzMessages(f *testing.F) {
	frame := buildFrame(f, 1, 1, 1, 3)
	var b []byte
	for i, m := range [][]byte{frame, make([]byte, 8), buildFrame(f, 1, 1, 4, 4)} {
		typ := msgFrame
		if i == 1 {
			typ = msgPing
		}
		head := make([]byte, headerSize)
		putHeader(head, typ, uint64(i+1), m)
		b = append(append(b, head...), m...)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		sink := &orderSink{t: t}
		in := &inbound{
			c: &conn{sock: newSocket(nil, nil)}, cfg: &ServerConfig{CreditBytes: segment.MaxFrame, CreditFrames: 4},
			gen: 1, epo: 1, sink: sink, head: &headMark{}, kick: make(chan struct{}, 1), pong: make(chan uint64, 1), bye: make(chan struct{}),
		}
		in.c.plain = bytes.NewBuffer(b)
		if err := in.readLoop(context.Background()); err == nil {
			t.Error("the loop ended without an error")
		}
	})
}

// orderSink demands whole frames in order.
type orderSink struct {
	t    *testing.T
	last dr.Seq
}

func (s *orderSink) Append(_ context.Context, b []byte) error {
	f, err := segment.ParseFrame(b)
	if err != nil || f.First != s.last+1 || f.Size != len(b) {
		s.t.Errorf("sink got frame %d after %d, %v", f.First, s.last, err)
	}
	s.last = f.Last()
	return nil
}

func (s *orderSink) Close() error { return nil }
