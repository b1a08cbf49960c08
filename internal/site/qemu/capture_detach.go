package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"

	"rebound/internal/block"
	"rebound/internal/dr"
	"rebound/internal/nbd"
	"rebound/internal/problem"
	"rebound/internal/qmp"
	"rebound/internal/site"
)

// parseTarget reads QEMU's name of an NBD node: nbd+unix:///EXPORT?socket=PATH.
func parseTarget(file string) target {
	u, err := url.Parse(file)
	if err != nil {
		return target{}
	}
	return target{socket: u.Query().Get("socket"), export: strings.TrimPrefix(u.Path, "/")}
}

// prove negotiates with a capture process as QEMU is going to.
func prove(ctx context.Context, t site.CaptureTarget, size int64) error {
	ctx, cancel := context.WithTimeout(ctx, proofTimeout)
	defer cancel()
	c, err := nbd.Dial(ctx, "unix", t.Socket, nbd.Options{Export: t.Export, HandshakeTimeout: proofTimeout})
	if err != nil {
		return problem.Wrap(err, problem.GatewayUnreachable, "the capture process does not answer for disk %s at %s", t.Disk, t.Socket)
	}
	defer c.Close()
	if c.Size() != size {
		return problem.New(problem.DiskNotSupported, "disk %s has %d bytes, its capture export %d", t.Disk, size, c.Size())
	}
	return nil
}

// Detach implements site.Capturer: each mirror is ended by a cancel without
// force once it is READY, with a target that answers. It is the one way that
// never freed memory in use (docs/qemu-mirror.md). Where the capture process
// is gone, its socket is taken over by a server that forgets what it is sent.
// A capture process that hangs must be killed by the caller first.
func (d *Driver) Detach(ctx context.Context, name dr.MachineName) error {
	c, unlock, err := d.capture(ctx, name)
	if problem.HasCode(err, problem.MachineNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	return c.fault(errors.Join(c.detach(ctx), c.dropSources(ctx)), "detach")
}

func (c *capturing) detach(ctx context.Context) error {
	targets, err := c.targets(ctx)
	if err != nil || len(targets) == 0 {
		return err
	}
	stop, err := c.ensureAnswered(ctx, targets)
	if err != nil {
		return err
	}
	defer stop()
	if err := c.endJobs(ctx); err != nil {
		return err
	}
	var errs []error
	for id := range targets {
		err := c.mon.Run(ctx, "blockdev-del", object{"node-name": targetNode(id)}, nil)
		if err != nil {
			errs = append(errs, fmt.Errorf("delete target of disk %s: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

// endJobs cancels softly until no mirror of ours is left. A write that was
// under way to a dead target may fail late and pause a job again, before its
// cancel or after it, so both are repeated.
func (c *capturing) endJobs(ctx context.Context) error {
	client, err := c.mon.Client(ctx)
	if err != nil {
		return err
	}
	events := client.Subscribe("JOB_STATUS_CHANGE")
	defer events.Close()
	for {
		jobs, err := c.jobs(ctx)
		if err != nil || len(jobs) == 0 {
			return err
		}
		for name, j := range jobs {
			if err := c.endJob(ctx, name, j); err != nil {
				return err
			}
		}
		if err := eventOrPoll(ctx, events); err != nil {
			return fmt.Errorf("wait for %d mirrors to end: %w", len(jobs), err)
		}
	}
}

// endJob does the next thing towards the end of a mirror. That QEMU refuses it
// because the job changed meanwhile is no error: it is looked at again.
func (c *capturing) endJob(ctx context.Context, name string, j mirrorJob) error {
	if j.failed() {
		if err := c.mon.Run(ctx, "block-job-resume", object{"device": name}, nil); err != nil && !qmp.Refused(err) {
			return err
		}
	}
	if !j.Ready {
		return nil
	}
	err := c.mon.Run(ctx, "block-job-cancel", object{"device": name, "force": false}, nil)
	if err != nil && !qmp.Refused(err) {
		return err
	}
	return nil
}

// ensureAnswered sees to it that every target is answered until stop is called:
// by the capture process where it lives, else by a server of ours.
func (c *capturing) ensureAnswered(ctx context.Context, targets map[dr.DiskID]target) (stop func(), err error) {
	sizes, err := c.disks(ctx)
	if err != nil {
		return nil, err
	}
	dead := map[string][]nbd.Export{}
	for id, t := range targets {
		alive, err := answers(ctx, t)
		if err != nil {
			return nil, err
		}
		if alive {
			continue
		}
		disk := sizes[id]
		if disk == nil {
			return nil, fmt.Errorf("target of disk %s: there is no such disk", id)
		}
		dead[t.socket] = append(dead[t.socket], nbd.Export{Name: t.export, Device: forgetful(disk.Size), BlockSize: nbd.BlockSizes{Min: 1, Preferred: 4096, Max: 1 << 20}})
	}
	var stops []func()
	stop = func() {
		for _, f := range stops {
			f()
		}
	}
	for socket, exports := range dead {
		f, err := takeOver(ctx, socket, exports)
		if err != nil {
			stop()
			return nil, err
		}
		stops = append(stops, f)
	}
	return stop, nil
}

// answers reports whether a server negotiates at a target. One that accepts and
// then hangs is an error: any way of ending the mirror would hang QEMU.
func answers(ctx context.Context, t target) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, proofTimeout)
	defer cancel()
	c, err := nbd.Dial(ctx, "unix", t.socket, nbd.Options{Export: t.export, HandshakeTimeout: proofTimeout})
	if err == nil {
		return true, c.Close()
	}
	if qmp.Gone(err) || errors.Is(err, nbd.ErrNoExport) {
		return false, nil
	}
	return false, problem.Wrap(err, problem.GatewayUnreachable, "the capture process at %s hangs; it must be killed before its machines are detached", t.socket)
}

// takeOver serves exports at the socket of a dead capture process. QEMU comes
// back to it at its next write, or after 1 to 16 s when it found nobody there
// before.
func takeOver(ctx context.Context, socket string, exports []nbd.Export) (stop func(), err error) {
	server, err := nbd.NewServer(nbd.ServerOptions{})
	if err != nil {
		return nil, fmt.Errorf("take capture's socket over: %w", err)
	}
	for _, e := range exports {
		if err := server.Add(e); err != nil {
			return nil, fmt.Errorf("take capture's socket over: %w", err)
		}
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("take capture's socket over: %w", err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("take capture's socket over: %w", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(context.WithoutCancel(ctx), l) // ends with Close
	}()
	return func() {
		_ = l.Close()
		_ = server.Close()
		<-done
	}, nil
}

// forgetful is a device of some size that forgets what is written.
type forgetful int64

var _ block.Device = forgetful(0)

func (f forgetful) Size() int64 { return int64(f) }

func (f forgetful) check(off, length int64) error { return block.CheckRange(off, length, int64(f)) }

// ReadAt gives zeroes; a mirror never reads its target.
func (f forgetful) ReadAt(_ context.Context, p []byte, off int64) error {
	clear(p)
	return f.check(off, int64(len(p)))
}

func (f forgetful) WriteAt(_ context.Context, p []byte, off int64) error {
	return f.check(off, int64(len(p)))
}

func (f forgetful) WriteZeroes(_ context.Context, off, length int64) error {
	return f.check(off, length)
}
func (f forgetful) Trim(_ context.Context, off, length int64) error { return f.check(off, length) }
func (f forgetful) Flush(context.Context) error                     { return nil }
func (f forgetful) Close() error                                    { return nil }
