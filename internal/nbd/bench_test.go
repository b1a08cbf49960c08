package nbd

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"rebound/internal/block"
)

// ack completes every request at once: the floor of what a Handler costs.
func ack(r *Request) { r.Done(nil) }

// BenchmarkHandlerWrite writes through a raw socket, so that the server's share
// is what is measured: depth requests are sent in one go and their replies read.
func BenchmarkHandlerWrite(b *testing.B) {
	for _, blocking := range []bool{false, true} {
		for _, c := range []struct{ size, depth int }{{4096, 1}, {4096, 32}, {64 << 10, 8}, {1 << 20, 4}} {
			b.Run(fmt.Sprintf("blocking=%v/size=%d/qd=%d", blocking, c.size, c.depth), func(b *testing.B) {
				_, addr := serve(b, "unix", ServerOptions{}, Export{Handler: HandlerFunc(ack), Size: 1 << 30, BlockingIO: blocking})
				nc, err := net.Dial("unix", addr)
				if err != nil {
					b.Fatal(err)
				}
				defer nc.Close()
				if _, err := nc.Write(joined(hello, goOption(""))); err != nil {
					b.Fatal(err)
				}
				in := newInput(nc)
				for left := 18 + 3*optReplySize + 12 + 14; left > 0; left -= 14 {
					in.discard(int64(min(left, 14))) //nolint:errcheck // the benchmark would fail next
				}
				one := request(OpWrite, 0, 0, uint32(c.size), make([]byte, c.size)...)
				var batch []byte
				for range c.depth {
					batch = append(batch, one...)
				}
				replies := make([]byte, simpleSize*c.depth)
				b.SetBytes(int64(c.size))
				b.ReportAllocs()
				for n := 0; b.Loop(); n++ {
					if n%c.depth != 0 {
						continue
					}
					if _, err := nc.Write(batch); err != nil {
						b.Fatal(err)
					}
					if err := in.full(replies); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkClientServer runs both ends.
func BenchmarkClientServer(b *testing.B) {
	for _, c := range []struct {
		name  string
		op    Op
		size  int
		depth int
	}{{"read4k/qd1", OpRead, 4096, 1}, {"read4k/qd32", OpRead, 4096, 32}, {"write4k/qd1", OpWrite, 4096, 1}, {"write64k/qd8", OpWrite, 64 << 10, 8}, {"read1m/qd4", OpRead, 1 << 20, 4}} {
		b.Run(c.name, func(b *testing.B) {
			_, addr := serve(b, "unix", ServerOptions{}, Export{Device: plain{block.NewMemory(64 << 20)}})
			cl, err := Dial(b.Context(), "unix", addr, Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer cl.Close()
			b.SetBytes(int64(c.size))
			b.ReportAllocs()
			b.ResetTimer()
			var wg sync.WaitGroup
			for range c.depth {
				wg.Go(func() {
					p := make([]byte, c.size)
					for range b.N / c.depth {
						f := cl.WriteAt
						if c.op == OpRead {
							f = cl.ReadAt
						}
						if err := f(context.Background(), p, 0); err != nil && err != io.EOF {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
		})
	}
}
