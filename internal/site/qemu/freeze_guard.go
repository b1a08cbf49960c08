package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"syscall"
	"time"

	"rebound/internal/qga"
)

// thawed is what the driver tells the guard before it lets it go.
const thawed = "thawed\n"

// startGuard starts a process that thaws the guest when ours dies, or when the
// time is over. It ends with the freeze.
func (f *freeze) startGuard(m *machine, socket string, argv []string, within time.Duration) error {
	cmd := exec.Command(argv[0], append(argv[1:], "--socket", socket, "--within", within.String())...)
	cmd.Dir = m.dir // the socket's name in it may be too long by its whole path
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	alive, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	f.guard, f.alive = cmd, alive
	return nil
}

// dismiss lets the guard go: at peace when the guest is known to be thawed, else
// it goes on trying by itself.
func (f *freeze) dismiss() {
	if f.guard == nil {
		return
	}
	select {
	case <-f.over:
		_, _ = io.WriteString(f.alive, thawed) // if it fails, the guard thaws once more
	default:
	}
	_ = f.alive.Close()
	go func() { _ = f.guard.Wait() }() // reaps it; ends with the guard
}

// GuardThaw is the guard process of a freeze: it waits until the driver says
// that the guest is thawed. If the driver dies first (its end of the pipe
// closes), or the time is over, it thaws the guest itself, and tries until that
// has succeeded, the guest's hypervisor is gone or ctx ends.
func GuardThaw(ctx context.Context, driver io.Reader, socket string, within time.Duration) error {
	peace := make(chan bool, 1)
	go func() {
		said, err := io.ReadAll(io.LimitReader(driver, int64(len(thawed))))
		peace <- err == nil && string(said) == thawed
	}()
	select {
	case ok := <-peace:
		if ok {
			return nil
		}
	case <-time.After(within):
	case <-ctx.Done():
	}
	agent := qga.New(socket)
	for {
		short, cancel := context.WithTimeout(context.WithoutCancel(ctx), thawTime)
		_, err := agent.Thaw(short)
		cancel()
		if err == nil || qga.Gone(err) {
			return nil
		}
		select {
		case <-time.After(thawAgain):
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("thaw guest: %w", err), ctx.Err())
		}
	}
}
