package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// newTable begins a table that fill ends.
func newTable(w io.Writer) *table {
	return &table{w: tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)}
}

func (t *table) fill(rows func(*table)) error {
	rows(t)
	return t.w.Flush()
}

// seconds prints a duration in s for people: "0.12 s", "3m05s".
func seconds(s float64) string {
	switch d := time.Duration(s * float64(time.Second)); {
	case d < 10*time.Second:
		return fmt.Sprintf("%.2f s", s)
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", s)
	default:
		return d.Round(time.Second).String()
	}
}

// secondsOr prints a duration that may be unknown.
func secondsOr(s *float64) string {
	if s == nil {
		return "-"
	}
	return seconds(*s)
}

// size prints an amount of bytes in powers of 1024.
func size(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}

// moment reads a time of a flag: RFC 3339, "2006-01-02 15:04[:05]" local, or a
// duration such as 30m, which means so long ago.
func moment(flag, s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	for _, layout := range []string{"2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	if d, err := time.ParseDuration(strings.TrimPrefix(s, "-")); err == nil {
		return now.Add(-d), nil
	}
	return time.Time{}, usageError{fmt.Errorf("--%s %q: want an RFC 3339 time, \"2006-01-02 15:04\", or a duration ago such as 30m", flag, s)}
}

// join prints a list of names.
func join[S ~string](list []S) string {
	if len(list) == 0 {
		return "-"
	}
	text := make([]string, len(list))
	for i, s := range list {
		text[i] = string(s)
	}
	return strings.Join(text, ", ")
}

// or prints a dash for an empty text.
func or[S ~string](s S) string {
	if s == "" {
		return "-"
	}
	return string(s)
}
