package capture

import (
	"sync"
	"time"
)

// Clock reads the machine's clocks. SystemClock is the real one; tests step
// their own.
type Clock interface {
	// Wall is the time of day; it may be stepped in both directions.
	Wall() time.Time
	// Mono is the time since some start; it never goes back.
	Mono() time.Duration
}

// NewSystemClock returns the clock of this machine.
func NewSystemClock() Clock { return systemClock{start: time.Now()} }

type systemClock struct{ start time.Time }

func (systemClock) Wall() time.Time       { return time.Now().Round(0) }
func (c systemClock) Mono() time.Duration { return time.Since(c.start) }

// Limits of the stamper.
const (
	// stepLimit is the difference between the time of day and the stamps
	// from which the clock counts as stepped.
	stepLimit = 500 * time.Millisecond
	// slewDivisor bounds the correction of small differences: at most a
	// tenth of the time that passed.
	slewDivisor = 10
)

// stamper makes the source times of beacons and markers: the time of day as
// long as the clock behaves, and never going back whatever it does. It runs on
// the monotonic clock, follows small differences by slewing, jumps forward
// when the clock was stepped forward, and slews when it was stepped back.
type stamper struct {
	clock Clock
	// stepped is told of each step with its size, once; it may be nil.
	stepped func(by time.Duration)

	mu      sync.Mutex
	wall    time.Time     // last stamp
	mono    time.Duration // when it was made
	started bool
	behind  bool // a step back was reported and is still being slewed away
}

// now returns a stamp and the monotonic time that goes with it.
func (s *stamper) now() (time.Time, time.Duration) {
	s.mu.Lock()
	by := s.advance()
	wall, mono := s.wall, s.mono
	s.mu.Unlock()
	if by != 0 && s.stepped != nil {
		s.stepped(by)
	}
	return wall, mono
}

// advance moves the stamp on; it returns the size of a step it met.
func (s *stamper) advance() time.Duration {
	mono, real := s.clock.Mono(), s.clock.Wall().UTC()
	if !s.started {
		s.started, s.wall, s.mono = true, real, mono
		return 0
	}
	passed := max(mono-s.mono, 0)
	s.mono += passed
	s.wall = s.wall.Add(passed)
	drift := real.Sub(s.wall)
	switch {
	case drift > stepLimit:
		s.wall, s.behind = real, false
		return drift
	case drift < -stepLimit && !s.behind:
		s.behind = true
		s.wall = s.wall.Add(-passed / slewDivisor)
		return drift
	case drift > -stepLimit/2:
		s.behind = false
	}
	slew := passed / slewDivisor
	s.wall = s.wall.Add(min(max(drift, -slew), slew))
	return 0
}
