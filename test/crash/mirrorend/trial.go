package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"rebound/internal/qmp"
)

// load is what fio does meanwhile.
type load struct {
	Block string `json:"block"`
	Depth int    `json:"depth"`
}

// trial is one combination; its mirrors are attached and ended again and again
// under one fio run.
type trial struct {
	Host      hostKind      `json:"host"`
	End       string        `json:"end"`
	Load      load          `json:"load"`
	Disks     int           `json:"disks"`
	IOThreads bool          `json:"iothreads"`
	SlowSink  time.Duration `json:"slowSink"`
	// SlowSource is the time that the disk itself takes for a write.
	SlowSource time.Duration `json:"slowSource"`
}

// outcome is what a trial showed.
type outcome struct {
	trial
	Rounds int `json:"rounds"`
	// Crashed is set when the host died; GuestError when fio saw an error.
	Crashed    bool     `json:"crashed"`
	GuestError bool     `json:"guestError"`
	Stuck      bool     `json:"stuck"`
	Detail     string   `json:"detail,omitempty"`
	Events     []string `json:"events"`
	// SlowestEnd is the longest time from the end to the job's last event.
	SlowestEnd time.Duration `json:"slowestEnd"`
	// SlowestWrite is fio's longest write, attaching and ending included.
	SlowestWrite time.Duration `json:"slowestWrite"`
}

const stepTimeout = 10 * time.Second

// run does the trial for about the given time.
func (t trial) run(ctx context.Context, e end, size int64, length time.Duration, keepCores bool) (o outcome) {
	o = outcome{trial: t}
	dir, err := os.MkdirTemp("", "mirrorend")
	if err != nil {
		o.Detail = err.Error()
		return o
	}
	defer func() {
		if !o.Crashed || !keepCores {
			_ = os.RemoveAll(dir)
		}
	}()
	h, err := startHost(ctx, t.Host, dir, size, t)
	if err != nil {
		o.Detail = err.Error()
		return o
	}
	defer h.stop()
	fioCtx, stopFio := context.WithCancel(ctx)
	defer stopFio()
	fio := startFio(fioCtx, h, t, length)
	err = t.rounds(ctx, h, e, size, &o, time.Now().Add(length-length/8))
	o.classify(h, err)
	if err != nil {
		stopFio()
		<-fio
		return o
	}
	v := <-fio
	if v.err != nil {
		o.GuestError = true
		o.Detail = v.err.Error()
	}
	o.SlowestWrite = v.slowest
	o.classify(h, nil)
	return o
}

func (o *outcome) classify(h *host, err error) {
	if err != nil {
		o.Detail = err.Error()
		o.Stuck = errors.Is(err, context.DeadlineExceeded)
		// Death shows on the monitor before the process is reaped.
		select {
		case <-h.exited:
		case <-time.After(2 * time.Second):
		}
	}
	if dead := h.alive(); dead != nil {
		o.Crashed = true
		o.Detail = dead.Error()
	}
}

func (t trial) rounds(ctx context.Context, h *host, e end, size int64, o *outcome, until time.Time) error {
	seen := map[string]bool{}
	for time.Now().Before(until) && ctx.Err() == nil {
		if err := t.round(ctx, h, e, size, o, seen); err != nil {
			return fmt.Errorf("round %d: %w", o.Rounds, err)
		}
		o.Rounds++
	}
	return ctx.Err()
}

// round attaches all disks, lets writes flow, ends all and cleans up.
func (t trial) round(ctx context.Context, h *host, e end, size int64, o *outcome, seen map[string]bool) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	events := h.mon.Subscribe(e.events()...)
	defer events.Close()
	sinks := make([]*sink, t.Disks)
	for i := range sinks {
		path := filepath.Join(h.dir, fmt.Sprintf("sink%d", i))
		s, err := newSink(path, size, t.SlowSink)
		if err != nil {
			return err
		}
		defer s.close()
		sinks[i] = s
		if err := attach(ctx, h, i, path, e.onError); err != nil {
			return err
		}
		if err := state(ctx, h, i, jobState.ready); err != nil {
			return fmt.Errorf("wait for job to be ready: %w", err)
		}
	}
	for i, s := range sinks {
		if err := flow(ctx, s, t.settle()); err != nil {
			return fmt.Errorf("wait for writes of disk %d: %w", i, err)
		}
	}
	begin := time.Now()
	for i, s := range sinks {
		if err := e.do(ctx, h, i, s); err != nil {
			return fmt.Errorf("end: %w", err)
		}
	}
	if err := ended(ctx, events, t.Disks, o, seen); err != nil {
		return fmt.Errorf("wait for jobs' end: %w", err)
	}
	o.SlowestEnd = max(o.SlowestEnd, time.Since(begin))
	for i := range sinks {
		if err := h.mon.Run(ctx, "blockdev-del", map[string]any{"node-name": target(i)}, nil); err != nil {
			return fmt.Errorf("delete node: %w", err)
		}
	}
	return h.alive()
}

func attach(ctx context.Context, h *host, i int, path, onError string) error {
	err := h.mon.Run(ctx, "blockdev-add", map[string]any{
		"driver": "nbd", "node-name": target(i), "export": "x", "reconnect-delay": 0,
		"server": map[string]any{"type": "unix", "path": path},
	}, nil)
	if err != nil {
		return err
	}
	return h.mon.Run(ctx, "blockdev-mirror", map[string]any{
		"job-id": job(i), "device": node(i), "target": target(i), "sync": "none", "copy-mode": "write-blocking",
		"on-target-error": onError, "filter-node-name": fmt.Sprintf("rebound-filter-%d", i), "granularity": 4096,
	}, nil)
}

// settle is how many writes to wait for. Attaching drains the disk, so that all
// writes begin together right after it; on a slow disk it takes some rounds
// until they are spread.
func (t trial) settle() int64 {
	if t.SlowSource > 0 {
		return 30
	}
	return 5
}

// flow waits until the sink has got n writes.
func flow(ctx context.Context, s *sink, n int64) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for s.writes.Load() < n {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// ended waits for the last event of each job and notes what QEMU said.
func ended(ctx context.Context, events *qmp.Subscription, jobs int, o *outcome, seen map[string]bool) error {
	for jobs > 0 {
		ev, err := events.Next(ctx)
		if err != nil {
			return err
		}
		var d struct {
			Error     string `json:"error"`
			Operation string `json:"operation"`
			Action    string `json:"action"`
		}
		if err := json.Unmarshal(ev.Data, &d); err != nil {
			return err
		}
		text := fmt.Sprintf("%s %s%s%s", ev.Name, d.Operation, d.Action, d.Error)
		if !seen[text] {
			seen[text] = true
			o.Events = append(o.Events, text)
		}
		if ev.Name != "BLOCK_JOB_ERROR" {
			jobs--
		}
	}
	return nil
}

// verdict is what fio saw.
type verdict struct {
	err     error
	slowest time.Duration
}

// startFio writes to all disks of the host; the channel gets its verdict.
func startFio(ctx context.Context, h *host, t trial, length time.Duration) <-chan verdict {
	report := filepath.Join(h.dir, "fio.json")
	args := []string{
		"--ioengine=nbd", "--rw=randwrite", "--bs=" + t.Load.Block, fmt.Sprintf("--iodepth=%d", t.Load.Depth),
		"--time_based", fmt.Sprintf("--runtime=%dms", length.Milliseconds()), "--randrepeat=0",
		"--group_reporting", "--output-format=json", "--output=" + report,
	}
	for i := range h.disks {
		uri := fmt.Sprintf("--uri=nbd+unix:///%s?socket=%s", node(i), h.exportPath())
		if t.SlowSource == 0 {
			args = append(args, "--name="+node(i), uri)
			continue
		}
		// In a closed loop over a constant delay all writes would begin and
		// end together, and none be under way when others fail; different
		// pauses spread them.
		for k := range 8 {
			args = append(args, fmt.Sprintf("--name=%s-%d", node(i), k), uri, "--iodepth=1", fmt.Sprintf("--thinktime=%dms", 7+23*k))
		}
	}
	done := make(chan verdict, 1)
	go func() {
		out, err := exec.CommandContext(ctx, "fio", args...).CombinedOutput()
		if err != nil {
			done <- verdict{err: fmt.Errorf("fio: %w: %s", err, out)}
			return
		}
		slowest, err := slowestWrite(report)
		done <- verdict{err, slowest}
	}()
	return done
}

func slowestWrite(report string) (time.Duration, error) {
	text, err := os.ReadFile(report)
	if err != nil {
		return 0, fmt.Errorf("read fio's report: %w", err)
	}
	var r struct {
		Jobs []struct {
			Write struct {
				Latency struct {
					Max int64 `json:"max"`
				} `json:"lat_ns"`
			} `json:"write"`
		} `json:"jobs"`
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return 0, fmt.Errorf("parse fio's report: %w", err)
	}
	var slowest int64
	for _, j := range r.Jobs {
		slowest = max(slowest, j.Write.Latency.Max)
	}
	return time.Duration(slowest), nil
}
