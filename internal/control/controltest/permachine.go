package controltest

import (
	"maps"
	"slices"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/problem"
)

// writeSize is how many bytes one Write stands for.
const writeSize = 4096

// WriteUnconfirmed is Write for a guest whose write reaches the standby of its
// group and is confirmed by nobody: it is the machine's own newest, and not the
// group's. Nothing is streamed after it, so it ends the stream.
func (g *Gateway) WriteUnconfirmed(name dr.MachineName) int {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	m := g.machines[name]
	for group, s := range g.streams {
		j := g.world.gateways[s.spec.Standby].journals[group]
		if j == nil || !slices.ContainsFunc(s.spec.Disks, func(d dr.GroupDisk) bool { return d.Machine == name }) {
			continue
		}
		if !j.sealed { // what was written before is confirmed
			g.step(s)
			j.sealed = true
		}
		m.content++
		if j.tail == nil {
			j.tail = map[dr.MachineName]moment{}
		}
		h, _ := j.head()
		h.pos.Seq += dr.Seq(len(j.tail)) + 1
		h.content = map[dr.MachineName]int{name: m.content}
		j.tail[name] = h
	}
	return m.content
}

// members resolves each member at its own newest moment.
func (j *journal) members(head moment) control.Resolved {
	out := control.Resolved{Position: head.pos, Time: head.at}
	for _, name := range slices.Sorted(maps.Keys(j.defs)) {
		own := head
		if t, ok := j.tail[name]; ok {
			own = t
		}
		out.Members = append(out.Members, dr.MemberMoment{Machine: name, Position: own.pos, Time: own.at})
	}
	out.Position = out.Members[0].Position
	for _, m := range out.Members {
		if m.Position.Before(out.Position) {
			out.Position = m.Position
		}
	}
	return out
}

// contentAt is what a machine holds at a position.
func (j *journal) contentAt(r control.StartRecoveredRequest) (int, error) {
	for _, m := range j.moments {
		if m.pos == r.Position {
			return m.content[r.Machine], nil
		}
	}
	if t, ok := j.tail[r.Machine]; ok && r.Alone && t.pos == r.Position {
		return t.content[r.Machine], nil
	}
	return 0, problem.New(problem.PointNotConfirmed, "%s", r.Position)
}

// checkCommit demands that every machine runs where the commit says.
func (g *Gateway) checkCommit(j *journal, r control.CommitRequest) error {
	for name := range j.defs {
		m, err := g.find(name)
		if err != nil {
			return err
		}
		if m.view == nil || *m.view != r.At(name) {
			return problem.New(problem.OperationNotAllowed, "%s runs at %v, the commit is of %s", name, m.view, r.At(name))
		}
	}
	return nil
}
