package qemu

import (
	"bytes"
	"fmt"
	"image/color"
	"image/png"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"rebound/internal/problem"
	"rebound/internal/qmp"
	"rebound/internal/site"
)

// TestConsolePicture looks at a machine whose firmware draws on a display.
func TestConsolePicture(t *testing.T) {
	needQEMU(t)
	ctx := testContext(t)
	d := openDriver(t, t.TempDir())
	def := tiny("web", 1)
	def.Graphics = "VGA"
	must(t, d.Create(ctx, def))
	if _, err := d.Console(ctx, "web"); !problem.HasCode(err, problem.MachineNotRunning) {
		t.Fatalf("a machine that is off: %v", err)
	}
	must(t, d.Start(ctx, "web", site.StartOptions{}))
	var v site.ConsoleView
	for colours := 0; colours < 2; { // until the firmware has drawn
		var err error
		v, err = d.Console(ctx, "web")
		must(t, err)
		if v.PictureProblem != "" {
			t.Fatal(v.PictureProblem)
		}
		img, err := png.Decode(bytes.NewReader(v.Picture))
		must(t, err)
		if img.Bounds().Dx() != v.Width || img.Bounds().Dy() != v.Height || v.Width < 320 {
			t.Fatalf("a picture of %v, said to be %d x %d", img.Bounds(), v.Width, v.Height)
		}
		seen := map[color.Color]bool{}
		for y := range v.Height {
			for x := range v.Width {
				seen[img.At(x, y)] = true
			}
		}
		colours = len(seen)
	}
	if v.State != site.Running || v.BootedAt.IsZero() || v.At.Before(v.BootedAt) {
		t.Errorf("looked at %+v", v)
	}
	// Nothing was left behind, and the monitor answers.
	mon, err := d.at("web").ownMonitor("qmp.sock")
	must(t, err)
	must(t, mon.Run(ctx, "query-status", nil, nil))
	must(t, d.Stop(ctx, "web", site.Hard, time.Second))
}

// TestConsoleText reads the serial console of the present run alone.
func TestConsoleText(t *testing.T) {
	needQEMU(t)
	ctx := testContext(t)
	d := openDriver(t, t.TempDir())
	must(t, d.Create(ctx, tiny("web", 1)))
	log := d.at("web").path(consoleLog)
	must(t, os.WriteFile(log, []byte("an older run\n"), 0o600))
	must(t, d.Start(ctx, "web", site.StartOptions{Paused: true}))
	v, err := d.Console(ctx, "web")
	must(t, err)
	if !v.HasText || strings.TrimSpace(v.Text) != "" || v.Picture != nil || v.State != site.Paused {
		t.Errorf("before the guest ran: %+v", v)
	}
	f, err := os.OpenFile(log, os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	defer f.Close()
	fmt.Fprint(f, "\x1b[1mweb login:\x1b[0m ")
	if v, err = d.Console(ctx, "web"); err != nil || v.Text != "web login:\n" {
		t.Errorf("the console shows %q (%v)", v.Text, err)
	}
	fmt.Fprint(f, strings.Repeat("x", 2*site.ConsoleBytes))
	if v, err = d.Console(ctx, "web"); err != nil || len(v.Text) != site.ConsoleBytes+1 {
		t.Errorf("the console's end has %d bytes (%v)", len(v.Text), err)
	}
}

// TestConsoleHangs holds that a QEMU that does not answer holds nobody up.
func TestConsoleHangs(t *testing.T) {
	needQEMU(t)
	ctx := testContext(t)
	d := openDriver(t, t.TempDir())
	def := tiny("web", 1)
	def.Graphics = "VGA"
	must(t, d.Create(ctx, def))
	must(t, d.Start(ctx, "web", site.StartOptions{Paused: true}))
	p, err := d.at("web").process()
	must(t, err)
	defer p.close()
	must(t, syscall.Kill(p.pid, syscall.SIGSTOP))
	defer func() { must(t, syscall.Kill(p.pid, syscall.SIGCONT)) }()
	began := time.Now()
	v, err := d.Console(ctx, "web")
	if err != nil || v.PictureProblem == "" || v.State != site.Unknown {
		t.Errorf("a QEMU that hangs shows %+v, %v", v, err)
	}
	if took := time.Since(began); took > statusTimeout+pictureTimeout+5*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestImportedDisplay(t *testing.T) {
	needQEMU(t)
	for _, tc := range []struct {
		args []string
		want string
	}{{nil, "VGA"}, {[]string{"-vga", "virtio"}, "virtio-vga"}, {[]string{"-vga", "none"}, ""}} {
		dir := t.TempDir()
		socket := startForeign(t, dir, tc.args...)
		mon := qmp.NewMonitor(socket)
		rec, _, err := readMachine(testContext(t), mon)
		must(t, err)
		if rec.Definition.Graphics != tc.want {
			t.Errorf("%v: display %q, want %q", tc.args, rec.Definition.Graphics, tc.want)
		}
		must(t, mon.Close())
	}
}
