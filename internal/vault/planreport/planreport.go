// Package planreport writes the report of one run of a recovery plan: every
// step with its times, who did it, what was captured, and what came of each
// machine. The page needs no script and no other file, and prints well. It is
// pure; the API calls it.
package planreport

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"rebound/internal/vault/rest"
)

//go:embed report.html
var page string

// JSON writes the report for programs.
func JSON(w io.Writer, r rest.PlanReport) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(r); err != nil {
		return fmt.Errorf("encode report: %w", err)
	}
	return nil
}

// HTML writes the report as a page.
func HTML(w io.Writer, r rest.PlanReport) error {
	t, err := template.New("report").Funcs(template.FuncMap{
		"when": when, "took": took, "secs": secs, "results": results, "output": output,
	}).Parse(page)
	if err != nil {
		return fmt.Errorf("parse report: %w", err)
	}
	if err := t.Execute(w, r); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

func when(t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	return t.UTC().Format("2006-01-02 15:04:05.0 UTC")
}

func took(from, to time.Time) string {
	if from.IsZero() || to.IsZero() {
		return "–"
	}
	return to.Sub(from).Round(100 * time.Millisecond).String()
}

func secs(f *float64) string {
	if f == nil {
		return "–"
	}
	return fmt.Sprintf("%.1f s", *f)
}

// pair is one line of a task's result.
type pair struct{ Key, Value string }

// captured are the results that are shown as they came.
func captured(key string) bool { return key == "stdout" || key == "stderr" || key == "body" }

// results are what a task found or did, but for captured output and what the
// table of machines says already.
func results(m map[string]any) []pair { return pairs(m, false) }

// output is what scripts wrote and what calls were answered.
func output(m map[string]any) []pair { return pairs(m, true) }

func pairs(m map[string]any, raw bool) []pair {
	var out []pair
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if captured(k) != raw || k == "answer" || k == "wentOn" || strings.Contains(k, "/") {
			continue
		}
		text, ok := m[k].(string)
		if !ok {
			b, err := json.Marshal(m[k])
			if err != nil {
				continue
			}
			text = string(b)
		}
		if text != "" {
			out = append(out, pair{k, text})
		}
	}
	return out
}
