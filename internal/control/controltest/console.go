package controltest

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site"
)

// SetConsole gives a machine of the site a text on its serial console; without
// it a machine that runs shows a login prompt.
func (g *Gateway) SetConsole(name dr.MachineName, text string) {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	if g.consoles == nil {
		g.consoles = map[dr.MachineName]string{}
	}
	g.consoles[name] = text
}

// Console implements control.Commands. Machines with a display show a grey
// picture of 64 by 40 pixels.
func (g *Gateway) Console(ctx context.Context, r control.ConsoleRequest) (site.ConsoleView, error) {
	if _, err := g.strike(ctx, "Console", string(r.Machine)); err != nil {
		return site.ConsoleView{}, err
	}
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	m, err := g.find(r.Machine)
	if err != nil {
		return site.ConsoleView{}, err
	}
	if m.m.State == site.Off {
		return site.ConsoleView{}, problem.New(problem.MachineNotRunning, "%s", r.Machine)
	}
	v := site.ConsoleView{Machine: r.Machine, State: m.m.State, At: time.Now().UTC(), BootedAt: m.booted, HasText: true, Text: g.consoles[r.Machine]}
	if v.Text == "" {
		v.Text = fmt.Sprintf("%s login:\n", r.Machine)
	}
	if m.m.Definition.Graphics != "" {
		err = v.SetPicture(bytes.NewReader(append([]byte("P6 64 40 255\n"), bytes.Repeat([]byte{0x80}, 3*64*40)...)))
	}
	return v, err
}
