package qemu

import (
	"encoding/json"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/qmp"
	"rebound/internal/qmp/qmptest"
)

// scriptedJob is a block-commit job on a scripted QEMU. It becomes pending once
// it was asked to complete and the guest is slowed to slowEnough writes a second.
type scriptedJob struct {
	slowEnough int64

	mu       sync.Mutex
	status   string
	asked    bool
	errText  string
	rates    []int64
	recorded bool // what the record said when the job was finalised
}

func (j *scriptedJob) serve(s *qmptest.Server, finalised func() bool) {
	s.Handle("query-jobs", func(json.RawMessage) (any, error) {
		j.mu.Lock()
		defer j.mu.Unlock()
		if j.status == "" {
			return []any{}, nil
		}
		return []any{object{"id": "commit-disk0", "status": j.status, "current-progress": 5, "total-progress": 9, "error": j.errText}}, nil
	})
	s.Handle("job-complete", func(json.RawMessage) (any, error) {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.asked = true
		return object{}, nil
	})
	s.Handle("block_set_io_throttle", func(args json.RawMessage) (any, error) {
		var a struct {
			Rate int64 `json:"iops_wr"`
		}
		if err := json.Unmarshal(args, &a); err != nil {
			return nil, err
		}
		j.mu.Lock()
		defer j.mu.Unlock()
		j.rates = append(j.rates, a.Rate)
		if j.asked && a.Rate > 0 && a.Rate <= j.slowEnough {
			j.status = "pending"
		}
		return object{}, nil
	})
	s.Handle("job-finalize", func(json.RawMessage) (any, error) {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.recorded = finalised()
		j.status = "concluded"
		return object{}, nil
	})
	s.Handle("job-dismiss", func(json.RawMessage) (any, error) {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.status = ""
		return object{}, nil
	})
	s.Handle("query-block", func(json.RawMessage) (any, error) {
		j.mu.Lock()
		defer j.mu.Unlock()
		root := "disk0"
		if j.errText != "" || j.status != "concluded" {
			root = "disk0-commit"
		}
		return []any{object{"qdev": "/machine/peripheral/disk0/virtio-backend", "inserted": object{"node-name": root, "iops_wr": 1}}}, nil
	})
	s.Handle("query-named-block-nodes", func(json.RawMessage) (any, error) { return []any{}, nil })
	s.Handle("x-debug-query-block-graph", func(json.RawMessage) (any, error) {
		return object{"nodes": []any{}, "edges": []any{}}, nil
	})
}

// scriptedCommit is a commit at the point where its job is ready.
func scriptedCommit(t *testing.T, j *scriptedJob) (*commit, func() bool) {
	t.Helper()
	d, err := New(Config{Dir: t.TempDir(), Accel: "tcg", ConvergeAfter: 20 * time.Millisecond})
	must(t, err)
	t.Cleanup(func() { must(t, d.Close()) })
	m := d.at("web")
	must(t, os.MkdirAll(m.dir, 0o700))
	rec := &record{Definition: tiny("web", 1), Recovered: &recovered{Definition: tiny("web", 1), Bases: map[dr.DiskID]string{"disk0": "x"}}}
	must(t, m.save(rec))
	pivoted := func() bool {
		rec, err := m.record()
		return err == nil && rec.Recovered.Pivoted["disk0"]
	}
	server := qmptest.New(t)
	j.serve(server, pivoted)
	mon := qmp.NewMonitor(server.Path())
	t.Cleanup(func() { must(t, mon.Close()) })
	return &commit{m: m, rec: rec, mon: mon, throttled: map[dr.DiskID]int64{}, done: map[dr.DiskID]int64{}, total: map[dr.DiskID]int64{}}, pivoted
}

// A job that does not catch up has the guest slowed, more and more, until it
// does; and it is not finalised before the record says so durably.
func TestFollowSlowsTheGuest(t *testing.T) {
	j := &scriptedJob{status: "ready", slowEnough: 256}
	c, pivoted := scriptedCommit(t, j)
	spec := c.rec.Recovered.Definition.Disks[0]
	must(t, c.follow(testContext(t), spec, &graph{qdev: "/machine/peripheral/disk0/virtio-backend"}))
	if want := []int64{1024, 512, 256}; len(j.rates) != 3 || j.rates[0] != want[0] || j.rates[1] != want[1] || j.rates[2] != want[2] {
		t.Errorf("the guest was slowed to %v, want %v", j.rates, want)
	}
	if !j.recorded {
		t.Error("the job was finalised before the record knew")
	}
	if !pivoted() {
		t.Error("the record forgot the pivot")
	}
}

// A job that fails leaves the guest on its overlay, and the record says so.
func TestFollowFailedJob(t *testing.T) {
	j := &scriptedJob{status: "pending", errText: "No space left on device"}
	c, pivoted := scriptedCommit(t, j)
	spec := c.rec.Recovered.Definition.Disks[0]
	err := c.follow(testContext(t), spec, &graph{qdev: "/machine/peripheral/disk0/virtio-backend", throttled: true})
	if err == nil {
		t.Fatal("the failure was swallowed")
	}
	if pivoted() {
		t.Error("the record says that the base is the authority")
	}
	if len(j.rates) == 0 || j.rates[len(j.rates)-1] != 0 {
		t.Errorf("the guest stays slowed: %v", j.rates)
	}
	if j.status != "" {
		t.Error("the job was not dismissed; a repetition would trip over it")
	}
}

func TestCommitProblems(t *testing.T) {
	for text, want := range map[string]problem.Code{
		`Failed to get "write" lock`: problem.MachineInUse,
		"x: No space left on device": problem.NoRoom,
		"no such thing":              problem.HypervisorError,
	} {
		if got := problem.From(hypervisor(errors.New(text))).Code; got != want {
			t.Errorf("%q became %s, want %s", text, got, want)
		}
	}
	if got := problem.From(hypervisor(problem.New(problem.UnknownDisk, "x"))).Code; got != problem.UnknownDisk {
		t.Errorf("a problem became %s", got)
	}
}
