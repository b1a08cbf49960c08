package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/qmp"
	"rebound/internal/site"
)

var _ site.Capturer = (*Driver)(nil)

// Names of what capture makes in QEMU; by them it is known again after a crash
// of the caller. Node names have at most 31 characters.
const (
	ourPrefix    = "rebound-"
	targetPrefix = ourPrefix + "t-"
	filterPrefix = ourPrefix + "f-"
	jobPrefix    = ourPrefix + "j-"
)

func targetNode(id dr.DiskID) string { return targetPrefix + string(id) }
func filterNode(id dr.DiskID) string { return filterPrefix + string(id) }
func captureJob(id dr.DiskID) string { return jobPrefix + string(id) }

const (
	// proofTimeout bounds how long a capture process may take to negotiate
	// before QEMU is let near it: blockdev-add towards a server that hangs
	// stops QEMU's main loop, and the guest with it.
	proofTimeout = 2 * time.Second
	// readyTimeout bounds the way of a mirror without a copy to READY, which
	// takes one drain of the disk.
	readyTimeout = 10 * time.Second
	// jobPoll is how often jobs are looked at while no event comes.
	jobPoll = 20 * time.Millisecond
	// coarseFrom is the disk size in bytes above which bitmaps get a grain
	// of 64 KiB instead of 4 KiB.
	coarseFrom = 1 << 40
)

// grain is the granularity in bytes of bitmaps and mirrors of a disk. A mirror
// serialises writes within one grain: QEMU's default of 64 KiB costs a third
// of the operations a second.
func grain(size int64) int {
	if size > coarseFrom {
		return 64 << 10
	}
	return 4 << 10
}

// capturing is a machine as capture sees it.
type capturing struct {
	m   *machine
	rec *record
	mon *qmp.Monitor
}

// capture locks a running machine; the result's func unlocks it.
func (d *Driver) capture(ctx context.Context, name dr.MachineName) (*capturing, func(), error) {
	m, rec, unlock, err := d.lockKnown(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	c, err := newCapturing(ctx, m, rec)
	if err != nil {
		unlock()
		return nil, nil, err
	}
	return c, unlock, nil
}

// glance is capture without the lock, for looking only.
func (d *Driver) glance(ctx context.Context, name dr.MachineName) (*capturing, error) {
	m, rec, err := d.known(name)
	if err != nil {
		return nil, err
	}
	return newCapturing(ctx, m, rec)
}

func newCapturing(ctx context.Context, m *machine, rec *record) (*capturing, error) {
	mon, err := m.monitor(rec)
	if err != nil {
		return nil, err
	}
	if _, err := mon.Client(ctx); err != nil {
		if qmp.Gone(err) {
			return nil, problem.Wrap(err, problem.MachineNotRunning, "%s", m.name)
		}
		return nil, problem.Wrap(err, problem.HypervisorError, "machine %s does not answer", m.name)
	}
	return &capturing{m: m, rec: rec, mon: mon}, nil
}

// fault makes a refusal of QEMU readable for people.
func (c *capturing) fault(err error, doing string) error {
	if err == nil {
		return nil
	}
	var p *problem.Problem
	if errors.As(err, &p) {
		return err
	}
	return problem.Wrap(err, problem.HypervisorError, "%s of machine %s", doing, c.m.name)
}

// Attach implements site.Capturer. Targets that are attached already are left
// alone; remains of an attempt that failed are cleared away first. On an error
// the disks attached by this call are detached again.
func (d *Driver) Attach(ctx context.Context, name dr.MachineName, targets []site.CaptureTarget) error {
	c, unlock, err := d.capture(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	if done, err := c.attached(ctx, targets); done || err != nil {
		return c.fault(err, "look at capture")
	}
	if err := c.detach(ctx); err != nil {
		return c.fault(err, "clear old capture")
	}
	disks, err := c.disks(ctx)
	if err != nil {
		return c.fault(err, "look at disks")
	}
	for _, t := range targets {
		if err := disks.check(t.Disk); err != nil {
			return err
		}
		if err := prove(ctx, t, disks[t.Disk].Size); err != nil {
			return err
		}
	}
	if c.rec.Socket != "" {
		// Somebody else chose its options: keep it, and its bitmaps, when
		// the guest powers off. Our own are started so.
		if err := c.mon.Run(ctx, "set-action", object{"shutdown": "pause"}, nil); err != nil {
			return c.fault(err, "keep bitmaps over a power-off")
		}
	}
	for _, t := range targets {
		if err := c.attach(ctx, disks[t.Disk], t); err != nil {
			undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyTimeout)
			defer cancel()
			return errors.Join(c.fault(err, fmt.Sprintf("attach disk %s", t.Disk)), c.detach(undo))
		}
	}
	return nil
}

// attach puts the mirror on one disk and waits until it is READY: QEMU takes
// every cancel before that as a forced one, which may kill it.
func (c *capturing) attach(ctx context.Context, disk *liveDisk, t site.CaptureTarget) error {
	err := c.mon.Run(ctx, "blockdev-add", object{
		"driver": "nbd", "node-name": targetNode(t.Disk), "export": t.Export, "reconnect-delay": 0,
		"server": object{"type": "unix", "path": t.Socket},
	}, nil)
	if err != nil {
		return err
	}
	client, err := c.mon.Client(ctx)
	if err != nil {
		return err
	}
	events := client.Subscribe("JOB_STATUS_CHANGE", "BLOCK_JOB_READY")
	defer events.Close()
	// A failing target must pause the job and never end it: QEMU frees what
	// writes under way still use when a mirror ends by an error.
	err = c.mon.Run(ctx, "blockdev-mirror", object{
		"job-id": captureJob(t.Disk), "device": disk.Node, "target": targetNode(t.Disk), "sync": "none",
		"copy-mode": "write-blocking", "on-target-error": "stop", "on-source-error": "report",
		"filter-node-name": filterNode(t.Disk), "granularity": grain(disk.Size),
	}, nil)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		jobs, err := c.jobs(ctx)
		if err != nil {
			return err
		}
		j, ok := jobs[captureJob(t.Disk)]
		if !ok || j.failed() {
			return fmt.Errorf("mirror of disk %s failed as it began: status %q", t.Disk, j.Status)
		}
		if j.Ready {
			return nil
		}
		if err := eventOrPoll(ctx, events); err != nil {
			return fmt.Errorf("wait for mirror of disk %s to be ready: %w", t.Disk, err)
		}
	}
}

// eventOrPoll returns at the next event or after jobPoll.
func eventOrPoll(ctx context.Context, events *qmp.Subscription) error {
	short, cancel := context.WithTimeout(ctx, jobPoll)
	defer cancel()
	if _, err := events.Next(short); err != nil && short.Err() == nil {
		return err
	}
	return ctx.Err()
}

// mirrorJob is a row of query-block-jobs.
type mirrorJob struct {
	Device string `json:"device"`
	Type   string `json:"type"`
	Status string `json:"io-status"`
	Ready  bool   `json:"ready"`
	Paused bool   `json:"paused"`
}

// failed: the target failed, so that writes are no longer sent.
func (j mirrorJob) failed() bool { return j.Paused || j.Status != "ok" }

// jobs returns our mirrors by job name.
func (c *capturing) jobs(ctx context.Context) (map[string]mirrorJob, error) {
	all, err := qmp.Call[[]mirrorJob](ctx, c.mon, "query-block-jobs", nil)
	if err != nil {
		return nil, err
	}
	ours := map[string]mirrorJob{}
	for _, j := range all {
		if strings.HasPrefix(j.Device, jobPrefix) {
			ours[j.Device] = j
		}
	}
	return ours, nil
}

// target is where a target node sends.
type target struct{ socket, export string }

// targets returns our target nodes by disk.
func (c *capturing) targets(ctx context.Context) (map[dr.DiskID]target, error) {
	nodes, err := qmp.Call[[]struct {
		Name string `json:"node-name"`
		File string `json:"file"`
	}](ctx, c.mon, "query-named-block-nodes", object{"flat": true})
	if err != nil {
		return nil, err
	}
	out := map[dr.DiskID]target{}
	for _, n := range nodes {
		if id, ok := strings.CutPrefix(n.Name, targetPrefix); ok {
			out[dr.DiskID(id)] = parseTarget(n.File)
		}
	}
	return out, nil
}

// attached reports whether exactly these targets are being written to; nil
// stands for those that QEMU has nodes of, one at least.
func (c *capturing) attached(ctx context.Context, want []site.CaptureTarget) (bool, error) {
	have, err := c.targets(ctx)
	if err != nil || len(have) == 0 {
		return false, err
	}
	if want != nil && len(want) != len(have) {
		return false, nil
	}
	for _, t := range want {
		if have[t.Disk] != (target{t.Socket, t.Export}) {
			return false, nil
		}
	}
	jobs, err := c.jobs(ctx)
	if err != nil {
		return false, err
	}
	for id := range have {
		j, ok := jobs[captureJob(id)]
		if !ok || !j.Ready || j.failed() {
			return false, nil
		}
	}
	return true, nil
}

// Attached implements site.Capturer. A machine that does not run is not
// attached.
func (d *Driver) Attached(ctx context.Context, name dr.MachineName) (bool, error) {
	c, err := d.glance(ctx, name)
	if problem.HasCode(err, problem.MachineNotRunning) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	ok, err := c.attached(ctx, nil)
	return ok, c.fault(err, "look at capture")
}

// Resume implements site.Capturer; a machine that runs goes on running.
func (d *Driver) Resume(ctx context.Context, name dr.MachineName) error {
	c, unlock, err := d.capture(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	return c.fault(c.mon.Run(ctx, "cont", nil, nil), "resume")
}

// Definition implements site.Capturer.
func (d *Driver) Definition(_ context.Context, name dr.MachineName) (dr.Definition, error) {
	m, rec, err := d.known(name)
	if err != nil {
		return dr.Definition{}, err
	}
	def := rec.present()
	if def.Firmware != dr.UEFI {
		return def, nil
	}
	path := m.path("nvram.fd")
	switch {
	case rec.NVRAMPath != "" && rec.Socket != "":
		path = rec.NVRAMPath
	case rec.Recovered != nil:
		path = m.path(recoveredNVRAM)
	}
	def.NVRAM, err = os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return def, nil // never started: it begins with the template
	}
	if err != nil {
		return dr.Definition{}, fmt.Errorf("read UEFI variables of machine %s: %w", name, err)
	}
	return def, nil
}
