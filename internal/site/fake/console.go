package fake

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site"
)

var _ site.Console = (*Driver)(nil)

// Console implements site.Console: a machine that runs shows a login prompt with
// its name and, when it has a display, a grey picture.
func (d *Driver) Console(ctx context.Context, name dr.MachineName) (site.ConsoleView, error) {
	if err := d.enter(ctx, "Console", name); err != nil {
		return site.ConsoleView{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	m, err := d.find(name)
	if err != nil {
		return site.ConsoleView{}, err
	}
	if m.state == site.Off {
		return site.ConsoleView{}, problem.New(problem.MachineNotRunning, "%s", name)
	}
	v := site.ConsoleView{Machine: name, State: m.state, At: time.Now().UTC(), BootedAt: m.booted, HasText: true}
	if m.state == site.Running {
		v.Text = fmt.Sprintf("%s login:\n", name)
	}
	if m.def.Graphics != "" {
		err = v.SetPicture(GreyPicture())
	}
	return v, err
}

// GreyPicture is a picture of 64 by 40 grey pixels, as hypervisors write it.
func GreyPicture() *bytes.Reader {
	return bytes.NewReader(append([]byte("P6 64 40 255\n"), bytes.Repeat([]byte{0x80}, 3*64*40)...))
}
