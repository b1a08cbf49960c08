package orchestrator

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// A recovery plan is a job of its own. Its replication groups have ordinary
// jobs, which it begins and whose tasks wait at gates for the plan's: the
// machines of a group start with their boot groups, though they share one
// failover. What a plan does and in which order is in this file.

// planMark begins the written list of a plan's tasks.
const planMark = "plan/"

// goOnKey marks, in a failed task's result, that the job went on with the next
// task.
const goOnKey = "wentOn"

// The tasks that open gates; "@" and the number of a boot group follow where
// there is one task for each.
const (
	planShutDown = "plan-shut-down"
	planFailOver = "plan-fail-over"
	planBoot     = "plan-boot"
	planAct      = "plan-act"
)

// planCatalogue are the tasks of plans, and those that the jobs of their groups
// have besides the ordinary ones.
func planCatalogue() []task {
	return []task{
		{name: "plan-begin", title: "Begin the jobs of the replication groups", always: true, run: beginChildren},
		{name: planShutDown, title: "Shut the source machines down", run: awaitShutDown},
		{name: planFailOver, title: "Fail every replication group over", run: awaitFailOver},
		{name: planBoot, title: "Boot", run: awaitBootGroup},
		{name: planAct, title: "Action", run: runAction},
		{name: "plan-end", title: "Wait for the jobs of the replication groups", always: true, run: awaitEnd},
		{name: "watch-test", title: "Watch the test machines boot", run: watchTest},
	}
}

// taskNamed finds a task by the name that is written down, which may have "@"
// and a part after the name in the catalogue.
func taskNamed(all map[string]task, name string) (task, bool) {
	t, ok := all[base(name)]
	if !ok {
		return task{name: name}, false
	}
	_, t.arg, _ = strings.Cut(name, "@")
	t.name = name
	if n, err := strconv.Atoi(t.arg); err == nil {
		t.part = n
	}
	return t, true
}

// base is a task's name without its part.
func base(name string) string {
	name, _, _ = strings.Cut(name, "@")
	return name
}

// at is a task's name with its part.
func at(name string, part int) string { return fmt.Sprintf("%s@%d", name, part) }

// begun reports whether a task was started.
func begun(t rest.Task) bool {
	switch t.State {
	case rest.JobPending, rest.JobSkipped:
		return false
	case rest.JobCancelled: // in the middle, or before it began
		return !t.Started.IsZero()
	}
	return true
}

// goesOn reports whether a job goes on with its next task when this one fails:
// the machines of other boot groups start though one does not.
func (r *run) goesOn() bool {
	if r.job.Part == nil {
		return false
	}
	switch base(r.task.name) {
	case "start-machines", "watch-boot", "start-test", "watch-test":
		return true
	}
	return false
}

// inParts splits the tasks of a group's job where the order of boot groups
// matters.
func inParts(names []string, part *store.PlanPart) []string {
	if part == nil {
		return names
	}
	var out []string
	for _, n := range names {
		switch n {
		case shutDownTask:
			for _, p := range slices.Backward(part.Parts) {
				out = append(out, at(n, p))
			}
		case "start-machines":
			for _, p := range part.Parts {
				out = append(out, at(n, p), at("watch-boot", p))
			}
		case "start-test":
			for _, p := range part.Parts {
				out = append(out, at(n, p), at("watch-test", p))
			}
		case "watch-boot":
		default:
			out = append(out, n)
		}
	}
	return out
}

// gateOf is the task of a plan that must have begun before a task of one of its
// groups may; "" when there is none.
func gateOf(t task) string {
	switch base(t.name) {
	case shutDownTask:
		return at(planShutDown, t.part)
	case "drain", "raise-generation":
		return planFailOver
	case "start-machines", "start-test":
		return at(planBoot, t.part)
	}
	return ""
}

// ordered are the operations of a plan that have boot groups and actions; the
// others go to all replication groups at the same time.
func ordered(op lifecycle.Operation) bool {
	return op == lifecycle.Failover || op == lifecycle.Failback || op == lifecycle.TestFailover
}

// planTasks are the tasks of a plan's job.
func planTasks(j store.Job) []string {
	if !ordered(j.Operation) {
		return words("plan-begin plan-end")
	}
	doc, when := j.Spec.Document, whenOf(j)
	out := actionTasks(nil, doc.Before, 0, "b", when)
	out = append(out, "plan-begin")
	if j.Operation != lifecycle.TestFailover {
		for n := len(doc.Groups); n > 0; n-- {
			out = append(out, at(planShutDown, n))
		}
		out = append(out, planFailOver)
	}
	for i, g := range doc.Groups {
		out = actionTasks(out, g.Before, i+1, "b", when)
		out = append(out, at(planBoot, i+1))
		out = actionTasks(out, g.After, i+1, "a", when)
	}
	out = actionTasks(out, doc.After, 0, "a", when)
	return append(out, "plan-end")
}

// actionTasks adds the actions that are done in this kind of run. The name of a
// task holds the boot group (0 is the plan), b or a for before and after, and the
// place in the list.
func actionTasks(out []string, list []rest.PlanAction, group int, side string, when rest.PlanWhen) []string {
	for i, a := range list {
		if len(a.When) == 0 || slices.Contains(a.When, when) {
			out = append(out, fmt.Sprintf("%s@%d.%s.%d", planAct, group, side, i))
		}
	}
	return out
}

func whenOf(j store.Job) rest.PlanWhen {
	switch {
	case j.Operation == lifecycle.TestFailover:
		return rest.WhenTest
	case j.Direction == dr.Back:
		return rest.WhenBack
	}
	return rest.WhenForward
}

// actionOf finds the action of a task, and its boot group.
func actionOf(doc rest.Plan, arg string) (a rest.PlanAction, group int, err error) {
	fields := strings.Split(arg, ".")
	unknown := fmt.Errorf("the plan has no action %q", arg)
	if len(fields) != 3 {
		return a, 0, unknown
	}
	group, err1 := strconv.Atoi(fields[0])
	i, err2 := strconv.Atoi(fields[2])
	if err1 != nil || err2 != nil || group < 0 || group > len(doc.Groups) {
		return a, 0, unknown
	}
	list := map[string][]rest.PlanAction{"b": doc.Before, "a": doc.After}
	if group > 0 {
		g := doc.Groups[group-1]
		list = map[string][]rest.PlanAction{"b": g.Before, "a": g.After}
	}
	if i < 0 || i >= len(list[fields[1]]) {
		return a, 0, unknown
	}
	return list[fields[1]][i], group, nil
}

// planTitle is what people read of a plan's task.
func planTitle(spec *store.PlanSpec, t task) string {
	switch base(t.name) {
	case planAct:
		a, _, err := actionOf(spec.Document, t.arg)
		if err != nil {
			return t.title
		}
		return fmt.Sprintf("%s: %s", kindOf(a), a.Name)
	case planBoot, planShutDown:
		return fmt.Sprintf("%s: %s", t.title, groupName(spec.Document, t.part))
	}
	return t.title
}

// groupName is what people call a boot group.
func groupName(doc rest.Plan, n int) string {
	name := fmt.Sprintf("boot group %d", n)
	if n > 0 && n <= len(doc.Groups) && doc.Groups[n-1].Name != "" {
		name += " (" + doc.Groups[n-1].Name + ")"
	}
	return name
}

func kindOf(a rest.PlanAction) string {
	switch {
	case a.Script != nil:
		return "Script"
	case a.HTTP != nil:
		return "HTTP call"
	case a.Manual != nil:
		return "Manual action"
	}
	return "Approval"
}

// members are the machines that the task is of.
func (r *run) members() []store.Member { return r.membersOf(r.task.part) }

func (r *run) membersOf(part int) []store.Member {
	if part == 0 || r.job.Part == nil {
		return r.group.Members
	}
	var out []store.Member
	for _, m := range r.group.Members {
		if r.job.Part.Boot[m.Machine] == part {
			out = append(out, m)
		}
	}
	return out
}
