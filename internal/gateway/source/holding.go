package source

import "rebound/internal/control"

// Holding is what the group keeps; nil before it was told anything.
func (g *Group) Holding() *control.SourceHolding {
	st := g.state()
	if len(st.Spec.Disks) == 0 {
		return nil
	}
	return &control.SourceHolding{
		Spec: st.Spec, Paused: st.Want == wantPaused, Fenced: st.Want == wantFenced,
		Stopped: st.Want == wantNothing || st.Clean != nil && st.Want != wantRun,
	}
}

// Renewed makes the group's capture go over to the present identity and
// revocations with its next look at the stream.
func (g *Group) Renewed() {
	g.mu.Lock()
	r := g.run
	g.mu.Unlock()
	if r != nil {
		r.renewed.Store(true)
	}
}

// Keep keeps what the vault says of the group.
func (g *Group) Keep(k control.Keep) error {
	if st := g.state(); len(st.Spec.Disks) == 0 || string(st.Spec.Keep) == string(k) {
		return nil
	}
	return g.save(func(s *state) { s.Spec.Keep = k })
}
