package nbd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"rebound/internal/block"
)

// hello is what a client sends first.
var hello = be.AppendUint32(nil, flagFixedNewstyle|flagNoZeroes)

func joined(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func request(op Op, flags CmdFlags, off uint64, length uint32, payload ...byte) []byte {
	return append(appendRequest(nil, reqHeader{flags, op, 77, off, length}), payload...)
}

func goOption(name string) []byte {
	return appendOption(nil, optGo, appendExportOpt(nil, name, infoBlockSize))
}

// scriptConn is a net.Conn that plays a script and throws answers away.
type scriptConn struct {
	net.Conn
	in  *bytes.Reader
	out int
}

func (s *scriptConn) Read(p []byte) (int, error)       { return s.in.Read(p) }
func (s *scriptConn) Write(p []byte) (int, error)      { s.out += len(p); return len(p), nil }
func (s *scriptConn) Close() error                     { return nil }
func (s *scriptConn) SetDeadline(time.Time) error      { return nil }
func (s *scriptConn) SetReadDeadline(time.Time) error  { return nil }
func (s *scriptConn) SetWriteDeadline(time.Time) error { return nil }
func (s *scriptConn) RemoteAddr() net.Addr             { return &net.UnixAddr{Name: "script"} }

// FuzzServer plays arbitrary bytes to a server, handshake and transmission.
func FuzzServer(f *testing.F) {
	meta := appendOption(nil, optSetMetaContext, appendMetaOpt(nil, "d", []string{"base:allocation"}))
	f.Add(joined(hello, goOption("d"), request(OpRead, 0, 0, 512), request(opDisc, 0, 0, 0)))
	f.Add(joined(hello, appendOption(nil, optStructuredReply, nil), meta, goOption("d"),
		request(OpBlockStatus, CmdReqOne, 0, 65536), request(OpRead, CmdDF, 0, 65536), request(OpRead, 0, 0, 1<<17)))
	f.Add(joined(hello, appendOption(nil, optList, nil), appendOption(nil, optExportName, []byte("d")),
		request(OpWrite, CmdFUA, 4096, 4, 1, 2, 3, 4), request(OpWriteZeroes, CmdNoHole, 0, 9), request(OpTrim, 0, 0, 4096), request(OpFlush, 0, 0, 0)))
	f.Add(joined(hello, appendOption(nil, optStartTLS, nil), appendOption(nil, 99, make([]byte, 300)), appendOption(nil, optAbort, nil)))
	f.Add(joined(hello, appendOption(nil, optInfo, appendExportOpt(nil, "x", 1, 2, 3)), appendOption(nil, optListMetaContext, appendMetaOpt(nil, "d", []string{"base:", "qemu:x"}))))
	f.Add(joined(hello, goOption("d"), request(9, 0xffff, 1<<63, 1<<31), request(OpWrite, 0, 1<<40, 3, 1, 2, 3)))
	f.Fuzz(func(t *testing.T, script []byte) {
		s, err := NewServer(ServerOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Add(Export{Name: "d", Device: block.NewMemory(1 << 20), MaxRequests: 4}); err != nil {
			t.Fatal(err)
		}
		nc := &scriptConn{in: bytes.NewReader(script)}
		s.ServeConn(context.Background(), nc) //nolint:errcheck // any end but a hang or a panic is fine
		s.Close()
		if limit := 4096 + 300*len(script) + (len(script)/requestSize+1)*(1<<20+64); nc.out > limit {
			t.Fatalf("%d bytes in made %d bytes out", len(script), nc.out)
		}
	})
}

// answerConn is a net.Conn whose script is a list of messages, each behind its
// length in two bytes; the first can be read at once and each write releases the
// next, so that replies meet the requests that they answer.
type answerConn struct {
	scriptConn
	ready  chan []byte
	closed chan struct{}
	mu     sync.Mutex
	script []byte
	now    []byte
}

func newAnswerConn(script []byte) *answerConn {
	a := &answerConn{script: script, ready: make(chan []byte, 1<<16), closed: make(chan struct{})}
	a.release()
	return a
}

func (a *answerConn) release() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.script) < 2 {
		return
	}
	n := min(int(be.Uint16(a.script)), len(a.script)-2)
	select {
	case a.ready <- a.script[2 : 2+n]:
		a.script = a.script[2+n:]
	default:
	}
}

func (a *answerConn) Write(p []byte) (int, error) {
	a.release()
	return len(p), nil
}

func (a *answerConn) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	select {
	case <-a.closed:
	default:
		close(a.closed)
	}
	return nil
}

func (a *answerConn) Read(p []byte) (int, error) {
	for len(a.now) == 0 {
		select {
		case a.now = <-a.ready:
			continue
		default:
		}
		select {
		case a.now = <-a.ready:
		case <-a.closed:
			return 0, net.ErrClosed
		case <-time.After(2 * time.Millisecond): // no write will come
			return 0, io.EOF
		}
	}
	n := copy(p, a.now)
	a.now = a.now[n:]
	return n, nil
}

func answers(messages ...[]byte) []byte {
	var b []byte
	for _, m := range messages {
		b = append(be.AppendUint16(b, uint16(len(m))), m...)
	}
	return b
}

// FuzzClient answers a client's negotiation and requests with arbitrary bytes.
func FuzzClient(f *testing.F) {
	const size = 4096
	greeting := be.AppendUint16(be.AppendUint64(be.AppendUint64(nil, magicInit), magicOption), 3)
	ack := func(o option) []byte { return appendOptReply(nil, o, repAck, nil) }
	exp := be.AppendUint16(be.AppendUint64(be.AppendUint16(nil, infoExport), 1<<20), 0x1ff)
	info := appendOptReply(nil, optGo, repInfo, exp)
	meta := appendOptReply(nil, optSetMetaContext, repMetaContext, append(be.AppendUint32(nil, 1), ContextAllocation...))
	open := answers(greeting, nil, ack(optStructuredReply), joined(meta, ack(optSetMetaContext)), joined(info, ack(optGo)))
	first, second, third := uint64(1<<slotShift), uint64(1<<slotShift|1), uint64(2<<slotShift)
	data := be.AppendUint64(appendChunk(nil, chunkHeader{true, chunkOffsetData, first, 8 + size}), 0)
	data = append(data, make([]byte, size)...)
	hole := appendChunk(nil, chunkHeader{false, chunkOffsetHole, first, 12})
	hole = be.AppendUint32(be.AppendUint64(hole, 0), size)
	none := appendChunk(nil, chunkHeader{true, chunkNone, first, 0})
	status := appendBlockStatus(nil, second, 1, []block.Extent{{Length: size, Hole: true}})
	f.Add(joined(open, answers(data, status, appendSimple(nil, 0, third))))
	f.Add(joined(open, answers(joined(hole, none), appendError(nil, second, EIO, "no"), appendError(nil, third, ESHUTDOWN, ""))))
	f.Add(answers(greeting, nil, appendOptReply(nil, optStructuredReply, repErrUnsup, nil), appendOptReply(nil, optGo, repErrUnsup, nil),
		joined(be.AppendUint64(nil, 1<<20), []byte{0, 1}), append(appendSimple(nil, 0, first), make([]byte, size)...)))
	f.Fuzz(func(t *testing.T, script []byte) {
		nc := newAnswerConn(script)
		c, err := NewClient(context.Background(), nc, Options{MaxRequests: 2})
		if err != nil {
			return
		}
		defer c.Close()
		if c.Size() < size {
			return
		}
		p := bytes.Repeat([]byte{0xEE}, size)
		ctx := context.Background()
		if c.ReadAt(ctx, p, 0) == nil && len(script) < size/2 && bytes.Count(p, []byte{0xEE}) > len(script) {
			t.Fatal("read succeeded and left bytes as they were")
		}
		if es, err := c.Extents(ctx, 0, size); err == nil {
			var sum int64
			for _, e := range es {
				sum += e.Length
			}
			if sum <= 0 || sum > size {
				t.Fatalf("extents %+v", es)
			}
		}
		c.WriteAt(ctx, p, 0) //nolint:errcheck // any answer but a hang or a panic is fine
	})
}

// FuzzWire holds the small decoders against their encoders.
func FuzzWire(f *testing.F) {
	f.Add(request(OpRead, CmdDF, 1<<40, 1<<20))
	f.Add(appendExportOpt(nil, "name", 1, 2, 3))
	f.Add(appendMetaOpt(nil, "name", []string{"base:", "qemu:dirty-bitmap:x"}))
	f.Add(appendError(nil, 1, EIO, "message")[chunkSize:])
	f.Add(appendBlockStatus(nil, 1, 2, []block.Extent{{Length: 1}, {Length: 2, Hole: true, Zero: true}})[chunkSize:])
	f.Add(appendOptReply(nil, optGo, repAck, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := parseRequest(b); err == nil && !bytes.Equal(appendRequest(nil, h), b[:requestSize]) {
			t.Fatalf("request %+v", h)
		}
		if name, infos, ok := parseExportOpt(b); ok && !bytes.Equal(appendExportOpt(nil, name, infos...), b) {
			t.Fatalf("export option %q %v", name, infos)
		}
		if name, qs, ok := parseMetaOpt(b); ok && !bytes.Equal(appendMetaOpt(nil, name, qs), b) {
			t.Fatalf("context option %q %q", name, qs)
		}
		if h, err := parseOption(b); err == nil && !bytes.Equal(appendOption(nil, h.opt, nil)[:12], b[:12]) {
			t.Fatalf("option %+v", h)
		}
		if r, err := parseOptReply(b); err == nil && !bytes.Equal(appendOptReply(nil, r.opt, r.rep, nil)[:16], b[:16]) {
			t.Fatalf("option reply %+v", r)
		}
		for _, typ := range []uint16{chunkError, chunkErrorOffset, chunkErrorBit + 9} {
			if errno, msg, _, err := parseError(typ, b); err == nil && (errno == 0 || len(msg) > len(b)) {
				t.Fatalf("error chunk %v %q", errno, msg)
			}
		}
		if _, runs, err := parseBlockStatus(b); err == nil && len(runs) != (len(b)-4)/8 {
			t.Fatalf("block status %v", runs)
		}
		var info ExportInfo
		if parseInfo(b, &info) == nil && info.Size < 0 {
			t.Fatalf("info %+v", info)
		}
	})
}

// FuzzInput holds the read buffer against a plain reader, in any order of
// calls and with short reads.
func FuzzInput(f *testing.F) {
	f.Add([]byte{0, 4, 1, 200, 2, 9, 0, 255}, uint8(3))
	f.Fuzz(func(t *testing.T, calls []byte, short uint8) {
		content := make([]byte, 3*inSize)
		for i := range content {
			content[i] = byte(i * 7 / 3)
		}
		in := newInput(&shortReader{bytes.NewReader(content), int(short)*700 + 1})
		at := 0
		for i := 0; i+1 < len(calls); i += 2 {
			n := int(calls[i+1]) * 600
			var got []byte
			var err error
			switch calls[i] % 3 {
			case 0:
				n = min(n, inSize)
				got, err = in.next(n)
			case 1:
				got = make([]byte, n)
				err = in.full(got)
			case 2:
				err = in.discard(int64(n))
			}
			if at+n > len(content) {
				if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Fatalf("call %d beyond the end: %v", i, err)
				}
				return
			}
			if err != nil || (got != nil && !bytes.Equal(got, content[at:at+n])) {
				t.Fatalf("call %d of %d bytes at %d: %v", i, n, at, err)
			}
			at += n
		}
	})
}

type shortReader struct {
	r io.Reader
	n int
}

func (s *shortReader) Read(p []byte) (int, error) { return s.r.Read(p[:min(len(p), s.n)]) }
