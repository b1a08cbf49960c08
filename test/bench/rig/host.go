package rig

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"rebound/internal/nbd"
	"rebound/internal/qmp"
)

// Host is a qemu-storage-daemon with one raw disk, exported for the "guest",
// and mirrored to somewhere on request.
type Host struct {
	r    *Rig
	name string
	Size int64
	Path string // of the disk's file
	proc *process
	mon  *qmp.Client
	sock string
}

// Names in the daemon.
const (
	diskNode   = "disk"
	targetNode = "target"
	mirrorJob  = "mirror"
	guestName  = "guest"
)

type object map[string]any

// Disk makes a raw disk full of data that does not compress, durable.
func (r *Rig) Disk(name string, size int64) (string, error) {
	path := filepath.Join(r.Data, name+".raw")
	f, err := os.Create(path)
	if err != nil {
		return "", fmt.Errorf("make disk: %w", err)
	}
	defer f.Close()
	gen := rand.NewChaCha8([32]byte{byte(len(name)), 1})
	buf := make([]byte, 1<<20)
	for left := size; left > 0; left -= int64(len(buf)) {
		buf = buf[:min(left, int64(len(buf)))]
		_, _ = gen.Read(buf) // never fails
		if _, err := f.Write(buf); err != nil {
			return "", fmt.Errorf("fill disk: %w", err)
		}
	}
	if err := f.Sync(); err != nil {
		return "", fmt.Errorf("sync disk: %w", err)
	}
	return path, nil
}

// NewHost starts a daemon with a disk of its own. certs may be empty; with it
// the disk can be mirrored over TLS.
func (r *Rig) NewHost(ctx context.Context, name string, size int64, certs string) (*Host, error) {
	path, err := r.Disk(name, size)
	if err != nil {
		return nil, err
	}
	h := &Host{r: r, name: name, Size: size, Path: path, sock: filepath.Join(r.run, name+".guest")}
	monitor := filepath.Join(r.run, name+".qmp")
	argv := []string{
		"qemu-storage-daemon", "--chardev", "socket,id=mon,path=" + monitor + ",server=on,wait=off", "--monitor", "chardev=mon",
		"--nbd-server", "addr.type=unix,addr.path=" + h.sock + ",max-connections=16",
		"--blockdev", "driver=file,node-name=file,filename=" + path,
		"--blockdev", "driver=raw,node-name=" + diskNode + ",file=file",
		"--export", "type=nbd,id=guest,node-name=" + diskNode + ",writable=on,name=" + guestName,
	}
	if certs != "" {
		argv = append(argv, "--object", "tls-creds-x509,id=tls,endpoint=client,dir="+certs)
	}
	if h.proc, err = r.start(name+".qemu-storage-daemon", argv...); err != nil {
		return nil, err
	}
	err = h.proc.await(ctx, "the monitor of "+name, func() (err error) {
		h.mon, err = qmp.Dial(ctx, monitor)
		return err
	})
	if err != nil {
		return nil, err
	}
	r.onClose(h.mon.Close)
	return h, nil
}

// URI is the address of the disk as the guest sees it.
func (h *Host) URI() string { return unixURI(h.sock, guestName) }

func unixURI(socket, export string) string {
	return "nbd+unix:///" + export + "?socket=" + url.QueryEscape(socket)
}

// Guest connects to the disk as the guest sees it.
func (h *Host) Guest(ctx context.Context) (*nbd.Client, error) {
	c, err := nbd.Dial(ctx, "unix", h.sock, nbd.Options{Export: guestName})
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", h.name, err)
	}
	return c, nil
}

// Target is where a disk is mirrored to.
type Target struct {
	Socket string // a Unix socket, or
	Port   string // of this machine, with TLS
	Export string
}

func (t Target) server() object {
	if t.Socket != "" {
		return object{"type": "unix", "path": t.Socket}
	}
	return object{"type": "inet", "host": "127.0.0.1", "port": t.Port}
}

// Mirror begins to mirror every write, as Rebound's driver does it, and waits
// until that stands.
func (h *Host) Mirror(ctx context.Context, t Target) error {
	node := object{"driver": "nbd", "node-name": targetNode, "export": t.Export, "server": t.server(), "reconnect-delay": 0}
	if t.Port != "" {
		node["tls-creds"], node["tls-hostname"] = "tls", "localhost"
	}
	if err := h.mon.Run(ctx, "blockdev-add", node, nil); err != nil {
		return fmt.Errorf("add target of %s: %w", h.name, err)
	}
	err := h.mon.Run(ctx, "blockdev-mirror", object{
		"job-id": mirrorJob, "device": diskNode, "target": targetNode, "sync": "none", "copy-mode": "write-blocking",
		"on-target-error": "stop", "on-source-error": "report", "filter-node-name": "filter", "granularity": 4096,
	}, nil)
	if err != nil {
		return fmt.Errorf("mirror %s: %w", h.name, err)
	}
	return h.await(ctx, "mirror", h.Mirroring)
}

// mirrorState is a row of query-block-jobs.
type mirrorState struct {
	Ready  bool   `json:"ready"`
	Paused bool   `json:"paused"`
	Status string `json:"io-status"`
}

// Mirroring reports an error unless the mirror stands and its target has taken
// every write.
func (h *Host) Mirroring(ctx context.Context) error {
	jobs, err := qmp.Call[[]mirrorState](ctx, h.mon, "query-block-jobs", nil)
	if err != nil {
		return fmt.Errorf("look at %s: %w", h.name, err)
	}
	if len(jobs) != 1 || !jobs[0].Ready || jobs[0].Paused || jobs[0].Status != "ok" {
		return fmt.Errorf("the mirror of %s does not stand: %+v", h.name, jobs)
	}
	return nil
}

// Unmirror ends the mirror softly; its target must answer.
func (h *Host) Unmirror(ctx context.Context) error {
	if err := h.mon.Run(ctx, "block-job-cancel", object{"device": mirrorJob}, nil); err != nil {
		return fmt.Errorf("end mirror of %s: %w", h.name, err)
	}
	err := h.await(ctx, "end of mirror", func(ctx context.Context) error {
		jobs, err := qmp.Call[[]mirrorState](ctx, h.mon, "query-block-jobs", nil)
		if err == nil && len(jobs) > 0 {
			err = errors.New("it is still there")
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := h.mon.Run(ctx, "blockdev-del", object{"node-name": targetNode}, nil); err != nil {
		return fmt.Errorf("delete target of %s: %w", h.name, err)
	}
	return nil
}

func (h *Host) await(ctx context.Context, what string, ready func(context.Context) error) error {
	return h.proc.await(ctx, what+" of "+h.name, func() error { return ready(ctx) })
}

// freePort returns a TCP port of this machine that nobody listens on now.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

// since is the time passed in seconds.
func since(t time.Time) float64 { return time.Since(t).Seconds() }
