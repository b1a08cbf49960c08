package link

import (
	"context"
	"runtime"
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

// TestFramesAllocateNothing counts the allocations of both ends together, over
// many frames. Package tls allocates one small object for most of its reads from
// the socket, which hold several frames; one of our own a frame would show.
func TestFramesAllocateNothing(t *testing.T) {
	s := newSite(t, func(c *ServerConfig) {
		c.Handler = &countStandby{fakeStandby{t: t, gen: 1}}
		c.Timing = Timing{}
	})
	s.dial.Timing = Timing{}
	st := mustDial(t, s.dial)
	const warm, n = 500, 4000
	all := frames(t, warm+n, 4096)
	send := func(part [][]byte) {
		for _, f := range part {
			if err := st.Send(t.Context(), f); err != nil {
				t.Fatal(err)
			}
		}
	}
	send(all[:warm])
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	send(all[warm:])
	eventually(t, "all durable", func() bool { return st.Durable() == warm+n })
	runtime.ReadMemStats(&after)
	if per := float64(after.Mallocs-before.Mallocs) / n; per > 0.9 {
		t.Errorf("%.2f allocations a frame", per)
	}
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
