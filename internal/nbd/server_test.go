package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"rebound/internal/block"
)

// raw is a connection whose client side the test speaks itself.
type raw struct {
	t  *testing.T
	nc net.Conn
	in *input
}

// dialRaw connects and exchanges the greeting.
func dialRaw(t *testing.T, network, addr string) *raw {
	t.Helper()
	nc, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(20 * time.Second)) //nolint:errcheck // a test's safety net
	r := &raw{t, nc, newInput(nc)}
	if b := r.read(18); be.Uint64(b) != magicInit || be.Uint64(b[8:]) != magicOption || be.Uint16(b[16:]) != 3 {
		t.Fatalf("greeting %x", b)
	}
	r.write(hello)
	return r
}

func (r *raw) write(parts ...[]byte) {
	r.t.Helper()
	if _, err := r.nc.Write(joined(parts...)); err != nil {
		r.t.Fatal(err)
	}
}

func (r *raw) read(n int) []byte {
	r.t.Helper()
	b := make([]byte, n)
	if err := r.in.full(b); err != nil {
		r.t.Fatalf("read %d bytes: %v", n, err)
	}
	return b
}

// opt sends an option and returns the type of its last reply and how many came.
func (r *raw) opt(o option, data []byte) (optReply, int) {
	r.t.Helper()
	r.write(appendOption(nil, o, data))
	for n := 1; ; n++ {
		h, err := parseOptReply(r.read(optReplySize))
		if err != nil || h.opt != o {
			r.t.Fatalf("reply to option %d: %+v, %v", o, h, err)
		}
		r.read(int(h.length))
		if h.rep == repAck || h.rep&repErrBit != 0 {
			return h.rep, n
		}
	}
}

// errno reads a simple reply.
func (r *raw) errno() Errno {
	r.t.Helper()
	b := r.read(simpleSize)
	if be.Uint32(b) != magicSimple || be.Uint64(b[8:]) != 77 {
		r.t.Fatalf("simple reply %x", b)
	}
	return Errno(be.Uint32(b[4:]))
}

// ended expects the server to close.
func (r *raw) ended() {
	r.t.Helper()
	if _, err := io.Copy(io.Discard, r.nc); errors.Is(err, context.DeadlineExceeded) {
		r.t.Fatal("server did not close the connection")
	} else if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		r.t.Fatal("server did not close the connection")
	}
}

func TestOptionsAsTheDocumentSays(t *testing.T) {
	_, addr := serve(t, "unix", ServerOptions{},
		Export{Name: "d", Device: block.NewMemory(1 << 20)},
		Export{Name: "s", Device: block.NewMemory(1 << 20), BlockSize: BlockSizes{512, 4096, 1 << 20}})
	r := dialRaw(t, "unix", addr)
	long := strings.Repeat("n", MaxString+1)
	for _, c := range []struct {
		what string
		opt  option
		data []byte
		want optReply
	}{
		{"unknown option", 77, []byte("data"), repErrUnsup},
		{"extended headers", 11, nil, repErrUnsup},
		{"list", optList, nil, repAck},
		{"list with data", optList, []byte{0}, repErrInvalid},
		{"TLS that is off", optStartTLS, nil, repErrPolicy},
		{"contexts before structured replies", optSetMetaContext, appendMetaOpt(nil, "d", []string{ContextAllocation}), repErrInvalid},
		{"structured replies with data", optStructuredReply, []byte{1}, repErrInvalid},
		{"structured replies", optStructuredReply, nil, repAck},
		{"structured replies again", optStructuredReply, nil, repErrInvalid},
		{"contexts of an unknown export", optListMetaContext, appendMetaOpt(nil, "x", nil), repErrUnknown},
		{"all contexts", optListMetaContext, appendMetaOpt(nil, "d", nil), repAck},
		{"unknown namespace", optSetMetaContext, appendMetaOpt(nil, "d", []string{"qemu:dirty-bitmap:x"}), repAck},
		{"no namespace", optSetMetaContext, appendMetaOpt(nil, "d", []string{"allocation"}), repErrInvalid},
		{"cut contexts", optSetMetaContext, appendMetaOpt(nil, "d", []string{"base:"})[:9], repErrInvalid},
		{"info of an unknown export", optInfo, appendExportOpt(nil, "x"), repErrUnknown},
		{"name over 4096 bytes", optInfo, appendExportOpt(nil, long), repErrInvalid},
		{"name longer than the option", optGo, []byte{0, 0, 0, 9, 'a', 0, 0}, repErrInvalid},
		{"trailing bytes", optGo, append(appendExportOpt(nil, "d"), 1), repErrInvalid},
		{"name that is no UTF-8", optGo, appendExportOpt(nil, "\xff"), repErrInvalid},
		{"option over the limit", optInfo, make([]byte, maxOption+1), repErrTooBig},
		{"sizes not asked for", optGo, appendExportOpt(nil, "s"), repErrBlockSizeReq},
		{"info", optInfo, appendExportOpt(nil, "d", infoName, infoDescription, infoBlockSize, 99), repAck},
	} {
		if got, _ := r.opt(c.opt, c.data); got != c.want {
			t.Errorf("%s: reply %#x, want %#x", c.what, got, c.want)
		}
	}
	if _, n := r.opt(optList, nil); n != 3 {
		t.Errorf("list: %d replies, want 2 exports and an ACK", n)
	}
	if got, _ := r.opt(optAbort, nil); got != repAck {
		t.Errorf("abort: %#x", got)
	}
	r.ended()
}

func TestHandshakeThatMustEnd(t *testing.T) {
	_, addr := serve(t, "unix", ServerOptions{HandshakeTimeout: 300 * time.Millisecond}, Export{Name: "d", Device: block.NewMemory(4096)})
	for name, bytes := range map[string][]byte{
		"wrong magic":       make([]byte, 16),
		"unknown export":    appendOption(nil, optExportName, []byte("x")),
		"endless option":    appendOption(nil, option(9), nil)[:8],
		"huge option":       be.AppendUint32(be.AppendUint32(be.AppendUint64(nil, magicOption), 6), 1<<31),
		"silence":           nil,
		"overlong name":     appendOption(nil, optExportName, make([]byte, MaxString+1)),
		"endless haggling":  []byte(strings.Repeat(string(appendOption(nil, 99, nil)), maxOptions+1)),
		"wrong request":     joined(appendOption(nil, optExportName, []byte("d")), make([]byte, requestSize)),
		"goodbye":           joined(appendOption(nil, optExportName, []byte("d")), request(opDisc, 0, 0, 0)),
		"write over a giga": joined(appendOption(nil, optExportName, []byte("d")), request(OpWrite, 0, 0, 1<<30)),
	} {
		t.Run(name, func(t *testing.T) {
			r := dialRaw(t, "unix", addr)
			r.write(bytes)
			r.ended()
		})
	}
	t.Run("unknown client flag", func(t *testing.T) {
		nc, err := net.Dial("unix", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		nc.Write([]byte{0, 0, 0, 4}) //nolint:errcheck // the server may close first
		nc.SetDeadline(time.Now().Add(10 * time.Second))
		if n, err := io.Copy(io.Discard, nc); n != 18 || err != nil {
			t.Errorf("read %d bytes, %v", n, err)
		}
	})
}

func TestRequestErrors(t *testing.T) {
	for name, e := range map[string]Export{"poller": {}, "blocking": {BlockingIO: true}} {
		t.Run(name, func(t *testing.T) {
			rw, ro := e, e
			rw.Name, rw.Device, rw.BlockSize = "d", block.NewMemory(1<<20), BlockSizes{512, 4096, 64 << 10}
			ro.Name, ro.Device, ro.ReadOnly = "ro", block.NewMemory(1<<20), true
			_, addr := serve(t, "unix", ServerOptions{}, rw, ro)
			r := dialRaw(t, "unix", addr)
			if rep, _ := r.opt(optGo, appendExportOpt(nil, "d", infoBlockSize)); rep != repAck {
				t.Fatalf("GO: %#x", rep)
			}
			for _, c := range []struct {
				what string
				req  []byte
				want Errno
			}{
				{"unknown command", request(5, 0, 0, 512), EINVAL},
				{"unknown flag", request(OpFlush, 1<<9, 0, 0), EINVAL},
				{"flag of another command", request(OpTrim, CmdReqOne, 0, 512), EINVAL},
				{"DF without structured replies", request(OpRead, CmdDF, 0, 512), EINVAL},
				{"status without a context", request(OpBlockStatus, 0, 0, 512), EINVAL},
				{"flush of a range", request(OpFlush, 0, 512, 0), EINVAL},
				{"read beyond the end", request(OpRead, 0, 1<<20-512, 1024), EINVAL},
				{"read from 2^64-512", request(OpRead, 0, 1<<64-512, 1024), EINVAL},
				{"write beyond the end", request(OpWrite, 0, 1<<20, 512, make([]byte, 512)...), ENOSPC},
				{"zero beyond the end", request(OpWriteZeroes, 0, 1<<20, 512), ENOSPC},
				{"unaligned", request(OpRead, 0, 1, 512), EINVAL},
				{"unaligned write", request(OpWrite, 0, 0, 3, 1, 2, 3), EINVAL},
				{"read over the maximum", request(OpRead, 0, 0, 64<<10+512), EINVAL},
				{"write over the maximum", request(OpWrite, 0, 0, 64<<10+512, make([]byte, 64<<10+512)...), EINVAL},
				{"FUA on anything", request(OpTrim, CmdFUA, 0, 512), 0},
				{"good after all that", request(OpWrite, CmdFUA, 0, 512, make([]byte, 512)...), 0},
			} {
				r.write(c.req)
				if got := r.errno(); got != c.want {
					t.Errorf("%s: %v, want %v", c.what, got, c.want)
				}
			}
			r = dialRaw(t, "unix", addr)
			r.opt(optGo, appendExportOpt(nil, "ro"))
			for _, req := range [][]byte{request(OpWrite, 0, 0, 4, 1, 2, 3, 4), request(OpTrim, 0, 0, 4), request(OpWriteZeroes, 0, 0, 4)} {
				r.write(req)
				if got := r.errno(); got != EPERM {
					t.Errorf("%v on a read-only export: %v", Op(be.Uint16(req[6:])), got)
				}
			}
		})
	}
}

func TestTLSModes(t *testing.T) {
	serverTLS, clientTLS := certificates(t)
	dev := block.NewMemory(4096)
	for _, c := range []struct {
		server, client TLSMode
		want           error
		secure         bool
	}{
		{TLSOff, TLSOff, nil, false},
		{TLSOff, TLSAllow, nil, false},
		{TLSOff, TLSRequire, ErrTLSRequired, false},
		{TLSAllow, TLSOff, nil, false},
		{TLSAllow, TLSAllow, nil, true},
		{TLSAllow, TLSRequire, nil, true},
		{TLSRequire, TLSOff, ErrTLSRequired, false},
		{TLSRequire, TLSAllow, nil, true},
		{TLSRequire, TLSRequire, nil, true},
	} {
		_, addr := serve(t, "tcp", ServerOptions{TLS: serverTLS, TLSMode: c.server}, Export{Device: dev})
		o := Options{TLSMode: c.client}
		if c.client != TLSOff {
			o.TLS = clientTLS
		}
		cl, err := Dial(t.Context(), "tcp", addr, o)
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("server %d, client %d: %v, want %v", c.server, c.client, err, c.want)
		}
		if err != nil {
			continue
		}
		if st, is := cl.t.(*streamTransport); (is && st.gather != nil) != c.secure {
			t.Errorf("server %d, client %d: secure %v", c.server, c.client, !c.secure)
		}
		if err := cl.ReadAt(t.Context(), make([]byte, 4096), 0); err != nil {
			t.Error(err)
		}
		cl.Close()
	}
	_, addr := serve(t, "tcp", ServerOptions{TLS: serverTLS, TLSMode: TLSRequire}, Export{Device: dev})
	if _, err := Dial(t.Context(), "tcp", addr, Options{TLS: &tls.Config{}}); err == nil || errors.Is(err, ErrTLSRequired) {
		t.Errorf("unknown authority: %v", err)
	}
	// Bytes in the clear behind STARTTLS must not pass for protected ones.
	r := dialRaw(t, "tcp", addr)
	r.write(appendOption(nil, optStartTLS, nil), appendOption(nil, optList, nil))
	r.ended()
}

func TestExportsComeAndGo(t *testing.T) {
	s, addr := serve(t, "unix", ServerOptions{})
	if _, err := Dial(t.Context(), "unix", addr, Options{Export: "d"}); !errors.Is(err, ErrNoExport) {
		t.Fatalf("dial unknown export: %v", err)
	}
	f := block.NewFaulty(block.NewMemory(1 << 20))
	release := make(chan struct{})
	hold := f.On(block.CallWrite).Hold(release).Times(1)
	if err := s.Add(Export{Name: "d", Device: f}); err != nil {
		t.Fatal(err)
	}
	if err := s.Add(Export{Name: "d", Device: f}); !errors.Is(err, ErrExportExists) {
		t.Errorf("add twice: %v", err)
	}
	list, err := List(t.Context(), "unix", addr, Options{})
	if err != nil || len(list) != 1 || list[0].Name != "d" {
		t.Errorf("list %v, %v", list, err)
	}
	c := connect(t, "unix", addr, Options{Export: "d"})
	wrote := make(chan error, 1)
	go func() { wrote <- c.WriteAt(t.Context(), make([]byte, 512), 0) }()
	for hold.Fired() != 1 {
		time.Sleep(time.Millisecond)
	}
	removed := make(chan error, 1)
	go func() { removed <- s.Remove(t.Context(), "d") }()
	for len(s.Conns("d")) != 0 { // the name goes at once
		time.Sleep(time.Millisecond)
	}
	select {
	case err := <-removed:
		t.Fatalf("Remove returned %v with a write in flight", err)
	case <-time.After(20 * time.Millisecond):
	}
	close(release)
	if err := <-wrote; err != nil {
		t.Errorf("write in flight at Remove: %v", err)
	}
	if err := <-removed; err != nil {
		t.Errorf("Remove: %v", err)
	}
	<-c.Lost()
	if err := c.Flush(t.Context()); err == nil {
		t.Error("flush on a removed export succeeded")
	}
	if err := s.Remove(t.Context(), "d"); !errors.Is(err, ErrNoExport) {
		t.Errorf("remove twice: %v", err)
	}
	f.AssertFired(t)
}

// TestServerBoundsMemory: a client that sends without reading replies cannot
// have more than the limits in flight.
func TestServerBoundsMemory(t *testing.T) {
	var mu sync.Mutex
	var held []*Request
	h := HandlerFunc(func(r *Request) {
		mu.Lock()
		defer mu.Unlock()
		held = append(held, r)
	})
	s, addr := serve(t, "unix", ServerOptions{}, Export{Name: "d", Handler: h, Size: 1 << 30, MaxRequests: 8, MaxBytes: 1 << 20, BlockSize: BlockSizes{1, 4096, 1 << 20}})
	r := dialRaw(t, "unix", addr)
	r.opt(optGo, appendExportOpt(nil, "d", infoBlockSize))
	go func() {
		for range 100 {
			if _, err := r.nc.Write(request(OpWrite, 0, 0, 512<<10, make([]byte, 512<<10)...)); err != nil {
				return
			}
		}
	}()
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(held) }
	for count() < 2 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(30 * time.Millisecond)
	if n := count(); n != 2 {
		t.Errorf("%d writes of 512 KiB in flight with a limit of 1 MiB", n)
	}
	conn := s.Conns("d")[0]
	conn.Close()
	for conn.Alive() || len(s.Conns("d")) > 0 {
		time.Sleep(time.Millisecond)
	}
	mu.Lock()
	for _, r := range held {
		r.Done(nil) // after the connection's end: goes nowhere
	}
	mu.Unlock()
	if n := conn.InFlight(); n != 0 {
		t.Errorf("%d requests in flight after their completion", n)
	}
}
