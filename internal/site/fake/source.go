package fake

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"rebound/internal/block"
	"rebound/internal/dr"
	"rebound/internal/nbd"
	"rebound/internal/problem"
	"rebound/internal/site"
)

var (
	_ site.SourceExporter = (*Driver)(nil)
	_ site.Quiescer       = (*Driver)(nil)
)

// sourceServer serves a running machine's disks, read-only.
type sourceServer struct {
	dir    string
	server *nbd.Server
	names  map[dr.DiskID]bool
	done   chan struct{}
}

func newSourceServer() (*sourceServer, error) {
	dir, err := os.MkdirTemp("", "fake-source")
	if err != nil {
		return nil, fmt.Errorf("serve source: %w", err)
	}
	server, err := nbd.NewServer(nbd.ServerOptions{})
	if err != nil {
		return nil, fmt.Errorf("serve source: %w", err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		return nil, fmt.Errorf("serve source: %w", err)
	}
	s := &sourceServer{dir: dir, server: server, names: map[dr.DiskID]bool{}, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		_ = server.Serve(context.Background(), l) // until close
	}()
	return s, nil
}

func (s *sourceServer) socket() string { return filepath.Join(s.dir, "s") }

func (s *sourceServer) close() error {
	if s == nil {
		return nil
	}
	err := s.server.Close()
	<-s.done
	return errors.Join(err, os.RemoveAll(s.dir))
}

// ExportSource serves a running machine's disk to another process.
func (d *Driver) ExportSource(ctx context.Context, name dr.MachineName, disk dr.DiskID) (socket, export string, err error) {
	err = d.withRun(ctx, "ExportSource", name, func(m *machine, r *run) error {
		if err := m.has(disk); err != nil {
			return err
		}
		if r.source == nil {
			s, err := newSourceServer()
			if err != nil {
				return err
			}
			r.source = s
		}
		socket, export = r.source.socket(), string(disk)
		if r.source.names[disk] {
			return nil
		}
		r.source.names[disk] = true
		return r.source.server.Add(nbd.Export{Name: export, Device: block.ReadOnly(unclosed{r.disks[disk]}), ReadOnly: true})
	})
	return socket, export, err
}

// Quiesce makes a machine write no more while its run, bitmaps and capture
// stay. As under QEMU a guest that powered itself off is Off, one whose
// processors were stopped is Paused.
func (d *Driver) Quiesce(ctx context.Context, name dr.MachineName, mode site.StopMode, timeout time.Duration) error {
	deaf := false
	err := d.withRun(ctx, "Quiesce", name, func(m *machine, _ *run) error {
		deaf = mode != site.Hard && m.state != site.Off && (m.deaf || m.state == site.Paused)
		return nil
	})
	if err != nil {
		return err
	}
	state := site.Off
	if deaf {
		t := time.NewTimer(timeout)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if mode == site.Graceful {
			return problem.New(problem.MachineRunning, "machine %s did not stop", name)
		}
	}
	if deaf || mode == site.Hard {
		state = site.Paused
	}
	io, err := d.gate(name)
	if err != nil {
		return err
	}
	io.Lock() // every write has reached its capture
	defer io.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	m, err := d.find(name)
	if err != nil {
		return err
	}
	if m.run != nil && m.state != site.Off {
		m.state = state
	}
	return nil
}
