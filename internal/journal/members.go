package journal

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/segment"
)

// One stream carries the writes of all members, so what the group can be taken
// to is what was confirmed for all of them. A member alone can be taken
// further: whatever prefix of the stream was received holds, for one disk, a
// prefix of that disk's own writes, which is what a power cut leaves. So a
// machine with one disk may go to the last of its writes that arrived: in the
// tail that no beacon confirmed, and up to a break that another member caused.
// A machine with several disks stays at what is confirmed, since only a beacon
// proves that none of its disks had been lost before the others.

// tail returns the newest seq of the epoch at which a single disk is whole,
// confirmed or not; 0 when there is none.
func (e *epochState) tail() dr.Seq {
	n := e.Last
	if w := len(e.Syncs); w > 0 && e.Syncs[w-1].End == openEnd {
		n = e.Syncs[w-1].Begin - 1
	}
	if !e.tailOffered(n) {
		return 0
	}
	return n
}

// tailOffered is offered for a single disk, which needs no beacon.
func (e *epochState) tailOffered(n dr.Seq) bool {
	if n == 0 || n > e.Last || len(e.Syncs) == 0 || n < e.Syncs[0].End {
		return false
	}
	return !slices.ContainsFunc(e.Syncs, func(w syncWindow) bool { return n >= w.Begin && n < w.End })
}

// disksOf returns the indexes of a machine's disks.
func (j *Journal) disksOf(m dr.MachineName) []uint16 {
	var out []uint16
	for i, d := range j.disks {
		if d.Machine == m {
			out = append(out, uint16(i))
		}
	}
	return out
}

// checkPositionOf is checkPosition for one machine alone. mu is held.
func (j *Journal) checkPositionOf(m dr.MachineName, p dr.Position) error {
	disks := j.disksOf(m)
	if j.ends != nil {
		if len(disks) > 0 && j.ends[disks[0]] == p {
			return nil
		}
		return problem.New(problem.PointInUse, "the disks are being made final, each of its own moment; %v can be opened no more", p)
	}
	err := j.checkPosition(p)
	if err == nil || len(disks) != 1 || p.Before(j.floor) || (j.damage != nil && j.damageAt.Before(p)) {
		return err
	}
	if e := j.hist.epochOf(p); e != nil && e.tailOffered(p.Seq) {
		return nil
	}
	return err
}

// checkView returns why a view of a machine cannot be opened. mu is held.
func (j *Journal) checkView(m dr.MachineName, v *viewDevice) error {
	if v.alone || j.ends != nil {
		return j.checkPositionOf(m, v.pos)
	}
	return j.checkPosition(v.pos)
}

// limitOf returns how far a machine alone can be taken. mu is held.
func (j *Journal) limitOf(m dr.MachineName, group dr.Position) dr.Position {
	if len(j.disksOf(m)) != 1 {
		return group
	}
	for i := len(j.hist.epochs) - 1; i >= 0; i-- {
		e := &j.hist.epochs[i]
		n := e.tail()
		if n == 0 {
			continue
		}
		if p := e.at(n); group.Before(p) && j.checkPositionOf(m, p) == nil {
			return p
		}
		break
	}
	return group
}

// ResolveMembers returns for each machine, in the order of the disk table, the
// newest position that it can be taken to by itself, never before the newest of
// the group: that of the last of its writes that was received. Together the
// machines are not consistent. NoRecoveryPoint when nothing is confirmed yet.
func (j *Journal) ResolveMembers(ctx context.Context) ([]dr.MemberMoment, error) {
	j.mu.Lock()
	group := j.newest()
	if group.IsZero() {
		j.mu.Unlock()
		return nil, problem.New(problem.NoRecoveryPoint, "nothing is confirmed yet")
	}
	var out []dr.MemberMoment
	var limits []dr.Position
	for _, d := range j.disks {
		if slices.ContainsFunc(out, func(m dr.MemberMoment) bool { return m.Machine == d.Machine }) {
			continue
		}
		out = append(out, dr.MemberMoment{Machine: d.Machine, Position: group})
		limits = append(limits, j.limitOf(d.Machine, group))
	}
	end := j.durable
	plan := j.redoBetween(group, end)
	j.mu.Unlock()
	defer plan.release()
	if err := j.placeMembers(ctx, plan, out, limits); err != nil {
		return nil, fmt.Errorf("look for each member's newest write: %w", err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	newest := j.newestWall()
	for i := range out {
		m := &out[i]
		if m.Position != group && j.checkPositionOf(m.Machine, m.Position) != nil {
			m.Position = limits[i] // its last write lies in a synchronisation that has ended since
		}
		m.Time, _ = j.hist.timeOf(m.Position)
		if m.LostBytes > 0 && !m.Time.IsZero() {
			m.LostSeconds = max(0, newest.Sub(m.Time).Seconds())
		}
	}
	return out, nil
}

// placeMembers moves each member to the last of its writes within its limit,
// and counts those that lie after it.
func (j *Journal) placeMembers(ctx context.Context, plan *redoPlan, out []dr.MemberMoment, limits []dr.Position) error {
	return plan.each(ctx, func(s *segmentFile, r *segment.Record) bool {
		i := slices.IndexFunc(out, func(m dr.MemberMoment) bool { return m.Machine == j.disks[r.Disk].Machine })
		switch pos := s.at(r.Seq); {
		case pos.Compare(limits[i]) <= 0:
			out[i].Position = pos
		case r.Flags&segment.FlagSync == 0 && r.Kind == segment.KindWrite:
			out[i].LostBytes += r.Length
		}
		return true
	})
}

// CheckMember returns why a machine cannot be taken to a position by itself.
func (j *Journal) CheckMember(m dr.MachineName, p dr.Position) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.checkPositionOf(m, p)
}

// Definitions returns the machines' definitions at a position, in the order of
// the disk table.
func (j *Journal) Definitions(p dr.Position) []dr.Definition {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.definitions(p)
}

// definitions is Definitions; mu is held.
func (j *Journal) definitions(p dr.Position) []dr.Definition {
	var out []dr.Definition
	for _, d := range j.inDiskOrder(j.hist.definitionsAt(p)) {
		var def dr.Definition
		if json.Unmarshal(d.JSON, &def) == nil { // Append let no other in
			out = append(out, def)
		}
	}
	return out
}

// FoldMembers makes the bases of each machine equal to its view at a position
// of its own. It is the last thing that is done to a journal before Release:
// from its beginning on, which is durable, the journal offers no other
// position. It refuses with PointInUse while another view is open or
// registered. progress gets done and total bytes and may be nil.
func (j *Journal) FoldMembers(ctx context.Context, at map[dr.MachineName]dr.Position, progress func(done, total int64)) error {
	j.foldMu.Lock()
	defer j.foldMu.Unlock()
	if err := j.usable(); err != nil {
		return err
	}
	ends := make([]dr.Position, len(j.disks))
	var last dr.Position
	for i, d := range j.disks {
		p, ok := at[d.Machine]
		if !ok {
			return problem.New(problem.InvalidRequest, "no position is given for %s", d.Machine)
		}
		if ends[i] = p; last.Before(p) {
			last = p
		}
	}
	if err := j.beginEnds(at, ends); err != nil {
		return fmt.Errorf("fold each machine to its own position: %w", err)
	}
	return j.foldTo(ctx, last, progress)
}

// beginEnds makes the ends the only positions that can be opened, durably.
func (j *Journal) beginEnds(at map[dr.MachineName]dr.Position, ends []dr.Position) error {
	j.mu.Lock()
	if j.ends != nil {
		same := slices.Equal(j.ends, ends)
		j.mu.Unlock()
		if !same {
			return problem.New(problem.PointInUse, "the disks are being made final at other positions")
		}
		return nil
	}
	err := j.checkEnds(at, ends)
	if err == nil {
		j.ends = ends
	}
	j.mu.Unlock()
	if err != nil {
		return err
	}
	err = j.man.change(func(m *manifest) error { m.Ends = ends; return nil })
	if err != nil {
		j.mu.Lock()
		j.ends = nil
		j.mu.Unlock()
	}
	return err
}

// checkEnds demands that every end can be opened and that no view is at
// another position. mu is held.
func (j *Journal) checkEnds(at map[dr.MachineName]dr.Position, ends []dr.Position) error {
	for m, p := range at {
		if err := j.checkPositionOf(m, p); err != nil {
			return err
		}
	}
	for v := range j.views {
		i := slices.Index(j.bases, v.base)
		if i < 0 || ends[i] != v.pos {
			return problem.New(problem.PointInUse, "a view at %v is open", v.pos)
		}
	}
	for _, v := range j.man.get().Views {
		if at[v.Machine] != v.Position {
			return problem.New(problem.PointInUse, "a view of %s at %v is registered", v.Machine, v.Position)
		}
	}
	return nil
}
