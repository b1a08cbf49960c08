package monitor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/site"
	"rebound/internal/vault/backup"
	"rebound/internal/vault/health"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// dialTime is how long gateways may take to dial a vault that has just started.
const dialTime = 20 * time.Second

// proof remembers when a group was last tested and verified, as of a job.
type proof struct {
	job            dr.JobID
	ended          bool
	tested, proven time.Time
}

// facts gathers what the conditions are computed from.
func (m *Monitor) facts(ctx context.Context, now time.Time) (*health.Facts, error) {
	f := &health.Facts{Now: now}
	err := m.cfg.Store.View(ctx, func(tx *store.Tx) error {
		err := tx.Preload()
		if err != nil {
			return err
		}
		if f.Settings, err = Settings(tx); err != nil {
			return err
		}
		if f.Vault, err = m.vaultFacts(tx); err != nil {
			return err
		}
		if f.Webhooks, err = tx.Webhooks(); err != nil {
			return err
		}
		if err := m.gatewayFacts(tx, f); err != nil {
			return err
		}
		groups, err := tx.Groups()
		if err != nil {
			return err
		}
		for i := range groups {
			g, err := m.groupFacts(tx, &groups[i], now)
			if err != nil {
				return fmt.Errorf("group %s: %w", groups[i].ID, err)
			}
			f.Groups = append(f.Groups, g)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("gather facts: %w", err)
	}
	return f, nil
}

func (m *Monitor) vaultFacts(tx *store.Tx) (health.Vault, error) {
	v := health.Vault{ID: m.cfg.Vault, CAEnds: m.cfg.CAEnds}
	text, err := tx.Meta(createdKey)
	if err != nil {
		return v, err
	}
	if v.Created, err = time.Parse(time.RFC3339, text); text != "" && err != nil {
		return v, fmt.Errorf("read %s: %w", createdKey, err)
	}
	if v.LastBackup, err = backup.Last(m.cfg.Dir); err != nil {
		return v, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(m.cfg.Dir, &st); err == nil {
		v.FreeBytes, v.TotalBytes = int64(st.Bavail)*st.Bsize, int64(st.Blocks)*st.Bsize //nolint:gosec // no volume is that large
	}
	return v, nil
}

// createdKey is the single value that holds when the vault first ran with a monitor.
const createdKey = "vault-created"

func (m *Monitor) gatewayFacts(tx *store.Tx, f *health.Facts) error {
	sites, err := tx.Sites()
	if err != nil {
		return err
	}
	bySite := map[dr.SiteID][]dr.GatewayID{}
	rows, err := tx.Gateways("")
	if err != nil {
		return err
	}
	for _, row := range rows {
		if row.State != "enrolled" {
			continue
		}
		g := health.Gateway{ID: row.ID, Site: row.Site, Since: m.started, Connected: m.cfg.Connected(row.ID), CertificateEnds: row.CertificateEnds}
		kept, err := tx.GatewaySeen(row.ID)
		if err != nil {
			return err
		}
		if _, known := m.seen[row.ID]; !known {
			m.seen[row.ID] = kept
		}
		last, off := m.cfg.Live.Gateway(row.ID)
		g.Known = !last.IsZero()
		g.LastSeen, g.Offset = last, off
		g.Pending = !g.Known && f.Now.Sub(m.started) < dialTime
		if g.LastSeen.IsZero() {
			g.LastSeen = kept
		}
		if !kept.IsZero() {
			g.Since = time.Time{} // it was there before this start: silence goes on
		}
		g.Host, _ = m.cfg.Live.Host(row.ID)
		f.Gateways = append(f.Gateways, g)
		bySite[row.Site] = append(bySite[row.Site], row.ID)
	}
	for _, s := range sites {
		f.Sites = append(f.Sites, health.Site{ID: s.ID, Gateways: bySite[s.ID]})
	}
	return nil
}

func (m *Monitor) groupFacts(tx *store.Tx, g *store.Group, now time.Time) (health.Group, error) {
	policy, err := tx.Policy(g.Policy)
	if err != nil {
		return health.Group{}, err
	}
	policy = policy.For(g.Direction)
	out := health.Group{
		ID: g.ID, State: g.State, Test: g.Test, Active: g.Active, Home: g.Home, Recovery: g.Recovery, HomeGateway: g.HomeGateway, RecoveryGateway: g.RecoveryGateway,
		SourceGateway: g.Source(), StandbyGateway: g.Standby(), SourceSite: g.SourceSite(), StandbySite: g.StandbySite(), Running: g.Running,
		Created: g.Created, ChangedAt: g.ChangedAt, AgentRequired: policy.RequireAgent,
		CrashInterval: time.Duration(policy.CrashInterval) * time.Second, AppInterval: time.Duration(policy.AppInterval) * time.Second,
		RPO: m.cfg.Live.RPO(g, policy.RPOThreshold, now), SourceUp: m.up(g.Source(), now), StandbyUp: m.up(g.Standby(), now),
	}
	m.liveFacts(g, &out)
	if err := m.jobFacts(tx, g, &out); err != nil {
		return out, err
	}
	if out.Unmapped, err = unmapped(tx, g); err != nil {
		return out, err
	}
	for _, member := range g.Members {
		f, err := m.memberFacts(tx, g, member)
		if err != nil {
			return out, err
		}
		out.Members = append(out.Members, f)
	}
	return out, nil
}

// up reports whether the vault hears from a gateway.
func (m *Monitor) up(gw dr.GatewayID, now time.Time) bool {
	return m.cfg.Connected(gw) && !m.cfg.Live.Quiet(gw, now)
}

// liveFacts are those of the last reports of both ends, as far as they are of the
// group as it is now.
func (m *Monitor) liveFacts(g *store.Group, out *health.Group) {
	if said, ok := m.cfg.Live.Group(g.ID, g.Source()); ok && said.Report.Source && said.Report.Generation == g.Generation {
		out.Source, out.SyncMoved = &said.Report, said.SyncMoved
	}
	if said, ok := m.cfg.Live.Group(g.ID, g.Standby()); ok && !said.Report.Source {
		out.Standby = &said.Report
		out.SourceOffset = said.Offset
	}
	if seen, off := m.cfg.Live.Gateway(g.Source()); !seen.IsZero() {
		out.SourceOffset = off
	}
	out.StaleGateway, out.StaleSeen = m.cfg.Live.Stale(g.ID)
}

// jobFacts looks at the group's jobs; tests and verifications are read anew when
// the newest job has changed only.
func (m *Monitor) jobFacts(tx *store.Tx, g *store.Group, out *health.Group) error {
	last, err := tx.LastJob(g.ID)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	out.LastJob = &last.Job
	p, known := m.proofs[g.ID]
	if ended := last.State.Ended(); !known || p.job != last.ID || p.ended != ended {
		p = proof{job: last.ID, ended: ended}
		if p.tested, err = tx.LastSuccess(g.ID, string(lifecycle.TestFailover)); err != nil {
			return err
		}
		if p.proven, err = tx.LastSuccess(g.ID, string(lifecycle.Verify)); err != nil {
			return err
		}
		m.proofs[g.ID] = p
	}
	out.LastTest, out.LastVerify = p.tested, p.proven
	if last.State == rest.JobFailed && len(last.Errors) == 0 {
		full, err := tx.Job(last.ID)
		if err != nil {
			return err
		}
		for _, t := range full.Tasks {
			if t.Problem != nil {
				out.LastJob.Errors = append(out.LastJob.Errors, *t.Problem)
			}
		}
	}
	return nil
}

func (m *Monitor) memberFacts(tx *store.Tx, g *store.Group, member store.Member) (health.Member, error) {
	out := health.Member{Item: member.Item, Machine: member.Machine, HomeState: site.Unknown, RecoveryState: site.Unknown}
	for _, at := range []struct {
		id    dr.SiteID
		there *bool
		state *site.PowerState
	}{{g.Home, &out.HomeThere, &out.HomeState}, {g.Recovery, &out.RecoveryThere, &out.RecoveryState}} {
		row, err := tx.Machine(at.id, member.Machine)
		if err == nil {
			*at.there, *at.state = true, row.State
		} else if !errors.Is(err, store.ErrNotFound) {
			return out, err
		}
	}
	a, err := tx.Agent(member.Machine)
	if errors.Is(err, store.ErrNotFound) {
		return out, nil
	}
	if err != nil {
		return out, err
	}
	out.Agent = &health.Agent{LastHeartbeat: a.LastHeartbeat, CertificateEnds: a.CertificateEnds}
	if _, at := m.cfg.Live.LastHeartbeat(member.Machine); at.After(a.LastHeartbeat) {
		out.Agent.LastHeartbeat = at
	}
	return out, nil
}

// unmapped names the cards of a group's machines for which nothing says to which
// network of the standby's site they are to be connected.
func unmapped(tx *store.Tx, g *store.Group) ([]string, error) {
	standby, err := tx.Site(g.StandbySite())
	if err != nil {
		return nil, err
	}
	if len(standby.Networks) == 0 {
		return nil, nil // not known yet
	}
	var out []string
	for _, member := range g.Members {
		row, err := tx.Machine(g.SourceSite(), member.Machine)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		target, err := tx.TargetOf(g, member, rest.Policy{})
		if err != nil {
			return nil, err
		}
		out = append(out, target.Missing(row.Definition, site.TargetOf{Site: standby.ID, Networks: standby.Networks})...)
	}
	return out, nil
}
