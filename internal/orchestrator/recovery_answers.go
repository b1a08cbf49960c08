package orchestrator

import (
	"context"
	"errors"
	"slices"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/vault/auth"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// The kinds of waiting, and the answers.
const (
	waitManual   = "manual"
	waitApproval = "approval"
	waitDecision = "decision"

	verdictResume  = "resume"
	verdictApprove = "approve"
	verdictReject  = "reject"
)

// answersTo lists the answers that a waiting job takes.
func answersTo(j *store.Job) []string {
	j.Waiting = nil
	for _, t := range j.Tasks {
		if t.Waiting != nil && t.State == rest.JobWaiting {
			j.Waiting = t.Waiting
		}
	}
	switch {
	case j.Waiting == nil:
		return []string{}
	case j.Waiting.Kind == waitApproval:
		return []string{verdictApprove, verdictReject}
	}
	return []string{verdictResume, verdictReject}
}

// ask makes the task and its job wait for a person, and returns the answer. A
// vault that died meanwhile asks the same question and finds the same answer.
func (r *run) ask(ctx context.Context, w rest.Waiting) (rest.Decision, error) {
	r.asked++
	ctx, cancel := r.untilCancelled(ctx)
	defer cancel()
	if w.Role == "" {
		w.Role = string(auth.Operator)
	}
	for {
		watch := r.o.watchJob(r.job.ID)
		var answer rest.Decision
		answered, asking := false, false
		err := r.o.insist(context.WithoutCancel(ctx), func(tx *store.Tx) error {
			answered, asking = false, false
			row, err := tx.Task(r.job.ID, r.task.name)
			if err != nil {
				return err
			}
			if given := answersIn(row, r.attempt); len(given) >= r.asked {
				answer, answered = given[r.asked-1], true
				return nil
			}
			if row.Waiting != nil && row.State == rest.JobWaiting {
				return nil
			}
			asking = true
			w.Since = r.o.now().UTC()
			row.Waiting, row.State = &w, rest.JobWaiting
			return r.put(tx, row, rest.JobWaiting)
		})
		if err != nil || answered {
			return answer, err
		}
		if asking {
			r.o.log.Info("job waits for a person", "job", r.job.ID, "task", r.task.name, "kind", w.Kind)
			r.o.wakeJob(r.job.ID)
			continue
		}
		select {
		case <-watch:
		case <-ctx.Done():
			return answer, context.Cause(ctx)
		}
	}
}

func answersIn(row rest.Task, attempt int) []rest.Decision {
	var out []rest.Decision
	for _, d := range row.Decisions {
		if d.Attempt == attempt {
			out = append(out, d)
		}
	}
	return out
}

// put writes a task's row, which keeps its place, and the job's state.
func (r *run) put(tx *store.Tx, row rest.Task, state rest.JobState) error {
	return putState(tx, r.job.ID, row, state)
}

func putState(tx *store.Tx, id dr.JobID, row rest.Task, state rest.JobState) error {
	job, err := tx.Job(id)
	if err != nil {
		return err
	}
	seq := slices.IndexFunc(job.Tasks, func(t rest.Task) bool { return t.Name == row.Name })
	if err := tx.PutTask(id, seq, row); err != nil {
		return err
	}
	job.State = state
	return tx.PutJob(job)
}

// Answer is what a person says to a job that waits.
type Answer struct {
	Job dr.JobID
	// Verdict is resume, approve or reject.
	Verdict string
	// By is the person, Role the person's role.
	By   string
	Role auth.Role
	rest.JobAnswer
}

// Answer answers a job that waits for a person: exactly one answer counts, the
// first. An approval by the one who started the job is refused (SamePerson).
func (o *Orchestrator) Answer(ctx context.Context, a Answer) (rest.Job, error) {
	err := o.store.Update(ctx, func(tx *store.Tx) error {
		j, err := tx.Job(a.Job)
		if errors.Is(err, store.ErrNotFound) {
			return problem.New(problem.UnknownJob, "there is no job %q", a.Job)
		}
		if err != nil {
			return err
		}
		i := slices.IndexFunc(j.Tasks, func(t rest.Task) bool { return t.Waiting != nil && t.State == rest.JobWaiting })
		if i < 0 {
			return problem.New(problem.NothingWaits, "job %s is %s", a.Job, j.State)
		}
		row := j.Tasks[i]
		if err := mayAnswer(a, *row.Waiting, answersTo(&j)); err != nil {
			return err
		}
		row.Decisions = append(row.Decisions, rest.Decision{
			Verdict: a.Verdict, Attempt: j.Attempt, By: a.By, At: o.now().UTC(), Note: a.Note, Again: a.Again,
		})
		row.Waiting, row.State = nil, rest.JobRunning
		return putState(tx, j.ID, row, rest.JobRunning)
	})
	if err != nil {
		return rest.Job{}, err
	}
	o.wakeJob(a.Job)
	return o.Job(ctx, a.Job)
}

func mayAnswer(a Answer, w rest.Waiting, answers []string) error {
	switch {
	case !slices.Contains(answers, a.Verdict):
		p := problem.New(problem.NothingWaits, "the job waits for another answer: %v", answers)
		return p
	case !a.Role.Allows(auth.Role(w.Role)):
		return problem.New(problem.PermissionDenied, "the answer needs the role %s; %s has %s", w.Role, a.By, a.Role)
	case w.NotBy != "" && a.By == w.NotBy:
		return problem.New(problem.SamePerson, "%s started the job", a.By)
	case a.Again && (w.Kind != waitDecision || a.Verdict != verdictResume):
		return problem.New(problem.InvalidRequest, "there is nothing to run again")
	}
	return nil
}

// Waits reports whether a job waits for a person.
func (o *Orchestrator) Waits(ctx context.Context, id dr.JobID) (bool, error) {
	j, err := o.Job(ctx, id)
	return j.State == rest.JobWaiting, err
}
