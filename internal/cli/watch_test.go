package cli

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"rebound/internal/control"
	"rebound/internal/vault/rest"
)

// background runs a command line until stop is called, which returns its exit
// code; text is what it has written so far.
func background(t *testing.T, args ...string) (text func() string, stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var out, errOut lockedBuffer
	done := make(chan int, 1)
	go func() { done <- Run(ctx, args, Streams{In: strings.NewReader(""), Out: &out, Err: &errOut}) }()
	t.Cleanup(cancel)
	return out.String, func() int {
		cancel()
		return <-done
	}
}

func TestWatchGroupAndEvents(t *testing.T) {
	l := newLab(t).protected()
	group, stopGroup := background(t, "group", "watch", "shop")
	item, stopItem := background(t, "item", "watch", "web", "-o", "json")
	events, stopEvents := background(t, "event", "watch", "--after", "0", "-o", "json")
	l.until("the first lines", func() bool {
		return strings.Contains(group(), "Protected") && strings.Contains(item(), "\n")
	})
	want(t, exitOK, "pause", "shop")
	l.until("the pause", func() bool { return strings.Contains(group(), "Paused") && strings.Contains(item(), `"Paused"`) })
	l.cloud.SetClock(10 * time.Minute)
	l.until("the event of a wrong clock", func() bool { return strings.Contains(events(), `"gateway":"gw-cloud"`) })
	contains(t, want(t, exitOK, "event", "list").out, "gw-cloud")
	for name, stop := range map[string]func() int{"group": stopGroup, "item": stopItem, "event": stopEvents} {
		if code := stop(); code != exitOK {
			t.Errorf("%s watch: exit %d", name, code)
		}
	}
	for _, line := range strings.Split(strings.TrimSpace(item()), "\n") {
		var r rest.Replication
		if err := json.Unmarshal([]byte(line), &r); err != nil || r.State == "" {
			t.Errorf("line %q: %v", line, err)
		}
	}
	listed := read[[]rest.Event](t, "event", "list", "--limit", "0")
	if n := strings.Count(events(), "\n"); n > len(listed) {
		t.Errorf("%d lines of %d events", n, len(listed))
	}
	for _, line := range strings.Split(strings.TrimSpace(events()), "\n") {
		var e rest.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Code == "" {
			t.Errorf("line %q: %v", line, err)
		}
	}
}

// TestTail: the newest rows of a log of several pages.
func TestTail(t *testing.T) {
	asked := 0
	read := func(after int64, limit int) ([]int64, error) {
		asked++
		var page []int64
		for i := after + 1; i <= 2500 && len(page) < limit; i++ {
			page = append(page, i)
		}
		return page, nil
	}
	self := func(n int64) int64 { return n }
	rows, err := tail(0, 3, self, read)
	if err != nil || len(rows) != 3 || rows[0] != 2498 || rows[2] != 2500 || asked != 3 {
		t.Errorf("tail: %v, %v after %d pages", rows, err, asked)
	}
	if rows, err = tail(2400, 0, self, read); err != nil || len(rows) != 100 {
		t.Errorf("all after 2400: %d rows, %v", len(rows), err)
	}
	if rows, err = tail(2500, 3, self, read); err != nil || rows == nil || len(rows) != 0 {
		t.Errorf("none: %v, %v", rows, err)
	}
}

func TestProgressText(t *testing.T) {
	for _, c := range []struct {
		g    control.Progress
		want string
	}{
		{control.Progress{Text: "waiting"}, "waiting"},
		{control.Progress{Done: 1 << 20, Total: 2 << 20, Unit: "bytes"}, " 50% 1.0 MiB of 2.0 MiB"},
		{control.Progress{Done: 5, Total: 4, Unit: "machines"}, "100% 4 of 4 machines"},
		{control.Progress{Done: -1, Total: 4}, "  0% "},
	} {
		if got := progressText(c.g); !strings.Contains(got, c.want) {
			t.Errorf("%+v: %q, want %q in it", c.g, got, c.want)
		}
	}
}

// TestPlainProgressByTenths: a running task prints a line for each tenth and
// not for each look at it; on a terminal it moves.
func TestPlainProgressByTenths(t *testing.T) {
	for _, live := range []bool{false, true} {
		var out lockedBuffer
		a := newApp(Streams{Err: &out})
		a.output = "table"
		p := a.newJobProgress()
		p.live = live
		for done := range int64(101) {
			p.show(rest.Job{Operation: "resync", Attempt: 1, Tasks: []rest.Task{{Name: "t", Title: "Compare", State: rest.JobRunning, Progress: control.Progress{Done: done, Total: 100}}}})
		}
		p.show(rest.Job{Operation: "resync", Attempt: 1, Tasks: []rest.Task{{Name: "t", Title: "Compare", State: rest.JobSucceeded}}})
		lines := strings.Count(out.String(), "\n")
		if live && (lines != 2 || !strings.Contains(out.String(), "\r")) || !live && lines != 1+11+1 {
			t.Errorf("live %v: %d lines:\n%q", live, lines, out.String())
		}
	}
}

func TestUnits(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1 << 40: "1.0 TiB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q", n, got)
		}
	}
	for s, want := range map[float64]string{0.125: "0.12 s", 12.34: "12.3 s", 185: "3m5s"} {
		if got := seconds(s); got != want {
			t.Errorf("seconds(%v) = %q, want %q", s, got, want)
		}
	}
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for in, want := range map[string]time.Time{
		"": {}, "30m": now.Add(-30 * time.Minute), "-1h": now.Add(-time.Hour), "2026-11-23T03:04:05.5Z": time.Date(2026, 11, 23, 3, 4, 5, 5e8, time.UTC),
		"2026-11-23 03:04": time.Date(2026, 11, 23, 3, 4, 0, 0, time.Local),
	} {
		if got, err := moment("from", in, now); err != nil || !got.Equal(want) {
			t.Errorf("moment(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
}
