package netns

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

func newPair(t *testing.T) *Pair {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	p, err := New(t.Context(), fmt.Sprintf("rbt%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat("/run/netns/" + p.A.Name); err == nil {
			t.Error("namespace is left")
		}
	})
	return p
}

// echo starts a TCP server in B and returns a function that asks it from A.
func echo(t *testing.T, p *Pair) func() error {
	t.Helper()
	var ln net.Listener
	err := p.B.Do(func() (err error) {
		ln, err = net.Listen("tcp4", p.B.Addr.String()+":7000")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("hello"))
			_ = conn.Close()
		}
	}()
	return func() error {
		var conn net.Conn
		err := p.A.Do(func() (err error) {
			conn, err = net.DialTimeout("tcp4", p.B.Addr.String()+":7000", 2*time.Second)
			return err
		})
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
		b, err := io.ReadAll(conn)
		if err == nil && string(b) != "hello" {
			err = fmt.Errorf("answer %q", b)
		}
		return err
	}
}

func TestWire(t *testing.T) {
	p := newPair(t)
	ask := echo(t, p)
	if err := ask(); err != nil {
		t.Fatalf("a new wire does not carry: %v", err)
	}
	if _, err := net.DialTimeout("tcp4", p.B.Addr.String()+":7000", 100*time.Millisecond); err == nil {
		t.Error("the namespace can be reached from outside")
	}
	for range 2 {
		if err := p.SetWire(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		if ask() == nil {
			t.Error("a cut wire carries")
		}
		if err := p.SetWire(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		if err := ask(); err != nil {
			t.Errorf("a joined wire does not carry: %v", err)
		}
	}
	if err := p.SetRate(t.Context(), 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := ask(); err != nil {
		t.Errorf("a slow wire does not carry: %v", err)
	}
	if err := p.SetRate(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if out, err := p.A.Command(t.Context(), "ip", "-br", "link").CombinedOutput(); err != nil || !strings.Contains(string(out), p.A.Name) {
		t.Errorf("command inside: %v: %s", err, out)
	}
}

func TestBadPrefix(t *testing.T) {
	for _, prefix := range []string{"", "a/b", "a b", strings.Repeat("x", MaxPrefix+1)} {
		if _, err := New(t.Context(), prefix); err == nil {
			t.Errorf("New(%q): no error", prefix)
		}
	}
}
