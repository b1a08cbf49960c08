package guest

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"rebound/internal/lab/ledger"
	"rebound/internal/lab/wire"
)

// writeUntil appends records as the book lets it and counts them.
func writeUntil(ctx context.Context, b *book, n *atomic.Uint64) {
	for {
		if _, ok := b.next(ctx); !ok {
			return
		}
		b.wrote(ledger.Record{N: n.Add(1)})
	}
}

func empty() *ledger.Ledger { return ledger.Parse([ledger.Files][]byte{}) }

// TestWindow: a connected guest is never more than the window ahead of what
// the collector answered; one without a collector writes on.
func TestWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook(empty(), 1000)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var n atomic.Uint64
		b.connect()
		go writeUntil(ctx, b, &n)
		time.Sleep(time.Second)
		synctest.Wait()
		if n.Load() != wire.Window {
			t.Errorf("unanswered: %d records, want %d", n.Load(), wire.Window)
		}
		b.answered(wire.Reply{Received: 10})
		time.Sleep(time.Second)
		synctest.Wait()
		if n.Load() != 10+wire.Window {
			t.Errorf("10 answered: %d records, want %d", n.Load(), 10+wire.Window)
		}
		b.disconnect()
		time.Sleep(time.Second)
		synctest.Wait()
		if n.Load() < 900 {
			t.Errorf("alone: %d records in a second at 1000 a second", n.Load())
		}
	})
}

func TestRateAndPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook(empty(), 50)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var n atomic.Uint64
		go writeUntil(ctx, b, &n)
		rate := func(what string, low, high uint64) {
			t.Helper()
			synctest.Wait()
			before := n.Load()
			time.Sleep(10 * time.Second)
			synctest.Wait()
			if got := n.Load() - before; got < low || got > high {
				t.Errorf("%s: %d records in 10 s, want %d to %d", what, got, low, high)
			}
		}
		rate("configured", 499, 501)
		fast := 200.0
		b.answered(wire.Reply{RecordsPerSecond: &fast})
		rate("told to be fast", 1980, 2001)
		b.answered(wire.Reply{Paused: true})
		rate("paused", 0, 0)
		b.answered(wire.Reply{})
		rate("going on", 1980, 2041) // at most maxBehind of the pause is made up for
		none := 0.0
		b.answered(wire.Reply{RecordsPerSecond: &none})
		rate("told to stop", 0, 0)
	})
}

// TestNames: the peer itself is believed before the collector, and a record
// never names an older one than the record before it.
func TestNames(t *testing.T) {
	b := newBook(empty(), 1e9)
	next := func(want uint64) {
		t.Helper()
		if peer, ok := b.next(t.Context()); !ok || peer.N != want {
			t.Errorf("names %d, %v; want %d", peer.N, ok, want)
		}
	}
	next(0)
	b.answered(wire.Reply{Peer: ledger.Ref{N: 5}})
	next(5)
	b.heardPeer(ledger.Ref{N: 7})
	b.answered(wire.Reply{Peer: ledger.Ref{N: 90}}) // of another world
	next(7)
	b.heardPeer(ledger.Ref{N: 6})
	next(7)
}

func TestLinkLocal(t *testing.T) {
	seen := make(map[string]bool)
	for i := range 200 {
		n := linkLocal(net.HardwareAddr{0x52, 0x54, 0, 1, 2, byte(i)})
		if ip := n.IP.To4(); ip[0] != 169 || ip[1] != 254 || ip[2] == 0 || ip[2] == 255 {
			t.Errorf("address %v", n)
		}
		if b := broadcastOf(n); b.String() != "169.254.255.255" {
			t.Errorf("broadcast %v", b)
		}
		seen[n.String()] = true
	}
	if len(seen) < 198 {
		t.Errorf("200 cards have %d addresses", len(seen))
	}
}
