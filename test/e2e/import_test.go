package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/lab/demo"
	"rebound/internal/lifecycle"
	"rebound/internal/site"
	"rebound/internal/vault/rest"
)

// foreign is a machine of somebody else's: started by a command line of its
// own, with names of its own, known to nobody.
type foreign struct {
	cmd    *exec.Cmd
	socket string
	gone   chan struct{}
}

// startForeign runs a built guest as its owner would: one disk with -blockdev
// and -device, one with -drive, a human's monitor and a free QMP socket.
func startForeign(r *rig, name string) *foreign {
	r.t.Helper()
	b := r.built[name]
	f := &foreign{socket: filepath.Join(r.w.RunDir(), "own.qmp"), gone: make(chan struct{})}
	console := filepath.Join(r.dir, "own-console.log")
	f.cmd = exec.Command("qemu-system-x86_64",
		"-name", "guest="+name, "-uuid", b.Definition.UUID, "-machine", "q35,accel=tcg", "-cpu", "max", "-m", "256", "-smp", "1",
		"-nodefaults", "-display", "none", "-chardev", "file,id=con,path="+console, "-serial", "chardev:con",
		"-blockdev", "node-name=myfile,driver=file,filename="+b.Disks[0], "-blockdev", "node-name=mydisk,driver=raw,file=myfile",
		"-device", "virtio-blk-pci,id=vda,drive=mydisk,bootindex=0,serial="+b.Definition.Disks[0].Serial,
		"-drive", "if=none,id=second,format=raw,cache=none,file="+b.Disks[1],
		"-device", "virtio-blk-pci,id=vdb,drive=second,serial="+b.Definition.Disks[1].Serial,
		"-netdev", "user,id=lan", "-device", "virtio-net-pci,netdev=lan,romfile=,mac="+b.Definition.NICs[0].MAC,
		"-device", "VGA", "-qmp", "unix:"+f.socket+",server=on,wait=off",
	)
	stderr, err := os.Create(filepath.Join(r.dir, "own-stderr.log"))
	must(r.t, err)
	f.cmd.Stderr = stderr
	must(r.t, f.cmd.Start())
	go func() {
		_ = f.cmd.Wait() // it is killed
		_ = stderr.Close()
		close(f.gone)
	}()
	r.t.Cleanup(f.kill)
	return f
}

func (f *foreign) kill() {
	_ = f.cmd.Process.Kill() // it may have ended
	<-f.gone
}

// TestImport takes in a machine that Rebound did not start, protects it, loses
// its host, and recovers it at the other site.
func TestImport(t *testing.T) {
	r := newRig(t, options{guests: []string{"own"}, foreign: true})
	at := time.Now()
	own := startForeign(r, "own")
	r.newBoots(at)
	r.working()

	m, err := r.w.Client.ImportMachine(r.ctx, rest.ImportMachine{Site: demo.HomeSite, QMPSocket: own.socket})
	must(t, err)
	def, want := m.Definition, r.built["own"].Definition
	if def.Name != "own" || def.UUID != want.UUID || def.MemoryMiB != 256 || def.CPUs != 1 || len(def.Disks) != 2 || len(def.NICs) != 1 || m.State != site.Running {
		t.Fatalf("imported %+v", m)
	}
	for i, d := range def.Disks {
		if d.SizeBytes != want.Disks[i].SizeBytes || d.Serial != want.Disks[i].Serial {
			t.Errorf("disk %d is %+v, want %+v", i, d, want.Disks[i])
		}
	}
	r.noStall("protection of a machine that runs", r.protect)
	r.noStall("looking at its display", func() { r.lookAt("own", false) })

	// Its host is lost: the machine, its gateway, its capture.
	rpo := r.shownRPO()
	cut := time.Now()
	must(t, demo.KillAll(append(r.w.Captures(demo.HomeSite), own.cmd.Process.Pid, r.w.PID(string(demo.HomeGW)))...))
	r.w.Collector.NewWorld()
	r.operate(lifecycle.Failover, rest.OperationRequest{Mode: "unplanned", Point: dr.Latest, ShutdownSource: "skip"})
	r.judge("unplanned failover of an imported machine", cut, cut, rpo)

	r.lookAt("own", true)

	// What runs there is the machine: its cards and disks are its own.
	s, ok := r.w.Collector.Session(r.boots["own"])
	if !ok || len(s.NICs) != 1 || s.NICs[0].MAC != want.NICs[0].MAC {
		t.Errorf("the recovered machine's cards: %+v", s.NICs)
	}
	r.operate(lifecycle.Commit, rest.OperationRequest{})
	r.untilState(lifecycle.Committed)
	r.working()

	// The gateway returns without the machine, then with it, started anew by
	// its owner: it is stale and must not stay.
	must(t, r.w.Restart(r.ctx, string(demo.HomeGW)))
	r.staleIsStopped()
}

// staleIsStopped starts the old machine by its owner's command line again.
func (r *rig) staleIsStopped() {
	r.t.Helper()
	stale := startForeign(r, "own")
	select {
	case <-stale.gone:
	case <-time.After(30 * time.Second):
		r.t.Error("the old machine runs beside the recovered one for 30 s")
	}
}

// lookAt looks at a machine again and again, as people who wait do: its display
// has a picture with something on it and, where Rebound started the machine, its
// serial console has what the guest's own program writes.
func (r *rig) lookAt(item dr.ItemID, text bool) {
	r.t.Helper()
	var v rest.Console
	for range 5 {
		r.until("a picture with something on it", func() (err error) {
			if v, err = r.w.Client.Console(r.ctx, item, ""); err != nil {
				return err
			}
			if v.Picture == nil {
				return fmt.Errorf("there is none: %s", v.PictureProblem)
			}
			if len(v.Picture) < 1000 { // nothing but one colour
				return fmt.Errorf("%d x %d in %d bytes", v.Width, v.Height, len(v.Picture))
			}
			if text && !strings.Contains(v.Text, fmt.Sprintf("%q:%q", "guest", item)) {
				return fmt.Errorf("the console's %d bytes have no line of the guest", len(v.Text))
			}
			return nil
		})
	}
	r.t.Logf("%s at %s shows %d x %d pixels and %d bytes of text", v.Machine, v.Site, v.Width, v.Height, len(v.Text))
}
