package qemu

import (
	"context"
	"time"

	"rebound/internal/dr"
	"rebound/internal/qmp"
)

// resumeRetry is the time between attempts to let a machine go on that QEMU
// paused because of an error of its view or overlay.
const resumeRetry = time.Second

// watchAll takes up the watch over all machines that run on views.
func (d *Driver) watchAll() error {
	names, err := d.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		rec, err := d.at(name).record()
		if err != nil {
			d.log.Warn("machine left unwatched", "machine", name, "error", err)
			continue
		}
		if rec.Recovered != nil {
			d.watch(name)
		}
	}
	return nil
}

// watch keeps a machine on views going until its QEMU ends.
func (d *Driver) watch(name dr.MachineName) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	if _, running := d.watched[name]; running {
		d.watched[name] = true // look again before you end
		return
	}
	d.watched[name] = false
	d.wg.Go(func() {
		for again := true; again; {
			d.keepGoing(d.ctx, d.at(name))
			d.mu.Lock()
			again = d.watched[name] && d.ctx.Err() == nil
			if d.watched[name] = false; !again {
				delete(d.watched, name)
			}
			d.mu.Unlock()
		}
	})
}

// keepGoing resumes the machine whenever an I/O error stopped it. While the
// view's server is away for less than Config.ViewReconnect, reads just wait and there
// is nothing to do; after that, or when the overlay's volume is full, QEMU
// pauses the machine.
func (d *Driver) keepGoing(ctx context.Context, m *machine) {
	for ctx.Err() == nil {
		rec, err := m.record()
		if err != nil || rec.Recovered == nil {
			return
		}
		p, err := m.process()
		if err != nil || p == nil {
			return
		}
		p.close()
		if err := d.watchOnce(ctx, m, rec); err != nil && ctx.Err() == nil {
			d.log.Debug("watch of machine interrupted", "machine", m.name, "error", err)
			wait(ctx, resumeRetry)
		}
	}
}

// watchOnce watches through one connection.
func (d *Driver) watchOnce(ctx context.Context, m *machine, rec *record) error {
	mon, err := m.monitor(rec)
	if err != nil {
		return err
	}
	dial, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	client, err := mon.Client(dial)
	if err != nil {
		return err
	}
	events := client.Subscribe("STOP", "RESUME")
	defer events.Close()
	for {
		status, err := m.status(ctx, rec)
		if err != nil {
			return err
		}
		if status == "io-error" {
			d.log.Warn("machine was paused by an I/O error; letting it go on", "machine", m.name)
			if err := client.Run(ctx, "cont", nil, nil); err != nil && !qmp.Refused(err) {
				return err
			}
			// While the reason lasts it stops again at once.
			wait(ctx, resumeRetry)
			continue
		}
		if _, err = events.Next(ctx); err != nil {
			return err
		}
	}
}

// wait returns after a time, or when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
