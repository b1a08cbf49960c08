package report

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
)

// Marks around the part of a document that Document replaces.
const (
	beginMark = "<!-- bench -->"
	endMark   = "<!-- /bench -->"
)

// row is an axis in words.
func (a *Axis) row() [7]string {
	goal := "≥ "
	if a.Better == Lower {
		goal = "≤ "
	}
	goal += number(&a.Goal)
	if a.GoalOf == OfRatio {
		goal += " × peer"
	}
	r := [7]string{a.Name, a.Unit, number(a.Ours), number(a.Peer), number(a.Ratio), goal, ""}
	switch {
	case a.Error != "":
		r[6] = "FAILED"
	case a.Met == nil:
		r[6] = "not measured"
	case *a.Met:
		r[6] = "met"
	default:
		r[6] = "missed"
	}
	return r
}

var head = [7]string{"axis", "unit", "ours", "peer", "ratio", "goal", "result"}

// number prints three or more significant digits and "-" for none.
func number(v *float64) string {
	switch {
	case v == nil:
		return "-"
	case *v >= 100 || *v <= -100:
		return strconv.FormatFloat(*v, 'f', 0, 64)
	default:
		return strconv.FormatFloat(*v, 'g', 3, 64)
	}
}

// remarks returns what is said below the table.
func (r *Report) remarks() []string {
	var out []string
	for i := range r.Axes {
		a := &r.Axes[i]
		for _, s := range []string{a.Error, a.Reason, a.Note} {
			if s != "" {
				out = append(out, a.Name+": "+s)
			}
		}
	}
	return out
}

// Print writes the table for a terminal.
func (r *Report) Print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(head[:], "\t"))
	for i := range r.Axes {
		row := r.Axes[i].row()
		fmt.Fprintln(t, strings.Join(row[:], "\t"))
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print table: %w", err)
	}
	for _, s := range r.remarks() {
		if _, err := fmt.Fprintln(w, "  "+s); err != nil {
			return fmt.Errorf("print remarks: %w", err)
		}
	}
	return nil
}

// Markdown returns the table for a document.
func (r *Report) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Run of %s, form %q, %.0f minutes, on %s.\n\n", r.Started.UTC().Format("2006-01-02 15:04 MST"), r.Form, r.Seconds/60, r.Machine)
	fmt.Fprintf(&b, "| %s |\n|---|---|---:|---:|---:|---:|---|\n", strings.Join(head[:], " | "))
	for i := range r.Axes {
		row := r.Axes[i].row()
		fmt.Fprintf(&b, "| %s |\n", strings.Join(row[:], " | "))
	}
	if notes := r.remarks(); len(notes) > 0 {
		b.WriteString("\n")
		for _, s := range notes {
			fmt.Fprintf(&b, "- %s\n", strings.ReplaceAll(s, "\n", " "))
		}
	}
	return b.String()
}

// Document puts the table between the marks of a document.
func (r *Report) Document(path string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read document: %w", err)
	}
	before, rest, ok := strings.Cut(string(old), beginMark)
	_, after, closed := strings.Cut(rest, endMark)
	if !ok || !closed {
		return fmt.Errorf("document %s: want %s and then %s", path, beginMark, endMark)
	}
	text := before + beginMark + "\n" + r.Markdown() + endMark + after
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return fmt.Errorf("write document: %w", err)
	}
	return nil
}
