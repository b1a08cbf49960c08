package cli

import (
	"fmt"
	"strings"
	"time"

	"rebound/internal/control"
	"rebound/internal/vault/rest"
)

// jobProgress tells on the error stream how a job goes on: a line for each
// task that ended, and for the running one a moving line on a terminal or a
// plain line each tenth elsewhere. With -o json and yaml it says nothing.
type jobProgress struct {
	a       *app
	live    bool
	attempt int
	told    map[string]bool      // tasks whose end is printed
	tenth   map[string]string    // last plain line of a running task
	since   map[string]time.Time // when a running task was first seen, for the moving line
	moving  bool                 // a moving line stands on the terminal
}

func (a *app) newJobProgress() *jobProgress {
	return &jobProgress{a: a, live: a.isTerminal()}
}

// show takes the job's newest state.
func (p *jobProgress) show(j rest.Job) {
	if p.a.output != "table" {
		return
	}
	p.begin(j)
	p.clear()
	var running *rest.Task
	var runningKey string
	for i := range j.Tasks {
		t := &j.Tasks[i]
		key := fmt.Sprint(i, t.Name)
		switch {
		case t.State.Ended() && !p.told[key]:
			p.told[key] = true
			p.ended(*t)
		case t.State == rest.JobRunning && p.live:
			running, runningKey = t, key
		case t.State == rest.JobRunning:
			p.plain(key, *t)
		}
	}
	if running != nil {
		p.move(runningKey, *running)
	}
}

// begin starts the list anew when the job is a new attempt.
func (p *jobProgress) begin(j rest.Job) {
	if p.told != nil && p.attempt == j.Attempt {
		return
	}
	p.attempt, p.told, p.tenth, p.since = j.Attempt, map[string]bool{}, map[string]string{}, map[string]time.Time{}
	of := ""
	if j.Group != "" {
		of = " of " + string(j.Group)
	}
	if j.Plan != "" && j.Group == "" {
		of = " of plan " + string(j.Plan)
	}
	again := ""
	if j.Attempt > 1 {
		again = fmt.Sprintf(", attempt %d", j.Attempt)
	}
	fmt.Fprintf(p.a.Err, "%s%s (job %s%s)\n", j.Operation, of, j.ID, again)
}

func (p *jobProgress) ended(t rest.Task) {
	fmt.Fprintf(p.a.Err, "  %-9s %-52s %8s\n", mark(t.State), t.Title, took(t.Started, t.Ended))
	for _, w := range t.Warnings {
		fmt.Fprintf(p.a.Err, "            warning: %s\n", w)
	}
	if t.Problem != nil {
		fmt.Fprintf(p.a.Err, "            %v\n", t.Problem)
	}
}

// mark is the word at the beginning of an ended task's line.
func mark(s rest.JobState) string {
	if s == rest.JobSucceeded {
		return "done"
	}
	return string(s)
}

// plain prints a running task's line when its tenth or its text is new.
func (p *jobProgress) plain(key string, t rest.Task) {
	line := "running"
	if g := t.Progress; g.Total > 0 {
		line = fmt.Sprintf("%d%%", min(g.Done, g.Total)*10/g.Total*10)
	}
	if t.Progress.Text != "" {
		line += " " + t.Progress.Text
	}
	if p.tenth[key] == line {
		return
	}
	p.tenth[key] = line
	fmt.Fprintf(p.a.Err, "  %-9s %-52s %8s\n", "running", t.Title, strings.TrimPrefix(line, "running"))
}

// move draws the running task's line over the last one.
func (p *jobProgress) move(key string, t rest.Task) {
	p.moving = true
	if p.since[key].IsZero() {
		p.since[key] = time.Now()
	}
	fmt.Fprintf(p.a.Err, "\r\x1b[K  %-9s %-52s %8s %s", "running", t.Title, seconds(time.Since(p.since[key]).Truncate(time.Second).Seconds()), progressText(t.Progress))
}

func (p *jobProgress) clear() {
	if p.moving {
		fmt.Fprint(p.a.Err, "\r\x1b[K")
	}
	p.moving = false
}

// progressText is a bar with amounts, or what there is of them.
func progressText(g control.Progress) string {
	if g.Total <= 0 {
		return g.Text
	}
	g.Done = min(max(g.Done, 0), g.Total)
	n := int(g.Done * barWidth / g.Total)
	return fmt.Sprintf("[%s%s] %3d%% %s %s", strings.Repeat("=", n), strings.Repeat(" ", barWidth-n), g.Done*100/g.Total, amounts(g), g.Text)
}

func amounts(g control.Progress) string {
	if g.Unit == "bytes" {
		return size(g.Done) + " of " + size(g.Total)
	}
	return strings.TrimSpace(fmt.Sprintf("%d of %d %s", g.Done, g.Total, g.Unit))
}

// took is the time between two moments, "-" when one is missing.
func took(from, to time.Time) string {
	if from.IsZero() || to.IsZero() {
		return "-"
	}
	return seconds(to.Sub(from).Seconds())
}
