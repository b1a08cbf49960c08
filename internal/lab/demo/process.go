package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"rebound/internal/identity"
)

// process is one of the world's own processes.
type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

// start runs the program with the arguments, its output appended to a log.
func (w *World) start(_ context.Context, name string, args ...string) error {
	out, path, err := w.output(name)
	if err != nil {
		return err
	}
	// Not CommandContext: Close ends it, in its own order.
	cmd := exec.Command(w.cfg.Program, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("start %s: %w", name, err), out.Close())
	}
	p := &process{cmd: cmd, log: path, done: make(chan struct{})}
	go p.reap(out)
	w.procs[name] = p
	return nil
}

func (p *process) reap(out io.Closer) {
	_ = p.cmd.Wait() // how it ended is in its log
	_ = out.Close()
	close(p.done)
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// kill is SIGKILL; it returns once the process is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// stop is SIGTERM; it returns once the process has ended.
func (p *process) stop(ctx context.Context) error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop process: %w", err)
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop process: %w", ctx.Err())
	}
}

// processesOf returns the processes whose command line holds all the texts.
func processesOf(texts ...string) []int {
	var out []int
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil {
			continue
		}
		line := strings.ReplaceAll(string(b), "\x00", " ")
		if containsAll(line, texts) {
			out = append(out, pid)
		}
	}
	return out
}

func containsAll(line string, texts []string) bool {
	for _, t := range texts {
		if !strings.Contains(line, t) {
			return false
		}
	}
	return true
}

// killAll sends SIGKILL to processes and waits until they are gone.
func killAll(pids []int) error {
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill %d: %w", pid, err)
		}
	}
	for _, pid := range pids {
		err := poll(context.Background(), 10*time.Second, fmt.Sprintf("the end of process %d", pid), func() error {
			if gone(pid) {
				return nil
			}
			return errors.New("still there")
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// gone reports whether a process has ended, all its threads and so its sockets
// too; one that only waits to be reaped has.
func gone(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, rest, ok := bytes.Cut(b, []byte(") "))
	if !ok || len(rest) == 0 || rest[0] != 'Z' {
		return false
	}
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	return err != nil || len(threads) <= 1
}

// killLeftovers ends whatever still works on the world's directories: guests
// and captures, which outlive their gateways on purpose.
func killLeftovers(dirs ...string) error {
	var errs []error
	for _, d := range dirs {
		if d != "" {
			errs = append(errs, killAll(processesOf(d+"/")))
		}
	}
	return errors.Join(errs...)
}

// stopPolling is an error that waiting cannot mend.
type stopPolling struct{ err error }

func (s stopPolling) Error() string { return s.err.Error() }

// poll calls look until it returns nil, every 20 ms.
func poll(ctx context.Context, timeout time.Duration, what string, look func() error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := look()
		if err == nil {
			return nil
		}
		if s, ok := errors.AsType[stopPolling](err); ok {
			return fmt.Errorf("wait for %s: %w", what, s.err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w (last: %w)", what, ctx.Err(), err)
		case <-tick.C:
		}
	}
}

// waitFile waits until a process has written a file.
func waitFile(ctx context.Context, path string, p *process) error {
	return poll(ctx, readyTimeout, filepath.Base(path), func() error {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		if p.ended() {
			return stopPolling{fmt.Errorf("the process ended: see %s", p.log)}
		}
		return errors.New("not there yet")
	})
}

// freeAddr returns a loopback address that nothing listens on.
func freeAddr(ctx context.Context) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	addr := l.Addr().String()
	return addr, l.Close()
}

// transport trusts the vault whose certificate is ca.
func transport(ca []byte) (http.RoundTripper, error) {
	cfg, err := identity.PinnedTLS(ca)
	if err != nil {
		return nil, err
	}
	return &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 8}, nil
}

func trim(b []byte) []byte { return bytes.TrimSpace(b) }

// runScript runs a machine's command line as a person at its site would.
func runScript(script string, out io.WriteCloser, log string) (*process, error) {
	cmd := exec.Command("sh", script)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("run %s: %w", script, err), out.Close())
	}
	p := &process{cmd: cmd, log: log, done: make(chan struct{})}
	go p.reap(out)
	return p, nil
}
