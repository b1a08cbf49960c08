package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rebound/internal/problem"
	"rebound/internal/qmp"
	"rebound/internal/site"
)

// process is a QEMU that was proven to serve a machine's folder. It holds a
// pidfd, so that a signal never reaches another process that got the number.
type process struct {
	pid int
	fd  int
}

func (p *process) close() { _ = unix.Close(p.fd) }

// process returns the machine's QEMU, or nil when none lives. QEMU writes
// qemu.pid itself; its command line names that file, which proves it is ours
// even after the number was used again.
func (m *machine) process() (*process, error) {
	text, err := os.ReadFile(m.path("qemu.pid"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read process of machine %s: %w", m.name, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, nil // torn: QEMU died while it wrote
	}
	return m.verify(pid)
}

// verify opens a process and makes sure that it serves this folder.
func (m *machine) verify(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	p := &process{pid: pid, fd: fd}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !m.serves(line) || p.ended() {
		p.close()
		return nil, nil
	}
	return p, nil
}

// serves reports whether a command line is that of this folder's QEMU. That of
// a dead process is empty.
func (m *machine) serves(cmdline []byte) bool {
	args := bytes.Split(cmdline, []byte{0})
	for i := 0; i+1 < len(args); i++ {
		if string(args[i]) == "-pidfile" && string(args[i+1]) == m.path("qemu.pid") {
			return true
		}
	}
	return false
}

// search looks through all processes; it finds a QEMU that was started just
// before its starter died and has not written its pid file yet.
func (m *machine) search() (*process, error) {
	if p, err := m.process(); p != nil || err != nil {
		return p, err
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		line, err := os.ReadFile(dir + "/cmdline")
		if err != nil || !m.serves(line) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		if p, err := m.verify(pid); p != nil || err != nil {
			return p, err
		}
	}
	return nil, nil
}

// ended reports whether the process has exited (a zombie counts).
func (p *process) ended() bool {
	fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

// wait returns once the process has exited, or with ctx's error.
func (p *process) wait(ctx context.Context) error {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("wait for process %d: %w", p.pid, err)
	}
	defer func() { _ = unix.Close(pipe[0]) }()
	closeWrite := func() { _ = unix.Close(pipe[1]) } // wakes the poll
	stop := context.AfterFunc(ctx, closeWrite)
	for {
		fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}, {Fd: int32(pipe[0])}}
		_, err := unix.Poll(fds, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if stop() {
			closeWrite()
		}
		switch {
		case err != nil:
			return fmt.Errorf("wait for process %d: %w", p.pid, err)
		case fds[0].Revents != 0:
			return nil
		}
		return context.Cause(ctx)
	}
}

// kill ends the process at once and waits until it is gone.
func (p *process) kill(ctx context.Context) error {
	if err := unix.PidfdSendSignal(p.fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.pid, err)
	}
	if err := p.wait(ctx); err != nil {
		return fmt.Errorf("wait for killed process %d: %w", p.pid, err)
	}
	return nil
}

// killMachine ends the machine's QEMU without asking it, if it lives.
func (m *machine) killMachine(ctx context.Context) error {
	p, err := m.search()
	if err != nil || p == nil {
		return err
	}
	defer p.close()
	defer m.disconnect()
	return p.kill(ctx)
}

// quitTimeout is how long QEMU may take to flush and exit by itself. Being killed
// costs no more than what the guest had not flushed, and a fenced machine has to
// be off within 5 s.
const quitTimeout = 3 * time.Second

// quit ends the machine's QEMU: asked first, so that it flushes and closes its
// images, killed when it does not answer.
func (m *machine) quit(ctx context.Context, rec *record) error {
	p, err := m.search()
	if err != nil || p == nil {
		return err
	}
	defer p.close()
	defer m.disconnect()
	soft, cancel := context.WithTimeout(ctx, quitTimeout)
	defer cancel()
	if mon, err := m.monitor(rec); err == nil {
		// Its answer may be cut off by the exit; the process tells.
		_ = mon.Run(soft, "quit", nil, nil)
		if p.wait(soft) == nil {
			return nil
		}
	}
	if ctx.Err() != nil {
		return fmt.Errorf("stop machine %s: %w", m.name, context.Cause(ctx))
	}
	m.d.log.Warn("QEMU did not quit; killing it", "machine", m.name, "pid", p.pid)
	return p.kill(ctx)
}

// off makes sure that no QEMU holds the machine's files: one whose guest has
// powered itself off is ended, a running one is a MachineRunning problem.
func (m *machine) off(ctx context.Context, rec *record) error {
	if s := m.state(ctx, rec); s != site.Off {
		return problem.New(problem.MachineRunning, "machine %s is %s", m.name, s)
	}
	return m.end(ctx, rec)
}

// spawn starts QEMU so that it outlives us, and returns once it answers on its
// monitor. files become its descriptors 3 and up.
func (m *machine) spawn(ctx context.Context, rec *record, args []string, files []*os.File) error {
	for _, file := range []string{"qmp.sock", "rescue.sock", "admin.sock", "console.sock", agentSocket, "qemu.pid"} {
		if err := os.Remove(m.path(file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("start machine %s: %w", m.name, err)
		}
	}
	if err := m.markConsole(); err != nil {
		return fmt.Errorf("start machine %s: %w", m.name, err)
	}
	if err := writeFile(m.path("command"), []byte(shellLine(m.dir, m.d.cfg.Binary, args))); err != nil {
		return fmt.Errorf("start machine %s: %w", m.name, err)
	}
	logFile, err := os.OpenFile(m.path("qemu.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("start machine %s: %w", m.name, err)
	}
	defer logFile.Close()
	logStart, err := logFile.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("start machine %s: %w", m.name, err)
	}
	cmd := exec.Command(m.d.cfg.Binary, args...) // not CommandContext: it outlives ctx
	cmd.Dir = m.dir
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return problem.Wrap(err, problem.HypervisorError, "start QEMU for machine %s", m.name)
	}
	exited := make(chan struct{})
	go func() { // reaps; ends with QEMU
		_ = cmd.Wait()
		close(exited)
	}()
	if err := m.awaitMonitor(ctx, rec, exited); err != nil {
		m.abandon(cmd.Process, exited)
		return problem.Wrap(err, problem.HypervisorError, "start machine %s: %s", m.name, tail(m.path("qemu.log"), logStart))
	}
	return nil
}

// abandon ends a QEMU that never came up. It is still our child.
func (m *machine) abandon(p *os.Process, exited <-chan struct{}) {
	_ = p.Kill()
	<-exited
	m.disconnect()
}

// The waits between attempts to connect to a QEMU that is starting.
const (
	dialFirst = 2 * time.Millisecond
	dialMax   = 50 * time.Millisecond
)

// startTimeout bounds how long QEMU may take until it answers.
const startTimeout = 60 * time.Second

// awaitMonitor returns once QEMU answers; exited tells that it never will.
func (m *machine) awaitMonitor(ctx context.Context, rec *record, exited <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	mon, err := m.ownMonitor(m.firstMonitor())
	if err != nil {
		return err
	}
	for wait := dialFirst; ; wait = min(2*wait, dialMax) {
		_, err := mon.Client(ctx)
		if err == nil {
			return nil
		}
		if !qmp.Gone(err) && ctx.Err() == nil && !errors.Is(err, io.EOF) {
			return err
		}
		select {
		case <-exited:
			return errors.New("QEMU ended at once")
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

// tailBytes is how much of QEMU's log goes into an error.
const tailBytes = 2000

// tail returns the end of what a log gained since from, as one line.
func tail(path string, from int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return ""
	}
	text := make([]byte, min(tailBytes, max(0, st.Size()-from)))
	n, _ := f.ReadAt(text, st.Size()-int64(len(text)))
	return strings.Join(strings.FieldsFunc(string(text[:n]), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

// shellLine is a command that people can paste into a shell.
func shellLine(dir, binary string, args []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "cd %s && exec %s", quote(dir), quote(binary))
	for _, a := range args {
		if strings.HasPrefix(a, "-") {
			b.WriteString(" \\\n ")
		}
		b.WriteString(" " + quote(a))
	}
	b.WriteString("\n")
	return b.String()
}

func quote(s string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./=:,+%@"
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
