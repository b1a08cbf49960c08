package source

import (
	"context"
	"slices"
	"time"

	"rebound/internal/capture"
	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/site"
)

// hour is the stretch over which breaks are counted.
const hour = time.Hour

// recently keeps the times of things that happened within the last hour.
type recently []time.Time

// add notes one more and forgets what is older than an hour.
func (r *recently) add(now time.Time) {
	*r = append(r.since(now), now)
}

// since returns those within the last hour.
func (r recently) since(now time.Time) recently {
	i := slices.IndexFunc(r, func(t time.Time) bool { return now.Sub(t) < hour })
	if i < 0 {
		return nil
	}
	return r[i:]
}

// unprotected lists the writable disks of a member that its group does not
// replicate: those of its definition that the table lacks, and those that somebody
// added while it runs.
func (a *attempt) unprotected(ctx context.Context, def dr.Definition) ([]control.UnprotectedDisk, error) {
	var out []control.UnprotectedDisk
	for _, d := range def.Disks {
		in := slices.ContainsFunc(a.spec.Disks, func(g dr.GroupDisk) bool { return g.Machine == def.Name && g.Disk == d.ID })
		if !in && !d.ReadOnly {
			out = append(out, control.UnprotectedDisk{Machine: def.Name, Disk: string(d.ID), SizeBytes: d.SizeBytes})
		}
	}
	w, ok := a.g.cfg.Driver.(site.DiskWatcher)
	if !ok {
		return out, nil
	}
	extra, err := w.ExtraDisks(ctx, def.Name)
	for _, d := range extra {
		out = append(out, control.UnprotectedDisk{Machine: def.Name, Disk: d.Name, SizeBytes: d.SizeBytes})
	}
	return out, err
}

// reapPatience is how long the end of a process may take to be seen after its
// sockets have closed.
const reapPatience = 100 * time.Millisecond

// captureDied reports whether the attempt ended because its capture process did.
func (a *attempt) captureDied() bool {
	if a.proc == nil {
		return false
	}
	select {
	case <-a.proc.Done():
		return true
	case <-time.After(reapPatience):
		return false
	}
}

// Counters are the capture's, as of the last look at it.
func (g *Group) Counters() capture.Counters {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.last.counters
}
