package orchestrator

import (
	"context"
	"fmt"
	"strings"

	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// compensation is the name of the task that cleans up after a job that failed
// or was cancelled before its point of no return.
const compensation = "clean-up"

// plan is what a job does.
type plan struct {
	tasks      []task
	compensate *task
}

// catalogue returns every task there is, by name. Names are kept in the rows
// of jobs and in DBOS: a released name never changes its meaning.
func catalogue() map[string]task {
	list := []task{
		{name: "prerequisites", title: "Check the prerequisites", always: true, run: checkPrerequisites},
		{name: "protect-prerequisites", title: "Check the machines and the target site", always: true, run: protectPrerequisites},
		{name: "create-journal", title: "Create the journal and the standby machines", run: createJournal},
		{name: "start-replication", title: "Attach the machines and begin the synchronisation", run: startReplication},
		{name: "check-point", title: "Check the recovery point", always: true, run: checkPoint},
		{name: shutDownTask, title: "Shut the source machines down", run: shutDownSource},
		{name: "drain", title: "Send what the source machines wrote last", run: drain},
		{name: "raise-generation", title: "Make the other site the active one", beyond: true, run: raiseToStandby},
		{name: "seal", title: "Close the journal for the old source", run: seal},
		{name: "fence-source", title: "Tell the old source", run: fenceSource},
		{name: "resolve-point", title: "Choose the exact moment", run: resolvePoint},
		{name: "start-machines", title: "Start the machines", run: startMachines},
		{name: "watch-boot", title: "Watch the machines boot", run: watchBoot},
		{name: "check-source", title: "Check that the source machines are there", always: true, run: checkSource},
		{name: "discard-machines", title: "Stop and discard the recovered machines", beyond: true, run: discardMachines},
		{name: "back-to-source", title: "Make the source the active site again", run: raiseToSource},
		{name: "resume-source", title: "Start the source machines and replicate again", run: resumeSource},
		{name: "prove", title: "Prove which machines run", always: true, run: proveCommit},
		{name: "list-deletions", title: "List what the commit deletes", always: true, run: listDeletions},
		{name: "commit-machines", title: "Make the recovered machines independent", beyond: true, run: commitMachines},
		{name: "swap", title: "Make the direction the other one", run: swapDirection},
		{name: "delete-source", title: "Delete the machines that are not needed any more", run: deleteSource},
		{name: "choose-ends", title: "Check process server and master target", always: true, run: chooseEnds},
		{name: "use-ends", title: "Use process server and master target", run: useEnds},
		{name: "probe-path", title: "Prove the path between the gateways", always: true, run: probePath},
		{name: "forget-old-stream", title: "End the old stream", run: forgetOldStream},
		{name: "resolve-test", title: "Choose the exact moment", run: resolveTest},
		{name: "start-test", title: "Start the test machines", run: startTest},
		{name: "clean-test", title: "Delete the test machines", run: cleanTest},
		{name: "pause", title: "Suspend replication", run: pauseReplication},
		{name: "resync", title: "Compare everything", run: resync},
		{name: "verify", title: "Compare without changing anything", run: verify},
		{name: "create-point", title: "Create the recovery point", run: createPoint},
		{name: "stop-replication", title: "End replication", beyond: true, run: stopReplication},
		{name: "delete-journal", title: "Delete the journal", run: deleteJournal},
	}
	list = append(list, planCatalogue()...)
	out := make(map[string]task, len(list))
	for _, t := range list {
		out[t.name] = t
	}
	return out
}

// tasksOf returns the names of an operation's tasks; the facts of the job are
// those of its start and never change.
func tasksOf(j store.Job) (names []string, clean func(context.Context, *run) error) {
	if j.Spec != nil {
		return planTasks(j), endChildren
	}
	names, clean = groupTasks(j)
	return inParts(names, j.Part), clean
}

// groupTasks are the tasks of a job of one group.
func groupTasks(j store.Job) (names []string, clean func(context.Context, *run) error) {
	rules := lifecycle.RulesFor(j.Direction)
	switch j.Operation {
	case lifecycle.Protect:
		return words("protect-prerequisites create-journal start-replication"), undoProtect
	case lifecycle.Failover, lifecycle.Failback:
		return failoverTasks(j), restoreSource
	case lifecycle.ChangePoint:
		return words("prerequisites check-point discard-machines resolve-point start-machines watch-boot"), nil
	case lifecycle.CompleteMigration:
		return words("prove commit-machines stop-replication delete-journal"), nil
	case lifecycle.Undo:
		return words("prerequisites check-source discard-machines back-to-source seal resume-source"), nil
	case lifecycle.Commit:
		if rules.CommitDeletesSource {
			return words("prove list-deletions commit-machines delete-source swap"), nil
		}
		return words("prove commit-machines swap"), nil
	case lifecycle.Reprotect:
		return words("choose-ends prerequisites probe-path forget-old-stream use-ends create-journal start-replication"), undoReprotect
	case lifecycle.TestFailover:
		return words("prerequisites resolve-test start-test"), nil
	case lifecycle.TestCleanup:
		return words("clean-test"), nil
	case lifecycle.Pause:
		return words("pause"), nil
	case lifecycle.Resume:
		return words("prerequisites start-replication"), nil
	case lifecycle.Resync:
		return words("resync"), nil
	case lifecycle.Verify:
		return words("verify"), nil
	case lifecycle.CreatePoint:
		return words("create-point"), nil
	case lifecycle.Disable:
		return disableTasks(j), nil
	default:
		return nil, nil
	}
}

func words(s string) []string { return strings.Fields(s) }

// failoverTasks: an item that is half failed over has a fenced source, from
// which nothing can be drained.
func failoverTasks(j store.Job) []string {
	if lifecycle.State(j.FromState) == lifecycle.FailoverFailed {
		return words("prerequisites raise-generation seal fence-source discard-machines resolve-point start-machines watch-boot")
	}
	return words("prerequisites check-point shut-down-source drain raise-generation seal fence-source resolve-point start-machines watch-boot")
}

func disableTasks(j store.Job) []string {
	switch lifecycle.State(j.FromState) {
	case lifecycle.CommitPending:
		return words("prerequisites commit-machines stop-replication")
	case lifecycle.FailoverFailed:
		return words("prerequisites discard-machines stop-replication delete-journal")
	case lifecycle.Committed:
		return words("prerequisites stop-replication")
	default:
		return words("prerequisites stop-replication delete-journal")
	}
}

// planFor builds a job's plan.
func planFor(j store.Job) (plan, error) {
	names, clean := tasksOf(j)
	if len(names) == 0 {
		return plan{}, problem.New(problem.InvalidRequest, "there is no operation %q", j.Operation)
	}
	all := catalogue()
	var p plan
	for _, n := range names {
		t, ok := taskNamed(all, n)
		if !ok {
			return plan{}, fmt.Errorf("operation %s names an unknown task %s", j.Operation, n)
		}
		if j.Spec != nil {
			t.title = planTitle(j.Spec, t)
		}
		p.tasks = append(p.tasks, t)
	}
	if clean != nil {
		p.compensate = &task{name: compensation, title: "Clean up", always: true, run: func(ctx context.Context, r *run) error {
			if r.group.Beyond {
				return nil // what was begun is finished by a restart, not taken back
			}
			return clean(ctx, r)
		}}
	}
	return p, nil
}

// planOf is the workflow's first step: it reads the unchanging facts and
// writes them down as the list of tasks, so that a newer program that plans
// otherwise still finishes the job as it was planned.
func (o *Orchestrator) planOf(ctx context.Context, in jobInput) (string, error) {
	var j store.Job
	err := o.insist(ctx, func(tx *store.Tx) (err error) {
		if j, err = tx.Job(in.Job); err != nil || j.State != rest.JobPending {
			return err
		}
		j.State, j.Started = rest.JobRunning, o.now().UTC()
		return tx.PutJob(j)
	})
	if err != nil {
		return "", fmt.Errorf("read job %s: %w", in.Job, err)
	}
	names, clean := tasksOf(j)
	text := string(j.Operation) + " " + strings.Join(names, " ")
	if j.Spec != nil {
		text = planMark + text
	}
	if clean != nil {
		text += " +" + compensation
	}
	return text, nil
}

// decodePlan builds the plan that planOf wrote down.
func decodePlan(text string) (plan, error) {
	fields := strings.Fields(text)
	if len(fields) == 0 {
		return plan{}, fmt.Errorf("empty plan")
	}
	all := catalogue()
	var p plan
	for _, n := range fields[1:] {
		if n == "+"+compensation {
			op, ofPlan := strings.CutPrefix(fields[0], planMark)
			if ofPlan {
				p.compensate = &task{name: compensation, title: "Stop what the plan began", always: true, run: endChildren}
				continue
			}
			full, err := planFor(store.Job{Job: rest.Job{Operation: lifecycle.Operation(op)}, Direction: dr.Forward})
			if err != nil {
				return plan{}, err
			}
			p.compensate = full.compensate
			continue
		}
		t, ok := taskNamed(all, n)
		if !ok {
			return plan{}, fmt.Errorf("this program does not know the task %s", n)
		}
		p.tasks = append(p.tasks, t)
	}
	return p, nil
}
