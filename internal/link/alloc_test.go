package link

import (
	"bytes"
	"context"
	"io"
	"testing"

	"rebound/internal/dr"
	"rebound/internal/segment"
)

// countSink accepts everything and makes it durable at once.
type countSink struct{ durable func(dr.Seq) }

func (s *countSink) Append(_ context.Context, frame []byte) error {
	h, err := segment.ParseHeader(frame)
	if err == nil {
		s.durable(h.Last())
	}
	return err
}

func (s *countSink) Close() error { return nil }

type countStandby struct{ fakeStandby }

func (c *countStandby) OpenStream(_ context.Context, _ Peer, _ *Hello, durable func(dr.Seq)) (Welcome, StreamSink, error) {
	return Welcome{Epoch: 1}, &countSink{durable}, nil
}

// frames returns n frames that follow each other, each with bytes of payload.
func frames(t testing.TB, n, bytes int) [][]byte {
	b := segment.NewBuilder(segment.CodecNone)
	out := make([][]byte, n)
	data := make([]byte, bytes)
	for i := range data {
		data[i] = byte(i*7 + 1)
	}
	for i := range out {
		b.Reset(1, 1)
		if !b.Add(segment.Entry{Seq: dr.Seq(i + 1), Kind: segment.KindWrite, Data: data}) {
			t.Fatal("frame full")
		}
		f, err := b.Finish()
		if err != nil {
			t.Fatal(err)
		}
		out[i] = append([]byte(nil), f...)
	}
	return out
}

// TestFramesAllocateNothing takes frames and acknowledgements from one end to
// the other without TLS, which has allocations of its own (a small object for
// most of its reads).
func TestFramesAllocateNothing(t *testing.T) {
	var wire, back bytes.Buffer
	source := &conn{sock: newSocket(nil, nil), plain: duplex{&back, &wire}, first: make([]byte, 0, recordSize)}
	in := &inbound{
		c:   &conn{sock: newSocket(nil, nil), plain: duplex{&wire, &back}, first: make([]byte, 0, recordSize)},
		cfg: &ServerConfig{CreditBytes: segment.MaxFrame, CreditFrames: 64},
		gen: 1, epo: 1, head: &headMark{}, kick: make(chan struct{}, 1), bye: make(chan struct{}),
	}
	in.sink = &countSink{in.durableUpTo}
	const runs = 500
	all := frames(t, runs+1, 20000)
	var ackBuf [ackSize]byte
	i := 0
	n := testing.AllocsPerRun(runs, func() {
		err := source.write(msgFrame, all[i])
		_, payload, rerr := in.c.read()
		terr := in.takeFrame(t.Context(), payload)
		a, all := in.acknowledge()
		werr := in.c.write(msgAck, a.put(&ackBuf))
		_, payload, aerr := source.read()
		got, perr := parseAck(payload)
		i++
		if err != nil || rerr != nil || terr != nil || werr != nil || aerr != nil || perr != nil || !all || got.durable != dr.Seq(i) {
			t.Fatal(err, rerr, terr, werr, aerr, perr, all, got)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations a frame", n)
	}
}

// duplex reads from one buffer and writes to another.
type duplex struct {
	io.Reader
	io.Writer
}

func BenchmarkStream(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		b.Run(byteSize(size), func(b *testing.B) {
			s := newSite(b, func(c *ServerConfig) {
				c.Handler = &countStandby{fakeStandby{t: b, gen: 1}}
				c.Timing = Timing{}
			})
			s.dial.Timing = Timing{}
			st := mustDial(b, s.dial)
			// Building is not what is measured: a set is sent, the next
			// one is built with the clock stopped.
			const set = 32
			bld := segment.NewBuilder(segment.CodecNone)
			data := make([]byte, size)
			for i := range data {
				data[i] = byte(i*7 + 1)
			}
			part := make([][]byte, set)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i++ {
				if i%set == 0 {
					b.StopTimer()
					for k := range part {
						bld.Reset(1, 1)
						bld.Add(segment.Entry{Seq: dr.Seq(i + k + 1), Kind: segment.KindWrite, Data: data})
						f, err := bld.Finish()
						if err != nil {
							b.Fatal(err)
						}
						part[k] = append(part[k][:0], f...)
					}
					b.StartTimer()
				}
				if err := st.Send(b.Context(), part[i%set]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func byteSize(n int) string {
	switch n {
	case 4 << 10:
		return "4KiB"
	case 64 << 10:
		return "64KiB"
	}
	return "1MiB"
}
