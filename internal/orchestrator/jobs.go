package orchestrator

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"

	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// StartRequest asks for an operation on a group.
type StartRequest struct {
	Operation lifecycle.Operation
	Group     dr.GroupID
	// LoneMember: the caller addressed one item of a larger group.
	LoneMember bool
	Request    rest.OperationRequest
	By         string
}

// Start begins an operation and returns its job. When the same operation is at
// work on the group already, that job is returned and joined is true. What the
// life cycle refuses changes nothing.
func (o *Orchestrator) Start(ctx context.Context, s StartRequest) (job rest.Job, joined bool, err error) {
	if err := checkRequest(s); err != nil {
		return rest.Job{}, false, err
	}
	known, err := o.preflight(ctx, s)
	if err != nil {
		return rest.Job{}, false, err
	}
	var j store.Job
	err = o.store.Update(ctx, func(tx *store.Tx) error {
		g, err := tx.Group(s.Group)
		if errors.Is(err, store.ErrNotFound) {
			return problem.New(problem.UnknownGroup, "there is no group %q", s.Group)
		}
		if err != nil {
			return err
		}
		if g.Running != "" && !s.LoneMember {
			if j, err = tx.Job(g.Running); err != nil {
				return err
			}
			if joined = j.Operation == s.Operation; joined {
				return tx.ClaimJob(j.ID)
			}
		}
		f, err := o.factsFor(tx, &g, s)
		if err != nil {
			return err
		}
		if err := o.rules.Check(s.Operation, f); err != nil {
			return err
		}
		if err := checkTarget(&g, s); err != nil {
			return err
		}
		j = newJob(s.Operation, &g, s.By, o)
		j.Request, j.Deletes, j.Keeps = &s.Request, known.deletes, known.keeps
		return o.insertJob(tx, j, &g)
	})
	if err != nil || joined {
		return o.present(j), joined, err
	}
	return o.submitted(ctx, j)
}

func newJob(op lifecycle.Operation, g *store.Group, by string, o *Orchestrator) store.Job {
	return store.Job{
		Job: rest.Job{
			ID: dr.JobID(uuid.NewString()), Operation: op, Group: g.ID, Items: g.Items(),
			State: rest.JobPending, Attempt: 1, By: by, Created: o.now().UTC(),
		},
		Direction: g.Direction, FromState: string(g.State),
	}
}

// insertJob writes a job with its tasks and moves the group into the job's
// state.
func (o *Orchestrator) insertJob(tx *store.Tx, j store.Job, g *store.Group) error {
	if err := tx.InsertJob(j); err != nil {
		return err
	}
	p, err := planFor(j)
	if err != nil {
		return err
	}
	for i, t := range p.tasks {
		if err := tx.PutTask(j.ID, i, rest.Task{Name: t.name, Title: t.title, State: rest.JobPending}); err != nil {
			return err
		}
	}
	return o.occupy(tx, j, g)
}

func (o *Orchestrator) occupy(tx *store.Tx, j store.Job, g *store.Group) error {
	g.From, g.Running, g.LastJob = g.State, j.ID, j.ID
	if to := lifecycle.Begin(j.Operation, g.State); to != g.State {
		g.State, g.ChangedAt = to, o.now().UTC()
	}
	switch j.Operation {
	case lifecycle.TestFailover:
		g.Test = lifecycle.TestStarting
	case lifecycle.TestCleanup:
		g.Test = lifecycle.TestCleaning
	}
	return tx.PutGroup(g)
}

func (o *Orchestrator) submitted(ctx context.Context, j store.Job) (rest.Job, bool, error) {
	if err := o.engine.submit(jobInput{j.ID, j.Attempt}, o.lease.epoch); err != nil {
		// The job's row stands: it begins with the vault's next start.
		o.log.Error("start job", "job", j.ID, "error", err)
	}
	o.wake()
	job, err := o.Job(ctx, j.ID)
	return job, false, err
}

// checkRequest refuses fields that mean nothing to the operation.
func checkRequest(s StartRequest) error {
	r, op := s.Request, s.Operation
	failover := op == lifecycle.Failover || op == lifecycle.Failback
	given := map[string]bool{
		"mode": r.Mode != "", "point": r.Point != "", "shutdownSource": r.ShutdownSource != "", "network": r.Network != "",
		"notes": r.Notes != "", "force": r.Force, "name": r.Name != "", "appConsistent": r.AppConsistent,
		"perMachine": r.PerMachine, "probes": len(r.Probes) > 0, "acceptRunning": r.AcceptRunning,
		"reprotect": r.Reprotect != nil,
	}
	fits := map[string]bool{
		"mode": failover, "shutdownSource": failover, "network": failover || op == lifecycle.TestFailover || op == lifecycle.ChangePoint,
		"point": failover || op == lifecycle.ChangePoint || op == lifecycle.TestFailover,
		"notes": op == lifecycle.TestCleanup, "force": op == lifecycle.Disable || op == lifecycle.CompleteMigration,
		"perMachine": failover || op == lifecycle.ChangePoint || op == lifecycle.TestFailover,
		"probes":     op == lifecycle.Commit, "acceptRunning": op == lifecycle.Commit,
		"name": op == lifecycle.CreatePoint, "appConsistent": op == lifecycle.CreatePoint,
		"reprotect": op == lifecycle.Reprotect,
	}
	for field, is := range given {
		if is && !fits[field] {
			return problem.New(problem.InvalidRequest, "%q means nothing to %s", field, op)
		}
	}
	switch {
	case r.PerMachine && r.Point != "" && r.Point != dr.Latest:
		return problem.New(problem.InvalidRequest, "perMachine takes each machine to its own newest moment; it goes with no other point")
	case r.PerMachine && r.Mode == "planned":
		return problem.New(problem.InvalidRequest, "a planned failover loses nothing of any machine: leave perMachine out")
	case op == lifecycle.ChangePoint && r.Point == "" && !r.PerMachine:
		return problem.New(problem.InvalidRequest, "change-point needs a point")
	case op == lifecycle.CreatePoint && r.Name == "":
		return problem.New(problem.InvalidRequest, "create-point needs a name")
	case r.Mode == "planned" && r.Point != "" && r.Point != dr.Latest:
		return problem.New(problem.InvalidRequest, "a planned failover loses nothing and takes no older point; use unplanned")
	case r.Mode == "planned" && r.ShutdownSource == "skip":
		return problem.New(problem.InvalidRequest, "a planned failover shuts the source down")
	}
	return nil
}

// checkTarget refuses what fits the operation and not the group.
func checkTarget(g *store.Group, s StartRequest) error {
	if s.Request.PerMachine && len(g.Members) < 2 {
		return problem.New(problem.InvalidRequest, "%s is one machine, which has one newest moment: leave perMachine out", g.ID)
	}
	return checkProbes(g, s.Request.Probes)
}

// Job reads a job, with the progress of its running tasks.
func (o *Orchestrator) Job(ctx context.Context, id dr.JobID) (rest.Job, error) {
	var j store.Job
	var out rest.Job
	err := o.store.View(ctx, func(tx *store.Tx) (err error) {
		if j, err = tx.Job(id); err != nil {
			return err
		}
		out, err = o.presentPlan(tx, j)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return rest.Job{}, problem.New(problem.UnknownJob, "there is no job %q", id)
	}
	return out, err
}

func (o *Orchestrator) present(j store.Job) rest.Job {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range j.Tasks {
		if p, ok := o.progress[taskKey{j.ID, j.Tasks[i].Name}]; ok && j.Tasks[i].State == rest.JobRunning {
			j.Tasks[i].Progress = p
		}
	}
	j.AllowedActions = answersTo(&j)
	switch j.State {
	case rest.JobPending, rest.JobRunning, rest.JobWaiting:
		if (j.Spec != nil || !beyondReached(j)) && !j.CancelRequested {
			j.AllowedActions = append(j.AllowedActions, "cancel")
		}
	case rest.JobFailed:
		if j.Part == nil {
			j.AllowedActions = append(j.AllowedActions, "restart")
		}
	case rest.JobCancelled:
		if j.Part == nil {
			j.AllowedActions = append(j.AllowedActions, "resume")
		}
	}
	if j.Errors == nil {
		j.Errors = []problem.Problem{}
	}
	if j.Warnings == nil {
		j.Warnings = []string{}
	}
	return j.Job
}

// beyondReached reports whether a task beyond the point of no return began.
func beyondReached(j store.Job) bool {
	all := catalogue()
	return slices.ContainsFunc(j.Tasks, func(t rest.Task) bool {
		known, _ := taskNamed(all, t.Name)
		return known.beyond && t.State != rest.JobPending && t.State != rest.JobSkipped && t.State != rest.JobCancelled
	})
}

// Cancel asks a job to end; it is looked at between its tasks and by those
// that wait. Beyond the point of no return it is refused: an item whose
// generation was raised is finished or undone, never left lying.
func (o *Orchestrator) Cancel(ctx context.Context, id dr.JobID) (rest.Job, error) {
	err := o.store.Update(ctx, func(tx *store.Tx) error {
		j, err := tx.Job(id)
		if errors.Is(err, store.ErrNotFound) {
			return problem.New(problem.UnknownJob, "there is no job %q", id)
		}
		if err != nil {
			return err
		}
		if j.State.Ended() {
			return problem.New(problem.OperationNotAllowed, "job %s has ended: %s", id, j.State)
		}
		if g, err := tx.Group(j.Group); err == nil && g.Beyond {
			p := problem.New(problem.OperationNotAllowed, "%s of %s has passed its point of no return", j.Operation, j.Group)
			p.RecommendedAction = "Let it end: replication was stopped, and to leave it half done would lose the group. Then undo it, which starts the source again and replicates as before."
			if j.Operation != lifecycle.Failover && j.Operation != lifecycle.Failback {
				p.RecommendedAction = "Let it end. If it fails, restart it."
			}
			return p
		}
		j.CancelRequested = true
		return tx.PutJob(j)
	})
	if err != nil {
		return rest.Job{}, err
	}
	c := o.cancelled(id)
	o.mu.Lock()
	select {
	case <-c:
	default:
		close(c)
	}
	o.mu.Unlock()
	o.wake()
	return o.Job(ctx, id)
}

// Restart runs a failed job again: tasks that were done stay done, the others
// are new to the gateways.
func (o *Orchestrator) Restart(ctx context.Context, id dr.JobID) (rest.Job, error) {
	return o.again(ctx, id, rest.JobFailed, "restart")
}

// Resume goes on with a cancelled job.
func (o *Orchestrator) Resume(ctx context.Context, id dr.JobID) (rest.Job, error) {
	return o.again(ctx, id, rest.JobCancelled, "resume")
}

func (o *Orchestrator) again(ctx context.Context, id dr.JobID, want rest.JobState, verb string) (rest.Job, error) {
	var j store.Job
	running := false
	err := o.store.Update(ctx, func(tx *store.Tx) error {
		var err error
		if j, err = tx.Job(id); errors.Is(err, store.ErrNotFound) {
			return problem.New(problem.UnknownJob, "there is no job %q", id)
		}
		if err != nil {
			return err
		}
		if running = !j.State.Ended(); running {
			return nil // pressed twice: it runs already
		}
		if err := o.childAlone(tx, j); err != nil {
			return err
		}
		if j.Spec != nil {
			return o.reopenPlan(tx, &j, want, verb)
		}
		if j.State != want {
			return problem.New(problem.OperationNotAllowed, "%s means nothing to job %s, which is %s", verb, id, j.State)
		}
		g, err := o.groupAgain(tx, j)
		if err != nil {
			return err
		}
		req := StartRequest{Operation: j.Operation, Group: j.Group}
		if j.Request != nil {
			req.Request = *j.Request
		}
		if j.Operation != lifecycle.Protect {
			f, err := o.factsFor(tx, g, req)
			if err != nil {
				return err
			}
			if err := o.rules.Check(j.Operation, f); err != nil {
				return err
			}
		}
		return o.reopen(tx, &j, g)
	})
	if err != nil || running {
		return o.present(j), err
	}
	job, _, err := o.submitted(ctx, j)
	return job, err
}

// groupAgain returns the group of a job that is to run again. A failed protect
// left none, so it is made anew.
func (o *Orchestrator) groupAgain(tx *store.Tx, j store.Job) (*store.Group, error) {
	if j.Operation == lifecycle.Protect {
		return o.insertProtected(tx, *j.Protect)
	}
	g, err := tx.Group(j.Group)
	if errors.Is(err, store.ErrNotFound) {
		return nil, problem.New(problem.UnknownGroup, "group %s of the job is gone", j.Group)
	}
	if err == nil && g.LastJob != j.ID {
		return nil, problem.New(problem.OperationNotAllowed, "job %s has worked on %s since; start the operation anew", g.LastJob, g.ID)
	}
	return &g, err
}

// reopen opens an ended job for another attempt. When the failed attempt was
// cleaned up, nothing of it stands and every task runs again.
func (o *Orchestrator) reopen(tx *store.Tx, j *store.Job, g *store.Group) error {
	j.Attempt++
	j.CancelRequested = false
	beyond := beyondReached(*j)
	tasks := j.Tasks
	cleaned := slices.ContainsFunc(tasks, func(t rest.Task) bool { return t.Name == compensation }) && !beyond
	for i, t := range tasks {
		if t.Name == compensation || (t.State == rest.JobSucceeded || t.State == rest.JobWarning) && !cleaned {
			continue
		}
		if err := tx.PutTask(j.ID, i, rest.Task{Name: t.Name, Title: t.Title, State: rest.JobPending}); err != nil {
			return err
		}
	}
	j.State, j.Errors, j.Warnings = rest.JobPending, nil, nil
	j.Ended = time.Time{}
	if err := tx.PutJob(*j); err != nil {
		return err
	}
	if err := o.occupy(tx, *j, g); err != nil {
		return err
	}
	g.Beyond = beyond
	return tx.PutGroup(g)
}
