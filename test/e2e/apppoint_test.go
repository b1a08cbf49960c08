package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/lab/demo"
	"rebound/internal/lab/wire"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// maxFreeze is how long a guest's writes may wait for an application-consistent
// point: freeze, marker and thaw take a tenth of it on an idle machine.
const maxFreeze = 15 * time.Second

// appPoints returns the group's application-consistent points.
func (r *rig) appPoints() []dr.Point {
	r.t.Helper()
	pts, err := r.w.Client.Points(r.ctx, client.GroupTarget(group), client.PointFilter{Kind: dr.AppConsistent})
	must(r.t, err)
	return pts.Points
}

// appPolicy makes application-consistent points every few seconds, and no
// crash-consistent ones but those that the test asks for.
func (r *rig) appPolicy(every int64) {
	r.t.Helper()
	_, err := r.w.Client.PutPolicy(r.ctx, rest.Policy{
		ID: "e2e", RPOThreshold: 60, CrashInterval: 2, AppInterval: every, RedoWindow: 7200, Compression: "none", ShutdownTimeout: 60, BootTimeout: 120,
	})
	must(r.t, err)
}

// TestAppConsistentPoints on working guests, through Debian's guest agent in
// them: the file systems of the points are clean without a look at their
// journals, the agent's hook has run before, no guest stays frozen; and where
// the agent does not answer there is no such point, but an event.
func TestAppConsistentPoints(t *testing.T) {
	r := newRig(t, options{guests: []string{"web", "db"}})
	r.appPolicy(3)
	r.start()
	began := time.Now()
	r.protect()
	r.until("points by the policy", func() error {
		if n := len(r.appPoints()); n < 2 {
			return fmt.Errorf("%d; %s", n, r.lastEvent("PointNotAppConsistent"))
		}
		return nil
	})
	named := r.appPoint(client.GroupTarget(group), "month end")
	if named.Kind != dr.AppConsistent || named.Name != "month end" {
		t.Errorf("point %+v", named)
	}
	r.working()
	for _, name := range r.names {
		stall := r.longestStall(name, began, time.Now())
		t.Logf("the longest stall of %s: %v", name, stall)
		if stall > maxFreeze {
			t.Errorf("%s stalled for %v", name, stall)
		}
	}
	r.testFailoverFrom(named)
	r.silentAgent("db")
	crash := pointOf(t, r.operate(lifecycle.CreatePoint, rest.OperationRequest{Name: "crash"}))
	r.exported(named, crash)
	for _, name := range r.names {
		r.noGuestErrors(demo.HomeSite, name)
	}
}

// appPoint makes an application-consistent point. The agent of a guest that has
// just booted may not run yet.
func (r *rig) appPoint(of client.Target, name string) (p dr.Point) {
	r.t.Helper()
	r.until("an application-consistent point of "+fmt.Sprint(of), func() error {
		job, err := r.w.Client.Operate(r.ctx, of, lifecycle.CreatePoint, rest.OperationRequest{Name: name, AppConsistent: true})
		if err == nil {
			job, err = r.w.Client.WaitJob(r.ctx, job.ID, nil)
		}
		if err != nil {
			return err
		}
		if job.State != rest.JobSucceeded && job.State != rest.JobWarning {
			return fmt.Errorf("%v", job.Errors)
		}
		p = pointOf(r.t, job)
		return nil
	})
	return p
}

// pointOf is the point that a create-point job made.
func pointOf(t *testing.T, job rest.Job) dr.Point {
	t.Helper()
	for _, task := range job.Tasks {
		if p, ok := task.Result["point"].(map[string]any); ok {
			at, err := time.Parse(time.RFC3339Nano, fmt.Sprint(p["time"]))
			must(t, err)
			name, _ := p["name"].(string)
			return dr.Point{ID: dr.PointID(fmt.Sprint(p["id"])), Kind: dr.PointKind(fmt.Sprint(p["kind"])), Name: name, Time: at}
		}
	}
	t.Fatalf("job %s names no point: %+v", job.ID, job.Tasks)
	return dr.Point{}
}

// testFailoverFrom starts test machines from the newest application-consistent
// point, which is p or newer, and waits until their ledgers are found whole.
func (r *rig) testFailoverFrom(p dr.Point) {
	r.t.Helper()
	r.operate(lifecycle.TestFailover, rest.OperationRequest{Network: "bubble", Point: dr.LatestApp})
	for _, name := range r.names {
		console := filepath.Join(r.w.Datastore(demo.CloudSite), "machines", name+"-test", "console.log")
		r.until("the test machine of "+name, func() error {
			b, err := os.ReadFile(console)
			if err != nil {
				return err
			}
			if !bytes.Contains(b, []byte(`"event":"first"`)) {
				return fmt.Errorf("it has not written yet")
			}
			return nil
		})
	}
	r.operate(lifecycle.TestCleanup, rest.OperationRequest{Notes: "from " + string(p.ID)})
}

// silentAgent takes a guest's agent away from the gateway and gives it back.
func (r *rig) silentAgent(name string) {
	r.t.Helper()
	r.appPolicy(0)
	last, since := len(r.appPoints()), time.Now()
	r.until("no point is being made", func() error {
		if n := len(r.appPoints()); n != last {
			last, since = n, time.Now()
		}
		if time.Since(since) < 8*time.Second {
			return fmt.Errorf("the last of %d is too new", last)
		}
		return nil
	})
	// The socket has one user at a time.
	conn, err := net.Dial("unix", filepath.Join(r.w.Datastore(demo.HomeSite), "machines", name, "agent.sock"))
	must(r.t, err)
	job, err := r.w.Client.Operate(r.ctx, client.GroupTarget(group), lifecycle.CreatePoint, rest.OperationRequest{Name: "never", AppConsistent: true})
	must(r.t, err)
	if job, err = r.w.Client.WaitJob(r.ctx, job.ID, nil); err != nil || job.State != rest.JobFailed || len(job.Errors) == 0 || job.Errors[0].Code != problem.GuestNotFrozen {
		r.t.Errorf("a point of a guest whose agent is silent: %+v, %v", job, err)
	}
	r.appPolicy(3)
	r.until("an event about the missing point", func() error {
		if said := r.lastEvent("PointNotAppConsistent"); !strings.Contains(said, "machine "+name) {
			return fmt.Errorf("the last one says %q", said)
		}
		return nil
	})
	r.working() // those that could be frozen are thawed
	if n := len(r.appPoints()); n != last {
		r.t.Errorf("%d application-consistent points, %d before the agent fell silent", n, last)
	}
	must(r.t, conn.Close())
	r.until("points again", func() error {
		if n := len(r.appPoints()); n == last {
			return fmt.Errorf("%d as before", n)
		}
		return nil
	})
	r.working()
}

// lastEvent is what the last event of a code says; empty when there is none.
func (r *rig) lastEvent(code string) string {
	r.t.Helper()
	list, err := r.w.Client.Events(r.ctx, 0, 0)
	must(r.t, err)
	said := ""
	for _, e := range list {
		if e.Code == code {
			said = e.Text
		}
	}
	return said
}

// exported looks at the first guest's first disk at an application-consistent
// and at a crash-consistent point. An export needs the journal for itself.
func (r *rig) exported(app, crash dr.Point) {
	r.t.Helper()
	must(r.t, r.w.Kill(string(demo.CloudGW)))
	defer func() { must(r.t, r.w.Restart(r.ctx, string(demo.CloudGW))) }()
	image := r.export(app)
	clean, at := r.fileSystem(image)
	if !clean {
		r.t.Error("the file system of the application-consistent point wants its journal replayed")
	}
	out, err := exec.CommandContext(r.ctx, "debugfs", "-R", "cat /"+wire.HookPath, fmt.Sprintf("%s?offset=%d", image, at)).Output()
	must(r.t, err)
	if n, err := strconv.Atoi(strings.TrimSpace(string(out))); err != nil || n < 1 {
		r.t.Errorf("the hook left %q on the point's disk, %v", out, err)
	}
	if clean, _ := r.fileSystem(r.export(crash)); clean {
		r.t.Error("a point of a busy guest is clean without a freeze: nothing is shown by this")
	}
}

func (r *rig) export(p dr.Point) string {
	r.t.Helper()
	out := filepath.Join(r.dir, string(p.ID)+".raw")
	journal := filepath.Join(r.w.GatewayDir(demo.CloudSite), "journals", string(group), "journal")
	cmd := exec.CommandContext(r.ctx, program, "journal", "export", journal, "--point", string(p.ID),
		"--disk", r.names[0]+"/disk0", "--format", "raw", "--out", out)
	if text, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("export %s: %v: %s", p.ID, err, text)
	}
	return out
}

// fileSystem finds the ext4 file system on a disk's image and says whether it
// can be used without replaying its journal. (Super block at 1024: magic at
// 0x38, incompatible features at 0x60, of which 0x4 is needs_recovery.)
func (r *rig) fileSystem(path string) (clean bool, offset int64) {
	r.t.Helper()
	disk, err := os.ReadFile(path)
	must(r.t, err)
	for at := 0; at+2048 <= len(disk); at += 512 {
		sb := disk[at+1024 : at+2048]
		if binary.LittleEndian.Uint16(sb[0x38:]) == 0xef53 && bytes.HasPrefix(sb[0x78:], []byte(wire.LabelFirst)) {
			return binary.LittleEndian.Uint32(sb[0x60:])&4 == 0, int64(at)
		}
	}
	r.t.Fatalf("%s holds no file system %s", path, wire.LabelFirst)
	return false, 0
}
