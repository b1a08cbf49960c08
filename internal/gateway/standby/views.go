package standby

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"sync"

	"rebound/internal/block"
	"rebound/internal/dr"
	"rebound/internal/nbd"
	"rebound/internal/site"
)

// viewServer serves a group's views over NBD on one Unix socket. The path is
// the same after a restart: machines that run on views dial it again.
type viewServer struct {
	path   string
	srv    *nbd.Server
	log    *slog.Logger
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	devices map[string]*swapDevice // by export
}

func newViewServer(path string, log *slog.Logger) (*viewServer, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("serve views: %w", err)
	}
	srv, err := nbd.NewServer(nbd.ServerOptions{Logger: log})
	if err != nil {
		return nil, fmt.Errorf("serve views: %w", err)
	}
	return &viewServer{path: path, srv: srv, log: log, cancel: func() {}, devices: map[string]*swapDevice{}}, nil
}

// listen begins to answer. Machines that were waiting ask at once.
func (v *viewServer) listen() error {
	lis, err := net.Listen("unix", v.path)
	if err != nil {
		return fmt.Errorf("serve views: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	v.cancel = cancel
	v.wg.Go(func() {
		if err := v.srv.Serve(ctx, lis); err != nil && ctx.Err() == nil {
			v.log.Error("serve views", "socket", v.path, "error", err)
		}
	})
	return nil
}

// exportName names one disk of one view.
func exportName(machine dr.MachineName, disk dr.DiskID) string {
	return string(machine) + "/" + string(disk)
}

// add serves a device read-only and closes it when it is removed.
func (v *viewServer) add(name string, view readable) error {
	dev := &swapDevice{dev: view}
	if err := v.srv.Add(nbd.Export{Name: name, Device: dev, ReadOnly: true}); err != nil {
		return errors.Join(fmt.Errorf("serve view %s: %w", name, err), dev.Close())
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.devices[name] = dev
	return nil
}

// has reports whether the export is being served.
func (v *viewServer) has(name string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.devices[name] != nil
}

// swap lets an export go on with another device of the same content.
func (v *viewServer) swap(name string, next readable) error {
	v.mu.Lock()
	dev := v.devices[name]
	v.mu.Unlock()
	if dev == nil {
		return next.Close()
	}
	return dev.swap(next)
}

// remove stops serving an export; one that is not served is fine.
func (v *viewServer) remove(ctx context.Context, name string) error {
	v.mu.Lock()
	dev := v.devices[name]
	delete(v.devices, name)
	v.mu.Unlock()
	if dev == nil {
		return nil
	}
	return errors.Join(v.srv.Remove(ctx, name), dev.Close())
}

func (v *viewServer) close() error {
	v.cancel()
	err := v.srv.Close()
	v.wg.Wait()
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, d := range v.devices {
		err = errors.Join(err, d.Close())
	}
	v.devices = nil
	return err
}

// disksOf returns the machine's rows of the disk table, by index.
func (g *group) disksOf(m dr.MachineName) map[uint16]dr.GroupDisk {
	out := map[uint16]dr.GroupDisk{}
	for i, d := range g.settings().Request.Disks {
		if d.Machine == m {
			out[uint16(i)] = d
		}
	}
	return out
}

// serveViews serves all disks of a recovered machine at its position.
func (g *group) serveViews(ctx context.Context, r recovered) error {
	for i, d := range g.disksOf(r.Machine) {
		name := exportName(r.Name, d.Disk)
		if g.views.has(name) {
			continue
		}
		dev, err := g.openView(ctx, i, r)
		if err != nil {
			return fmt.Errorf("open view of %s at %s: %w", name, r.Position, err)
		}
		if err := g.views.add(name, dev); err != nil {
			return err
		}
	}
	return nil
}

// openView opens a view, or the base itself once that is what the view shows
// and the journal has let go of it.
func (g *group) openView(ctx context.Context, disk uint16, r recovered) (readable, error) {
	switch {
	case g.jrn == nil:
		return g.openBase(disk)
	case r.Alone:
		return g.jrn.OpenMemberView(ctx, r.Position, disk)
	}
	return g.jrn.OpenView(ctx, r.Position, disk)
}

// openBase opens a base for reading, beside its owner.
func (g *group) openBase(disk uint16) (readable, error) {
	f, err := block.OpenFile(g.settings().BasePaths[disk], block.FileOptions{ReadOnly: true})
	if err != nil {
		return nil, fmt.Errorf("open base: %w", err)
	}
	return f, nil
}

// serveBases lets the views of a machine be served from its bases, which hold
// the same content by now.
func (g *group) serveBases(r recovered) error {
	for i, d := range g.disksOf(r.Machine) {
		base, err := g.openBase(i)
		if err != nil {
			return err
		}
		if err := g.views.swap(exportName(r.Name, d.Disk), base); err != nil {
			return fmt.Errorf("serve base of %s: %w", r.Name, err)
		}
	}
	return nil
}

// dropViews stops serving a machine's disks and lets its position go.
func (g *group) dropViews(ctx context.Context, r recovered) error {
	for _, d := range g.disksOf(r.Machine) {
		if err := g.views.remove(ctx, exportName(r.Name, d.Disk)); err != nil {
			return err
		}
	}
	jrn, err := g.open()
	if err != nil {
		return err
	}
	if err := jrn.DropView(string(r.Name)); err != nil {
		return err
	}
	return nil
}

// viewDisks tells the site where the machine's disks are served.
func (g *group) viewDisks(r recovered) []site.ViewDisk {
	var out []site.ViewDisk
	for _, d := range g.settings().Request.Disks {
		if d.Machine == r.Machine {
			out = append(out, site.ViewDisk{Disk: d.Disk, Socket: g.views.path, Export: exportName(r.Name, d.Disk)})
		}
	}
	return out
}

// restoreViews serves again what was served when the process before ended. A
// view that cannot be opened keeps its machine waiting, and no other one.
func (g *group) restoreViews(ctx context.Context) {
	var wg sync.WaitGroup
	for _, r := range g.settings().Recovered {
		wg.Go(func() {
			if err := g.serveViews(ctx, r); err != nil {
				g.host.cfg.Log.Error("serve views again", "group", g.id, "machine", r.Name, "error", err)
				g.event("ViewFailed", "critical", "the disks of %s, which runs on the journal, cannot be served: %v", r.Name, err)
			}
		})
	}
	wg.Wait()
}
