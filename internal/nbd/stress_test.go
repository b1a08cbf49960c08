package nbd

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"rebound/internal/block"
	"rebound/internal/block/blocktest"
)

// stamped checks that a 4 KiB block is of one write: every byte the same.
func stamped(p []byte) bool {
	for _, b := range p {
		if b != p[0] {
			return false
		}
	}
	return true
}

// TestStressCutsAndCancels: connections are cut and calls cancelled at random
// while data flows. Nothing hangs or leaks, no reply goes to another request,
// and no write is torn within a block.
func TestStressCutsAndCancels(t *testing.T) {
	seed := blocktest.Seed(t)
	serverTLS, clientTLS := certificates(t)
	for name, c := range map[string]struct {
		network  string
		blocking bool
		server   ServerOptions
		client   Options
	}{
		"unix":     {network: "unix"},
		"blocking": {network: "unix", blocking: true},
		"tls":      {network: "tcp", server: ServerOptions{TLS: serverTLS, TLSMode: TLSRequire}, client: Options{TLS: clientTLS}},
	} {
		t.Run(name, func(t *testing.T) {
			const blocks = 64
			s, addr := serve(t, c.network, c.server, Export{
				Name: "d", Device: block.NewMemory(blocks * 4096), BlockingIO: c.blocking, MaxRequests: 5, MaxBytes: 20 << 10,
				BlockSize: BlockSizes{1, 4096, 16 << 10},
			})
			ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
			defer cancel()
			o := c.client
			o.Export, o.MaxRequests, o.CancelGrace = "d", 9, 50*time.Millisecond
			var wg sync.WaitGroup
			for w := range 3 {
				wg.Go(func() { stressClient(ctx, t, c.network, addr, o, rand.New(rand.NewPCG(seed, uint64(w)))) })
			}
			r := rand.New(rand.NewPCG(seed, 99))
			for ctx.Err() == nil {
				time.Sleep(time.Duration(r.IntN(30)) * time.Millisecond)
				for _, conn := range s.Conns("d") {
					if r.IntN(3) == 0 {
						conn.Close()
					}
				}
			}
			wg.Wait()
			if err := s.Remove(t.Context(), "d"); err != nil {
				t.Error(err)
			}
		})
	}
}

// stressClient connects again and again and works until ctx ends.
func stressClient(ctx context.Context, t *testing.T, network, addr string, o Options, r *rand.Rand) {
	for ctx.Err() == nil {
		c, err := Dial(ctx, network, addr, o)
		if err != nil {
			continue // cut during the handshake
		}
		var wg sync.WaitGroup
		for range 6 {
			own := rand.New(rand.NewPCG(r.Uint64(), r.Uint64()))
			wg.Go(func() {
				for ctx.Err() == nil && stressCall(ctx, t, c, own) {
				}
			})
		}
		wg.Wait()
		c.Close()
	}
}

// stressCall runs one random call; false when the connection has ended.
func stressCall(ctx context.Context, t *testing.T, c *Client, r *rand.Rand) bool {
	call, cancel := context.WithCancel(ctx)
	defer cancel()
	if r.IntN(4) == 0 {
		timer := time.AfterFunc(time.Duration(r.IntN(300))*time.Microsecond, cancel)
		defer timer.Stop()
	}
	off := r.Int64N(c.Size()/4096-4) * 4096
	p := make([]byte, 4096*(1+r.IntN(4)))
	var err error
	if r.IntN(2) == 0 {
		for i := range p {
			p[i] = byte(off>>12) + byte(i>>12)
		}
		err = c.WriteAt(call, p, off)
	} else if err = c.ReadAt(call, p, off); err == nil {
		for i := 0; i < len(p); i += 4096 {
			want := byte(off>>12) + byte(i>>12)
			if b := p[i]; !stamped(p[i:i+4096]) || (b != 0 && b != want) {
				t.Errorf("block %d reads %#x", (off+int64(i))/4096, p[i])
			}
		}
	}
	return err == nil || (errors.Is(err, context.Canceled) && c.Err() == nil)
}

// shortListener fails its first accepts as a system does that is short of
// descriptors.
type shortListener struct {
	net.Listener
	left int
}

func (l *shortListener) Accept() (net.Conn, error) {
	if l.left > 0 {
		l.left--
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return l.Listener.Accept()
}

func TestServeSurvivesAShortage(t *testing.T) {
	s, err := NewServer(ServerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Add(Export{Device: block.NewMemory(4096)}); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, &shortListener{l, 2}) }()
	c := connect(t, "tcp", l.Addr().String(), Options{})
	if err := c.Flush(t.Context()); err != nil {
		t.Error(err)
	}
	cancel() // ends the connection too
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	<-c.Lost()
	s.Close()
}
