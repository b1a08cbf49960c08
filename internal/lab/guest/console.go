package guest

import (
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"rebound/internal/lab/wire"
)

// console writes events to the serial console, whole lines at a time.
type console struct {
	mu    sync.Mutex
	out   *os.File
	guest string
	boot  string
}

func newConsole() *console { return &console{out: os.Stdout} }

// event writes a line. That nobody reads the console is no reason to stop.
func (c *console) event(e wire.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.Guest, e.Boot, e.Uptime = c.guest, c.boot, uptime()
	_, _ = c.out.Write(append([]byte("\n"), e.Line()...))
}

// uptime returns seconds since the kernel started.
func uptime() float64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano()).Seconds()
}

// Write takes a line of the agent's log and shows it as an event.
func (c *console) Write(line []byte) (int, error) {
	c.event(wire.Event{Event: "agent", Detail: strings.TrimSpace(string(line))})
	return len(line), nil
}
