package resync

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"rebound/internal/dr"
	"rebound/internal/extent"
)

// Config configures a synchronisation.
type Config struct {
	Sources []Source
	// Mode is ModeCopy only if the standby said that it is fresh.
	Mode      Mode
	Sequencer Sequencer
	// Dial opens compare connections; a copy needs none.
	Dial DialFunc
	// Epoch is the stream's; compare requests name it.
	Epoch dr.Epoch
	// Workers is how many windows are in flight at a time; default 8. It
	// bounds memory: one Window each, twice where the standby compares.
	Workers int
	// OnProgress is told after each window; nil is nobody. It does not
	// block and may be called from several goroutines.
	OnProgress func(Progress)
}

func (c *Config) setDefaults() error {
	switch {
	case c.Sequencer == nil:
		return errors.New("resync: no sequencer")
	case c.Mode != ModeCopy && c.Mode != ModeBitmap && c.Mode != ModeCompare:
		return fmt.Errorf("resync: unknown mode %q", c.Mode)
	case c.Mode != ModeCopy && c.Dial == nil:
		return errNoDial
	}
	if c.Workers <= 0 {
		c.Workers = 8
	}
	return nil
}

// Result is what a synchronisation did.
type Result struct {
	Compared int64 // bytes looked at
	Copied   int64 // bytes appended to the stream
	// Begin and End are the numbers of the markers.
	Begin, End dr.Seq
}

// Syncer is one synchronisation. Run it until it succeeds, or give it up.
type Syncer struct {
	cfg    Config
	plan   *plan
	hasher hasher

	mu    sync.Mutex
	begun dr.Seq
}

// New plans a synchronisation.
func New(cfg Config) (*Syncer, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	p, err := newPlan(cfg.Sources)
	if err != nil {
		return nil, err
	}
	return &Syncer{cfg: cfg, plan: p, hasher: newHasher()}, nil
}

// Progress returns how far it is.
func (s *Syncer) Progress() Progress { return s.plan.snapshot() }

// Remaining returns what is not done, by disk index.
func (s *Syncer) Remaining() map[uint16]*extent.Set { return s.plan.remaining() }

// Run synchronises what is not done and appends the end marker. When it fails,
// on an error of a source, of the sequencer or a refusal for good, or because
// ctx ended, no end marker was appended and no range stays in flight; it may
// then be called again within the same epoch and goes on with what remains.
func (s *Syncer) Run(ctx context.Context) (Result, error) {
	if err := s.begin(ctx); err != nil {
		return Result{}, err
	}
	var ask *redialer
	if s.cfg.Mode != ModeCopy {
		ask = newRedialer(s.cfg.Dial)
		defer func() { _ = ask.Close() }()
	}
	if err := s.work(ctx, ask); err != nil {
		return Result{}, err
	}
	p := s.plan.snapshot()
	end, err := s.cfg.Sequencer.EndSync(ctx, p.Done, p.Sent)
	if err != nil {
		return Result{}, fmt.Errorf("end synchronisation: %w", err)
	}
	return Result{Compared: p.Done, Copied: p.Sent, Begin: s.begun, End: end}, nil
}

func (s *Syncer) begin(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begun != 0 {
		return nil
	}
	seq, err := s.cfg.Sequencer.BeginSync(ctx, s.cfg.Mode, s.plan.snapshot().Total)
	if err != nil {
		return fmt.Errorf("begin synchronisation: %w", err)
	}
	s.begun = seq
	return nil
}

// work runs the workers over all jobs.
func (s *Syncer) work(ctx context.Context, ask *redialer) error {
	g, ctx := errgroup.WithContext(ctx)
	jobs := make(chan *job)
	g.Go(func() error {
		defer close(jobs)
		return s.feed(ctx, jobs)
	})
	for range s.cfg.Workers {
		g.Go(func() error {
			w := newWorker(&s.hasher, ask, s.cfg.Epoch)
			for j := range jobs {
				if err := s.window(ctx, w, j); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("synchronise: %w", err)
	}
	return nil
}

// feed hands out the jobs in order; a copy passes over holes.
func (s *Syncer) feed(ctx context.Context, jobs chan<- *job) error {
	var zeros zeroMap
	var err error
	s.plan.jobs(func(j *job) bool {
		if s.cfg.Mode == ModeCopy {
			var zero bool
			if zero, err = zeros.covers(ctx, s.plan.disks[j.src].src.Device, j); err != nil {
				return false
			}
			if zero {
				s.finish(j, 0)
				return true
			}
		}
		select {
		case jobs <- j:
			return true
		case <-ctx.Done():
			err = context.Cause(ctx)
			return false
		}
	})
	return err
}

// window takes one window in flight, finds what to send and commits it.
func (s *Syncer) window(ctx context.Context, w *worker, j *job) error {
	src := &s.plan.disks[j.src].src
	t := s.cfg.Sequencer.BeginRange(src.Index, j.hull())
	var pieces []Piece
	var err error
	if s.cfg.Mode == ModeCopy {
		pieces, err = w.copyPieces(ctx, src.Device, j)
	} else {
		pieces, err = w.diffPieces(ctx, src.Device, j, t)
	}
	if err != nil {
		s.cfg.Sequencer.AbandonRange(t)
		return fmt.Errorf("disk %d: %w", src.Index, err)
	}
	if len(pieces) == 0 {
		s.cfg.Sequencer.AbandonRange(t)
		s.finish(j, 0)
		return nil
	}
	sent, err := s.cfg.Sequencer.CommitRange(ctx, t, pieces)
	if err != nil {
		return fmt.Errorf("disk %d: commit range: %w", src.Index, err)
	}
	s.finish(j, sent)
	return nil
}

func (s *Syncer) finish(j *job, sent int64) {
	p := s.plan.finish(j, sent)
	if s.cfg.OnProgress != nil {
		s.cfg.OnProgress(p)
	}
}
