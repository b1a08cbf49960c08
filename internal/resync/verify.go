package resync

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"rebound/internal/dr"
	"rebound/internal/extent"
)

// VerifyConfig configures a verification.
type VerifyConfig struct {
	Sources []Source
	Tracker Tracker
	Dial    DialFunc
	Epoch   dr.Epoch
	Workers int // as in Config
	// Attempts is how often a window that differs is looked at, with a
	// pause between that doubles from 20 ms to 500 ms; default 8, which is
	// 2 s, longer than a write may be on its way. At least 3.
	Attempts   int
	OnProgress func(Progress)
}

// VerifyResult is what a verification found, in bytes and by disk index.
type VerifyResult struct {
	Compared int64
	// Differing differed each time it was looked at, while no live write
	// touched it and the standby showed all that came before.
	Differing map[uint16]*extent.Set
	// Unsettled differed when last looked at, but may have been in the
	// middle of a change each time.
	Unsettled map[uint16]*extent.Set
}

// Equal reports whether everything was found equal.
func (r *VerifyResult) Equal() bool { return len(r.Differing) == 0 && len(r.Unsettled) == 0 }

// Verify compares source and standby while live writes go on, and sends
// nothing. A part that differs is looked at again: a write may have been on its
// way.
func Verify(ctx context.Context, cfg VerifyConfig) (VerifyResult, error) {
	if cfg.Tracker == nil || cfg.Dial == nil {
		return VerifyResult{}, errors.New("resync: verify needs a tracker and somebody to compare with")
	}
	if cfg.Workers <= 0 {
		cfg.Workers = 8
	}
	if cfg.Attempts == 0 {
		cfg.Attempts = 8
	}
	cfg.Attempts = max(cfg.Attempts, 3)
	p, err := newPlan(cfg.Sources)
	if err != nil {
		return VerifyResult{}, err
	}
	v := &verifier{cfg: cfg, plan: p, hasher: newHasher(), ask: newRedialer(cfg.Dial)}
	v.result.Differing, v.result.Unsettled = map[uint16]*extent.Set{}, map[uint16]*extent.Set{}
	defer func() { _ = v.ask.Close() }()
	if err := v.run(ctx); err != nil {
		return VerifyResult{}, fmt.Errorf("verify: %w", err)
	}
	v.result.Compared = p.snapshot().Done
	return v.result, nil
}

type verifier struct {
	cfg    VerifyConfig
	plan   *plan
	hasher hasher
	ask    *redialer

	mu     sync.Mutex
	result VerifyResult
}

func (v *verifier) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	jobs := make(chan *job)
	g.Go(func() error {
		defer close(jobs)
		for j := range v.plan.jobs {
			select {
			case jobs <- j:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
	for range v.cfg.Workers {
		g.Go(func() error {
			w := newWorker(&v.hasher, v.ask, v.cfg.Epoch)
			for j := range jobs {
				if err := v.window(ctx, w, j); err != nil {
					return err
				}
				p := v.plan.finish(j, 0)
				if v.cfg.OnProgress != nil {
					v.cfg.OnProgress(p)
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// look is what one look at a window found.
type look struct{ differing, moving extent.Set }

// window looks at a window until it is equal or the attempts are used up.
func (v *verifier) window(ctx context.Context, w *worker, j *job) error {
	pause := 20 * time.Millisecond
	var looks []look
	again := *j
	for i := range v.cfg.Attempts {
		if i > 0 {
			if err := sleep(ctx, pause); err != nil {
				return err
			}
			pause = min(2*pause, 500*time.Millisecond)
		}
		l, err := v.look(ctx, w, &again)
		if err != nil {
			return err
		}
		both := l.differing.Clone()
		both.Union(&l.moving)
		if both.Empty() {
			return nil
		}
		looks = append(looks, l)
		again.runs = both.Runs()
	}
	v.note(v.plan.disks[j.src].src.Index, looks[len(looks)-3:])
	return nil
}

// look compares once.
func (v *verifier) look(ctx context.Context, w *worker, j *job) (look, error) {
	src := &v.plan.disks[j.src].src
	t := v.cfg.Tracker.BeginRange(src.Index, j.hull())
	defer v.cfg.Tracker.AbandonRange(t)
	pieces, err := w.diffPieces(ctx, src.Device, j, t)
	if err != nil {
		return look{}, fmt.Errorf("disk %d: %w", src.Index, err)
	}
	var l look
	for i := range pieces {
		l.moving.Add(pieces[i].Range)
		if !w.caught {
			continue
		}
		for _, r := range v.cfg.Tracker.Untouched(t, pieces[i].Range) {
			l.differing.Add(r)
			l.moving.Remove(r)
		}
	}
	return l, nil
}

// note reports what the last looks agree on as differing, and the rest of the
// last one as unsettled.
func (v *verifier) note(disk uint16, looks []look) {
	last := looks[len(looks)-1]
	rest := last.differing.Clone()
	rest.Union(&last.moving)
	sure := last.differing.Clone()
	for _, l := range looks[:len(looks)-1] {
		for _, r := range sure.Clone().Runs() {
			for _, gone := range l.differing.Outside(r) {
				sure.Remove(gone)
			}
		}
	}
	for _, r := range sure.Runs() {
		rest.Remove(r)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	add(v.result.Differing, disk, sure)
	add(v.result.Unsettled, disk, rest)
}

func add(to map[uint16]*extent.Set, disk uint16, s *extent.Set) {
	if s.Empty() {
		return
	}
	if to[disk] == nil {
		to[disk] = &extent.Set{}
	}
	to[disk].Union(s)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
