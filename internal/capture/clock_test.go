package capture

import (
	"testing"
	"time"
)

// testClock is set by hand.
type testClock struct {
	wall time.Time
	mono time.Duration
}

func (c *testClock) Wall() time.Time     { return c.wall }
func (c *testClock) Mono() time.Duration { return c.mono }

func (c *testClock) pass(d time.Duration) {
	c.wall, c.mono = c.wall.Add(d), c.mono+d
}

func TestStamps(t *testing.T) {
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	c := &testClock{wall: start}
	var steps []time.Duration
	s := &stamper{clock: c, stepped: func(by time.Duration) { steps = append(steps, by) }}
	last, _ := s.now()
	stamp := func() time.Time {
		t.Helper()
		c.pass(100 * time.Millisecond)
		now, mono := s.now()
		if !now.After(last) {
			t.Fatalf("stamp %v after %v", now, last)
		}
		if mono != c.mono {
			t.Fatalf("mono %v, want %v", mono, c.mono)
		}
		last = now
		return now
	}
	if got := stamp(); !got.Equal(c.wall) {
		t.Errorf("stamp %v, want %v", got, c.wall)
	}

	c.wall = c.wall.Add(-time.Hour) // set back
	before := last
	stamp()
	if len(steps) != 1 || steps[0] > -59*time.Minute {
		t.Errorf("steps %v, want one of about -1h", steps)
	}
	for range 1000 {
		stamp()
	}
	if passed := last.Sub(before); passed < 90*time.Second || passed > 100*time.Second {
		t.Errorf("%v passed in 100.1s, want it slewed by a tenth", passed)
	}
	if len(steps) != 1 {
		t.Errorf("steps %v: one step was reported more than once", steps)
	}

	c.wall = last.Add(2 * time.Hour) // set forward
	if got := stamp(); !got.Equal(c.wall) || len(steps) != 2 || steps[1] < time.Hour {
		t.Errorf("stamp %v, want %v; steps %v", got, c.wall, steps)
	}

	c.wall = c.wall.Add(-200 * time.Millisecond) // a small difference
	for range 30 {
		stamp()
	}
	if d := last.Sub(c.wall).Abs(); d > time.Millisecond {
		t.Errorf("still %v off after 3s", d)
	}
	if len(steps) != 2 {
		t.Errorf("steps %v: a small difference counts as a step", steps)
	}
}
