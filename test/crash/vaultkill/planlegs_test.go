package vaultkill

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// lines is where the plan's script leaves its lines.
func (l *lab) lines() string { return filepath.Join(filepath.Dir(l.dir), "lines") }

// havePlan makes the plan, and the second person who approves.
func (l *lab) havePlan() {
	l.t.Helper()
	if l.doc.ID != "" {
		return
	}
	l.doc = office(l.lines())
	_, err := l.c.PutPlan(l.t.Context(), l.doc)
	l.must(err)
	token, err := l.c.CreateToken(l.t.Context(), rest.NewToken{Name: "second", Role: "operator"})
	l.must(err)
	ca, err := os.ReadFile(filepath.Join(l.dir, "vault-ca.pem"))
	l.must(err)
	l.second, err = client.New(client.Config{URL: "https://" + l.addr, Token: token.Secret, CA: ca})
	l.must(err)
	l.t.Cleanup(l.second.Close)
}

func (l *lab) planAllowed(op lifecycle.Operation) bool {
	p, err := l.c.Plan(l.t.Context(), l.doc.ID)
	if err != nil {
		return false
	}
	for _, s := range p.AllowedOperations {
		if s.Name == op {
			return s.Allowed
		}
	}
	return false
}

// answer answers what a plan waits for. With kill, the vault dies first, while
// it waits.
func (l *lab) answer(g leg, j rest.Job, kill bool) {
	l.t.Helper()
	task := ""
	for _, t := range j.Tasks {
		if t.State == rest.JobWaiting && t.Waiting != nil {
			task = t.Name
		}
	}
	if j.Waiting == nil || task == "" {
		return
	}
	if kill && g.dies("*") && l.dieWaiting(j.ID, task) {
		return
	}
	verdict, by := "resume", l.c
	if j.Waiting.Kind == "approval" {
		verdict, by = "approve", l.second
	}
	if g.reject == j.Waiting.Kind {
		verdict = "reject"
	}
	// The vault may die before it answers; then the job is looked at again.
	_, _ = by.AnswerJob(l.t.Context(), j.ID, verdict, rest.JobAnswer{})
}

// dieWaiting kills the vault from outside, once at each question.
func (l *lab) dieWaiting(job dr.JobID, task string) bool {
	l.t.Helper()
	path := filepath.Join(l.dir, killedFile)
	where := fmt.Sprintf("%s %s %s", job, task, waiting)
	if bytes.Contains(mustRead(path), []byte(where+"\n")) {
		return false
	}
	l.must(l.vault.cmd.Process.Kill())
	end := <-l.vault.done
	l.vault.done <- end // through starts the next one
	l.must(appendLine(path, where))
	return true
}

// cancelHeld cancels the leg's job, which the vault holds before its first task.
func (l *lab) cancelHeld(g leg, before dr.JobID) {
	l.t.Helper()
	var id dr.JobID
	l.until("the job is written down", func() bool { id = l.lastJob(g); return id != "" && id != before })
	_, err := l.c.JobAction(l.t.Context(), id, "cancel")
	l.must(err)
}
