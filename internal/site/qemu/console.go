package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/qmp"
	"rebound/internal/site"
)

var _ site.Console = (*Driver)(nil)

const (
	// consoleLog is what the guest wrote to its serial console, run after
	// run; consoleFrom holds how long it was when the present run began.
	consoleLog  = "console.log"
	consoleFrom = "console.from"
	// pictureTimeout bounds how long a picture is waited for.
	pictureTimeout = 3 * time.Second
)

// graphicsModels are the display devices that a machine may have. All draw at
// once when they are asked to; qxl does not, and QEMU runs no other command of
// any monitor meanwhile.
func graphicsModels() []string {
	return []string{"VGA", "virtio-vga", "bochs-display", "cirrus-vga", "vmware-svga", "virtio-gpu-pci"}
}

// Console implements site.Console. It takes no lock: a machine that is being
// committed or captured is looked at all the same.
func (d *Driver) Console(ctx context.Context, name dr.MachineName) (site.ConsoleView, error) {
	m, rec, err := d.known(name)
	if err != nil {
		return site.ConsoleView{}, err
	}
	v := site.ConsoleView{Machine: name, At: time.Now().UTC(), State: m.state(ctx, rec), BootedAt: m.bootedAt(ctx, rec)}
	if v.State == site.Off {
		return v, problem.New(problem.MachineNotRunning, "%s", name)
	}
	display := rec.present().Graphics
	if rec.Socket == "" {
		if v.Text, v.HasText, err = m.consoleText(); err != nil {
			return v, err
		}
	} else if display == "" {
		return v, problem.New(problem.ConsoleUnavailable, "machine %s was imported without a display device", name)
	}
	if display == "" {
		return v, nil
	}
	switch {
	case rec.NoPicture:
		v.PictureProblem = "its display draws in its own time, and would hold QEMU up"
		return v, nil
	case v.State == site.Unknown:
		v.PictureProblem = "QEMU does not answer"
		return v, nil
	}
	if err := m.picture(ctx, rec, &v); err != nil {
		v.PictureProblem = err.Error()
	}
	return v, nil
}

// markConsole remembers where the text of the coming run begins.
func (m *machine) markConsole() error {
	size := int64(0)
	st, err := os.Stat(m.path(consoleLog))
	if err == nil {
		size = st.Size()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.WriteFile(m.path(consoleFrom), strconv.AppendInt(nil, size, 10), 0o600)
}

// consoleText returns the end of what the present run wrote to its serial
// console.
func (m *machine) consoleText() (text string, ok bool, err error) {
	f, err := os.Open(m.path(consoleLog))
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("read console of machine %s: %w", m.name, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", false, fmt.Errorf("read console of machine %s: %w", m.name, err)
	}
	from := int64(0)
	if b, err := os.ReadFile(m.path(consoleFrom)); err == nil {
		// One that cannot be read shows older runs too.
		from, _ = strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	}
	if from < 0 || from > st.Size() {
		from = 0
	}
	from = max(from, st.Size()-site.ConsoleBytes)
	raw := make([]byte, st.Size()-from)
	n, err := f.ReadAt(raw, from)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", false, fmt.Errorf("read console of machine %s: %w", m.name, err)
	}
	return site.ConsoleText(raw[:n]), true, nil
}

// picture asks QEMU for what the display shows. QEMU writes it as it is: to
// make a PNG of it takes a third of a second, in which neither guest nor monitor
// gets anything done. It writes to memory where there is a folder in memory, so
// that no disk holds it up, and into a folder of this picture's own: a QEMU that
// comes to it after we gave up finds no folder any more, and writes nothing.
func (m *machine) picture(ctx context.Context, rec *record, v *site.ConsoleView) error {
	ctx, cancel := context.WithTimeout(ctx, pictureTimeout)
	defer cancel()
	dir, err := pictureDir(m.dir)
	if err != nil {
		return fmt.Errorf("make room for a picture: %w", err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "picture.ppm")
	mon, err := m.monitor(rec)
	if err != nil {
		return err
	}
	if err := mon.Run(ctx, "screendump", object{"filename": file}, nil); err != nil {
		if qmp.Gone(err) {
			return problem.Wrap(err, problem.MachineNotRunning, "%s", m.name)
		}
		return fmt.Errorf("take a picture of machine %s: %w", m.name, err)
	}
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("read picture: %w", err)
	}
	defer f.Close()
	return v.SetPicture(f)
}

// pictureDir makes a folder that only we and a QEMU of ours can look into.
func pictureDir(machine string) (string, error) {
	if dir, err := os.MkdirTemp("/dev/shm", "rebound-picture-*"); err == nil {
		return dir, nil
	}
	return os.MkdirTemp(machine, ".picture-*")
}

// display finds the machine's display device. One that is known but not offered
// (qxl, a virtual GPU that renders on the host) becomes a plain VGA.
func (r *reader) display(ctx context.Context) error {
	for _, folder := range []string{"/machine/peripheral", "/machine/peripheral-anon", "/machine/unattached"} {
		list, err := qmp.Call[[]struct{ Name, Type string }](ctx, r.mon, "qom-list", object{"path": folder})
		if err != nil {
			return err
		}
		for _, child := range list {
			kind := strings.TrimSuffix(strings.TrimPrefix(child.Type, "child<"), ">")
			switch {
			case slices.Contains(graphicsModels(), kind):
				r.rec.Definition.Graphics = kind
				return nil
			case slices.Contains([]string{"qxl-vga", "virtio-vga-gl", "virtio-gpu-gl-pci"}, kind):
				r.rec.Definition.Graphics, r.rec.NoPicture = "VGA", true
				return nil
			}
		}
	}
	return nil
}
