package qemu

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/qmp"
	"rebound/internal/site"
)

// counterGuest is a boot sector (testdata/guest.s) that takes a counter from
// sector 2 and then for ever: adds one, writes it to sector 8 + counter%1024
// and to sector 2, reads a sector that nobody writes, and prints a dot to the
// serial line every 64 rounds, or "!" for ever after an error.
const counterGuest = "+jHAjtiOwI7QvAB8+7KAZscGnHwCAAAAtEK+lHzNE2b/BgCAZqEAgGYl/wMAAGaDwAjoQwBmuAIAAADoOgBmoQCAZiX/BwAAZgUACAAAZqOcfMcGmHwAgrRCvpR8soDNE8cGmHwAgHIg9gYAgD91r7r4A7Au7uunZqOcfLgAQ76UfLKAzRNyAcO6+AOwIe706/dmkBAAAQAAgAAAAAAAAAAAAAA="

const guestRing = 1024

// guestDisk returns an image with the guest on it and random data behind.
func guestDisk(t *testing.T, size int64) []byte {
	t.Helper()
	code, err := base64.StdEncoding.DecodeString(counterGuest)
	must(t, err)
	disk := make([]byte, size)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(disk[2048*512:])
	copy(disk, bootSector(code))
	return disk
}

// checkGuest demands of a disk what the guest promises, and returns its counter.
func checkGuest(t *testing.T, disk, before []byte) uint32 {
	t.Helper()
	word := func(sector int) uint32 { return binary.LittleEndian.Uint32(disk[sector*512:]) }
	counter := word(2)
	for i := range uint32(guestRing) {
		// The newest value of this place up to counter; the round
		// after counter may have begun.
		want := counter - (counter-i)%guestRing
		if i > counter {
			want = 0
		}
		got := word(8 + int(i))
		if got != want && !(i == (counter+1)%guestRing && got == counter+1) {
			t.Fatalf("sector %d holds %d, want %d (counter %d)", 8+i, got, want, counter)
		}
	}
	if !bytes.Equal(disk[2048*512:], before[2048*512:]) {
		t.Fatal("data that nobody writes has changed")
	}
	return counter
}

// viewServer is an NBD server of read-only images, one export a disk.
type viewServer struct {
	t     *testing.T
	file  string
	sock  string
	child *exec.Cmd
}

func newViewServer(t *testing.T, content []byte) *viewServer {
	t.Helper()
	dir, err := os.MkdirTemp("", "view")
	must(t, err)
	v := &viewServer{t: t, file: filepath.Join(dir, "view.raw"), sock: filepath.Join(dir, "sock")}
	must(t, os.WriteFile(v.file, content, 0o600))
	t.Cleanup(func() {
		v.stop()
		_ = os.RemoveAll(dir)
	})
	v.start()
	return v
}

func (v *viewServer) start() {
	v.t.Helper()
	_ = os.Remove(v.sock)
	v.child = exec.Command("qemu-nbd", "--read-only", "--persistent", "--shared=0", "--format=raw",
		"--export-name=view", "--socket="+v.sock, v.file)
	v.child.Stderr = testWriter{v.t}
	must(v.t, v.child.Start())
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(v.sock); err == nil {
			return
		}
		if time.Now().After(deadline) {
			v.t.Fatal("the view server did not start")
		}
	}
}

func (v *viewServer) stop() {
	if v.child != nil {
		_ = v.child.Process.Kill()
		_ = v.child.Wait()
		v.child = nil
	}
}

// recoveredGuest is a standby machine that runs on a view of its own disk.
type recoveredGuest struct {
	t       *testing.T
	d       *Driver
	m       *machine
	view    *viewServer
	before  []byte
	spec    site.RecoveredSpec
	bases   map[dr.DiskID]string
	started dr.MachineName
}

func startRecoveredGuest(t *testing.T, d *Driver) *recoveredGuest {
	t.Helper()
	ctx := testContext(t)
	def := tiny("web", 1)
	must(t, d.Create(ctx, def))
	must(t, d.SetStandby(ctx, "web", true))
	wantCode(t, d.Start(ctx, "web", site.StartOptions{}), problem.MachineInUse)
	g := &recoveredGuest{t: t, d: d, m: d.at("web"), before: guestDisk(t, def.Disks[0].SizeBytes)}
	base, err := d.DiskPath(ctx, "web", "disk0")
	must(t, err)
	must(t, os.WriteFile(base, g.before, 0o600))
	g.bases = map[dr.DiskID]string{"disk0": base}
	g.view = newViewServer(t, g.before)
	def.MemoryMiB = 40 // the point's definition differs
	g.spec = site.RecoveredSpec{Definition: def, Disks: []site.ViewDisk{{Disk: "disk0", Socket: g.view.sock, Export: "view"}}}
	g.started, err = d.StartRecovered(ctx, g.spec)
	must(t, err)
	g.progress(0)
	return g
}

// progress waits until the guest has printed more than n dots; it returns how
// many.
func (g *recoveredGuest) progress(n int) int {
	g.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if dots := g.dots(); dots > n {
			return dots
		}
		if time.Now().After(deadline) {
			status, err := g.m.status(context.Background(), &record{})
			g.t.Fatalf("the guest stands still at %d dots; QEMU says %q, %v", n, status, err)
		}
	}
}

func (g *recoveredGuest) dots() int {
	g.t.Helper()
	text, err := os.ReadFile(g.d.at(g.started).path("console.log"))
	must(g.t, err)
	if i := bytes.IndexByte(text, '!'); i >= 0 {
		g.t.Fatalf("the guest saw an error: %q", text[i:min(i+20, len(text))])
	}
	return bytes.Count(text, []byte("."))
}

// checkBase demands that the base alone holds all that the guest wrote.
func (g *recoveredGuest) checkBase() uint32 {
	g.t.Helper()
	disk, err := os.ReadFile(g.bases["disk0"])
	must(g.t, err)
	return checkGuest(g.t, disk, g.before)
}

func TestDiscardLeavesStandby(t *testing.T) {
	needQEMU(t)
	d, ctx := openDriver(t, t.TempDir()), testContext(t)
	g := startRecoveredGuest(t, d)
	m, err := d.Machine(ctx, "web")
	must(t, err)
	if m.State != site.Running || m.Definition.MemoryMiB != 40 || !m.Standby {
		t.Fatalf("got %+v", m)
	}
	name, err := d.StartRecovered(ctx, g.spec) // again: nothing changes
	must(t, err)
	if name != "web" {
		t.Fatalf("got name %s", name)
	}
	other := g.spec
	other.Disks = []site.ViewDisk{{Disk: "disk0", Socket: g.view.sock, Export: "another"}}
	_, err = d.StartRecovered(ctx, other)
	wantCode(t, err, problem.MachineRunning)
	g.view.stop() // must not stand in the way
	must(t, d.DiscardRecovered(ctx, "web"))
	must(t, d.DiscardRecovered(ctx, "web"))
	m, err = d.Machine(ctx, "web")
	must(t, err)
	if m.State != site.Off || m.Definition.MemoryMiB != 32 || !m.Standby {
		t.Fatalf("got %+v", m)
	}
	disk, err := os.ReadFile(g.bases["disk0"])
	must(t, err)
	if !bytes.Equal(disk, g.before) {
		t.Fatal("the base has changed")
	}
	if _, err := os.Stat(g.m.overlayPath("disk0")); err == nil {
		t.Fatal("the overlay is still there")
	}
}

// The machine waits while its view's server is away and goes on by itself when
// it is back.
func TestViewServerRestarts(t *testing.T) {
	needQEMU(t)
	g := startRecoveredGuest(t, openDriver(t, t.TempDir()))
	for range 3 {
		dots := g.progress(g.dots())
		g.view.stop()
		time.Sleep(300 * time.Millisecond) // long enough that reads meet the gap
		stalled := g.dots()
		g.view.start()
		g.progress(stalled)
		t.Logf("%d dots before, %d while away, %d after", dots, stalled, g.dots())
	}
}

// A server that is away for longer pauses the machine, which goes on by itself
// too, also when the driver was restarted meanwhile; the guest sees no error.
func TestWatchResumes(t *testing.T) {
	needQEMU(t)
	dir, ctx := t.TempDir(), testContext(t)
	d := openDriver(t, dir)
	d.cfg.ViewReconnect = time.Second
	g := startRecoveredGuest(t, d)
	must(t, d.Close()) // as a gateway that is restarted
	g.d = openDriver(t, dir)
	g.m = g.d.at("web")
	mon, err := g.m.monitor(&record{})
	must(t, err)
	client, err := mon.Client(ctx)
	must(t, err)
	events := client.Subscribe("STOP")
	defer events.Close()
	g.view.stop()
	_, err = events.Next(ctx)
	must(t, err)
	stalled := g.dots()
	_, err = events.Next(ctx) // it was resumed and stopped again
	must(t, err)
	g.view.start()
	g.progress(stalled)
}

func TestCommitWhileRunning(t *testing.T) {
	needQEMU(t)
	d, ctx := openDriver(t, t.TempDir()), testContext(t)
	g := startRecoveredGuest(t, d)
	var done, total int64
	must(t, d.CommitRecovered(ctx, "web", g.bases, func(a, b int64) { done, total = a, b }))
	if done == 0 || done != total {
		t.Errorf("progress ended at %d of %d", done, total)
	}
	g.view.stop() // not needed any more
	g.checkCommitted(ctx)
	must(t, d.CommitRecovered(ctx, "web", g.bases, nil)) // again: nothing changes
}

// checkCommitted demands that the machine is an ordinary one on its base.
func (g *recoveredGuest) checkCommitted(ctx context.Context) {
	t, d := g.t, g.d
	t.Helper()
	g.progress(g.dots())
	m, err := d.Machine(ctx, "web")
	must(t, err)
	if m.State != site.Running || m.Standby || m.Definition.MemoryMiB != 40 {
		t.Fatalf("after commit: %+v", m)
	}
	mon, err := g.m.monitor(&record{})
	must(t, err)
	c := &commit{m: g.m, mon: mon}
	graph, err := c.graph(ctx, "disk0")
	must(t, err)
	if graph.root != "disk0" || graph.nodes["disk0-overlay"] || graph.nodes["disk0-view"] || graph.nodes["disk0-commit"] {
		t.Fatalf("block graph after commit: %+v", graph)
	}
	if files, _ := filepath.Glob(g.m.path("*.overlay")); len(files) > 0 {
		t.Fatalf("overlays left: %v", files)
	}
	must(t, d.Stop(ctx, "web", site.Hard, 0))
	before := g.checkBase()
	must(t, d.Start(ctx, "web", site.StartOptions{}))
	g.progress(g.dots())
	must(t, d.Stop(ctx, "web", site.Hard, 0))
	if after := g.checkBase(); after <= before {
		t.Fatalf("the counter went from %d to %d", before, after)
	}
}

// The bitmap holds all that differs between the base and the view.
func TestCommitBitmapIsWhole(t *testing.T) {
	needQEMU(t)
	d, ctx := openDriver(t, t.TempDir()), testContext(t)
	g := startRecoveredGuest(t, d)
	must(t, d.CommitRecovered(ctx, "web", g.bases, nil))
	g.progress(g.dots())
	mon, err := g.m.monitor(&record{})
	must(t, err)
	must(t, mon.Run(ctx, "stop", nil, nil))
	nodes, err := qmp.Call[[]struct {
		Name    string `json:"node-name"`
		Bitmaps []struct {
			Name  string `json:"name"`
			Count int64  `json:"count"`
		} `json:"dirty-bitmaps"`
	}](ctx, mon, "query-named-block-nodes", map[string]bool{"flat": true})
	must(t, err)
	var count int64 = -1
	for _, n := range nodes {
		for _, b := range n.Bitmaps {
			if n.Name == "disk0" && b.Name == site.CommitBitmap {
				count = b.Count
			}
		}
	}
	after, err := os.ReadFile(g.bases["disk0"])
	must(t, err)
	var changed int64
	for off := 0; off < len(after); off += commitBitmapGranularity {
		if !bytes.Equal(after[off:off+commitBitmapGranularity], g.before[off:off+commitBitmapGranularity]) {
			changed += commitBitmapGranularity
		}
	}
	t.Logf("changed %d bytes, bitmap %d", changed, count)
	if changed == 0 || count < changed {
		t.Fatalf("the bitmap holds %d bytes; %d have changed", count, changed)
	}
}

var errCut = errors.New("cut off")

// commitCommands are the places at which a commit can be cut off, in order.
func commitCommands() []string {
	return []string{"blockdev-add", "block-dirty-bitmap-add", "blockdev-reopen", "blockdev-del", "block-commit", "job-complete", "job-finalize", "job-dismiss"}
}

// A commit whose caller dies goes on where it was when it is repeated.
func TestCommitIsRepeatable(t *testing.T) {
	needQEMU(t)
	for _, command := range commitCommands() {
		t.Run(command, func(t *testing.T) {
			d, ctx := openDriver(t, t.TempDir()), testContext(t)
			g := startRecoveredGuest(t, d)
			g.cutOff(ctx, command)
			wantCode(t, d.DiscardRecovered(ctx, "web"), problem.OperationNotAllowed)
			d.beforeCommit = nil
			must(t, d.CommitRecovered(ctx, "web", g.bases, nil))
			g.checkCommitted(ctx)
		})
	}
}

func (g *recoveredGuest) cutOff(ctx context.Context, command string) {
	g.t.Helper()
	g.d.beforeCommit = func(c string) error {
		if c == command {
			return errCut
		}
		return nil
	}
	if err := g.d.CommitRecovered(ctx, "web", g.bases, nil); !errors.Is(err, errCut) {
		g.t.Fatalf("cut off before %s: got %v", command, err)
	}
}

// A QEMU that dies in the middle of a commit starts again on what holds the
// newest data, and the commit ends well.
func TestCommitSurvivesQEMU(t *testing.T) {
	needQEMU(t)
	for _, command := range commitCommands() {
		t.Run(command, func(t *testing.T) {
			d, ctx := openDriver(t, t.TempDir()), testContext(t)
			g := startRecoveredGuest(t, d)
			g.cutOff(ctx, command)
			g.view.stop() // the journal ends with the commit's begin
			d.beforeCommit = nil
			must(t, g.m.killMachine(ctx))
			if err := d.CommitRecovered(ctx, "web", g.bases, nil); !problem.HasCode(err, problem.MachineNotRunning) {
				t.Fatalf("commit of a dead machine gave %v", err)
			}
			must(t, d.Start(ctx, "web", site.StartOptions{}))
			g.progress(g.dots())
			must(t, d.CommitRecovered(ctx, "web", g.bases, nil))
			g.checkCommitted(ctx)
		})
	}
}

// While the job waits to be finalised the guest's writes are held: that is
// what makes the record's word true.
func TestPendingHoldsWrites(t *testing.T) {
	needQEMU(t)
	d, ctx := openDriver(t, t.TempDir()), testContext(t)
	g := startRecoveredGuest(t, d)
	g.cutOff(ctx, "job-finalize")
	before := g.dots()
	time.Sleep(500 * time.Millisecond)
	if after := g.dots(); after != before {
		t.Fatalf("the guest went on from %d to %d dots", before, after)
	}
	if _, err := g.m.status(ctx, &record{}); err != nil {
		t.Fatalf("QEMU does not answer meanwhile: %v", err)
	}
}

// A throttle slows the guest, and the commit takes it away again, also one that
// an earlier run left.
func TestCommitThrottles(t *testing.T) {
	needQEMU(t)
	d, ctx := openDriver(t, t.TempDir()), testContext(t)
	g := startRecoveredGuest(t, d)
	mon, err := g.m.monitor(&record{})
	must(t, err)
	c := &commit{m: g.m, mon: mon, throttled: map[dr.DiskID]int64{}}
	graph, err := c.graph(ctx, "disk0")
	must(t, err)
	for range 12 {
		must(t, c.throttle(ctx, "disk0", graph))
	}
	if c.throttled["disk0"] != 1 {
		t.Fatalf("slowed to %d writes a second, want 1", c.throttled["disk0"])
	}
	before := g.dots()
	time.Sleep(time.Second)
	if after := g.dots(); after > before+1 { // 64 rounds of 2 writes each
		t.Fatalf("the guest made %d dots in a second", after-before)
	}
	must(t, d.CommitRecovered(ctx, "web", g.bases, nil))
	if graph, err = c.graph(ctx, "disk0"); err != nil || graph.throttled {
		t.Fatalf("the guest is still slowed (%v)", err)
	}
	g.checkCommitted(ctx)
}
