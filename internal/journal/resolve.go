package journal

import (
	"slices"
	"strings"
	"time"

	"rebound/internal/dr"
	"rebound/internal/problem"
)

// momentSlack is how far after the newest confirmed moment of a stretch a
// moment may lie that is answered by it. Beyond it nobody knows what the disks
// held then.
const momentSlack = 5 * time.Second

// diverged returns the point of the seed's content while it is offered: the
// bases still hold it, and a synchronisation has changed something. mu is held.
func (j *Journal) diverged() (dr.Point, bool) {
	m := j.man.get()
	if !m.Seeded || m.Anchor.Position.Epoch != 0 || m.Folding != nil || !j.hist.synced {
		return dr.Point{}, false
	}
	at := m.Anchor.Position
	return dr.Point{ID: DivergedID(at.Generation), Kind: dr.Diverged, Position: at, Time: m.Created}, true
}

// checkPosition returns why p cannot be opened. mu is held.
func (j *Journal) checkPosition(p dr.Position) error {
	if j.ends != nil {
		return problem.New(problem.PointInUse, "the disks are being made final, each of its own moment")
	}
	if d, ok := j.diverged(); ok && d.Position == p && !p.Before(j.floor) {
		return nil
	}
	switch {
	case p.Before(j.floor):
		return problem.New(problem.UnknownPoint, "%v lies before the oldest kept position %v", p, j.floor)
	case j.damage != nil && j.damageAt.Before(p):
		return j.damage
	case !j.hist.offered(p):
		return problem.New(problem.PointNotConfirmed, "%v; the newest confirmed position is %v", p, j.newest())
	}
	return nil
}

// newest returns the newest position that can be chosen. mu is held.
func (j *Journal) newest() dr.Position {
	var bound dr.Position
	if j.damage != nil {
		bound = j.damageAt
	}
	p := j.hist.newest(bound)
	if p.Before(j.floor) {
		return dr.Position{}
	}
	return p
}

// Points returns the points that can be chosen, oldest first.
func (j *Journal) Points(f Filter) []dr.Point {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []dr.Point
	for _, p := range j.points() {
		if (f.Kind != "" && p.Kind != f.Kind) || (!f.From.IsZero() && p.Time.Before(f.From)) || (!f.To.IsZero() && p.Time.After(f.To)) {
			continue
		}
		out = append(out, p)
	}
	if f.Limit > 0 && len(out) > f.Limit {
		out = out[len(out)-f.Limit:]
	}
	return out
}

// points lists what is offered. mu is held.
func (j *Journal) points() []dr.Point {
	var out []dr.Point
	if d, ok := j.diverged(); ok {
		out = append(out, d)
	}
	for _, p := range j.hist.points {
		if j.checkPosition(p.Position) == nil {
			out = append(out, p)
		}
	}
	return out
}

// Spans returns the stretches of time in which any moment can be chosen.
func (j *Journal) Spans() []Span {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []Span
	var last *beaconRecord
	for i := range j.hist.beacons {
		b := &j.hist.beacons[i]
		if !j.usableBeacon(b) {
			continue
		}
		p := b.position()
		if last != nil && j.unbroken(last, b) {
			s := &out[len(out)-1]
			s.To, s.High = b.wall, p
		} else {
			out = append(out, Span{From: b.wall, To: b.wall, Low: p, High: p})
		}
		last = b
	}
	return out
}

// usableBeacon reports whether the boundary of a beacon can be chosen. mu is
// held.
func (j *Journal) usableBeacon(b *beaconRecord) bool {
	p := b.position()
	return !p.Before(j.floor) && j.hist.offered(p) && (j.damage == nil || !j.damageAt.Before(p))
}

// unbroken reports whether between two beacons lies neither a break nor a
// synchronisation. mu is held.
func (j *Journal) unbroken(a, b *beaconRecord) bool {
	if a.epoch != b.epoch {
		return false
	}
	e := j.hist.epochOf(a.position())
	return e != nil && !slices.ContainsFunc(e.Syncs, func(w syncWindow) bool { return a.n < w.Begin && w.Begin <= b.n })
}

// Resolve answers a selector, or one of UnknownPoint, PointNotConfirmed and
// NoRecoveryPoint.
func (j *Journal) Resolve(sel dr.PointSelector) (Resolved, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch sel {
	case dr.Latest:
		return j.resolveNewest()
	case dr.LatestProcessed, dr.LatestMultiVM:
		return j.resolveNewestPoint(false)
	case dr.LatestApp, dr.LatestMultiVMApp:
		return j.resolveNewestPoint(true)
	}
	if text, ok := strings.CutPrefix(string(sel), "@"); ok {
		return j.resolvePosition(text)
	}
	if t, err := time.Parse(time.RFC3339Nano, string(sel)); err == nil {
		return j.resolveTime(t)
	}
	list := j.points()
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].ID == dr.PointID(sel) {
			return j.resolved(list[i].Position, &list[i]), nil
		}
	}
	for _, p := range j.hist.points {
		if p.ID == dr.PointID(sel) {
			return Resolved{}, j.checkPosition(p.Position)
		}
	}
	return Resolved{}, problem.New(problem.UnknownPoint, "%q", sel)
}

func (j *Journal) resolveNewest() (Resolved, error) {
	p := j.newest()
	if p.IsZero() {
		return Resolved{}, problem.New(problem.NoRecoveryPoint, "nothing is confirmed yet")
	}
	return j.resolved(p, nil), nil
}

func (j *Journal) resolveNewestPoint(app bool) (Resolved, error) {
	list := j.points()
	for i := len(list) - 1; i >= 0; i-- {
		p := &list[i]
		if p.Kind == dr.AppConsistent || (!app && p.Kind != dr.Diverged) {
			return j.resolved(p.Position, p), nil
		}
	}
	if app {
		return Resolved{}, problem.New(problem.NoRecoveryPoint, "there is no application-consistent point")
	}
	return j.resolveNewest()
}

func (j *Journal) resolvePosition(text string) (Resolved, error) {
	p, err := dr.ParsePosition(text)
	if err != nil {
		return Resolved{}, problem.Wrap(err, problem.InvalidRequest, "%v", err)
	}
	if err := j.checkPosition(p); err != nil {
		return Resolved{}, err
	}
	for _, pt := range j.points() {
		if pt.Position == p {
			return j.resolved(p, &pt), nil
		}
	}
	return j.resolved(p, nil), nil
}

// resolveTime answers a moment by the newest confirmed beacon that is not
// after it.
func (j *Journal) resolveTime(t time.Time) (Resolved, error) {
	var next *beaconRecord // the oldest usable one after the answer
	for i := len(j.hist.beacons) - 1; i >= 0; i-- {
		b := &j.hist.beacons[i]
		if !j.usableBeacon(b) {
			continue
		}
		if b.wall.After(t) {
			next = b
			continue
		}
		if t.Sub(b.wall) > momentSlack && (next == nil || !j.unbroken(b, next)) {
			return Resolved{}, problem.New(problem.UnknownPoint, "%s lies in a gap or after the end: the newest confirmed moment before it is %s", t.UTC().Format(time.RFC3339Nano), b.wall.Format(time.RFC3339Nano))
		}
		r := j.resolved(b.position(), nil)
		r.Time = b.wall
		return r, nil
	}
	if next == nil {
		return Resolved{}, problem.New(problem.NoRecoveryPoint, "nothing is confirmed yet")
	}
	return Resolved{}, problem.New(problem.UnknownPoint, "%s lies before the oldest kept moment %s", t.UTC().Format(time.RFC3339Nano), next.wall.Format(time.RFC3339Nano))
}

// resolved describes a position that can be chosen. mu is held.
func (j *Journal) resolved(p dr.Position, pt *dr.Point) Resolved {
	r := Resolved{Position: p}
	wall, bytes := j.hist.timeOf(p)
	r.Time, r.LostBytes = wall, j.bytes-bytes
	if pt != nil {
		copied := *pt
		r.Point = &copied
		if pt.Kind != dr.Diverged && pt.Time.After(wall) {
			r.Time = pt.Time
		}
	}
	if !r.Time.IsZero() {
		r.LostSeconds = max(0, j.newestWall().Sub(r.Time).Seconds())
	}
	r.Definitions = j.definitions(p)
	return r
}

// newestWall is the source's clock at the newest beacon. mu is held.
func (j *Journal) newestWall() time.Time {
	if n := len(j.hist.beacons); n > 0 {
		return j.hist.beacons[n-1].wall
	}
	return time.Time{}
}

// inDiskOrder sorts machines as the disk table does.
func (j *Journal) inDiskOrder(list []machineVersion) []machineVersion {
	place := func(d machineVersion) int {
		return slices.IndexFunc(j.disks, func(g dr.GroupDisk) bool { return g.Machine == d.Machine })
	}
	slices.SortStableFunc(list, func(a, b machineVersion) int { return place(a) - place(b) })
	return list
}

// Status returns the journal at a glance.
func (j *Journal) Status() Status {
	m, full := j.man.get(), j.noRoom()
	j.mu.Lock()
	defer j.mu.Unlock()
	s := Status{
		NoRoom: full,
		Group:  m.Group, Generation: j.gen, Anchor: m.Anchor.Position, Durable: j.durable, Appended: j.head,
		Confirmed: j.newest(), Points: len(j.points()), Segments: len(j.segs), StaleFrames: j.stale,
		Seeded: m.Seeded, Owner: m.Owner, Disks: j.disks, BasePaths: m.BasePaths, Views: slices.Clone(m.Views),
	}
	if !s.Confirmed.IsZero() {
		s.ConfirmedTime, _ = j.hist.timeOf(s.Confirmed)
	}
	if e := j.hist.epochOf(j.head); e != nil && len(e.Syncs) > 0 {
		s.Syncing = e.Syncs[len(e.Syncs)-1].End == openEnd
	}
	for _, seg := range j.segs {
		s.Bytes += seg.size
	}
	return s
}
