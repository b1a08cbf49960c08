package qemu

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site"
)

// buttonGuest waits for the power button and then powers off: enable the event
// (port 0x602, bit 8), poll its status (0x600, bit 8), write S5 to 0x604. The
// ports are where SeaBIOS puts the power management of q35.
func buttonGuest() []byte {
	return []byte{
		0xb8, 0x00, 0x01, 0xba, 0x02, 0x06, 0xef, // mov ax,0x100; mov dx,0x602; out dx,ax
		0xb0, 'o', 0xba, 0xf8, 0x03, 0xee, // mov al,'o'; mov dx,0x3f8; out dx,al
		0xba, 0x00, 0x06, // mov dx,0x600
		0xed, 0xf6, 0xc4, 0x01, 0x74, 0xfa, // poll: in ax,dx; test ah,1; jz poll
		0xb8, 0x00, 0x20, 0xba, 0x04, 0x06, 0xef, // mov ax,0x2000; mov dx,0x604; out dx,ax
		0xf4, 0xeb, 0xfd, // hlt; jmp $-1
	}
}

func TestGracefulStop(t *testing.T) {
	needQEMU(t)
	d, ctx := openDriver(t, t.TempDir()), testContext(t)
	must(t, d.Create(ctx, tiny("web", 1)))
	writeGuest(t, d, "web", buttonGuest())
	must(t, d.Start(ctx, "web", site.StartOptions{}))
	awaitConsole(ctx, t, d, "web", "o")
	begin := time.Now()
	must(t, d.Stop(ctx, "web", site.Graceful, 30*time.Second))
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	wantState(t, d, "web", site.Off)
	if p, err := d.at("web").process(); err != nil || p != nil {
		t.Fatalf("QEMU still lives (%v)", err)
	}
}

// A guest that does not listen makes a graceful stop fail and a hard one work.
func TestDeafGuest(t *testing.T) {
	needQEMU(t)
	d, ctx := openDriver(t, t.TempDir()), testContext(t)
	must(t, d.Create(ctx, tiny("web", 1)))
	must(t, d.Start(ctx, "web", site.StartOptions{}))
	wantCode(t, d.Stop(ctx, "web", site.Graceful, 300*time.Millisecond), problem.MachineRunning)
	wantState(t, d, "web", site.Running)
	must(t, d.Stop(ctx, "web", site.GracefulThenHard, 300*time.Millisecond))
	wantState(t, d, "web", site.Off)
}

// A QEMU that hangs is unknown, and can be stopped all the same.
func TestHungQEMU(t *testing.T) {
	needQEMU(t)
	d, ctx := openDriver(t, t.TempDir()), testContext(t)
	must(t, d.Create(ctx, tiny("web", 1)))
	must(t, d.Start(ctx, "web", site.StartOptions{}))
	p, err := d.at("web").process()
	must(t, err)
	defer p.close()
	must(t, syscall.Kill(p.pid, syscall.SIGSTOP))
	wantState(t, d, "web", site.Unknown)
	must(t, d.Stop(ctx, "web", site.Hard, 0))
	wantState(t, d, "web", site.Off)
}

// A pid file whose number now belongs to somebody else harms nobody.
func TestForeignProcessIsLeftAlone(t *testing.T) {
	needQEMU(t)
	d, ctx := openDriver(t, t.TempDir()), testContext(t)
	must(t, d.Create(ctx, tiny("web", 1)))
	other := exec.Command("sleep", "60")
	must(t, other.Start())
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	must(t, os.WriteFile(d.at("web").path("qemu.pid"), []byte(strconv.Itoa(other.Process.Pid)+"\n"), 0o600))
	wantState(t, d, "web", site.Off)
	must(t, d.Stop(ctx, "web", site.Hard, 0))
	if err := other.Process.Signal(syscall.Signal(0)); err != nil {
		t.Fatalf("the other process was killed: %v", err)
	}
	must(t, d.Start(ctx, "web", site.StartOptions{}))
	wantState(t, d, "web", site.Running)
}

// starterDir tells a copy of the test binary to be the process that starts a
// machine and is then killed.
const starterDir = "REBOUND_TEST_STARTER_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(starterDir); dir != "" {
		os.Exit(starter(dir))
	}
	os.Exit(m.Run())
}

func starter(dir string) int {
	d, err := New(Config{Dir: dir, Accel: "tcg"})
	if err == nil {
		err = d.Start(context.Background(), "web", site.StartOptions{})
	}
	if err != nil {
		println(err.Error())
		return 1
	}
	println("started")
	select {} // until killed
}

// The machine outlives the process that started it, killed with its whole
// process group.
func TestMachineOutlivesItsStarter(t *testing.T) {
	needQEMU(t)
	dir := t.TempDir()
	d, ctx := openDriver(t, dir), testContext(t)
	must(t, d.Create(ctx, tiny("web", 1)))
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), starterDir+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StderrPipe()
	must(t, err)
	must(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "started\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	must(t, syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL))
	_ = cmd.Wait()
	wantState(t, d, "web", site.Running)
	must(t, d.Stop(ctx, "web", site.Hard, 0))
	wantState(t, d, "web", site.Off)
}

// A UEFI machine has variables of its own, which survive and follow it.
func TestUEFI(t *testing.T) {
	needQEMU(t)
	d, ctx := openDriver(t, t.TempDir()), testContext(t)
	_, vars, err := d.firmware()
	if err != nil {
		t.Skip(err)
	}
	template, err := os.ReadFile(vars)
	must(t, err)
	def := tiny("web", 1)
	def.Firmware, def.MemoryMiB = dr.UEFI, 128
	must(t, d.Create(ctx, def))
	// The removable-media path of an empty disk ends in the firmware's
	// own menu or shell, which it announces on the console.
	must(t, d.Start(ctx, "web", site.StartOptions{}))
	awaitConsole(ctx, t, d, "web", "BdsDxe")
	must(t, d.Stop(ctx, "web", site.Hard, 0))
	own, err := os.ReadFile(d.at("web").path("nvram.fd"))
	must(t, err)
	if len(own) != len(template) || bytes.Equal(own, template) {
		t.Errorf("the firmware kept no variables (%d bytes, template %d)", len(own), len(template))
	}
	def.Name, def.NVRAM = "copy", own
	must(t, d.Create(ctx, def))
	got, err := os.ReadFile(d.at("copy").path("nvram.fd"))
	must(t, err)
	if !bytes.Equal(got, own) {
		t.Error("the definition's variables were not taken")
	}
}

// awaitConsole waits until a machine's console shows a text.
func awaitConsole(ctx context.Context, t *testing.T, d *Driver, name dr.MachineName, text string) {
	t.Helper()
	for {
		got, err := os.ReadFile(d.at(name).path("console.log"))
		must(t, err)
		if bytes.Contains(got, []byte(text)) {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("the console shows %q", got)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
