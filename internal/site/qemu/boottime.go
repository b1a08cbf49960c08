package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// ticksPerSecond is the kernel's USER_HZ, the unit of times in /proc/PID/stat;
// it is 100 on every architecture that Linux exports it to Go programs on.
const ticksPerSecond = 100

// bootedAt returns when the machine's QEMU was started; zero when it is off or
// the process cannot be looked at.
func (m *machine) bootedAt(ctx context.Context, rec *record) time.Time {
	pid, err := m.pid(ctx, rec)
	if err != nil || pid == 0 {
		return time.Time{}
	}
	at, err := startedAt(pid)
	if err != nil {
		return time.Time{}
	}
	return at
}

// pid returns the number of the machine's QEMU, 0 for none. That of an imported
// machine is who listens at its socket.
func (m *machine) pid(ctx context.Context, rec *record) (int, error) {
	if rec.Socket == "" {
		p, err := m.process()
		if err != nil || p == nil {
			return 0, err
		}
		defer p.close()
		return p.pid, nil
	}
	mon, err := m.monitor(rec)
	if err != nil {
		return 0, err
	}
	c, err := mon.Client(ctx)
	if err != nil {
		return 0, err
	}
	return c.PeerPID()
}

// startedAt returns when a process was started, by the host's clock.
func startedAt(pid int) (time.Time, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return time.Time{}, fmt.Errorf("look at process %d: %w", pid, err)
	}
	// The name is in parentheses and may hold anything, also parentheses; the
	// start time is the 20th field after it (proc(5), field 22).
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return time.Time{}, errors.New("look at process: its status is short")
	}
	ticks, err := strconv.ParseInt(string(fields[19]), 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("look at process %d: %w", pid, err)
	}
	var boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		return time.Time{}, fmt.Errorf("read the host's uptime: %w", err)
	}
	age := time.Duration(boot.Nano()) - time.Duration(ticks)*time.Second/ticksPerSecond
	// To the second: two looks at one process must not differ.
	return time.Now().Add(-age).UTC().Truncate(time.Second), nil
}
