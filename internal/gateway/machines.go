package gateway

import (
	"context"
	"fmt"
	"net"
	"time"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/site"
)

// Inventory lists what the site holds. A site that does not answer is
// SiteUnreachable.
func (g *Gateway) Inventory(ctx context.Context) (control.Inventory, error) {
	inv := control.Inventory{Site: g.cfg.Site, Capabilities: g.driver.Capabilities(), DataAddr: g.dataAddr(), Roles: g.roles()}
	var err error
	if inv.Machines, err = g.driver.Machines(ctx); err != nil {
		return inv, g.siteTrouble("list machines", err)
	}
	if inv.Networks, err = g.driver.Networks(ctx); err != nil {
		return inv, g.siteTrouble("list networks", err)
	}
	if inv.FreeBytes, inv.TotalBytes, err = g.driver.Room(ctx); err != nil {
		return inv, g.siteTrouble("measure room", err)
	}
	return inv, nil
}

func (g *Gateway) siteTrouble(doing string, err error) error {
	return problem.Wrap(err, problem.SiteUnreachable, "gateway %s does not reach its site %s: %s: %v", g.cfg.Name, g.cfg.Site, doing, err)
}

// ImportMachine takes in a machine that somebody else started.
func (g *Gateway) ImportMachine(ctx context.Context, _ control.Origin, r control.ImportRequest) (site.Machine, error) {
	imp, ok := g.driver.(site.Importer)
	if !ok {
		return site.Machine{}, problem.New(problem.InvalidRequest, "site %s cannot import machines", g.cfg.Site)
	}
	if r.Name != "" {
		if err := dr.ValidName(string(r.Name)); err != nil {
			return site.Machine{}, problem.Wrap(err, problem.InvalidName, "import machine")
		}
	}
	return imp.Import(ctx, r.QMPSocket, r.Name)
}

// StartMachine starts a machine of the site, unless it is fenced or standby.
func (g *Gateway) StartMachine(ctx context.Context, _ control.Origin, r control.MachineRequest) error {
	if grp := g.standbyOf(r.Machine); grp != "" {
		return problem.New(problem.MachineInUse, "%s is the standby of group %s", r.Machine, grp)
	}
	if grp := g.fencedIn(r.Machine); grp != "" {
		return problem.New(problem.StaleGeneration, "%s belongs to group %s, which is active at another site", r.Machine, grp)
	}
	return g.driver.Start(ctx, r.Machine, site.StartOptions{})
}

// StopMachine stops a machine. While it is captured it is stopped in such a
// way that its last writes are captured too: the hypervisor process stays
// until StopReplication has drained the stream.
func (g *Gateway) StopMachine(ctx context.Context, _ control.Origin, r control.StopRequest) error {
	if src := g.sourceOf(r.Machine); src != nil {
		return src.Quiesce(ctx, r.Machine, r.Mode, r.Timeout)
	}
	return g.driver.Stop(ctx, r.Machine, r.Mode, r.Timeout)
}

// DeleteMachine removes a machine that is off.
func (g *Gateway) DeleteMachine(ctx context.Context, _ control.Origin, r control.DeleteRequest) (control.Deleted, error) {
	m, err := g.driver.Machine(ctx, r.Machine)
	if problem.HasCode(err, problem.UnknownMachine) && !r.DryRun {
		return control.Deleted{}, nil // deleted by an earlier attempt
	}
	if err != nil {
		return control.Deleted{}, fmt.Errorf("look at machine: %w", err)
	}
	if grp := g.standbyOf(r.Machine); grp != "" {
		return control.Deleted{}, problem.New(problem.MachineInUse, "%s is the standby of group %s", r.Machine, grp)
	}
	list := control.Deleted{Removed: []string{"machine " + string(r.Machine)}}
	for _, d := range m.Definition.Disks {
		text := fmt.Sprintf("disk %s of %s", d.ID, r.Machine)
		if r.KeepDisks {
			list.Kept = append(list.Kept, text)
		} else {
			list.Removed = append(list.Removed, text)
		}
	}
	if r.DryRun {
		return list, nil
	}
	if m.State != site.Off {
		return control.Deleted{}, problem.New(problem.MachineRunning, "%s is %s", r.Machine, m.State)
	}
	if err := g.driver.Delete(ctx, r.Machine, r.KeepDisks); err != nil {
		return control.Deleted{}, fmt.Errorf("delete machine: %w", err)
	}
	return list, nil
}

// Probe opens a TCP connection to addr and closes it.
func (g *Gateway) Probe(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return problem.Wrap(err, problem.GatewayUnreachable, "gateway %s at site %s cannot open a data connection to %s", g.cfg.Name, g.cfg.Site, addr)
	}
	return conn.Close()
}

// reportMachines lists the power state of every machine of the site.
func (g *Gateway) reportMachines(ctx context.Context) ([]control.MachineReport, error) {
	machines, err := g.driver.Machines(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]control.MachineReport, 0, len(machines))
	for _, m := range machines {
		out = append(out, control.MachineReport{Machine: m.Definition.Name, State: m.State, BootedAt: m.BootedAt})
	}
	return out, nil
}

// powerOff stops a machine hard; one that is unknown or off is fine.
func (g *Gateway) powerOff(ctx context.Context, name dr.MachineName) (wasRunning bool, err error) {
	m, err := g.driver.Machine(ctx, name)
	if problem.HasCode(err, problem.UnknownMachine) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	err = g.driver.Stop(ctx, name, site.Hard, 10*time.Second)
	return m.State != site.Off, err
}
