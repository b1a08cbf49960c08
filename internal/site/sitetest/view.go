package sitetest

import (
	"context"
	"net"
	"os"
	"path/filepath"

	"rebound/internal/block"
	"rebound/internal/nbd"
)

// View serves content with the project's own NBD server, as a journal does; it
// fits Factory.View.
func View(t T, content []byte) (socket, export string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "nbd") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	dev := block.NewMemory(int64(len(content)))
	if err := dev.WriteAt(context.Background(), content, 0); err != nil {
		t.Fatal(err)
	}
	server, err := nbd.NewServer(nbd.ServerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Add(nbd.Export{Name: "view", Device: dev, ReadOnly: true}); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(context.Background(), l)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
		_ = os.RemoveAll(dir)
	})
	return socket, "view"
}
