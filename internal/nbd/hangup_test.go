package nbd

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// TestHungUpBeforeRead: the server knows that the client has closed its end
// though it is not reading at the moment.
func TestHungUpBeforeRead(t *testing.T) {
	conns, busy, free := make(chan *Conn, 1), make(chan struct{}), make(chan struct{})
	s, err := NewServer(ServerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Add(Export{
		Name: "d", Size: 1 << 20, BlockingIO: true, OnOpen: func(c *Conn) { conns <- c },
		Handler: HandlerFunc(func(r *Request) {
			if r.Op == OpWrite {
				close(busy)
				<-free
			}
			r.Done(nil)
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(ctx, l) }()
	defer func() { close(free); cancel(); s.Close(); <-done }()
	raw, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	client, err := NewClient(t.Context(), raw, Options{Export: "d"})
	if err != nil {
		t.Fatal(err)
	}
	c := <-conns
	go client.WriteAt(t.Context(), make([]byte, 512), 0)
	<-busy
	if c.HungUp() {
		t.Error("hung up while the client is there")
	}
	raw.Close()
	for deadline := time.Now().Add(5 * time.Second); !c.HungUp(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the closed socket was not noticed")
		}
	}
	if !c.Alive() {
		t.Error("the reader noticed first: the test shows nothing")
	}
}
