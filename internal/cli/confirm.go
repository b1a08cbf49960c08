package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"rebound/internal/problem"
	"rebound/internal/vault/rest"
)

func (a *app) stdinIsTerminal() bool {
	f, ok := a.In.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// confirm asks before something is lost or deleted: say prints what. The
// answer is the name of the thing, so that nobody confirms the wrong one by
// habit. With --yes it does not ask; without a terminal it refuses.
func (a *app) confirm(ctx context.Context, what, name string, say func(io.Writer) error) error {
	if a.yes {
		return nil
	}
	if !a.interactive() {
		return problem.New(problem.NotConfirmed, "%s %s", what, name)
	}
	if err := say(a.Err); err != nil {
		return err
	}
	fmt.Fprintf(a.Err, "\nType the name %q to %s: ", name, what)
	answer, err := a.readLine(ctx)
	if err != nil {
		return err
	}
	if answer != name {
		return problem.New(problem.NotConfirmed, "%s %s: the answer was %q", what, name, answer)
	}
	return nil
}

// readLine reads one line of the standard input, or ends with ctx.
func (a *app) readLine(ctx context.Context) (string, error) {
	type read struct {
		line string
		err  error
	}
	got := make(chan read, 1)
	go func() {
		line, err := bufio.NewReader(a.In).ReadString('\n')
		if errors.Is(err, io.EOF) {
			err = nil
		}
		got <- read{strings.TrimSpace(line), err}
	}()
	select {
	case r := <-got:
		return r.line, r.err
	case <-ctx.Done():
		fmt.Fprintln(a.Err)
		return "", problem.New(problem.NotConfirmed, "interrupted")
	}
}

// writeDryRun says what an operation would do, for people.
func writeDryRun(w io.Writer, d rest.DryRun) error {
	return newTable(w).fill(func(t *table) { dryRunRows(t, d) })
}

func dryRunRows(t *table, d rest.DryRun) {
	t.row("Operation", fmt.Sprintf("%s of %s", d.Operation, d.Target))
	if r := d.Recovered; r != nil {
		t.row("Moment", fmt.Sprintf("%s (%s, %s)", when(r.Time), r.Selector, r.Position))
		t.row("Lost", fmt.Sprintf("%s of received history, %s", seconds(r.LostSeconds), size(r.LostBytes)))
	}
	if r := d.Recovered; r != nil {
		memberMoments(t, r.Members)
	}
	for _, p := range d.Proofs {
		t.row("Proof", fmt.Sprintf("%s: %s (%s)", p.Machine, p.Evidence, p.Detail))
	}
	listRows(t, "Loses", d.Loses)
	listRows(t, "Creates", d.Creates)
	listRows(t, "Deletes", d.Deletes)
	listRows(t, "Keeps", d.Keeps)
	listRows(t, "Warning", d.Warnings)
	for i, task := range d.Tasks {
		t.row(fmt.Sprintf("Task %d", i+1), task)
	}
}

func listRows(t *table, name string, list []string) {
	for _, s := range list {
		t.row(name, s)
	}
}
