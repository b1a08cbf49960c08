package nbd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"rebound/internal/block"
)

// queue is a Handler that hands requests to the test.
type queue chan *Request

func (q queue) Handle(r *Request) { q <- r }

func TestHandlerCompletesLaterOutOfOrderAndWithErrors(t *testing.T) {
	for name, blocking := range map[string]bool{"poller": false, "blocking": true} {
		t.Run(name, func(t *testing.T) {
			q := make(queue, 16)
			opened, closed := make(chan *Conn, 1), make(chan error, 1)
			_, addr := serve(t, "unix", ServerOptions{}, Export{
				Name: "d", Handler: q, Size: 1 << 20, BlockingIO: blocking,
				BlockSize: BlockSizes{1, 4096, 64 << 10},
				OnOpen:    func(c *Conn) { opened <- c },
				OnClose:   func(_ *Conn, err error) { closed <- err },
			})
			c := connect(t, "unix", addr, Options{Export: "d"})
			conn := <-opened
			if !conn.Alive() || conn.Export() != "d" || conn.ID() == 0 {
				t.Errorf("connection %q %d alive %v", conn.Export(), conn.ID(), conn.Alive())
			}
			results := make([]chan error, 4)
			reqs := make([]*Request, 4)
			for i := range results {
				results[i] = make(chan error, 1)
				p := bytes.Repeat([]byte{byte(i)}, 1000)
				go func() { results[i] <- c.WriteAt(t.Context(), p, int64(i)*4096) }()
				r := <-q
				if r.Op != OpWrite || r.Offset != int64(i)*4096 || !bytes.Equal(r.Data, p) || r.Conn() != conn {
					t.Fatalf("request %d: %v at %d", i, r.Op, r.Offset)
				}
				reqs[i] = r
			}
			kept := reqs[2].Detach()
			answers := []error{nil, ENOSPC, nil, errors.New("broken disk")}
			for _, i := range []int{2, 0, 3, 1} {
				reqs[i].Done(answers[i])
				err := <-results[i]
				switch {
				case answers[i] == nil && err != nil:
					t.Errorf("write %d: %v", i, err)
				case i == 1 && !errors.Is(err, syscall.ENOSPC):
					t.Errorf("write 1: %v, want ENOSPC", err)
				case i == 3:
					re, is := errors.AsType[*RemoteError](err)
					if !is || re.Errno != EIO || re.Message != "broken disk" {
						t.Errorf("write 3: %v", err)
					}
				}
			}
			if !bytes.Equal(kept.Bytes(), bytes.Repeat([]byte{2}, 1000)) {
				t.Error("detached payload changed")
			}
			kept.Release()
			// An abrupt close fails what is in flight, and the late answer goes nowhere.
			go func() { results[0] <- c.WriteAt(t.Context(), []byte{1}, 0) }()
			r := <-q
			conn.Close()
			if err := <-results[0]; err == nil {
				t.Error("write over a closed connection succeeded")
			}
			if err := <-closed; !errors.Is(err, ErrClosed) {
				t.Errorf("OnClose got %v, want ErrClosed", err)
			}
			if conn.Alive() {
				t.Error("closed connection is alive")
			}
			r.Done(nil)
			<-c.Lost()
		})
	}
}

func TestHandlerReadsAndStatus(t *testing.T) {
	h := HandlerFunc(func(r *Request) {
		switch r.Op {
		case OpRead:
			for i := range r.Data {
				r.Data[i] = byte(r.Offset) + byte(i)
			}
		case OpBlockStatus:
			r.Extents = []block.Extent{{Length: 4096, Hole: true, Zero: true}, {Length: r.Length - 4096}}
		}
		r.Done(nil)
	})
	_, addr := serve(t, "unix", ServerOptions{}, Export{Handler: h, Size: 1 << 20})
	c := connect(t, "unix", addr, Options{})
	p := make([]byte, 3)
	if err := c.ReadAt(t.Context(), p, 7); err != nil || !bytes.Equal(p, []byte{7, 8, 9}) {
		t.Errorf("read %v, %v", p, err)
	}
	es, err := c.Extents(t.Context(), 0, 8192)
	if err != nil || len(es) != 2 || !es[0].Hole || es[1].Hole {
		t.Errorf("extents %+v, %v", es, err)
	}
	for _, flags := range []CmdFlags{CmdReqOne, 0} {
		err := c.do(t.Context(), command{op: OpBlockStatus, flags: flags, length: 4097}, func(s *slot) {
			if want := 1 + int(1-flags/CmdReqOne); len(s.statuses[0].runs) != want {
				t.Errorf("flags %d: %+v", flags, s.statuses)
			}
		})
		if err != nil {
			t.Error(err)
		}
	}
	// A back end that answers nonsense is an error, not nonsense on the wire.
	if _, err := c.Extents(t.Context(), 0, 100); !errors.Is(err, EIO) {
		t.Errorf("extents beyond the request: %v", err)
	}
}

func TestDoneTwicePanics(t *testing.T) {
	q := make(queue, 1)
	s, addr := serve(t, "unix", ServerOptions{}, Export{Handler: q, Size: 4096})
	c := connect(t, "unix", addr, Options{})
	go c.Flush(context.Background()) //nolint:errcheck // the server side is looked at
	r := <-q
	held := s.Conns("")[0]
	held.mu.Lock() // keeps the reply, so that r is not reused
	go func() { r.Done(nil) }()
	for r.open.Load() {
		time.Sleep(time.Millisecond)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("second Done did not panic")
			}
		}()
		r.Done(nil)
	}()
	held.mu.Unlock()
}

func TestClientCancel(t *testing.T) {
	q := make(queue, 4)
	_, addr := serve(t, "unix", ServerOptions{}, Export{Handler: q, Size: 1 << 20})
	c := connect(t, "unix", addr, Options{MaxRequests: 2})
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error, 3)
	p := make([]byte, 4096)
	go func() { got <- c.ReadAt(ctx, p, 0) }()
	first := <-q
	go func() { got <- c.WriteAt(ctx, p, 0) }()
	second := <-q
	go func() { got <- c.Flush(ctx) }() // waits for a slot
	cancel()
	for range 3 {
		if err := <-got; !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled call: %v", err)
		}
	}
	// The late replies are recognised and the connection goes on.
	for i := range first.Data {
		first.Data[i] = 0xAA
	}
	first.Done(nil)
	second.Done(EIO)
	go func() { got <- c.Flush(t.Context()) }()
	(<-q).Done(nil)
	if err := <-got; err != nil {
		t.Errorf("flush after cancelled calls: %v", err)
	}
	if bytes.Contains(p, []byte{0xAA}) {
		t.Error("a cancelled read wrote to its caller's buffer")
	}
}

// TestClientCancelMidway: the server stops in the middle of the data; the
// cancelled read returns and the connection is broken, for nothing else is
// possible.
func TestClientCancelMidway(t *testing.T) {
	here, there := net.Pipe()
	go func() {
		exp := be.AppendUint16(be.AppendUint64(be.AppendUint16(nil, infoExport), 1<<20), 1)
		there.Write(be.AppendUint16(be.AppendUint64(be.AppendUint64(nil, magicInit), magicOption), 3))
		in := newInput(there)
		in.discard(4)
		in.discard(optSize) // STRUCTURED_REPLY
		there.Write(appendOptReply(nil, optStructuredReply, repErrUnsup, nil))
		in.discard(int64(optSize + len(appendExportOpt(nil, "", 1, 2, 3))))
		there.Write(joined(appendOptReply(nil, optGo, repInfo, exp), appendOptReply(nil, optGo, repAck, nil)))
		b, err := in.next(requestSize)
		if err != nil {
			return
		}
		there.Write(append(appendSimple(nil, 0, be.Uint64(b[8:])), 1, 2, 3))
		io.Copy(io.Discard, there)
	}()
	c, err := NewClient(t.Context(), here, Options{CancelGrace: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.ReadAt(ctx, make([]byte, 512), 0); err == nil {
		t.Error("read of half a reply succeeded")
	}
	<-c.Lost()
	there.Close()
}

func TestClientFailsEverythingInFlight(t *testing.T) {
	q := make(queue, 8)
	s, addr := serve(t, "unix", ServerOptions{}, Export{Handler: q, Size: 1 << 20})
	c := connect(t, "unix", addr, Options{})
	got := make(chan error, 8)
	for i := range 8 {
		go func() { got <- c.ReadAt(t.Context(), make([]byte, 4096), int64(i)*4096) }()
	}
	var reqs []*Request
	for range 8 {
		reqs = append(reqs, <-q)
	}
	s.Conns("")[0].Close()
	for range 8 {
		if err := <-got; err == nil {
			t.Error("read over a closed connection succeeded")
		}
	}
	for _, r := range reqs {
		r.Done(nil)
	}
	<-c.Lost()
	if c.Err() == nil || c.Flush(t.Context()) == nil {
		t.Error("a lost connection has no error")
	}
}

// TestRepliesWaitForNobody: completing must not block on a client that does
// not read, and the replies come once it does.
func TestRepliesWaitForNobody(t *testing.T) {
	for name, blocking := range map[string]bool{"poller": false, "blocking": true} {
		t.Run(name, func(t *testing.T) {
			q := make(queue, 64)
			_, addr := serve(t, "unix", ServerOptions{}, Export{Handler: q, Size: 1 << 30, BlockingIO: blocking, MaxBytes: 128 << 20, BlockSize: BlockSizes{1, 4096, 1 << 20}})
			r := dialRaw(t, "unix", addr)
			r.opt(optGo, appendExportOpt(nil, "", infoBlockSize))
			const n = 32
			for range n {
				r.write(request(OpRead, 0, 0, 1<<20))
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				for range n {
					(<-q).Done(nil)
				}
			}()
			select {
			case <-done:
			case <-time.After(10 * time.Second):
				t.Fatal("Done blocks on the client's socket")
			}
			for range n {
				if e := r.errno(); e != 0 {
					t.Fatal(e)
				}
				r.read(1 << 20)
			}
		})
	}
}
