package qemu

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"time"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/qmp"
	"rebound/internal/site"
)

// commitBitmapGranularity is what a bit of site.CommitBitmap stands for, in
// bytes: the grain in which a synchronisation compares.
const commitBitmapGranularity = 4096

// CommitRecovered moves a running machine from its views onto raw files;
// site.BootFromView has the contract.
//
// Each disk goes through these steps, and where it stands is read from QEMU's
// block graph, so that the call can be repeated after a crash of the caller at
// any place:
//
//  1. the record says that overlays lie on bases from now on;
//  2. the base becomes a node of QEMU, with the bitmap on it;
//  3. the overlay's backing is reopened from the view to the base;
//  4. block-commit copies the overlay down, chasing the guest's writes;
//  5. once they are equal, QEMU holds the guest's I/O and waits for us: the
//     record says that the base is the authority;
//  6. the job is finalised: the guest's device stands on the base.
//
// Step 5 is why the job does not finalise itself. Were QEMU to die after a
// pivot that the record does not know of, the next start would put the guest
// on a stale overlay.
func (d *Driver) CommitRecovered(ctx context.Context, name dr.MachineName, bases map[dr.DiskID]string, progress func(done, total int64)) error {
	m, rec, unlock, err := d.lockKnown(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	if rec.Recovered == nil {
		return m.committedAlready(rec, bases)
	}
	if err := m.beginCommit(ctx, rec, bases); err != nil {
		return err
	}
	c := &commit{m: m, rec: rec, progress: progress, throttled: map[dr.DiskID]int64{}, done: map[dr.DiskID]int64{}, total: map[dr.DiskID]int64{}}
	if c.mon, err = m.monitor(rec); err != nil {
		return err
	}
	for _, spec := range rec.Recovered.Definition.Disks {
		if spec.ReadOnly {
			continue
		}
		if err := c.disk(ctx, spec); err != nil {
			return problem.Wrap(err, problem.From(hypervisor(err)).Code, "commit disk %s of machine %s", spec.ID, name)
		}
	}
	if err := m.settle(rec); err != nil {
		return err
	}
	d.log.Info("machine committed", "machine", name)
	return nil
}

// committedAlready decides what a repetition finds: success, if the machine's
// disks are the given files.
func (m *machine) committedAlready(rec *record, bases map[dr.DiskID]string) error {
	if rec.Standby {
		return problem.New(problem.OperationNotAllowed, "machine %s does not run on a view", m.name)
	}
	for _, disk := range rec.Definition.Disks {
		if !disk.ReadOnly && m.diskPath(rec, disk.ID) != bases[disk.ID] {
			return problem.New(problem.OperationNotAllowed, "machine %s does not run on a view", m.name)
		}
	}
	return nil
}

// beginCommit is step 1.
func (m *machine) beginCommit(ctx context.Context, rec *record, bases map[dr.DiskID]string) error {
	r := rec.Recovered
	if r.Test {
		return problem.New(problem.OperationNotAllowed, "machine %s is a test", m.name)
	}
	for _, disk := range r.Definition.Disks {
		if disk.ReadOnly {
			continue
		}
		st, err := os.Stat(bases[disk.ID])
		if err != nil {
			return problem.Wrap(err, problem.UnknownDisk, "base of disk %s of machine %s", disk.ID, m.name)
		}
		if st.Size() != disk.SizeBytes {
			return problem.New(problem.DiskNotSupported, "base of disk %s of machine %s holds %d bytes, want %d", disk.ID, m.name, st.Size(), disk.SizeBytes)
		}
	}
	if r.Bases != nil && !maps.Equal(r.Bases, bases) {
		return problem.New(problem.OperationNotAllowed, "the commit of machine %s has begun onto other files", m.name)
	}
	// The guest may have powered itself off; QEMU must be there.
	p, err := m.process()
	if err != nil {
		return err
	}
	if p == nil {
		return problem.New(problem.MachineNotRunning, "machine %s: start it, then commit again", m.name)
	}
	p.close()
	if r.Bases != nil {
		return nil
	}
	r.Bases, r.Pivoted = maps.Clone(bases), map[dr.DiskID]bool{}
	if err := m.save(rec); err != nil {
		r.Bases, r.Pivoted = nil, nil
		return err
	}
	return nil
}

// hypervisor makes a plain error of QEMU one for people.
func hypervisor(err error) error {
	var p *problem.Problem
	if errors.As(err, &p) {
		return err
	}
	if containsLock(err.Error()) {
		return problem.Wrap(err, problem.MachineInUse, "another process has the file open")
	}
	if strings.Contains(err.Error(), "No space left on device") {
		return problem.Wrap(err, problem.NoRoom, "the base cannot grow")
	}
	return problem.Wrap(err, problem.HypervisorError, "QEMU refused or failed")
}

// commit is one run of CommitRecovered.
type commit struct {
	m         *machine
	rec       *record
	mon       *qmp.Monitor
	progress  func(done, total int64)
	throttled map[dr.DiskID]int64 // writes a second
	done      map[dr.DiskID]int64
	total     map[dr.DiskID]int64
}

// disk brings one disk from wherever it stands to its base.
func (c *commit) disk(ctx context.Context, spec dr.DiskSpec) error {
	for {
		g, err := c.graph(ctx, spec.ID)
		if err != nil {
			return err
		}
		switch {
		case g.root == rawNode(spec.ID) && g.job == nil:
			return c.finish(ctx, spec, g)
		case g.job != nil:
			err = c.follow(ctx, spec, g)
		case !g.nodes[rawNode(spec.ID)]:
			base := c.rec.Recovered.Bases[spec.ID]
			err = c.exec(ctx, "blockdev-add", rawBlockdev(spec, base, takesDirect(base)))
		case !g.bitmap:
			err = c.exec(ctx, "block-dirty-bitmap-add", object{
				"node": rawNode(spec.ID), "name": site.CommitBitmap, "granularity": commitBitmapGranularity,
			})
		case g.backing != rawNode(spec.ID):
			path := c.m.overlayPath(spec.ID)
			err = c.exec(ctx, "blockdev-reopen", object{
				"options": []object{overlayBlockdev(spec.ID, path, rawNode(spec.ID), g.direct)},
			})
		case g.nodes[viewNode(spec.ID)]:
			// Nothing needs the view any more; its server may go.
			err = c.exec(ctx, "blockdev-del", object{"node-name": viewNode(spec.ID)})
		default:
			err = c.exec(ctx, "block-commit", object{
				"job-id": commitJob(spec.ID), "device": overlayNode(spec.ID), "base-node": rawNode(spec.ID),
				"filter-node-name": commitNode(spec.ID), "auto-finalize": false, "auto-dismiss": false,
			})
		}
		if err != nil {
			return err
		}
	}
}

func commitJob(id dr.DiskID) string { return "commit-" + string(id) }

// finish ends a pivoted disk: what it stood on goes.
func (c *commit) finish(ctx context.Context, spec dr.DiskSpec, g *graph) error {
	if err := c.pivoted(spec.ID, true); err != nil {
		return err
	}
	if err := c.unthrottle(ctx, spec.ID, g); err != nil {
		return err
	}
	for _, node := range []string{overlayNode(spec.ID), viewNode(spec.ID)} {
		if !g.nodes[node] {
			continue
		}
		if err := c.exec(ctx, "blockdev-del", object{"node-name": node}); err != nil {
			return err
		}
	}
	return nil
}

// pivoted makes it durable where a disk's content is.
func (c *commit) pivoted(id dr.DiskID, yes bool) error {
	r := c.rec.Recovered
	if r.Pivoted[id] == yes {
		return nil
	}
	if r.Pivoted == nil {
		r.Pivoted = map[dr.DiskID]bool{}
	}
	r.Pivoted[id] = yes
	return c.m.save(c.rec)
}

// jobInfo is a row of query-jobs.
type jobInfo struct {
	ID       string `json:"id"`
	Status   string `json:"status"`
	Current  int64  `json:"current-progress"`
	Total    int64  `json:"total-progress"`
	ErrorMsg string `json:"error"`
}

// commitPoll is how often progress is looked at while no event comes.
const commitPoll = 250 * time.Millisecond

// follow leads a disk's job from where it is to its end.
func (c *commit) follow(ctx context.Context, spec dr.DiskSpec, g *graph) error {
	client, err := c.mon.Client(ctx)
	if err != nil {
		return err
	}
	events := client.Subscribe("JOB_STATUS_CHANGE")
	defer events.Close()
	var chasing time.Time // since when the job was asked to complete
	for {
		job, err := c.job(ctx, spec.ID)
		if err != nil {
			return err
		}
		if job == nil {
			return nil // dismissed by an earlier run
		}
		c.report(spec.ID, job)
		switch job.Status {
		case "ready":
			if chasing.IsZero() {
				chasing = time.Now()
				err = c.run(ctx, "job-complete", spec.ID)
			} else if time.Since(chasing) > c.m.d.cfg.ConvergeAfter {
				chasing = time.Now()
				err = c.throttle(ctx, spec.ID, g)
			}
		case "pending":
			// Overlay and base are equal and the guest's I/O is held.
			if err = c.pivoted(spec.ID, true); err == nil {
				err = c.run(ctx, "job-finalize", spec.ID)
			}
		case "concluded":
			return c.conclude(ctx, spec.ID, job)
		}
		// QEMU refuses what does not fit the job's state; then the state
		// has changed since we asked, and the next round sees it.
		if err != nil && !qmp.Refused(err) {
			return err
		}
		next, cancel := context.WithTimeout(ctx, commitPoll)
		_, err = events.Next(next)
		cancel()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
	}
}

func (c *commit) run(ctx context.Context, command string, id dr.DiskID) error {
	return c.exec(ctx, command, object{"id": commitJob(id)})
}

// exec runs a command that changes something.
func (c *commit) exec(ctx context.Context, command string, args object) error {
	if hook := c.m.d.beforeCommit; hook != nil {
		if err := hook(command); err != nil {
			return err
		}
	}
	return c.mon.Run(ctx, command, args, nil)
}

// conclude looks at how a job ended. A failed one leaves the guest on its
// overlay.
func (c *commit) conclude(ctx context.Context, id dr.DiskID, job *jobInfo) error {
	g, err := c.graph(ctx, id)
	if err != nil {
		return err
	}
	if err := c.pivoted(id, g.root == rawNode(id)); err != nil {
		return err
	}
	if err := c.run(ctx, "job-dismiss", id); err != nil {
		return err
	}
	if job.ErrorMsg != "" {
		if err := c.unthrottle(ctx, id, g); err != nil {
			return err
		}
		return fmt.Errorf("block-commit: %s", job.ErrorMsg)
	}
	return nil
}

func (c *commit) job(ctx context.Context, id dr.DiskID) (*jobInfo, error) {
	jobs, err := qmp.Call[[]jobInfo](ctx, c.mon, "query-jobs", nil)
	if err != nil {
		return nil, err
	}
	for i := range jobs {
		if jobs[i].ID == commitJob(id) {
			return &jobs[i], nil
		}
	}
	return nil, nil
}

// report tells how far the whole commit is.
func (c *commit) report(id dr.DiskID, job *jobInfo) {
	c.done[id], c.total[id] = job.Current, job.Total
	if c.progress == nil {
		return
	}
	var done, total int64
	for _, n := range c.done {
		done += n
	}
	for _, n := range c.total {
		total += n
	}
	c.progress(done, total)
}

// The throttle starts at throttleFirst guest writes a second and halves each
// time the job still does not catch up, down to one. It counts writes and not
// bytes because each dirties a whole cluster for the job, however small it is.
const throttleFirst = 1024

// throttle slows the guest's writes so that the job catches up with them.
func (c *commit) throttle(ctx context.Context, id dr.DiskID, g *graph) error {
	rate := max(1, c.throttled[id]/2)
	if c.throttled[id] == 0 {
		rate = throttleFirst
	}
	c.m.d.log.Warn("commit does not keep up; slowing the guest's writes", "machine", c.m.name, "disk", id, "writesPerSecond", rate)
	if err := c.setThrottle(ctx, g, rate); err != nil {
		return err
	}
	c.throttled[id] = rate
	return nil
}

func (c *commit) setThrottle(ctx context.Context, g *graph, rate int64) error {
	return c.exec(ctx, "block_set_io_throttle", object{
		"id": g.qdev, "bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": rate,
	})
}

// unthrottle also takes away what an earlier run left.
func (c *commit) unthrottle(ctx context.Context, id dr.DiskID, g *graph) error {
	if !g.throttled {
		return nil
	}
	delete(c.throttled, id)
	return c.setThrottle(ctx, g, 0)
}
