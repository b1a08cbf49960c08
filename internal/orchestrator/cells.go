package orchestrator

import (
	"slices"

	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// Moments are what Config.Hook is told of each task: before its effects, after
// them and before anything is recorded, after they are recorded.
func Moments() []string { return []string{"before", "inside", "after"} }

// Cell is one task of one operation, as a test of the vault's death counts
// them. The first and the last step of each job are the tasks "plan" and "end".
type Cell struct {
	Kind      JobKind
	Operation lifecycle.Operation
	// Direction is empty where the operation has the same tasks both ways.
	Direction dr.Direction
	Task      string
}

// JobKind tells the jobs apart that an operation has.
type JobKind string

// The kinds of jobs.
const (
	// GroupJob is the job of an operation on an item or a replication group.
	GroupJob JobKind = ""
	// PlanJob is the job of a recovery plan.
	PlanJob JobKind = "plan"
	// PartJob is the job of a replication group within a plan.
	PartJob JobKind = "part of a plan"
)

// planStep and endStep are the steps around a job's tasks.
const (
	planStep = "plan"
	endStep  = "end"
)

// Cells lists every task of every operation on a group, over all states in
// which the operation can begin.
func Cells() []Cell {
	var out []Cell
	for _, row := range lifecycle.Table() {
		out = appendCells(out, GroupJob, row.Operation, func(d dr.Direction) []string { return cellTasks(row, d, nil) })
	}
	return out
}

// PlanCells lists every task of every operation on a plan, and those of the
// jobs of its replication groups, each of which has members in all boot groups
// of the document.
func PlanCells(doc rest.Plan) []Cell {
	part := &store.PlanPart{}
	for i := range doc.Groups {
		part.Parts = append(part.Parts, i+1)
	}
	var out []Cell
	for _, op := range PlanOperations() {
		row, ok := lifecycle.RowOf(op)
		if !ok || op == lifecycle.ChangePoint { // which is for single groups
			continue
		}
		out = appendCells(out, PlanJob, op, func(d dr.Direction) []string {
			names, _ := tasksOf(store.Job{Job: rest.Job{Operation: op}, Direction: d, Spec: &store.PlanSpec{Document: doc}})
			return slices.Concat([]string{planStep}, names, []string{compensation, endStep})
		})
		out = appendCells(out, PartJob, op, func(d dr.Direction) []string { return cellTasks(row, d, part) })
	}
	return out
}

// appendCells adds the tasks of an operation, once where both directions have
// the same ones.
func appendCells(out []Cell, kind JobKind, op lifecycle.Operation, tasks func(dr.Direction) []string) []Cell {
	forward, back := tasks(dr.Forward), tasks(dr.Back)
	both := slices.Equal(forward, back)
	for _, t := range forward {
		c := Cell{kind, op, dr.Forward, t}
		if both {
			c.Direction = ""
		}
		out = append(out, c)
	}
	if both {
		return out
	}
	for _, t := range back {
		out = append(out, Cell{kind, op, dr.Back, t})
	}
	return out
}

// cellTasks lists the tasks of an operation in one direction, each once; part
// is nil but for a job within a plan.
func cellTasks(row lifecycle.Row, d dr.Direction, part *store.PlanPart) []string {
	var list []string
	add := func(names ...string) {
		for _, n := range names {
			if !slices.Contains(list, n) {
				list = append(list, n)
			}
		}
	}
	add(planStep)
	for _, from := range row.From {
		names, clean := tasksOf(store.Job{Job: rest.Job{Operation: row.Operation}, Direction: d, FromState: string(from), Part: part})
		add(names...)
		if clean != nil {
			add(compensation)
		}
	}
	add(endStep)
	return list
}
