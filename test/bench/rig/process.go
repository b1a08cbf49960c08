// Package rig sets up what the benchmarks measure: hypervisor hosts
// (qemu-storage-daemon with a raw disk each), Rebound's own data path (capture
// processes of the shipped binary, and a standby process with link server and
// journals), and the peers (nbdkit, qemu-nbd, nbdcopy) with fio to load them.
//
// It promises that every process it starts is ended by its id when the Rig is
// closed, that what the tools print is kept, and that both sides of a
// comparison are set up alike. The benchmark program is its only caller; the
// standby process is that program again, with "standby" as its argument.
package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Rig owns directories and processes of one axis.
type Rig struct {
	// Rebound is the shipped binary; Self this program.
	Rebound, Self string
	// Data is on the disk that is measured; Raw takes the tools' output.
	Data, Raw string
	// Profiles is a folder for CPU profiles of Rebound's processes; empty: none.
	Profiles string
	run      string // short paths, for sockets
	axis     string

	mu      sync.Mutex
	cleanup []func() error
}

// profile names the file for a process's profile; empty where none are wanted.
func (r *Rig) profile(process string) string {
	if r.Profiles == "" {
		return ""
	}
	return filepath.Join(r.Profiles, r.axis+"."+process+".pprof")
}

// New makes the directories of an axis: data below work, sockets in the
// system's directory for temporary files.
func New(rebound, work, raw, axis string) (*Rig, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	for _, dir := range []string{work, raw} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("make directory: %w", err)
		}
	}
	data, err := os.MkdirTemp(work, axis+"-")
	if err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	run, err := os.MkdirTemp("", "rbench")
	if err != nil {
		return nil, fmt.Errorf("make socket directory: %w", err)
	}
	r := &Rig{Rebound: rebound, Self: self, Data: data, Raw: raw, run: run, axis: axis}
	r.onClose(func() error { return errors.Join(os.RemoveAll(run), os.RemoveAll(data)) })
	return r, nil
}

// onClose adds a step of Close; the last one added is the first one done.
func (r *Rig) onClose(f func() error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleanup = append(r.cleanup, f)
}

// Close ends the processes and deletes data and sockets.
func (r *Rig) Close() error {
	r.mu.Lock()
	steps := r.cleanup
	r.cleanup = nil
	r.mu.Unlock()
	var errs []error
	for i := len(steps) - 1; i >= 0; i-- {
		errs = append(errs, steps[i]())
	}
	return errors.Join(errs...)
}

// rawFile opens a file for a tool's output.
func (r *Rig) rawFile(name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(r.Raw, r.axis+"."+name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("keep output: %w", err)
	}
	return f, nil
}

// process is a server that runs until Close.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// endPatience is how long a server may take to end when it is asked to.
const endPatience = 5 * time.Second

// start runs a server, its output into a raw file.
func (r *Rig) start(name string, argv ...string) (*process, error) {
	p, err := r.startWith(name, nil, argv...)
	if err == nil {
		r.onClose(p.kill)
	}
	return p, err
}

// startWith runs a server with something to read. The caller ends it.
func (r *Rig) startWith(name string, in io.Reader, argv ...string) (*process, error) {
	out, err := r.rawFile(name + ".log")
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, out
	// Of its own process group: an interrupt on the terminal is for us, and
	// we end it in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// kill ends the process at once: servers that are asked to end wait for their
// clients, and nothing that they have is needed any more.
func (p *process) kill() error {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
	return nil
}

// stop asks the process to end, and makes it when it does not.
func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.done:
		return nil
	case <-time.After(endPatience):
		return p.kill()
	}
}

// pid is the process's id.
func (p *process) pid() int { return p.cmd.Process.Pid }

// await repeats ready until it succeeds, the process has ended, or it took too
// long.
func (p *process) await(ctx context.Context, what string, ready func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("wait for %s: it has ended: %w", what, errors.Join(p.err, err))
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, errors.Join(ctx.Err(), err))
		case <-tick.C:
		}
	}
}

// tool runs a program to its end and returns its standard output and how long
// it took. All that it printed is kept in the raw file, its command line first.
func (r *Rig) tool(ctx context.Context, name string, argv ...string) ([]byte, time.Duration, error) {
	raw, err := r.rawFile(name)
	if err != nil {
		return nil, 0, err
	}
	defer raw.Close()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	begin := time.Now()
	err = cmd.Run()
	took := time.Since(begin)
	fmt.Fprintf(raw, "# %s\n# %.3f s\n", strings.Join(argv, " "), took.Seconds())
	if _, werr := io.Copy(raw, io.MultiReader(bytes.NewReader(stdout.Bytes()), bytes.NewReader(stderr.Bytes()))); werr != nil {
		return nil, took, fmt.Errorf("keep output of %s: %w", argv[0], werr)
	}
	if err != nil {
		return nil, took, fmt.Errorf("run %s: %w: %s", argv[0], err, strings.TrimSpace(stderr.String()))
	}
	return stdout.Bytes(), took, nil
}
