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
	Operation lifecycle.Operation
	// Direction is empty where the operation has the same tasks both ways.
	Direction dr.Direction
	Task      string
}

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
		forward, back := cellTasks(row, dr.Forward), cellTasks(row, dr.Back)
		switch {
		case slices.Equal(forward, back):
			out = appendCells(out, row.Operation, "", forward)
		default:
			out = appendCells(out, row.Operation, dr.Forward, forward)
			out = appendCells(out, row.Operation, dr.Back, back)
		}
	}
	return out
}

func appendCells(out []Cell, op lifecycle.Operation, d dr.Direction, tasks []string) []Cell {
	for _, t := range tasks {
		out = append(out, Cell{op, d, t})
	}
	return out
}

// cellTasks lists the tasks of an operation in one direction, each once.
func cellTasks(row lifecycle.Row, d dr.Direction) []string {
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
		names, clean := tasksOf(store.Job{Job: rest.Job{Operation: row.Operation}, Direction: d, FromState: string(from)})
		add(names...)
		if clean != nil {
			add(compensation)
		}
	}
	add(endStep)
	return list
}
