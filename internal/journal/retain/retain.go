// Package retain decides which recovery points are kept. It is pure: from
// points, policy and a moment to what is kept and what goes. The journal plans
// with it, and the commands that show what would go.
//
// It promises: the newest point is never dropped, nor is one that is pinned; what
// was dropped once is never asked for again as time goes on and points are added;
// and of what it keeps it drops nothing when it is asked a second time.
package retain

import (
	"cmp"
	"slices"
	"time"

	"rebound/internal/dr"
)

// Day is 24 hours.
const Day = 24 * time.Hour

// MaxRetention is the longest time for which points are kept.
const MaxRetention = 30 * Day

// Rung keeps one point of every Every until a point's age is For. Points are
// gathered in stretches of Every that are counted from 1970 on, UTC, and not from
// the first point: so they do not move as points go.
type Rung struct {
	Every time.Duration `json:"every"`
	For   time.Duration `json:"for"`
}

// Policy says what is kept. The zero Policy keeps the newest point.
type Policy struct {
	// Window is how long every point is kept.
	Window time.Duration `json:"window"`
	// Ladder thins what is older, youngest rung first. Every of a rung is a
	// multiple of Every of the one before it, and For grows.
	Ladder []Rung `json:"ladder,omitempty"`
}

// Ladder returns the rungs for a retention, those of Azure Site Recovery: one
// point an hour for a day; one every two hours for a week; beyond that one
// every two hours for a week and one every four hours after it. A retention
// that is not longer than the window has none.
func Ladder(window, retention time.Duration) []Rung {
	switch {
	case retention <= window:
		return nil
	case retention <= Day:
		return []Rung{{time.Hour, retention}}
	case retention <= 7*Day:
		return []Rung{{2 * time.Hour, retention}}
	case window >= 7*Day:
		return []Rung{{4 * time.Hour, min(retention, MaxRetention)}}
	}
	return []Rung{{2 * time.Hour, 7 * Day}, {4 * time.Hour, min(retention, MaxRetention)}}
}

// Valid reports whether the rungs are what Policy demands.
func (p Policy) Valid() bool {
	if p.Window < 0 {
		return false
	}
	last := Rung{For: p.Window}
	for _, r := range p.Ladder {
		if r.Every <= 0 || r.For <= last.For || r.For > MaxRetention || (last.Every > 0 && r.Every%last.Every != 0) {
			return false
		}
		last = r
	}
	return true
}

// Plan is what Apply decided; each list is in the order of positions.
type Plan struct {
	Keep []dr.Point `json:"keep"`
	Drop []dr.Point `json:"drop"`
}

// Apply decides about points, which may come in any order. now is the newest
// moment of which the disks are known, by the clock that the points carry: so
// that what is there stays while nothing new comes. pinned are positions that
// something needs.
//
// Of each stretch of a rung the oldest application-consistent point is kept,
// or the oldest of all when there is none. Bookmarks are not thinned: they go when
// the last rung ends. A stretch goes as a whole once all of it is older than
// the rung, so a point may stay for up to one Every longer than For.
func Apply(points []dr.Point, p Policy, now time.Time, pinned []dr.Position) Plan {
	list := slices.Clone(points)
	slices.SortStableFunc(list, order)
	keep := make([]bool, len(list))
	best := map[stretch]int{}
	for i := range list {
		pt := &list[i]
		s, kept := p.place(pt.Time, now)
		keep[i] = kept || i == len(list)-1 || pt.Kind == dr.Diverged || slices.Contains(pinned, pt.Position)
		if s.rung == 0 {
			continue
		}
		if pt.Kind == dr.Bookmark {
			keep[i] = true
			continue
		}
		if j, ok := best[s]; !ok || (pt.Kind == dr.AppConsistent && list[j].Kind != dr.AppConsistent) {
			best[s] = i
		}
	}
	for _, i := range best {
		keep[i] = true
	}
	var out Plan
	for i := range list {
		if keep[i] {
			out.Keep = append(out.Keep, list[i])
		} else {
			out.Drop = append(out.Drop, list[i])
		}
	}
	return out
}

func order(a, b dr.Point) int {
	if c := a.Position.Compare(b.Position); c != 0 {
		return c
	}
	return cmp.Compare(a.ID, b.ID)
}

// stretch is one of those from which a point is kept; rung 0 is none.
type stretch struct {
	rung  int
	start int64 // Unix nanoseconds
}

// place says in which stretch a moment lies, or that it is inside the window.
// The border between two rungs is moved back to where a stretch of the older
// one ends, so that no stretch is ever cut in two.
func (p Policy) place(t, now time.Time) (s stretch, inWindow bool) {
	if now.Sub(t) < p.Window {
		return s, true
	}
	at := t.UnixNano()
	for i, r := range p.Ladder {
		border := r.Every // of the stretches that the next rung has
		if i+1 < len(p.Ladder) {
			border = p.Ladder[i+1].Every
		}
		if at >= floor(now.Add(-r.For).UnixNano(), border) {
			return stretch{i + 1, floor(at, r.Every)}, false
		}
	}
	return s, false
}

func floor(at int64, every time.Duration) int64 {
	m := at % int64(every)
	if m < 0 {
		m += int64(every)
	}
	return at - m
}
