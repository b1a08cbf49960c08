package health

import (
	"time"

	"rebound/internal/site"
	"rebound/internal/vault/rest"
)

func memberRows() []Row {
	return []Row{{
		Code: "UnprotectedDisk", Title: "A disk is not protected", Object: rest.ObjectDisk, Severities: warning(),
		When:   "A member has a writable disk that its group does not replicate.",
		Causes: []string{"A disk was added to the machine after it was protected"},
		Action: "Disable the protection of the machine and protect it again, with the new disk; or remove the disk. What is on it would be lost in a failover.",
		Azure:  "adding a disk needs disable and enable",
		find: eachGroup(func(e *eval, g *Group) {
			if !g.State.Replicating() && g.State != "Paused" {
				return
			}
			if g.Source == nil || !g.SourceUp {
				for _, c := range e.open {
					if c.Object.Group == g.ID {
						e.keep(c.Object)
					}
				}
				return
			}
			for _, d := range g.Source.Unprotected {
				o := rest.Object{ID: string(d.Machine) + "/" + d.Disk, Group: g.ID, Machine: d.Machine}
				for _, m := range g.Members {
					if m.Machine == d.Machine {
						o.Item = m.Item
					}
				}
				e.raise(o, rest.SeverityWarning, "disk %s (%s) of %s is not replicated", d.Disk, size(d.SizeBytes), d.Machine)
			}
		}),
	}, {
		Code: "MachineDeleted", Title: "A machine is gone from its site", Object: rest.ObjectItem, Severities: critical(),
		When:   "The inventory of a site that a group needs does not list a member for 5 seconds, while the site's gateway is heard of.",
		Causes: []string{"It was deleted or renamed by hand", "The gateway's datastore was moved"},
		Action: "If it was deleted at the standby, disable the protection and protect again. If it was deleted at the source, the journal has it: fail over. Do not disable before you know which.",
		Azure:  "machine not found, deleted source",
		After:  5 * time.Second,
		find: eachMember(func(e *eval, g *Group, m *Member) {
			rests := g.State.Replicating() || g.State == "Paused"
			if !rests || g.Running != "" {
				return
			}
			o := g.member(m)
			src, stb := m.HomeThere, m.RecoveryThere
			if g.SourceSite != g.Home {
				src, stb = stb, src
			}
			switch {
			case !src && g.SourceUp:
				e.raise(o, rest.SeverityCritical, "%s is gone from %s, where it was active", m.Machine, g.SourceSite)
			case !stb && g.StandbyUp:
				e.raise(o, rest.SeverityCritical, "%s is gone from %s, where it is the standby", m.Machine, g.StandbySite)
			case !g.SourceUp || !g.StandbyUp:
				e.keep(o)
			}
		}),
	}}
}

func agentRows() []Row {
	return []Row{{
		Code: "AgentSilent", Title: "A machine's agent does not report", Object: rest.ObjectItem, Severities: both(),
		When:   "The machine runs and its agent has been silent for heartbeatWarningSeconds (60), critical from heartbeatCriticalSeconds (900).",
		Causes: []string{"The agent's service was stopped", "The guest hangs or cannot reach the vault", "The machine was restarted: an agent registers within 15 minutes"},
		Action: "Look at the agent's service in the guest ('systemctl status rebound-agent') and whether the guest reaches the vault.",
		Azure:  "mobility agent: no heartbeat",
		find: eachMember(func(e *eval, g *Group, m *Member) {
			if m.Agent == nil || m.Agent.LastHeartbeat.IsZero() || m.activeState(g) != site.Running {
				return
			}
			quiet := e.age(m.Agent.LastHeartbeat)
			if quiet >= time.Duration(e.Settings.HeartbeatWarning)*time.Second {
				e.raise(g.member(m), from(quiet >= time.Duration(e.Settings.HeartbeatCritical)*time.Second), "the agent of %s has been silent for %s", m.Machine, about(quiet))
			}
		}),
	}, {
		Code: "AgentMissing", Title: "A machine has no agent", Object: rest.ObjectItem, Severities: warning(),
		When:   "The policy demands an agent and the machine has none that ever registered.",
		Causes: []string{"The agent was not installed", "It was not enrolled"},
		Action: "Enrol the agent ('rebound agent enroll') and start it in the guest. Without it a reprotect will be refused (AgentNotInstalled).",
		Azure:  "mobility agent not installed",
		find: eachMember(func(e *eval, g *Group, m *Member) {
			if g.AgentRequired && (m.Agent == nil || m.Agent.LastHeartbeat.IsZero()) {
				e.raise(g.member(m), rest.SeverityWarning, "%s has no agent, and its policy demands one", m.Machine)
			}
		}),
	}, {
		Code: "AgentCertificateEnding", Title: "An agent's certificate ends soon", Object: rest.ObjectItem, Severities: both(),
		When:   "Warning from 20 days before its end, critical from 7 days. It renews itself long before.",
		Causes: []string{"The machine has been off for weeks", "The renewal fails: see the agent's log"},
		Action: "Start the machine, or look in the agent's log why the renewal fails; else enrol it again.",
		find: eachMember(func(e *eval, g *Group, m *Member) {
			if m.Agent != nil {
				endsSoon(e, g.member(m), "the agent of "+string(m.Machine), m.Agent.CertificateEnds, certificateWarning, certificateCritical)
			}
		}),
	}}
}

// activeState is the machine's power at the active site.
func (m *Member) activeState(g *Group) site.PowerState {
	if g.Active == g.Home {
		return m.HomeState
	}
	return m.RecoveryState
}
