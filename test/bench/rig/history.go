package rig

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"rebound/internal/block"
	"rebound/internal/dr"
	"rebound/internal/journal"
	"rebound/internal/nbd"
	"rebound/internal/segment"
)

// The exports of the standby process.
const (
	viewExport = "view"
	fileExport = "file"
)

// HistoryArgs describes a history to be made: a sparse disk and as many writes
// of 4 KiB to it, at random places.
type HistoryArgs struct {
	DiskBytes int64
	Extents   int
	Opens     int // how many random moments are opened
}

// History is what was measured of it.
type History struct {
	OpenMS []float64 // until the first 4 KiB were read
	// JournalMiB is the anonymous memory of the process with the journal
	// open, ViewMiB what one view adds.
	JournalMiB, ViewMiB float64
	JournalBytes        int64
	MakeSeconds         float64
}

// historyGroup is the group of a made history.
const historyGroup = dr.GroupID("history")

// View makes a history, opens views of random moments of it, and serves the
// last one, and a plain file of the same size, until the process ends.
func (c *commandSet) View(a HistoryArgs, out *History) error {
	disks := []dr.GroupDisk{{Machine: "vm", Disk: "disk", SizeBytes: a.DiskBytes}}
	if err := c.h.create(c.ctx, historyGroup, disks); err != nil {
		return err
	}
	k, err := c.h.find(historyGroup)
	if err != nil {
		return err
	}
	begin := time.Now()
	w := &historian{jrn: k.jrn, b: segment.NewBuilder(segment.CodecS2), rng: rand.New(rand.NewPCG(1, uint64(a.Extents))), blocks: a.DiskBytes / 4096}
	moments, err := w.write(a.Extents)
	if err != nil {
		return err
	}
	out.MakeSeconds, out.JournalBytes = since(begin), k.jrn.Status().Bytes
	w.b = nil
	var view journal.Device
	for i := range a.Opens {
		if view != nil {
			if err := view.Close(); err != nil {
				return err
			}
		}
		if i == a.Opens-1 {
			out.JournalMiB = anonymousMiB()
		}
		ms, v, err := openOnce(c.ctx, k.jrn, moments[w.rng.IntN(len(moments))])
		if err != nil {
			return err
		}
		out.OpenMS, view = append(out.OpenMS, ms), v
	}
	out.ViewMiB = anonymousMiB() - out.JournalMiB
	return c.serve(view, a.DiskBytes)
}

func openOnce(ctx context.Context, jrn *journal.Journal, pos dr.Position) (ms float64, v journal.Device, err error) {
	begin := time.Now()
	if v, err = jrn.OpenView(ctx, pos, 0); err != nil {
		return 0, nil, fmt.Errorf("open view at %s: %w", pos, err)
	}
	if err := v.ReadAt(ctx, make([]byte, 4096), 0); err != nil {
		return 0, nil, errors.Join(err, v.Close())
	}
	return since(begin) * 1000, v, nil
}

// serve offers the view and a plain file beside it.
func (c *commandSet) serve(view journal.Device, size int64) error {
	path := filepath.Join(c.h.cfg.Dir, "plain.raw")
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("make plain file: %w", err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return fmt.Errorf("make plain file: %w", err)
	}
	plain, err := block.OpenFile(path, block.FileOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	srv, err := nbd.NewServer(nbd.ServerOptions{})
	if err != nil {
		return err
	}
	for _, e := range []nbd.Export{{Name: viewExport, Device: view, ReadOnly: true}, {Name: fileExport, Device: plain, ReadOnly: true}} {
		if err := srv.Add(e); err != nil {
			return err
		}
	}
	l, err := net.Listen("unix", c.h.cfg.Views)
	if err != nil {
		return fmt.Errorf("serve views: %w", err)
	}
	go func() { _ = srv.Serve(c.ctx, l) }() // ends with the process
	return nil
}

// historian writes a history straight into a journal.
type historian struct {
	jrn     *journal.Journal
	b       *segment.Builder
	rng     *rand.Rand
	blocks  int64
	seq     dr.Seq
	moments []dr.Position
	epoch   dr.Epoch
}

// beaconsEvery is how many writes lie between two beacons: 100 ms of 4 KiB
// writes at 40 MB/s.
const beaconsEvery = 1000

func (w *historian) write(n int) ([]dr.Position, error) {
	var err error
	if w.epoch, err = w.jrn.NewEpoch(1); err != nil {
		return nil, err
	}
	w.b.Reset(1, w.epoch)
	data := make([]byte, 4096)
	if err := w.synced(); err != nil {
		return nil, err
	}
	start := time.Now().Add(-time.Hour)
	for i := range n {
		binary.LittleEndian.PutUint64(data, uint64(i)+1)
		e := segment.Entry{Kind: segment.KindWrite, Offset: 4096 * w.rng.Int64N(w.blocks), Length: 4096, Data: data}
		if err := w.add(e); err != nil {
			return nil, err
		}
		if (i+1)%beaconsEvery != 0 && i != n-1 {
			continue
		}
		mono := time.Duration(i) * 100 * time.Microsecond
		payload, err := segment.Beacon{Wall: start.Add(mono), Mono: mono, N: w.seq}.MarshalBinary()
		if err != nil {
			return nil, err
		}
		if err := w.add(segment.Entry{Kind: segment.KindBeacon, Data: payload}); err != nil {
			return nil, err
		}
		w.moments = append(w.moments, dr.Position{Generation: 1, Epoch: w.epoch, Seq: w.seq - 1})
	}
	if err := w.flush(); err != nil {
		return nil, err
	}
	_, err = w.jrn.Sync()
	return w.moments, err
}

// synced adds a synchronisation that had nothing to do, as every epoch has one.
func (w *historian) synced() error {
	begin, err := segment.SyncBegin{Mode: "copy"}.MarshalBinary()
	if err != nil {
		return err
	}
	end, err := segment.SyncEnd{}.MarshalBinary()
	if err != nil {
		return err
	}
	return errors.Join(w.add(segment.Entry{Kind: segment.KindSyncBegin, Data: begin}), w.add(segment.Entry{Kind: segment.KindSyncEnd, Data: end}))
}

// add puts an entry into the stream.
func (w *historian) add(e segment.Entry) error {
	w.seq++
	e.Seq = w.seq
	if w.b.Add(e) {
		return nil
	}
	if err := w.flush(); err != nil {
		return err
	}
	if !w.b.Add(e) {
		return fmt.Errorf("entry %d fits no frame", e.Seq)
	}
	return nil
}

func (w *historian) flush() error {
	frame, err := w.b.Finish()
	if err != nil {
		return fmt.Errorf("make frame: %w", err)
	}
	if err := w.jrn.Append(frame); err != nil {
		return fmt.Errorf("append: %w", err)
	}
	w.b.Reset(1, w.epoch)
	return nil
}

// anonymousMiB is the process's memory without mapped files, after what is free
// was given back.
func anonymousMiB() float64 {
	debug.FreeOSMemory()
	m, err := MemoryOf(os.Getpid())
	if err != nil {
		return 0
	}
	return m.Anonymous
}
