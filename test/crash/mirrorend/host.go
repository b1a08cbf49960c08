package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"rebound/internal/qmp"
)

// hostKind names a program that holds the disks.
type hostKind string

const (
	storageDaemon hostKind = "qsd"
	system        hostKind = "system"
)

// host is a running QEMU or storage daemon whose disks are exported over NBD,
// so that fio can play the guest.
type host struct {
	kind   hostKind
	dir    string
	disks  int
	cmd    *exec.Cmd
	log    bytes.Buffer
	exited chan struct{}
	err    error
	mon    *qmp.Client
}

func node(i int) string { return fmt.Sprintf("disk%d", i) }

func (h *host) qmpPath() string    { return filepath.Join(h.dir, "qmp") }
func (h *host) exportPath() string { return filepath.Join(h.dir, "exp") }

func startHost(ctx context.Context, k hostKind, dir string, size int64, t trial) (*host, error) {
	h := &host{kind: k, dir: dir, disks: t.Disks, exited: make(chan struct{})}
	var args []string
	program := "qemu-system-x86_64"
	if k == storageDaemon {
		program = "qemu-storage-daemon"
		args = []string{"--chardev", "socket,path=" + h.qmpPath() + ",server=on,wait=off,id=mon", "--monitor", "chardev=mon"}
	} else {
		args = []string{"-machine", "none", "-nodefaults", "-display", "none", "-S", "-qmp", "unix:" + h.qmpPath() + ",server=on,wait=off"}
	}
	dash := map[hostKind]string{storageDaemon: "--", system: "-"}[k]
	for i := range t.Disks {
		file := "file.driver=file,file.filename=" + filepath.Join(dir, node(i))
		if t.SlowSource > 0 {
			file = fmt.Sprintf("file.driver=null-co,file.read-zeroes=on,file.size=%d,file.latency-ns=%d", size, t.SlowSource.Nanoseconds())
		} else if err := sparse(filepath.Join(dir, node(i)), size); err != nil {
			return nil, err
		}
		args = append(args, dash+"object", fmt.Sprintf("iothread,id=io%d", i),
			dash+"blockdev", fmt.Sprintf("driver=raw,node-name=%s,%s", node(i), file))
	}
	h.cmd = exec.Command(program, args...)
	h.cmd.Dir, h.cmd.Stderr, h.cmd.Stdout = dir, &h.log, &h.log
	if err := h.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	go func() {
		h.err = h.cmd.Wait()
		close(h.exited)
	}()
	if err := h.connect(ctx, t.IOThreads); err != nil {
		h.stop()
		return nil, fmt.Errorf("%w: %s", err, h.log.String())
	}
	return h, nil
}

func sparse(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("make disk: %w", err)
	}
	return errors.Join(f.Truncate(size), f.Close())
}

func (h *host) connect(ctx context.Context, iothreads bool) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		var err error
		if h.mon, err = qmp.Dial(ctx, h.qmpPath()); err == nil {
			break
		}
		select {
		case <-tick.C:
		case <-h.exited:
			return fmt.Errorf("host ended: %w", h.err)
		case <-ctx.Done():
			return err
		}
	}
	addr := map[string]any{"addr": map[string]any{"type": "unix", "data": map[string]any{"path": h.exportPath()}}}
	if err := h.mon.Run(ctx, "nbd-server-start", addr, nil); err != nil {
		return err
	}
	for i := range h.disks {
		args := map[string]any{"type": "nbd", "id": "exp" + node(i), "node-name": node(i), "name": node(i), "writable": true}
		if iothreads {
			args["iothread"], args["fixed-iothread"] = fmt.Sprintf("io%d", i), false
		}
		if err := h.mon.Run(ctx, "block-export-add", args, nil); err != nil {
			return err
		}
	}
	return nil
}

// alive reports an early end of the host as an error.
func (h *host) alive() error {
	select {
	case <-h.exited:
		return fmt.Errorf("host died: %v: %s", h.err, h.log.String())
	default:
		return nil
	}
}

func (h *host) stop() {
	if h.mon != nil {
		_ = h.mon.Close()
	}
	_ = h.cmd.Process.Kill()
	<-h.exited
}
