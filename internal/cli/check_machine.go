package cli

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"time"

	"rebound/internal/qmp"
)

// greetWithin is how long a monitor may take to greet; one that serves another
// client accepts the connection and then says nothing.
const greetWithin = 3 * time.Second

// machine connects to the monitor of --qmp and watches what the machine writes.
func (c *checker) machine(ctx context.Context) {
	const name = "QMP monitor"
	if c.o.qmp == "" {
		c.add(checkSkip, name, "", "give --qmp SOCKET to try a running machine's monitor and measure what it writes")
		return
	}
	greet, cancel := context.WithTimeout(ctx, greetWithin)
	defer cancel()
	mon, err := qmp.Dial(greet, c.o.qmp)
	if err != nil {
		c.refused(name, err)
		return
	}
	defer mon.Close()
	c.add(checkOK, name, "", "%s is free", c.o.qmp)
	v := mon.Greeting().Version.QEMU
	if n := v.Major*100 + v.Minor; n < qemuTried {
		c.add(checkWarn, "machine's QEMU", "Restart the machine under QEMU 7.2 or newer.", "version %d.%d.%d; Rebound is tried on 7.2", v.Major, v.Minor, v.Micro)
	} else {
		c.add(checkOK, "machine's QEMU", "", "version %d.%d.%d", v.Major, v.Minor, v.Micro)
	}
	c.measure(ctx, mon)
}

func (c *checker) refused(name string, err error) {
	var timeout net.Error
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		c.add(checkFail, name, "Start the machine with a further monitor for Rebound: -qmp unix:PATH,server=on,wait=off", "%s is busy: it did not greet within %v, as if another program were connected to it", c.o.qmp, greetWithin)
	case errors.Is(err, os.ErrNotExist):
		c.add(checkFail, name, "Give the path of the socket on this host.", "there is no %s", c.o.qmp)
	default:
		c.add(checkFail, name, "Check that it is a QMP socket of a running machine and that you may open it.", "%v", err)
	}
}

// blockStats is what is used of QEMU's answer to query-blockstats.
type blockStats struct {
	Stats struct {
		Written int64 `json:"wr_bytes"`
	} `json:"stats"`
}

func writtenBytes(ctx context.Context, mon qmp.Runner) (int64, error) {
	list, err := qmp.Call[[]blockStats](ctx, mon, "query-blockstats", nil)
	var sum int64
	for _, s := range list {
		sum += s.Stats.Written
	}
	return sum, err
}

func (c *checker) measure(ctx context.Context, mon qmp.Runner) {
	const name = "churn"
	began := time.Now()
	before, err := writtenBytes(ctx, mon)
	if err == nil {
		err = c.pause(ctx)
	}
	var after int64
	if err == nil {
		after, err = writtenBytes(ctx, mon)
	}
	if err != nil {
		c.add(checkFail, name, "", "read block statistics: %v", err)
		return
	}
	ch := churnOf(after-before, time.Since(began), c.o.window)
	c.rep.Churn = &ch
	text := fmt.Sprintf("%s/s over %s: a journal of %s for %v of history", size(int64(ch.BytesPerSecond)), seconds(ch.SampleSeconds), size(ch.JournalBytes), c.o.window)
	if c.free >= 0 && ch.JournalBytes > c.free {
		c.add(checkWarn, name, "Give the standby's gateway a larger volume, or choose a shorter redo window. A longer --sample tells more.", "%s; %s has %s", text, c.o.dir, size(c.free))
		return
	}
	c.add(checkOK, name, "", "%s", text)
}

// pause waits for the length of the sample and shows how much of it is over.
func (c *checker) pause(ctx context.Context) error {
	bar := c.a.newBar("watching writes")
	defer bar.done()
	began := time.Now()
	tick := time.NewTicker(max(c.o.sample/barWidth, time.Millisecond))
	defer tick.Stop()
	end := time.NewTimer(c.o.sample)
	defer end.Stop()
	for {
		select {
		case <-tick.C:
			bar.set(int64(time.Since(began)), int64(c.o.sample))
		case <-end.C:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// churnOf turns bytes written in a time into the journal of a window: what is
// written is kept once, uncompressed, plus 1 % for entries and frames.
func churnOf(written int64, in, window time.Duration) churn {
	written = max(written, 0) // a machine that was reset counts anew
	rate := float64(written) / max(in.Seconds(), 1e-3)
	return churn{
		SampleSeconds: in.Seconds(), WrittenBytes: written, BytesPerSecond: rate,
		WindowSeconds: window.Seconds(), JournalBytes: int64(math.Ceil(rate * window.Seconds() * 1.01)),
	}
}
