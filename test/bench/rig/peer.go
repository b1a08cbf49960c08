package rig

import (
	"context"
	"crypto/tls"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"rebound/internal/nbd"
)

// Memory starts nbdkit with a disk in memory.
func (r *Rig) Memory(ctx context.Context, size int64) (Target, error) {
	t := Target{Socket: filepath.Join(r.run, "memory.sock")}
	p, err := r.start("nbdkit", "nbdkit", "--foreground", "--unix", t.Socket, "memory", "size="+strconv.FormatInt(size, 10))
	if err != nil {
		return Target{}, err
	}
	return t, p.await(ctx, "nbdkit", func() error { return knock(ctx, "unix", t.Socket, nbd.Options{}) })
}

// knock proves that an NBD server answers.
func knock(ctx context.Context, network, addr string, o nbd.Options) error {
	c, err := nbd.Dial(ctx, network, addr, o)
	if err != nil {
		return err
	}
	return c.Close()
}

// FileServer is qemu-nbd with a raw file, over TLS.
type FileServer struct {
	Target
	certs *Certs
	tls   *tls.Config
	proc  *process
}

// NewFileServer starts qemu-nbd on a fresh sparse file.
func (r *Rig) NewFileServer(ctx context.Context, name string, size int64, certs *Certs) (*FileServer, error) {
	path := filepath.Join(r.Data, name+".raw")
	if _, _, err := r.tool(ctx, "qemu-img", "qemu-img", "create", "-q", "-f", "raw", path, strconv.FormatInt(size, 10)); err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	s := &FileServer{Target: Target{Port: port}, certs: certs, tls: certs.Client}
	s.proc, err = r.start(name+".qemu-nbd", "qemu-nbd", "--persistent", "--shared=8", "--format=raw", "--bind=127.0.0.1", "--port="+port,
		"--object", "tls-creds-x509,id=tls,endpoint=server,verify-peer=on,dir="+certs.Dir, "--tls-creds=tls", path)
	if err != nil {
		return nil, err
	}
	return s, s.proc.await(ctx, "qemu-nbd", func() error { return knock(ctx, "tcp", "127.0.0.1:"+port, s.options()) })
}

func (s *FileServer) options() nbd.Options { return nbd.Options{TLS: s.tls, TLSMode: nbd.TLSRequire} }

// URI is the server's address for libnbd.
func (s *FileServer) URI() string {
	return "nbds://localhost:" + s.Port + "/?tls-certificates=" + s.certs.Dir
}

// Flush makes durable what the server has taken.
func (s *FileServer) Flush(ctx context.Context) error {
	c, err := nbd.Dial(ctx, "tcp", "127.0.0.1:"+s.Port, s.options())
	if err != nil {
		return fmt.Errorf("connect to qemu-nbd: %w", err)
	}
	defer c.Close()
	return c.Flush(ctx)
}

// FlushEvery flushes the server once in every interval, over one connection,
// until ctx ends; then it returns the first failure or nil.
func (s *FileServer) FlushEvery(ctx context.Context, interval time.Duration) error {
	c, err := nbd.Dial(ctx, "tcp", "127.0.0.1:"+s.Port, s.options())
	if err != nil {
		return fmt.Errorf("connect to qemu-nbd: %w", err)
	}
	defer c.Close()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := c.Flush(ctx); err != nil && ctx.Err() == nil {
			return fmt.Errorf("flush qemu-nbd: %w", err)
		}
	}
}

// Stop ends the server.
func (s *FileServer) Stop() error { return s.proc.kill() }

// NBDCopy copies a disk to a server and flushes it; it returns the time taken.
func (r *Rig) NBDCopy(ctx context.Context, from *Host, to *FileServer) (time.Duration, error) {
	_, took, err := r.tool(ctx, "nbdcopy", "nbdcopy", "--flush", from.URI(), to.URI())
	return took, err
}
