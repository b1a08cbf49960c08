package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// The results of a step, as DBOS keeps them.
const (
	stepDone      = "done"
	stepFailed    = "failed"
	stepCancelled = "cancelled"
	// stepFailedOn: the task failed, and the job goes on with the next one.
	stepFailedOn = "failed, go on"
)

// task is one step of an operation.
type task struct {
	name, title string
	// beyond: once it begins, the job has passed its point of no return.
	beyond bool
	// always: run anew at each restart of the job, though it was done.
	always bool
	// part is the boot group that the task is of, within a recovery plan; 0
	// for all members.
	part int
	// arg names the action of a plan that the task does.
	arg string
	run func(ctx context.Context, r *run) error
}

// run is what a task works with.
type run struct {
	o       *Orchestrator
	job     store.Job
	group   store.Group
	policy  rest.Policy
	task    task
	attempt int

	mu       sync.Mutex
	warnings []string
	result   map[string]any
	thens    []change
	goOn     bool
	asked    int
}

// change is what a task does to the rows when it is done.
type change func(tx *store.Tx, g *store.Group) error

// then adds to what changes in the transaction that marks the task done.
func (r *run) then(f change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.thens = append(r.thens, f)
}

func (r *run) warn(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.warnings = append(r.warnings, fmt.Sprintf(format, args...))
}

func (r *run) set(key string, v any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.result == nil {
		r.result = map[string]any{}
	}
	r.result[key] = v
}

// origin names a command of this task. sub tells the commands of one task
// apart; a task that a restart runs again is another task to the gateways.
func (r *run) origin(sub string) control.Origin {
	return r.originOf(r.task.name, sub, r.attempt)
}

// originOf is the origin of a command of any task of the job: by it a command
// that an earlier task left running is joined.
func (r *run) originOf(name, sub string, attempt int) control.Origin {
	if sub != "" {
		name += "/" + sub
	}
	if attempt > 1 {
		name = fmt.Sprintf("%s#%d", name, attempt)
	}
	return control.Origin{Job: r.job.ID, Task: name, Lease: r.o.Lease()}
}

func (r *run) source() control.Commands  { return r.o.gateways.Commands(r.group.Source()) }
func (r *run) standby() control.Commands { return r.o.gateways.Commands(r.group.Standby()) }

// long makes the progress of commands under the context visible.
func (r *run) long(ctx context.Context) context.Context {
	k := taskKey{r.job.ID, r.task.name}
	return control.WithProgress(ctx, func(p control.Progress) { r.o.setProgress(k, p) })
}

// each runs f for every member at the same time and returns what failed, as
// one problem that names the members. All are tried whatever happens to one.
func (r *run) each(ctx context.Context, f func(context.Context, store.Member) error) error {
	return r.eachOf(ctx, r.members(), f)
}

func (r *run) eachOf(ctx context.Context, members []store.Member, f func(context.Context, store.Member) error) error {
	errs := make([]error, len(members))
	var eg errgroup.Group
	eg.SetLimit(32)
	for i, m := range members {
		eg.Go(func() error {
			errs[i] = f(ctx, m)
			return nil
		})
	}
	eg.Wait() //nolint:errcheck // the functions keep their errors
	var failed []dr.MachineName
	var first *problem.Problem
	text := ""
	for i, err := range errs {
		if err == nil {
			continue
		}
		failed = append(failed, members[i].Machine)
		p := problem.From(err)
		if first == nil {
			first = p
		}
		text += fmt.Sprintf("%s: %s; ", members[i].Machine, problem.Under(first.Code, err))
	}
	if first == nil {
		return nil
	}
	r.set("failed", failed)
	all := problem.Wrap(first.Err, first.Code, "%s", text[:len(text)-2])
	all.RecommendedAction = first.RecommendedAction
	return all
}

// untilCancelled returns a context that ends when the job is to be cancelled;
// for tasks that may wait long and can be cut short without harm.
func (r *run) untilCancelled(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	c := r.o.cancelled(r.job.ID)
	if r.job.CancelRequested {
		cancel()
	}
	go func() {
		select {
		case <-c:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// runJob is the workflow: the tasks in order, then the end. Everything with
// an effect happens inside of a step.
func (o *Orchestrator) runJob(in jobInput, do step) error {
	// The plan is made of what never changes in the job's row, so each run
	// of the workflow sees the same one.
	names, err := do(planStep, func(ctx context.Context) (string, error) {
		o.hook(in.Job, planStep, "before")
		text, err := o.planOf(ctx, in)
		o.hook(in.Job, planStep, "inside")
		return text, err
	})
	if err != nil {
		return err
	}
	o.hook(in.Job, planStep, "after")
	p, err := decodePlan(names)
	if err != nil {
		return err
	}
	outcome, broken := stepDone, false
	for i, t := range p.tasks {
		got, err := do(t.name, func(ctx context.Context) (string, error) { return o.runTask(ctx, in, i, t) })
		if err != nil {
			return err
		}
		if got == stepFailedOn {
			outcome = stepFailed
			continue
		}
		if got != stepDone {
			outcome, broken = got, true
			break
		}
	}
	if broken && p.compensate != nil {
		t := *p.compensate
		if _, err := do(t.name, func(ctx context.Context) (string, error) { return o.runTask(ctx, in, len(p.tasks), t) }); err != nil {
			return err
		}
	}
	_, err = do(endStep, func(ctx context.Context) (string, error) {
		o.hook(in.Job, endStep, "before")
		err := o.endJob(ctx, in, p, outcome)
		o.hook(in.Job, endStep, "inside")
		return "", err
	})
	o.hook(in.Job, endStep, "after")
	return err
}

// runTask runs one task of a job, unless its rows say that it has ended.
func (o *Orchestrator) runTask(ctx context.Context, in jobInput, seq int, t task) (string, error) {
	gate, err := o.awaitGate(ctx, in.Job, t)
	if err != nil {
		return "", err
	}
	r, outcome, err := o.beginTask(ctx, in, seq, t)
	if err != nil {
		return "", err
	}
	if outcome != "" { // ended by a run that did not get to say so
		o.hook(in.Job, t.name, "after")
		return outcome, nil
	}
	o.wakeJob(in.Job)
	o.hook(in.Job, t.name, "before")
	if err = gate; err == nil {
		r.goOn = r.goesOn()
		err = r.guarded(ctx)
	}
	if ctx.Err() != nil {
		return "", ctx.Err() // the vault stops: not an end, the next run goes on
	}
	o.hook(in.Job, t.name, "inside")
	outcome, err = o.endTask(ctx, r, seq, err)
	if err != nil {
		return "", err
	}
	o.hook(in.Job, t.name, "after")
	o.wakeJob(in.Job)
	return outcome, nil
}

// insist runs a transaction until it succeeds: a full disk of the vault must
// not end a job in the middle. Only a row that is not there is final.
func (o *Orchestrator) insist(ctx context.Context, f func(*store.Tx) error) error {
	for {
		err := o.store.Update(ctx, f)
		if err == nil || errors.Is(err, store.ErrNotFound) || ctx.Err() != nil {
			return err
		}
		o.log.Error("the vault's database refuses", "error", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return err
		}
	}
}

func (r *run) guarded(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			r.o.log.Error("task panicked", "job", r.job.ID, "task", r.task.name, "panic", p, "stack", string(debug.Stack()))
			err = problem.New(problem.InternalError, "task %s panicked: %v", r.task.name, p)
		}
	}()
	return r.task.run(ctx, r)
}

// beginTask marks a task running and loads what it works on. A not empty
// outcome says that there is nothing to run.
func (o *Orchestrator) beginTask(ctx context.Context, in jobInput, seq int, t task) (*run, string, error) {
	r := &run{o: o, task: t, attempt: in.Attempt}
	outcome := ""
	err := o.insist(ctx, func(tx *store.Tx) error {
		outcome = ""
		var err error
		if r.job, err = tx.Job(in.Job); err != nil {
			return err
		}
		if r.job.State.Ended() { // ended from outside: the vault was restored
			outcome = stepFailed
			return nil
		}
		row, err := tx.Task(in.Job, t.name)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if outcome = outcomeOf(row, in.Attempt, t); outcome != "" {
			return nil
		}
		if err := r.loadGroup(tx); err != nil {
			return err
		}
		if row.Title == "" {
			row.Title = t.title
		}
		row.Name, row.Attempt, row.Problem, row.Warnings = t.name, in.Attempt, nil, nil
		if row.Started.IsZero() || row.State != rest.JobRunning && row.State != rest.JobWaiting {
			row.Started = o.now().UTC()
		}
		if r.job.CancelRequested && !r.group.Beyond && t.name != compensation {
			outcome = stepCancelled
			row.State, row.Started, row.Ended = rest.JobCancelled, time.Time{}, time.Time{}
			return tx.PutTask(in.Job, seq, row)
		}
		if t.beyond && !r.group.Beyond {
			r.group.Beyond = true
			if err := tx.PutGroup(&r.group); err != nil {
				return err
			}
		}
		if row.State != rest.JobWaiting {
			row.State = rest.JobRunning
		}
		return tx.PutTask(in.Job, seq, row)
	})
	if err != nil {
		return nil, "", fmt.Errorf("begin task %s of %s: %w", t.name, in.Job, err)
	}
	return r, outcome, nil
}

// outcomeOf reads an ended task's row; "" says that it is to be run.
func outcomeOf(row rest.Task, attempt int, t task) string {
	if t.always && row.Attempt < attempt {
		return ""
	}
	switch row.State {
	case rest.JobSucceeded, rest.JobWarning:
		return stepDone
	case rest.JobFailed:
		if row.Attempt == attempt {
			if on, _ := row.Result[goOnKey].(bool); on {
				return stepFailedOn
			}
			return stepFailed
		}
	case rest.JobCancelled:
		if row.Attempt == attempt {
			return stepCancelled
		}
	}
	return ""
}

// endTask records how a task ended, and what it changes, in one transaction.
func (o *Orchestrator) endTask(ctx context.Context, r *run, seq int, failure error) (string, error) {
	last := o.clearProgress(taskKey{r.job.ID, r.task.name})
	if r.goOn = r.goOn && failure != nil; r.goOn {
		r.set(goOnKey, true)
	}
	outcome := stepDone
	err := o.insist(ctx, func(tx *store.Tx) error {
		row, err := tx.Task(r.job.ID, r.task.name)
		if err != nil {
			return err
		}
		row.Ended, row.Progress, row.Warnings, row.Result = o.now().UTC(), last, r.warnings, r.result
		row.State, row.Waiting = rest.JobSucceeded, nil
		if len(r.warnings) > 0 {
			row.State = rest.JobWarning
		}
		if failure != nil {
			outcome, row.State, row.Problem = stepFailed, rest.JobFailed, problem.From(failure).Plain()
		}
		// A wait that was cut short because the job was cancelled is no failure.
		if errors.Is(failure, context.Canceled) {
			job, err := tx.Job(r.job.ID)
			if err != nil {
				return err
			}
			if job.CancelRequested && !r.group.Beyond {
				outcome, row.State, row.Problem = stepCancelled, rest.JobCancelled, nil
			}
		}
		// A task that failed in part still tells what it did: the started
		// machines of a failover of which one did not start.
		if err := r.applyThens(tx); err != nil {
			return err
		}
		return tx.PutTask(r.job.ID, seq, row)
	})
	if err != nil {
		return "", fmt.Errorf("end task %s of %s: %w", r.task.name, r.job.ID, err)
	}
	if outcome == stepFailed && r.goOn {
		outcome = stepFailedOn
	}
	o.log.Info("task ended", "job", r.job.ID, "group", r.job.Group, "items", r.job.Items, "task", r.task.name, "outcome", outcome, "error", failure)
	return outcome, nil
}

func (r *run) applyThens(tx *store.Tx) error {
	if len(r.thens) == 0 {
		return nil
	}
	return tx.ChangeGroup(r.group.ID, func(g *store.Group) error {
		for _, f := range r.thens {
			if err := f(tx, g); err != nil {
				return err
			}
		}
		return nil
	})
}
