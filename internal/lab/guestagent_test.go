package lab_test

import (
	"context"
	"math/rand/v2"
	"net"
	"slices"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/lab/wire"
	"rebound/internal/qga"
)

// TestGuestAgent gives a guest the port of Debian's guest agent after it has
// booted: a driver's loading does not wait for ports, so that on a slow machine
// every port comes late. Then the agent's client shares it with others that
// give up, leave half a command, or go before they are heard.
func TestGuestAgent(t *testing.T) {
	short(t)
	b, c := builder(t), startCollector(t)
	m := startMachine(t, build(t, b, dr.BIOS, "alpha", "", c.GuestAddr()), "user")
	written := 0
	m.await("records", func(e wire.Event) bool { // by then it has looked for its port
		if e.Event == "progress" {
			written++
		}
		return written == 3
	})
	m.plugAgent()
	agent := qga.New(m.agent)
	if err := agent.Ping(timeout(t)); err != nil {
		t.Fatalf("the agent of a port that came late: %v", err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for _, who := range slices.Concat(rude(), rude()) {
		who.act(t, m.agent, time.Duration(rng.Int64N(int64(300*time.Millisecond))))
		if n, err := agent.Freeze(timeout(t)); err != nil || n != 2 {
			t.Fatalf("freeze after %s: %d, %v", who.name, n, err)
		}
		if is, err := agent.Frozen(timeout(t)); err != nil || !is {
			t.Fatalf("frozen after %s: %v, %v", who.name, is, err)
		}
		if n, err := agent.Thaw(timeout(t)); err != nil || n != 2 {
			t.Fatalf("thaw after %s: %d, %v", who.name, n, err)
		}
	}
	m.pressPower()
	if !m.sawEvent("stopped") {
		t.Error("the guest did not stop in order")
	}
}

// client is one that does not behave.
type client struct {
	name string
	// act is done with the agent's socket after some time, whatever it waits
	// for then.
	act func(t *testing.T, socket string, after time.Duration)
}

func rude() []client {
	return []client{
		{"a freeze that nobody waited for", func(t *testing.T, socket string, after time.Duration) {
			ctx, cancel := context.WithTimeout(t.Context(), after)
			defer cancel()
			_, _ = qga.New(socket).Freeze(ctx)
			thaw(t, socket)
		}},
		{"half a command", func(t *testing.T, socket string, after time.Duration) {
			said(t, socket, `{"execute":"guest-pi`, 3, after)
		}},
		{"many answers that nobody read", func(t *testing.T, socket string, after time.Duration) {
			said(t, socket, `{"execute":"guest-info"}`+"\n{\"execute\":\"guest-info\"}\n{\"execute\":\"guest-info\"}\n", 1, after)
		}},
		{"a crowd", func(t *testing.T, socket string, after time.Duration) {
			said(t, socket, "\xff"+`{"execute":"guest-sync-delimited","arguments":{"id":7}}`+"\n", 30, after)
		}},
	}
}

// said sends text from several clients at the same time, who leave after a
// while; some may find no room in the socket's queue.
func said(t *testing.T, socket, text string, clients int, after time.Duration) {
	t.Helper()
	var crowd []net.Conn
	for range clients {
		if conn, err := net.Dial("unix", socket); err == nil {
			_, _ = conn.Write([]byte(text)) // QEMU may have closed it
			crowd = append(crowd, conn)
		}
	}
	time.AfterFunc(after, func() {
		for _, conn := range crowd {
			_ = conn.Close()
		}
	})
}

// thaw thaws what a client may have frozen.
func thaw(t *testing.T, socket string) {
	t.Helper()
	if _, err := qga.New(socket).Thaw(timeout(t)); err != nil {
		t.Fatal(err)
	}
}
