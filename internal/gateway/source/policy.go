package source

import (
	"context"
	"fmt"

	"rebound/internal/control"
)

// policyOf is the part of a spec that follows the group's policy.
func policyOf(s control.ReplicationSpec) control.PolicySettings {
	return control.PolicySettings{CrashInterval: s.CrashInterval, AppInterval: s.AppInterval, Compression: s.Compression, Bandwidth: s.Bandwidth}
}

// setPolicy changes that part.
func setPolicy(s *control.ReplicationSpec, p control.PolicySettings) {
	s.CrashInterval, s.AppInterval, s.Compression, s.Bandwidth = p.CrashInterval, p.AppInterval, p.Compression, p.Bandwidth
}

// TakePolicy lets the group go by changed settings from the next tick on; the
// stream does not break. A group that is not to replicate is left alone: it gets
// its settings with the command that starts it.
func (g *Group) TakePolicy(p control.PolicySettings) error {
	p.RedoWindow, p.Retention = 0, 0 // the standby's
	st := g.state()
	if st.Want != wantRun && st.Want != wantPaused || policyOf(st.Spec) == p {
		return nil
	}
	g.cfg.Log.Info("policy changed", "group", g.cfg.Group, "settings", p)
	return g.save(func(s *state) {
		if s.Want == wantRun || s.Want == wantPaused {
			setPolicy(&s.Spec, p)
		}
	})
}

// followPolicy takes over what TakePolicy noted since the attempt began.
func (a *attempt) followPolicy(ctx context.Context) error {
	now := policyOf(a.g.state().Spec)
	old := policyOf(a.spec)
	if now == old {
		return nil
	}
	setPolicy(&a.spec, now)
	if now.Compression == old.Compression && now.Bandwidth == old.Bandwidth {
		return nil
	}
	a.aimSpool()
	if err := a.cl.Configure(ctx, a.groupConfig()); err != nil {
		setPolicy(&a.spec, old) // again with the next tick
		return a.tolerate(ctx, "change compression or bandwidth", fmt.Errorf("configure capture: %w", err))
	}
	return nil
}
