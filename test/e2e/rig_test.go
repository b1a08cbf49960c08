package e2e

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rebound/internal/dr"
	"rebound/internal/lab/demo"
	"rebound/internal/lab/image"
	"rebound/internal/lab/leak"
	"rebound/internal/lab/wire"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/site"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

const (
	// patience bounds each wait for the machinery; the machine may be slow.
	patience = 2 * time.Minute
	// workRate is records a second of every guest.
	workRate = 40
	// ballastMiB is the random data on each disk.
	ballastMiB = 8
	group      = dr.GroupID("shop")
)

// options say what a rig is made of.
type options struct {
	guests []string // the second names the first's records
	// volume, when not empty, is the size of a volume of its own for the
	// cloud's journals, as tmpfs takes it.
	volume string
	// foreign leaves the guests' disks where they were built: the test starts
	// the machines itself.
	foreign bool
	// alone are guests that no other is a peer of, and whose agents do not
	// run until the test tells them to.
	alone []string
	limit time.Duration // of the whole test; 0 is 5 minutes
}

// rig is a world with guests and what is known of their history.
type rig struct {
	t    *testing.T
	ctx  context.Context
	w    *demo.World
	dir  string
	seed uint64
	rng  *rand.Rand

	names []string
	built map[string]*image.Result
	// mounted is the cloud's volume, when it has one of its own.
	mounted string
	// boots is the boot of each guest whose acknowledgements count: since it
	// began, its ledger never went back.
	boots map[string]string
}

// chooseSeed returns $REBOUND_SEED or the clock.
func chooseSeed(t *testing.T) uint64 {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("REBOUND_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		must(t, err)
		seed = n
	}
	t.Logf("seed %d (set REBOUND_SEED to repeat)", seed)
	return seed
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newRig starts a world with machines at home; the machines do not run yet.
func newRig(t *testing.T, o options) *rig {
	t.Helper()
	if testing.Short() {
		t.Skip("starts machines")
	}
	if o.limit == 0 {
		o.limit = 5 * time.Minute
	}
	began := time.Now()
	seed := chooseSeed(t)
	dir, err := os.MkdirTemp("", "rb-world-")
	must(t, err)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), o.limit)
	r := &rig{
		t: t, ctx: ctx, dir: dir, seed: seed, rng: rand.New(rand.NewPCG(seed, 2)), names: o.guests,
		built: map[string]*image.Result{}, boots: map[string]string{},
	}
	t.Cleanup(func() {
		r.close()
		cancel()
		t.Logf("%s took %.1f s", t.Name(), time.Since(began).Seconds())
	})
	if o.volume != "" {
		r.mountCloud(o.volume)
	}
	r.w, err = demo.NewWorld(ctx, demo.WorldConfig{Program: program, Dir: dir, EvidenceDir: filepath.Join(dir, "evidence"), Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	for i := range o.guests {
		r.build(i, slices.Contains(o.alone, o.guests[i]))
		if !o.foreign {
			must(t, r.w.AddMachine(ctx, demo.HomeSite, r.built[o.guests[i]]))
		}
	}
	r.policy()
	return r
}

// mountCloud gives the cloud's gateway a volume of its own, which sizeCloud
// can shrink and grow under it.
func (r *rig) mountCloud(size string) {
	r.t.Helper()
	dir := filepath.Join(r.dir, string(demo.CloudSite))
	must(r.t, os.Mkdir(dir, 0o755))
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		r.t.Fatalf("mount a volume for the cloud's journals: %v (the end-to-end tests run as root)", err)
	}
	r.mounted = dir
}

func (r *rig) sizeCloud(size string) {
	r.t.Helper()
	must(r.t, unix.Mount("tmpfs", r.mounted, "tmpfs", unix.MS_REMOUNT, "size="+size))
}

// build makes the disks of a guest.
func (r *rig) build(i int, alone bool) {
	r.t.Helper()
	name := r.names[i]
	b, err := image.NewBuilder(image.Config{CacheDir: os.Getenv("REBOUND_LAB_CACHE"), ModuleDir: "../.."})
	must(r.t, err)
	conf := wire.GuestConfig{Name: name, Collector: r.w.Collector.GuestAddr(), RecordsPerSecond: workRate}
	if !alone {
		conf.Agent, err = r.w.AgentConfig(r.ctx, dr.MachineName(name))
		must(r.t, err)
	}
	if i > 0 && !alone {
		conf.Peer = r.names[0]
	}
	r.built[name], err = b.Build(r.ctx, image.Guest{
		Firmware: dr.BIOS, Dir: filepath.Join(r.dir, "build", name), BallastMiB: ballastMiB, Seed: r.seed, Network: demo.Network, Config: conf,
	})
	must(r.t, err)
}

// policy is the default one, without compression so that bytes can be counted.
func (r *rig) policy() {
	r.t.Helper()
	_, err := r.w.Client.PutPolicy(r.ctx, rest.Policy{
		ID: "e2e", RPOThreshold: 60, CrashInterval: 2, RedoWindow: 7200, Compression: "none", ShutdownTimeout: 60, BootTimeout: 120,
	})
	must(r.t, err)
}

// close ends everything and asserts that nothing is left.
func (r *rig) close() {
	if r.t.Failed() {
		r.showLogs()
	}
	if r.w == nil {
		return
	}
	ports, run := r.w.Ports(), r.w.RunDir()
	if err := r.w.Close(); err != nil {
		r.t.Errorf("close the world: %v", err)
	}
	if r.mounted != "" {
		if err := unix.Unmount(r.mounted, 0); err != nil {
			r.t.Errorf("unmount: %v", err)
		}
	}
	for _, l := range []leak.Run{{Dir: r.dir, Ports: ports}, {Dir: run}} {
		if err := r.gone(l); err != nil {
			r.t.Error(err)
		}
	}
	if keep := os.Getenv("REBOUND_E2E_KEEP"); keep != "" && r.t.Failed() {
		r.t.Logf("kept: %s", r.dir)
		return
	}
	if err := os.RemoveAll(r.dir); err != nil {
		r.t.Errorf("remove the world: %v", err)
	}
}

// leaving is how long a process may take to see that its gateway and its guest
// are gone: what guards a frozen guest asks for it now and then.
const leaving = 10 * time.Second

// gone waits until nothing of a run is left.
func (r *rig) gone(l leak.Run) error {
	for deadline := time.Now().Add(leaving); ; time.Sleep(20 * time.Millisecond) {
		left, err := l.Left()
		if err == nil && len(left) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("left behind: %q (%v)", left, err)
		}
	}
}

// showLogs prints the ends of the processes' logs.
func (r *rig) showLogs() {
	const end = 6000
	files, _ := filepath.Glob(filepath.Join(r.dir, "logs", "*.log"))
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		r.t.Logf("end of %s:\n%s", filepath.Base(f), b[max(0, len(b)-end):])
	}
}

// start starts the machines at home and waits until they write.
func (r *rig) start() {
	r.t.Helper()
	drv, err := r.w.Driver(demo.HomeSite)
	must(r.t, err)
	defer drv.Close()
	at := time.Now()
	for _, name := range r.names {
		must(r.t, drv.Start(r.ctx, dr.MachineName(name), site.StartOptions{}))
	}
	r.newBoots(at)
	r.working()
}

// newBoots waits for a boot of every guest after a time.
func (r *rig) newBoots(after time.Time) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.ctx, patience)
	defer cancel()
	for _, name := range r.names {
		s, err := r.w.Collector.WaitBoot(ctx, name, after)
		if err != nil {
			r.t.Fatalf("no boot of %s: %v", name, err)
		}
		r.boots[name] = s.Boot
	}
}

// working waits until every guest has written 20 more records.
func (r *rig) working() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.ctx, patience)
	defer cancel()
	for name, boot := range r.boots {
		s, ok := r.w.Collector.Session(boot)
		if !ok {
			r.t.Fatalf("the boot of %s is unknown", name)
		}
		if _, err := r.w.Collector.WaitAck(ctx, boot, s.Newest.N+20); err != nil {
			r.t.Fatalf("%s does not write: %v", name, err)
		}
	}
}

// until polls every 20 ms.
func (r *rig) until(what string, look func() error) {
	r.t.Helper()
	if err := r.within(patience, look); err != nil {
		r.t.Fatalf("%s: %v", what, err)
	}
}

func (r *rig) within(limit time.Duration, look func() error) error {
	ctx, cancel := context.WithTimeout(r.ctx, limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := look()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %v: %w", limit, err)
		case <-tick.C:
		}
	}
}

// pause lets time pass that belongs to the scenario.
func (r *rig) pause(d time.Duration) {
	select {
	case <-r.ctx.Done():
	case <-time.After(d):
	}
}

// untilState waits for a state of the group.
func (r *rig) untilState(want ...lifecycle.State) rest.Group {
	r.t.Helper()
	var g rest.Group
	r.until(fmt.Sprintf("the group's state %v", want), func() error {
		var err error
		if g, err = r.w.Client.Group(r.ctx, group); err != nil {
			return err
		}
		for _, s := range want {
			if g.State == s {
				return nil
			}
		}
		return fmt.Errorf("it is %s (source %s): %s", g.State, g.SourcePhase, g.Problem)
	})
	return g
}

func (r *rig) group() rest.Group {
	r.t.Helper()
	g, err := r.w.Client.Group(r.ctx, group)
	must(r.t, err)
	return g
}

// protect makes the group of all guests and waits until it is protected.
func (r *rig) protect() {
	r.t.Helper()
	job, err := r.w.Client.Protect(r.ctx, r.protectRequest())
	must(r.t, err)
	r.succeeded(job.ID)
	r.untilState(lifecycle.Protected)
}

func (r *rig) protectRequest() rest.ProtectRequest {
	req := rest.ProtectRequest{Site: demo.HomeSite, To: demo.CloudSite, Policy: "e2e", Group: group}
	for _, n := range r.names {
		req.Machines = append(req.Machines, dr.MachineName(n))
	}
	return req
}

// operate runs an operation that must succeed.
func (r *rig) operate(op lifecycle.Operation, req rest.OperationRequest) rest.Job {
	r.t.Helper()
	job, err := r.w.Client.Operate(r.ctx, client.GroupTarget(group), op, req)
	if err != nil {
		r.t.Fatalf("%s: %v", op, err)
	}
	return r.succeeded(job.ID)
}

func (r *rig) succeeded(id dr.JobID) rest.Job {
	r.t.Helper()
	job, err := r.w.Client.WaitJob(r.ctx, id, nil)
	must(r.t, err)
	if job.State != rest.JobSucceeded && job.State != rest.JobWarning {
		r.t.Fatalf("job %s ended %s: %v", job.Operation, job.State, job.Errors)
	}
	return job
}

func wantCode(t *testing.T, what string, err error, code problem.Code) {
	t.Helper()
	if !problem.HasCode(err, code) {
		t.Errorf("%s: %v, want %s", what, err, code)
	}
}
