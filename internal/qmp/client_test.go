package qmp_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"rebound/internal/qmp"
	"rebound/internal/qmp/qmptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func dial(t *testing.T, path string) *qmp.Client {
	t.Helper()
	c, err := qmp.Dial(within(t), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestCommands(t *testing.T) {
	s := qmptest.New(t)
	s.Handle("echo", func(args json.RawMessage) (any, error) { return args, nil })
	s.Handle("no", func(json.RawMessage) (any, error) {
		return nil, &qmp.Error{Class: qmp.DeviceNotFound, Desc: "gone"}
	})
	c := dial(t, s.Path())
	ctx := within(t)
	if v := c.Greeting().Version.QEMU; v.Major != 7 || !c.OOB() {
		t.Errorf("version %v, oob %v", v, c.OOB())
	}
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			got, err := qmp.Call[map[string]int](ctx, c, "echo", map[string]int{"i": i})
			if err != nil || got["i"] != i {
				t.Errorf("echo %d = %v, %v", i, got, err)
			}
		})
	}
	wg.Wait()
	err := c.Run(ctx, "no", nil, nil)
	if !qmp.HasClass(err, qmp.DeviceNotFound) || !strings.Contains(err.Error(), "qmp no: gone") {
		t.Errorf("no = %v", err)
	}
	if err := c.Run(ctx, "unknown", nil, nil); !qmp.HasClass(err, qmp.CommandNotFound) {
		t.Errorf("unknown = %v", err)
	}
}

func TestDeadlineLeavesTheConnectionUsable(t *testing.T) {
	s := qmptest.New(t)
	s.Handle("hang", func(json.RawMessage) (any, error) { return nil, qmptest.ErrHang })
	s.Handle("yank", func(json.RawMessage) (any, error) { return nil, nil })
	c := dial(t, s.Path())
	short, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	err := c.Run(short, "hang", nil, nil)
	var ce *qmp.ConnError
	if !errors.As(err, &ce) || !ce.Sent || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("hang = %v", err)
	}
	if err := qmp.Yank(within(t), c, qmp.YankInstance{Type: "block-node", NodeName: "n"}); err != nil {
		t.Fatal(err)
	}
	calls := s.Calls()
	if last := calls[len(calls)-1]; last.Command != "yank" || !last.OOB || !strings.Contains(string(last.Args), `"node-name":"n"`) {
		t.Errorf("last call %+v %s", last, last.Args)
	}
	// Commands that hang fill the in-band queue; out-of-band ones go past it.
	for range 3 {
		short, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		_ = c.Run(short, "hang", nil, nil)
		cancel()
	}
	short2, cancel2 := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel2()
	if err := c.Run(short2, "hang", nil, nil); !errors.As(err, &ce) || ce.Sent {
		t.Errorf("a fifth waiting command = %v, want it not to be sent", err)
	}
	if err := qmp.Yank(within(t), c); err != nil {
		t.Errorf("yank past a full queue: %v", err)
	}
}

func TestNoOOB(t *testing.T) {
	s := qmptest.New(t)
	s.WithoutOOB()
	c := dial(t, s.Path())
	if err := c.RunOOB(within(t), "yank", nil, nil); !errors.Is(err, qmp.ErrNoOOB) {
		t.Errorf("yank = %v", err)
	}
}

func TestEvents(t *testing.T) {
	s := qmptest.New(t)
	s.Handle("sync", func(json.RawMessage) (any, error) { return nil, nil })
	c := dial(t, s.Path())
	some, all := c.Subscribe("B"), c.Subscribe()
	for _, name := range []string{"A", "B", "A"} {
		if err := s.Event(name, map[string]string{"of": name}); err != nil {
			t.Fatal(err)
		}
	}
	ctx := within(t)
	ev, err := some.Next(ctx)
	var data struct{ Of string }
	if err != nil || ev.Name != "B" || ev.Decode(&data) != nil || data.Of != "B" || time.Since(ev.Time) > time.Minute {
		t.Errorf("B: %+v %v %v", ev, data, err)
	}
	for _, want := range []string{"A", "B", "A"} {
		if ev, err := all.Next(ctx); err != nil || ev.Name != want {
			t.Errorf("all: %v %v, want %s", ev.Name, err, want)
		}
	}
	all.Close()
	if _, err := all.Next(ctx); !errors.Is(err, qmp.ErrClosed) && err == nil {
		t.Errorf("Next after Close = %v", err)
	}
	s.Drop()
	if _, err := some.Next(ctx); err == nil {
		t.Error("Next after the end of the connection: no error")
	}
	<-c.Done()
}

func TestUnwantedEventsAreSkipped(t *testing.T) {
	s := qmptest.New(t)
	s.Handle("ping", func(json.RawMessage) (any, error) { return "pong", nil })
	c := dial(t, s.Path())
	sub := c.Subscribe("WANTED")
	defer sub.Close()
	for range 100 {
		_ = s.Event("NOISE", nil)
	}
	_ = s.Event("WANTED", map[string]string{"text": `}, "event": "NOISE"`})
	if ev, err := sub.Next(within(t)); err != nil || ev.Name != "WANTED" {
		t.Errorf("Next = %v, %v", ev, err)
	}
	if got, err := qmp.Call[string](within(t), c, "ping", nil); err != nil || got != "pong" {
		t.Errorf("ping = %v, %v", got, err)
	}
}

func TestMonitorDialsAgain(t *testing.T) {
	s := qmptest.New(t)
	n := 0
	s.Handle("count", func(json.RawMessage) (any, error) { n++; return n, nil })
	s.Handle("die", func(json.RawMessage) (any, error) { return nil, qmptest.ErrDrop })
	m := qmp.NewMonitor(s.Path())
	ctx := within(t)
	for want := 1; want < 4; want++ {
		if got, err := qmp.Call[int](ctx, m, "count", nil); err != nil || got != want {
			t.Fatalf("count = %d, %v, want %d", got, err, want)
		}
		if err := m.Run(ctx, "die", nil, nil); err == nil || qmp.Refused(err) {
			t.Fatalf("die = %v", err)
		}
	}
	if got := len(s.Calls()); got != 6 {
		t.Errorf("%d commands arrived, want 6: none is repeated", got)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if err := m.Run(ctx, "count", nil, nil); !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestGone(t *testing.T) {
	err := qmp.NewMonitor(filepath.Join(t.TempDir(), "none")).Run(within(t), "x", nil, nil)
	if !qmp.Gone(err) {
		t.Errorf("Gone(%v) = false", err)
	}
}

func TestBrokenServer(t *testing.T) {
	for _, text := range []string{"junk\r\n", "{\"return\": \r\n}\r\n", "[1]\r\n", "{\"error\": {\"class\": \"GenericError\", \"desc\": \"bad\"}}\r\n"} {
		s := qmptest.New(t)
		c := dial(t, s.Path())
		s.Send(text)
		select {
		case <-c.Done():
		case <-time.After(5 * time.Second):
			t.Errorf("%q did not end the connection", text)
		}
		if c.Err() == nil {
			t.Errorf("%q: no error", text)
		}
	}
}

func TestRealQEMU(t *testing.T) {
	programs := map[string][]string{
		"qemu-system-x86_64":  {"-machine", "none", "-nodefaults", "-display", "none", "-qmp", "unix:q,server=on,wait=off"},
		"qemu-storage-daemon": {"--chardev", "socket,path=q,server=on,wait=off,id=m", "--monitor", "chardev=m,pretty=on"},
	}
	for program, args := range programs {
		t.Run(program, func(t *testing.T) {
			if _, err := exec.LookPath(program); err != nil {
				if os.Getenv("REBOUND_REQUIRE_TOOLS") != "" {
					t.Fatal(err)
				}
				t.Skip(err)
			}
			dir, err := os.MkdirTemp("", "qmp")
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			cmd := exec.Command(program, args...)
			cmd.Dir, cmd.Stderr = dir, os.Stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
			realQEMU(t, filepath.Join(dir, "q"), cmd.Process.Pid)
		})
	}
}

func realQEMU(t *testing.T, path string, pid int) {
	ctx := within(t)
	var c *qmp.Client
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for c == nil {
		var err error
		if c, err = qmp.Dial(ctx, path); err != nil && ctx.Err() != nil {
			t.Fatal(err)
		}
		<-tick.C
	}
	defer c.Close()
	if got, err := c.PeerPID(); err != nil || got != pid {
		t.Errorf("PeerPID = %d, %v, want %d", got, err, pid)
	}
	if err := c.Run(ctx, "blockdev-add", map[string]any{"driver": "null-co", "node-name": "n", "size": 1 << 20}, nil); err != nil {
		t.Fatal(err)
	}
	add := func(name string) qmp.Action {
		return qmp.Action{Type: "block-dirty-bitmap-add", Data: map[string]any{"node": "n", "name": name}}
	}
	if err := qmp.Transaction(ctx, c, add("a"), add("a")); !qmp.Refused(err) {
		t.Errorf("adding a bitmap twice = %v", err)
	}
	if err := qmp.Transaction(ctx, c, add("a"), add("b")); err != nil {
		t.Errorf("all or none: %v", err)
	}
	if c.OOB() {
		// The storage daemon runs commands out of band but has no yank.
		if _, err := qmp.QueryYank(ctx, c); err != nil && !qmp.HasClass(err, qmp.CommandNotFound) {
			t.Error(err)
		}
	}
	ev := c.Subscribe("JOB_STATUS_CHANGE")
	defer ev.Close()
	if err := c.Run(ctx, "blockdev-create", map[string]any{"job-id": "j", "options": map[string]any{"driver": "file", "filename": "new", "size": 4096}}, nil); err != nil {
		t.Fatal(err)
	}
	if e, err := ev.Next(ctx); err != nil || !strings.Contains(string(e.Data), `"j"`) {
		t.Errorf("event %s, %v", e.Data, err)
	}
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if _, err := qmp.Dial(short, path); err == nil {
		t.Error("a second client was served at the same time")
	}
}
