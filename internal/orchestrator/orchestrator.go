package orchestrator

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/gateway/runbook"
	"rebound/internal/lifecycle"
	"rebound/internal/vault/live"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// Gateways is how commands reach gateways; control.Hub is one.
type Gateways interface {
	Commands(id dr.GatewayID) control.Commands
	Connected(id dr.GatewayID) bool
	// Await waits up to patience for a connection.
	Await(ctx context.Context, id dr.GatewayID, patience time.Duration) bool
}

// Config of an orchestrator; all fields but Hook are needed.
type Config struct {
	// Dir holds the lease and the workflows' database.
	Dir      string
	Store    *store.Store
	Live     *live.State
	Gateways Gateways
	Log      *slog.Logger
	Now      func() time.Time
	// Hook is called at each boundary of each task (tests kill there):
	// "before", "inside" (effects done, nothing recorded) or "after".
	Hook func(job dr.JobID, task, moment string)
	// Ended is told of every job that has ended; it may be nil and must
	// not block.
	Ended func(rest.Job)
	// Guards are the life cycle's; nil means lifecycle.Guards. Tests leave
	// one out.
	Guards map[lifecycle.GuardName]lifecycle.Guard
}

// Orchestrator runs jobs.
type Orchestrator struct {
	store    *store.Store
	live     *live.State
	gateways Gateways
	log      *slog.Logger
	now      func() time.Time
	hook     func(dr.JobID, string, string)
	ended    func(rest.Job)
	opened   time.Time
	rules    lifecycle.Rulebook
	lease    *lease
	engine   *engine

	mu       sync.Mutex
	progress map[taskKey]control.Progress
	cancels  map[dr.JobID]chan struct{}
	changed  chan struct{}
	// moved is like changed, without the progress of tasks.
	moved chan struct{}
	// watched are closed when their job moves: progress is not among it.
	// It is by job.
	watched map[dr.JobID]chan struct{}
	calls   *runbook.Runner
}

type taskKey struct {
	job  dr.JobID
	task string
}

// Open takes the lease (waiting for an earlier holder until ctx ends), then
// goes on with every job that has not ended.
func Open(ctx context.Context, c Config) (*Orchestrator, error) {
	o := &Orchestrator{
		store: c.Store, live: c.Live, gateways: c.Gateways, log: c.Log, now: c.Now, hook: c.Hook, ended: c.Ended, opened: c.Now(), rules: lifecycle.NewRulebook(c.Guards),
		progress: map[taskKey]control.Progress{}, cancels: map[dr.JobID]chan struct{}{}, changed: make(chan struct{}), watched: map[dr.JobID]chan struct{}{}, moved: make(chan struct{}),
	}
	if o.hook == nil {
		o.hook = func(dr.JobID, string, string) {}
	}
	var err error
	if o.calls, err = runbook.Open(runbook.Config{Dir: filepath.Join(c.Dir, "calls"), Now: c.Now}); err != nil {
		return nil, err
	}
	if o.lease, err = takeLease(ctx, c.Dir, c.Store, c.Now()); err != nil {
		return nil, err
	}
	if err := SettleRestored(ctx, c.Store, c.Now()); err != nil {
		o.lease.release()
		return nil, err
	}
	if o.engine, err = startEngine(ctx, c.Dir, c.Log, o.runJob); err != nil {
		o.lease.release()
		return nil, err
	}
	if err := o.engine.launch(); err != nil {
		o.lease.release()
		return nil, err
	}
	if err := o.takeUp(ctx); err != nil {
		o.Close()
		return nil, err
	}
	return o, nil
}

// takeUp submits every open job: those that DBOS knows go on by themselves,
// those whose vault died between their row and their start begin now.
func (o *Orchestrator) takeUp(ctx context.Context) error {
	var jobs []store.Job
	err := o.store.View(ctx, func(tx *store.Tx) (err error) { jobs, err = tx.OpenJobs(); return err })
	if err != nil {
		return fmt.Errorf("list open jobs: %w", err)
	}
	for _, j := range jobs {
		if err := o.engine.submit(jobInput{j.ID, j.Attempt}, o.lease.epoch); err != nil {
			return err
		}
		o.log.Info("job goes on", "job", j.ID, "operation", j.Operation)
	}
	return nil
}

// Close stops the jobs where they are and gives the lease back. The next Open
// goes on with them.
func (o *Orchestrator) Close() error {
	err := o.engine.stop()
	if e := o.lease.release(); err == nil {
		err = e
	}
	return err
}

// redialTime is how long gateways may take to dial a vault that has just
// started; before that has passed, one that is not connected is not taken to be
// away.
const redialTime = 5 * time.Second

// reachable is up for tasks: after a restart of the vault it gives the gateway
// time to dial.
func (o *Orchestrator) reachable(ctx context.Context, gw dr.GatewayID) bool {
	if left := redialTime - o.now().Sub(o.opened); left > 0 {
		o.gateways.Await(ctx, gw, left)
	}
	return o.up(gw)
}

// Allowed says which operations may begin by the facts of an item or a group.
func (o *Orchestrator) Allowed(f lifecycle.Facts) []lifecycle.OperationStatus {
	return o.rules.Allowed(f)
}

// Lease is the epoch of this process's lease.
func (o *Orchestrator) Lease() uint64 { return max(o.lease.epoch, o.lease.raised.Load()) }

// Changed returns a channel that is closed when a job or task changes next.
func (o *Orchestrator) Changed() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.changed
}

func (o *Orchestrator) wake() {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.changed)
	o.changed = make(chan struct{})
}

// wakeJob is wake for those who watch one job.
func (o *Orchestrator) wakeJob(id dr.JobID) {
	o.mu.Lock()
	if c, ok := o.watched[id]; ok {
		close(c)
		delete(o.watched, id)
	}
	close(o.moved)
	o.moved = make(chan struct{})
	o.mu.Unlock()
	o.wake()
}

// jobsMoved returns a channel that is closed when a task of any job begins,
// ends or is answered next.
func (o *Orchestrator) jobsMoved() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.moved
}

// watchJob returns a channel that is closed when a task of the job begins, ends
// or is answered next, or the job ends.
func (o *Orchestrator) watchJob(id dr.JobID) <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	c, ok := o.watched[id]
	if !ok {
		c = make(chan struct{})
		o.watched[id] = c
	}
	return c
}

func (o *Orchestrator) setProgress(k taskKey, p control.Progress) {
	o.mu.Lock()
	o.progress[k] = p
	o.mu.Unlock()
	o.wake()
}

func (o *Orchestrator) clearProgress(k taskKey) control.Progress {
	o.mu.Lock()
	defer o.mu.Unlock()
	p := o.progress[k]
	delete(o.progress, k)
	return p
}

// cancelled returns the channel that is closed when a job is to be cancelled.
func (o *Orchestrator) cancelled(id dr.JobID) chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	c, ok := o.cancels[id]
	if !ok {
		c = make(chan struct{})
		o.cancels[id] = c
	}
	return c
}
