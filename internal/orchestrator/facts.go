package orchestrator

import (
	"errors"
	"time"

	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/site"
	"rebound/internal/vault/store"
)

// Facts gathers what the life cycle's guards look at.
func (o *Orchestrator) Facts(tx *store.Tx, g *store.Group) (lifecycle.Facts, error) {
	policy, err := tx.PolicyOf(g)
	if err != nil {
		return lifecycle.Facts{}, err
	}
	f := lifecycle.Facts{
		State: g.State, Unconfirmed: g.Unconfirmed, Direction: g.Direction, Test: g.Test, RunningJob: g.Running,
		ActiveGateway: g.Source(), StandbyGateway: g.Standby(),
		ActiveUp: o.up(g.Source()), StandbyUp: o.up(g.Standby()),
		AgentRequired: policy.RequireAgent, Now: o.now(), RecoveredRunning: true, SourceOff: true, ActiveRunning: true,
	}
	if said, ok := o.live.Group(g.ID, g.Standby()); ok {
		f.Points = said.Report.Points
		if f.Points == 0 && !said.Report.Confirmed.IsZero() {
			f.Points = 1
		}
	}
	if f.Points == 0 {
		f.Lacking = g.Machines() // one journal, so all of them
	}
	for _, m := range g.Members {
		src, there, err := machineAt(tx, g.SourceSite(), m.Machine)
		if err != nil {
			return f, err
		}
		stb, _, err := machineAt(tx, g.StandbySite(), m.Machine)
		if err != nil {
			return f, err
		}
		if !there && f.ActiveUp {
			f.SourceGone = append(f.SourceGone, m.Machine)
		}
		f.ActiveRunning = f.ActiveRunning && src.State == site.Running
		// One that is gone does not run: a commit that failed half-way had
		// deleted it.
		f.SourceOff = f.SourceOff && f.ActiveUp && (!there || src.State == site.Off)
		f.RecoveredRunning = f.RecoveredRunning && m.Started && (m.Booted || stb.State == site.Running)
		if err := o.agentFacts(tx, m, src, &f); err != nil {
			return f, err
		}
	}
	return f, nil
}

// machineAt reads a machine of a site; one that is not there is Unknown.
func machineAt(tx *store.Tx, id dr.SiteID, name dr.MachineName) (m store.Machine, there bool, err error) {
	m, err = tx.Machine(id, name)
	if errors.Is(err, store.ErrNotFound) {
		m.State = site.Unknown
		return m, false, nil
	}
	return m, err == nil, err
}

// agentFacts names a member whose agent has not registered since it started.
func (o *Orchestrator) agentFacts(tx *store.Tx, m store.Member, src store.Machine, f *lifecycle.Facts) error {
	if !f.AgentRequired {
		return nil
	}
	agent, err := tx.Agent(m.Machine)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	since := src.BootedAt
	if !since.IsZero() { // of the gateway's clock; the rest is of ours
		_, offset := o.live.Gateway(src.Gateway)
		since = since.Add(offset)
	}
	if m.StartedAt.After(since) {
		since = m.StartedAt
	}
	if !agent.RegisteredAt.IsZero() && !agent.RegisteredAt.Before(since) {
		return nil
	}
	f.AgentPending = append(f.AgentPending, m.Machine)
	if f.PendingSince.IsZero() || since.Before(f.PendingSince) {
		f.PendingSince = since
	}
	return nil
}

// up reports whether the vault hears from a gateway.
func (o *Orchestrator) up(gw dr.GatewayID) bool {
	return o.gateways.Connected(gw) && !o.live.Quiet(gw, o.now())
}

// factsFor adds what the request itself says.
func (o *Orchestrator) factsFor(tx *store.Tx, g *store.Group, s StartRequest) (lifecycle.Facts, error) {
	f, err := o.Facts(tx, g)
	f.LoneMember = s.LoneMember
	f.Force = s.Request.Force
	if err == nil && s.Operation == lifecycle.Reprotect {
		err = o.addEnds(tx, g, s.Request.Reprotect, &f)
	}
	return f, err
}

func seconds(n int64) time.Duration { return time.Duration(n) * time.Second }
