package orchestrator

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"rebound/internal/problem"
	"rebound/internal/vault/store"
)

// lease makes its holder the only process that runs jobs: a file lock, which
// the kernel gives back when the process dies, and an epoch that grows with
// each holder and goes with every command.
type lease struct {
	file  *os.File
	epoch uint64
	// raised is a newer epoch, of RaiseLease.
	raised atomic.Uint64
}

// RaiseLease gives this process an epoch above one that gateways have seen: of
// a vault that this one takes the place of, because a person says so. Without
// that an epoch above one's own means that one's own is over.
func (o *Orchestrator) RaiseLease(ctx context.Context, seen uint64) error {
	if seen < o.Lease() {
		return nil
	}
	next := seen + 1
	err := o.store.Update(ctx, func(tx *store.Tx) error {
		return tx.SetMeta("lease-epoch", strconv.FormatUint(next, 10))
	})
	if err != nil {
		return fmt.Errorf("raise lease epoch: %w", err)
	}
	o.lease.raised.Store(next)
	return nil
}

// takeLease waits for the lock in dir until ctx ends and raises the epoch.
func takeLease(ctx context.Context, dir string, s *store.Store, now time.Time) (*lease, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lease.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lease: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if err != unix.EWOULDBLOCK {
			f.Close()
			return nil, fmt.Errorf("lock lease: %w", err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, problem.Wrap(ctx.Err(), problem.StaleLease, "another vault process holds %s", dir)
		case <-time.After(50 * time.Millisecond):
		}
	}
	l := &lease{file: f}
	err = s.Update(ctx, func(tx *store.Tx) error {
		text, err := tx.Meta("lease-epoch")
		if err != nil {
			return err
		}
		last, _ := strconv.ParseUint(text, 10, 64)
		// The clock as a floor: a database restored from a backup must not
		// hand out epochs that gateways have seen.
		l.epoch = max(last+1, uint64(now.Unix()))
		return tx.SetMeta("lease-epoch", strconv.FormatUint(l.epoch, 10))
	})
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("raise lease epoch: %w", err)
	}
	return l, nil
}

func (l *lease) release() error { return l.file.Close() }
