package capture

import (
	"encoding/binary"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"rebound/internal/dr"
	"rebound/internal/segment"
)

// BenchmarkRecord is receive-number-acknowledge without the socket.
func BenchmarkRecord(b *testing.B) {
	q := testSequencer(b, Limits{}, 1)
	var req completer = ackFunc(func(error) {})
	w := testWrite(0, 0, 4096)
	b.SetBytes(4096)
	b.ReportAllocs()
	for b.Loop() {
		q.record(w, req)
		if q.head%1024 == 0 {
			q.release(q.head)
		}
	}
	if q.state != StateOpen {
		b.Fatal(q.reason)
	}
}

// BenchmarkFrame is cutting 4 KiB writes into frames.
func BenchmarkFrame(b *testing.B) {
	for name, codec := range map[string]segment.Codec{"none": segment.CodecNone, "s2": segment.CodecS2} {
		b.Run(name, func(b *testing.B) {
			q := testSequencer(b, Limits{}, 1)
			var req completer = ackFunc(func(error) {})
			w := testWrite(0, 0, 4096)
			for i := range w.data {
				w.data[i] = byte(i * i >> 3)
			}
			src := newFrameSource(q, 1, 1, codec, new(atomic.Int64), new(atomic.Int64))
			b.SetBytes(4096)
			b.ReportAllocs()
			after := dr.Seq(0)
			for b.Loop() {
				q.record(w, req)
				if q.head%256 == 0 {
					_, last, err := src.Next(b.Context(), after)
					if err != nil {
						b.Fatal(err)
					}
					src.Trim(last)
					after = last
				}
			}
		})
	}
}

// BenchmarkWrite sends writes through the NBD socket into a ring that a null
// sink drains. The client is raw, so that allocations are the server's.
func BenchmarkWrite(b *testing.B) {
	for _, c := range []struct {
		name     string
		size, qd int
	}{{"4k_qd1", 4096, 1}, {"4k_qd32", 4096, 32}, {"64k_qd8", 65536, 8}, {"1m_qd4", 1 << 20, 4}} {
		b.Run(c.name, func(b *testing.B) { benchWrite(b, c.size, c.qd) })
	}
}

func benchWrite(b *testing.B, size, qd int) {
	r := newRig(b, 1, Limits{MaxTotalDelay: 1 << 50})
	r.standby.set(func(s *standby) { s.null = true })
	r.config.StandbyAddr = r.standby.addr
	if err := r.client.Configure(r.ctx(), r.config); err != nil {
		b.Fatal(err)
	}
	conn := rawClient(b, r)
	r.open()
	req := append(rawWrite(0, uint32(size)), make([]byte, size)...)
	reply := make([]byte, 16)
	tokens := make(chan struct{}, qd)
	done := make(chan error, 1)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	go func() {
		for range b.N {
			if _, err := io.ReadFull(conn, reply); err != nil {
				done <- err
				return
			}
			<-tokens
		}
		done <- nil
	}()
	for i := range b.N {
		tokens <- struct{}{}
		binary.BigEndian.PutUint64(req[16:], uint64(i*size%(testDiskSize-size+1)))
		if _, err := conn.Write(req); err != nil {
			b.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	if s := r.status(); s.State != StateOpen {
		b.Fatalf("%s: %s", s.State, s.Reason)
	}
}

// rawWrite is the header of a write request.
func rawWrite(off uint64, size uint32) []byte {
	req := binary.BigEndian.AppendUint32(nil, 0x25609513)
	req = append(req, 0, 0, 0, 1)
	req = append(req, make([]byte, 8)...)
	req = binary.BigEndian.AppendUint64(req, off)
	return binary.BigEndian.AppendUint32(req, size)
}

// rawClient negotiates by hand and returns the socket.
func rawClient(b testing.TB, r *rig) net.Conn {
	b.Helper()
	conn, err := net.Dial("unix", NBDSocket(r.dir))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	buf := make([]byte, 18)
	if _, err := io.ReadFull(conn, buf); err != nil {
		b.Fatal(err)
	}
	name := ExportName(0)
	msg := binary.BigEndian.AppendUint32(nil, 3) // fixed newstyle, no zeroes
	msg = append(msg, "IHAVEOPT"...)
	msg = binary.BigEndian.AppendUint32(msg, 1) // EXPORT_NAME
	msg = binary.BigEndian.AppendUint32(msg, uint32(len(name)))
	msg = append(msg, name...)
	if _, err := conn.Write(msg); err != nil {
		b.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 10)); err != nil {
		b.Fatal(err)
	}
	return conn
}
