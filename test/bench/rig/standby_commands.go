package rig

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/zeebo/blake3"

	"rebound/internal/block"
	"rebound/internal/dr"
)

// commandSet is what the standby process can be asked, in the form that
// net/rpc wants.
type commandSet struct {
	h   *keeper
	ctx context.Context // of the process
}

// GroupArgs names a group and its disk table.
type GroupArgs struct {
	Group dr.GroupID
	Disks []dr.GroupDisk
}

// Nothing is the argument or result of a command that has none.
type Nothing struct{}

// Create makes a group's journal.
func (c *commandSet) Create(a GroupArgs, _ *Nothing) error {
	return c.h.create(c.ctx, a.Group, a.Disks)
}

// Drop deletes a group's journal and its bases.
func (c *commandSet) Drop(a GroupArgs, _ *Nothing) error {
	k, err := c.h.find(a.Group)
	if err != nil {
		return err
	}
	c.h.mu.Lock()
	delete(c.h.groups, a.Group)
	c.h.mu.Unlock()
	return k.end()
}

// Fold moves the bases to the newest confirmed moment and drops the redo before
// it, so that many runs fit on one disk.
func (c *commandSet) Fold(a GroupArgs, freed *int64) error {
	k, err := c.h.find(a.Group)
	if err != nil {
		return err
	}
	if err := k.jrn.SetRedoWindow(time.Nanosecond); err != nil {
		return err
	}
	if _, err := k.jrn.Fold(c.ctx, dr.Position{}); err != nil {
		return fmt.Errorf("fold: %w", err)
	}
	*freed, err = k.jrn.Prune(c.ctx)
	return err
}

// Hashed is the hash of a disk at a moment.
type Hashed struct {
	Position string
	Sum      string
}

// Hash hashes a group's first disk at the newest confirmed moment, through a
// view.
func (c *commandSet) Hash(a GroupArgs, out *Hashed) error {
	k, err := c.h.find(a.Group)
	if err != nil {
		return err
	}
	at, err := k.jrn.Resolve(dr.Latest)
	if err != nil {
		return fmt.Errorf("resolve newest moment: %w", err)
	}
	view, err := k.jrn.OpenView(c.ctx, at.Position, 0)
	if err != nil {
		return fmt.Errorf("open view: %w", err)
	}
	defer view.Close()
	out.Position = at.Position.String()
	out.Sum, err = hashDevice(c.ctx, view)
	return err
}

// hashDevice hashes all of a disk.
func hashDevice(ctx context.Context, d block.Device) (string, error) {
	h := blake3.New()
	buf := make([]byte, 1<<20)
	for off := int64(0); off < d.Size(); off += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), d.Size()-off)]
		if err := d.ReadAt(ctx, buf, off); err != nil {
			return "", fmt.Errorf("hash disk: %w", err)
		}
		_, _ = h.Write(buf) // never fails
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// LagArgs says for how long and how often the lag is looked at.
type LagArgs struct {
	Group   dr.GroupID
	Seconds int
	Every   time.Duration
}

// Lag samples how old the newest confirmed durable moment is, in milliseconds.
// Source and standby share this machine's clock.
func (c *commandSet) Lag(a LagArgs, out *[]float64) error {
	k, err := c.h.find(a.Group)
	if err != nil {
		return err
	}
	tick := time.NewTicker(a.Every)
	defer tick.Stop()
	end := time.After(time.Duration(a.Seconds) * time.Second)
	for {
		select {
		case <-c.ctx.Done():
			return c.ctx.Err()
		case <-end:
			return nil
		case <-tick.C:
		}
		k.mu.Lock()
		failed := k.failed
		k.mu.Unlock()
		lag, ok := k.lag(time.Now())
		if failed != nil || !ok {
			return errors.Join(failed, fmt.Errorf("no confirmed moment: %v", !ok))
		}
		*out = append(*out, float64(lag)/float64(time.Millisecond))
	}
}
