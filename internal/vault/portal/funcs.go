package portal

import (
	"errors"
	"fmt"
	"html/template"
	"math"
	"strings"
	"time"

	"rebound/internal/lifecycle"
	"rebound/internal/vault/rest"
)

// functions are what templates can call.
func (p *Portal) functions() template.FuncMap {
	return template.FuncMap{
		"asset": p.assets.path,
		"icon":  icon,
		"time":  timeTag, "ago": p.agoTag, "clock": clockTag,
		"bytes": bytesText, "rate": rateText, "seconds": secondsText, "percent": percent, "took": p.took,
		"stateWord": stateWord, "healthWord": healthWord, "operationWord": operationWord, "jobTone": jobTone, "stateTone": stateTone,
		"dict": dict, "join": joinStrings, "now": p.Now, "plural": plural,
	}
}

// dict makes the data of a partial from names and values.
func dict(pairs ...any) (map[string]any, error) {
	if len(pairs)%2 != 0 {
		return nil, errors.New("dict: a name without a value")
	}
	out := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		name, ok := pairs[i].(string)
		if !ok {
			return nil, fmt.Errorf("dict: %v is no name", pairs[i])
		}
		out[name] = pairs[i+1]
	}
	return out, nil
}

// joinStrings joins any list of strings.
func joinStrings(sep string, list any) string {
	s := fmt.Sprintf("%s", list)
	return strings.Join(strings.Fields(strings.Trim(s, "[]")), sep)
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func utcText(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") + " UTC" }

// timeTag shows a moment: in UTC, which script turns into the reader's zone
// with UTC on hover.
func timeTag(t time.Time) template.HTML { return timeElement(t, "", utcText(t)) }

// clockTag is timeTag with milliseconds, for moments of the history.
func clockTag(t time.Time) template.HTML {
	return timeElement(t, ` data-fine`, t.UTC().Format("2006-01-02 15:04:05.000")+" UTC")
}

// agoTag shows how long ago a moment was; script keeps it fresh.
func (p *Portal) agoTag(t time.Time) template.HTML {
	return timeElement(t, ` data-ago`, secondsText(p.Now().Sub(t))+" ago")
}

func timeElement(t time.Time, attr, text string) template.HTML {
	if t.IsZero() {
		return `<span class="none">–</span>`
	}
	// Nothing of this comes from outside.
	return template.HTML(fmt.Sprintf(`<time datetime="%s" title="%s"%s>%s</time>`, t.UTC().Format(time.RFC3339Nano), utcText(t), attr, text)) //nolint:gosec // see above
}

// bytesText says a size in binary units.
func bytesText(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v := float64(n)
	i := -1
	for v >= 1024 && i < len(units)-1 {
		v /= 1024
		i++
	}
	if v >= 100 {
		return fmt.Sprintf("%.0f %ciB", v, units[i])
	}
	return fmt.Sprintf("%.1f %ciB", v, units[i])
}

// rateText says bytes per second.
func rateText(v float64) string { return bytesText(int64(math.Max(v, 0))) + "/s" }

// secondsText says a length of time in at most two units.
func secondsText(v any) string {
	s, ok := secondsOf(v)
	if !ok {
		return "–"
	}
	switch {
	case s < 0:
		return "0 s"
	case s < 9.95:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", s), ".0") + " s"
	case s < 60:
		return fmt.Sprintf("%.0f s", s)
	case s < 3600:
		return twoUnits(s, 60, "min", 1, "s")
	case s < 86400:
		return twoUnits(s, 3600, "h", 60, "min")
	default:
		return twoUnits(s, 86400, "d", 3600, "h")
	}
}

func twoUnits(s, big float64, bigName string, small float64, smallName string) string {
	rest := math.Floor(math.Mod(s, big) / small)
	if rest == 0 {
		return fmt.Sprintf("%.0f %s", math.Floor(s/big), bigName)
	}
	return fmt.Sprintf("%.0f %s %.0f %s", math.Floor(s/big), bigName, rest, smallName)
}

func secondsOf(v any) (float64, bool) {
	switch v := v.(type) {
	case float64:
		return v, true
	case *float64:
		if v == nil {
			return 0, false
		}
		return *v, true
	case int64:
		return float64(v), true
	case int:
		return float64(v), true
	case time.Duration:
		return v.Seconds(), true
	default:
		return 0, false
	}
}

// took says how long something lasted, until now when it has not ended.
func (p *Portal) took(from, to time.Time) string {
	switch {
	case from.IsZero():
		return "–"
	case to.IsZero():
		return secondsText(p.Now().Sub(from))
	default:
		return secondsText(to.Sub(from))
	}
}

// percent of a whole, 0 to 100.
func percent(part, whole int64) int {
	if whole <= 0 {
		return 0
	}
	return int(min(100, max(0, part*100/whole)))
}

// stateWord says a state as people do.
func stateWord(s lifecycle.State) string {
	switch s {
	case lifecycle.InitialSync:
		return "First copy"
	case lifecycle.WaitingForFirstPoint:
		return "Waiting for first point"
	case lifecycle.FailingOver:
		return "Failing over"
	case lifecycle.FailoverFailed:
		return "Failover failed"
	case lifecycle.CommitPending:
		return "Failed over, commit pending"
	case lifecycle.ChangingPoint:
		return "Changing point"
	default:
		return string(s)
	}
}

// stateTone is the colour class of a state.
func stateTone(s lifecycle.State) string {
	switch s {
	case lifecycle.Protected:
		return "ok"
	case lifecycle.CommitPending, lifecycle.Tracking, lifecycle.Paused, lifecycle.Committed:
		return "warn"
	case lifecycle.FailoverFailed, lifecycle.Unprotected:
		return "crit"
	default:
		return "busy"
	}
}

// healthWord says a health or a severity as people do.
func healthWord(h any) string {
	switch fmt.Sprint(h) {
	case rest.HealthOK:
		return "Healthy"
	case rest.HealthWarning:
		return "Warning"
	case rest.HealthCritical:
		return "Critical"
	case string(rest.SeverityInfo):
		return "Info"
	default:
		return "Unknown"
	}
}

// operationWord is the label of an operation's button.
func operationWord(op lifecycle.Operation) string {
	switch op {
	case lifecycle.ChangePoint:
		return "Change recovery point"
	case lifecycle.TestFailover:
		return "Test failover"
	case lifecycle.TestCleanup:
		return "Clean up test failover"
	case lifecycle.Resync:
		return "Resynchronise"
	case lifecycle.CreatePoint:
		return "Create recovery point"
	case lifecycle.CompleteMigration:
		return "Complete migration"
	case lifecycle.Reprotect:
		return "Re-protect"
	case lifecycle.Disable:
		return "Disable replication"
	case lifecycle.Undo:
		return "Undo failover"
	default:
		s := string(op)
		if s == "" {
			return ""
		}
		return strings.ToUpper(s[:1]) + strings.ReplaceAll(s[1:], "-", " ")
	}
}

// jobTone is the colour class of a job's or a task's state.
func jobTone(s rest.JobState) string {
	switch s {
	case rest.JobSucceeded:
		return "ok"
	case rest.JobWarning, rest.JobWaiting:
		return "warn"
	case rest.JobFailed:
		return "crit"
	case rest.JobRunning:
		return "busy"
	default:
		return "idle"
	}
}
