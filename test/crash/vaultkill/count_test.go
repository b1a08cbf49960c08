package vaultkill

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"rebound/internal/dr"
	"rebound/internal/orchestrator"
	"rebound/internal/vault/rest"
)

// table counts deaths by cell and moment. Trips share it.
type table struct {
	mu     sync.Mutex
	counts map[orchestrator.Cell]map[string]int
	// asked are the deaths while a job waited for a person.
	asked int
	// met are the tasks of the jobs that the vault was killed over.
	met map[orchestrator.Cell]bool
}

func newTable() *table {
	return &table{counts: map[orchestrator.Cell]map[string]int{}, met: map[orchestrator.Cell]bool{}}
}

// waiting is the moment at which a job waits for a person. It is none of the
// orchestrator's: the vault is killed from outside.
const waiting = "waiting"

// kindOf tells what a job is of.
func kindOf(j rest.Job) orchestrator.JobKind {
	switch {
	case j.Parent != "":
		return orchestrator.PartJob
	case j.Plan != "":
		return orchestrator.PlanJob
	}
	return orchestrator.GroupJob
}

// allCells are the cells of every operation on groups and on the plan.
func allCells() []orchestrator.Cell {
	return slices.Concat(orchestrator.Cells(), orchestrator.PlanCells(office("")))
}

// add counts the deaths of a leg. jobs are the leg's, places what the vaults
// wrote down before they died: "JOB TASK MOMENT".
func (tb *table) add(cells []orchestrator.Cell, g leg, d dr.Direction, jobs []rest.Job, places []string) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	cell := func(j rest.Job, task string) orchestrator.Cell {
		c := orchestrator.Cell{Kind: kindOf(j), Operation: g.op, Direction: d, Task: task}
		if !slices.Contains(cells, c) {
			c.Direction = ""
		}
		return c
	}
	for _, p := range places {
		f := strings.Fields(p)
		i := slices.IndexFunc(jobs, func(j rest.Job) bool { return string(j.ID) == f[0] })
		if f[2] == waiting {
			tb.asked++
			continue
		}
		c := cell(jobs[i], f[1])
		if tb.counts[c] == nil {
			tb.counts[c] = map[string]int{}
		}
		tb.counts[c][f[2]]++
	}
	if !g.dies("*") {
		return
	}
	for _, j := range jobs {
		tb.met[cell(j, "plan")], tb.met[cell(j, "end")] = true, true
		for _, t := range j.Tasks {
			tb.met[cell(j, t.Name)] = true
		}
	}
}

// print prints the rows of the wanted cells and returns the places among them
// at which the vault has never died.
func (tb *table) print(t *testing.T, want func(orchestrator.Cell) bool) (empty []string) {
	t.Helper()
	tb.mu.Lock()
	defer tb.mu.Unlock()
	var out strings.Builder
	deaths := 0
	fmt.Fprintf(&out, "%-40s %-24s %7s %7s %7s\n", "operation", "task", "before", "inside", "after")
	for _, c := range allCells() {
		if !want(c) {
			continue
		}
		fmt.Fprintf(&out, "%-40s %-24s", opName(c), c.Task)
		for _, m := range orchestrator.Moments() {
			n := tb.counts[c][m]
			deaths += n
			fmt.Fprintf(&out, " %7d", n)
			if n == 0 {
				empty = append(empty, opName(c)+" "+c.Task+" "+m)
			}
		}
		out.WriteString("\n")
	}
	t.Logf("kill -9 of the vault, %d deaths, and %d while a job waited for a person:\n%s", deaths, tb.asked, out.String())
	return empty
}

func opName(c orchestrator.Cell) string {
	name := string(c.Operation)
	if c.Direction != "" {
		name += " (" + string(c.Direction) + ")"
	}
	if c.Kind != orchestrator.GroupJob {
		name += ", " + string(c.Kind)
	}
	return name
}
