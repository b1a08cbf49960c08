package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"
	"gopkg.in/yaml.v3"
)

// table is aligned text: rows of cells.
type table struct{ w *tabwriter.Writer }

func (t *table) head(cells ...string) {
	fmt.Fprintln(t.w, strings.Join(cells, "\t"))
}

func (t *table) row(cells ...any) {
	text := make([]string, len(cells))
	for i, c := range cells {
		text[i] = fmt.Sprint(c)
	}
	fmt.Fprintln(t.w, strings.Join(text, "\t"))
}

// print writes a value in the format asked for; rows draws it for people.
func (a *app) print(v any, rows func(*table)) error {
	switch a.output {
	case "json":
		enc := json.NewEncoder(a.Out)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	case "yaml":
		return printYAML(a.Out, v)
	case "table":
		t := &table{w: tabwriter.NewWriter(a.Out, 0, 4, 2, ' ', 0)}
		rows(t)
		return t.w.Flush()
	default:
		return usageError{fmt.Errorf("--output %q: want table, json or yaml", a.output)}
	}
}

// printYAML goes through JSON, so that both formats have the same names.
func printYAML(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode output: %w", err)
	}
	var plain any
	if err := json.Unmarshal(b, &plain); err != nil {
		return fmt.Errorf("encode output: %w", err)
	}
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(plain); err != nil {
		return fmt.Errorf("encode output: %w", err)
	}
	return enc.Close()
}

// when prints a time for people: local, to the millisecond; "-" for none.
func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05.000")
}

// isTerminal reports whether the error stream, where progress goes, is one.
func (a *app) isTerminal() bool {
	f, ok := a.Err.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// bar shows the progress of something long: a moving line on a terminal, a
// plain line every tenth elsewhere, nothing with -o json or yaml.
type bar struct {
	a     *app
	what  string
	live  bool
	quiet bool
	tenth int64
}

func (a *app) newBar(what string) *bar {
	return &bar{a: a, what: what, live: a.isTerminal(), quiet: a.output != "table", tenth: -1}
}

const barWidth = 30

// set shows done of total.
func (b *bar) set(done, total int64) {
	if b.quiet || total <= 0 {
		return
	}
	done = min(done, total)
	if b.live {
		n := int(done * barWidth / total)
		fmt.Fprintf(b.a.Err, "\r%-24s [%s%s] %3d%% ", b.what, strings.Repeat("=", n), strings.Repeat(" ", barWidth-n), done*100/total)
		return
	}
	if t := done * 10 / total; t != b.tenth {
		b.tenth = t
		fmt.Fprintf(b.a.Err, "%s: %d%%\n", b.what, done*100/total)
	}
}

// done ends the line.
func (b *bar) done() {
	if b.live && !b.quiet {
		fmt.Fprintln(b.a.Err)
	}
}
