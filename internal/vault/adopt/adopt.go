package adopt

import (
	"cmp"
	"fmt"
	"slices"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/orchestrator"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// Found is how a group stands.
type Found struct {
	Group store.Group
	// Policy is the group's as its gateways keep it; nil where they keep none.
	Policy *rest.Policy
	// Notes say what could not be known, and what a person should look at.
	Notes []string
}

// end is what one gateway keeps of the group.
type end struct {
	control.Holding
	gateway dr.GatewayID
	site    dr.SiteID
}

// Groups lists the groups that any gateway keeps anything of but a memory of
// their generation, by name.
func Groups(all []control.Holdings) []dr.GroupID {
	var out []dr.GroupID
	for _, h := range all {
		for _, g := range h.Groups {
			if g.Source != nil || g.Standby != nil {
				out = append(out, g.Group)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Generation is the newest generation of a group that any gateway knows.
func Generation(all []control.Holdings, id dr.GroupID) dr.Generation {
	var gen dr.Generation
	for _, h := range all {
		for _, g := range h.Groups {
			if g.Group == id {
				gen = max(gen, g.Generation)
			}
		}
	}
	return gen
}

// Find decides how a group stands. known is the vault's own row, nil when it
// has none. Without partial, both of the group's gateways must have spoken.
func Find(id dr.GroupID, all []control.Holdings, known *store.Group, partial bool) (Found, error) {
	ends := endsOf(id, all)
	if len(ends) == 0 {
		return Found{}, problem.New(problem.UnknownGroup, "no gateway keeps anything of group %q", id)
	}
	f, err := base(id, ends, known)
	if err != nil {
		return f, err
	}
	g := &f.Group
	for _, gw := range []dr.GatewayID{g.HomeGateway, g.RecoveryGateway} {
		if slices.ContainsFunc(all, func(h control.Holdings) bool { return h.Gateway == gw }) {
			continue
		}
		if !partial {
			return f, problem.New(problem.GatewayUnreachable, "gateway %s of group %s has not said what it keeps; with 'partial' the other one's word is taken", gw, id)
		}
		f.note("gateway %s was not asked: what it knows is missing here", gw)
	}
	for _, e := range ends {
		if e.Problem != "" {
			f.note("gateway %s cannot use what it keeps: %s", e.gateway, e.Problem)
		}
	}
	g.Generation = max(g.Generation, Generation(all, id))
	settle(g)
	return f, f.place(ends)
}

func endsOf(id dr.GroupID, all []control.Holdings) []end {
	var out []end
	for _, h := range all {
		for _, g := range h.Groups {
			if g.Group == id && (g.Source != nil || g.Standby != nil || g.Problem != "") {
				out = append(out, end{g, h.Gateway, h.Site})
			}
		}
	}
	return out
}

func (f *Found) note(format string, args ...any) {
	f.Notes = append(f.Notes, fmt.Sprintf(format, args...))
}

// settle clears what is about to be found out.
func settle(g *store.Group) {
	g.Running, g.From, g.Beyond, g.Recovered, g.Test, g.TestAt, g.Unconfirmed = "", "", false, nil, lifecycle.NoTest, nil, ""
	for i := range g.Members {
		g.Members[i].Started, g.Members[i].Booted = false, false
	}
}

// base is the group but for its state: the newest row that a gateway keeps, or
// the vault's own, or what the requests of the gateways say.
func base(id dr.GroupID, ends []end, known *store.Group) (Found, error) {
	var f Found
	keep, _ := newestKeep(ends)
	if len(keep) > 0 {
		kept, err := orchestrator.ReadKept(keep)
		if err != nil {
			return f, err
		}
		f.Group, f.Policy = kept.Group, &kept.Policy
	}
	if known != nil {
		f.Group = *known
		f.Group.Members = slices.Clone(known.Members)
		return f, nil
	}
	if f.Group.ID != id {
		return f, problem.New(problem.StateUnconfirmed, "the gateways keep no settings of group %q, only its data; protect its machines again: the disks that are there are compared, not copied", id)
	}
	return f, nil
}

func newestKeep(ends []end) (control.Keep, dr.Generation) {
	var keep control.Keep
	var of dr.Generation
	for _, e := range ends {
		for _, k := range []control.Keep{sourceKeep(e), standbyKeep(e)} {
			if len(k) > 0 && (keep == nil || e.Generation > of) {
				keep, of = k, e.Generation
			}
		}
	}
	return keep, of
}

func sourceKeep(e end) control.Keep {
	if e.Source == nil {
		return nil
	}
	return e.Source.Spec.Keep
}

func standbyKeep(e end) control.Keep {
	if e.Standby == nil {
		return nil
	}
	return e.Standby.Request.Keep
}

// newest returns the end with the newest generation among those that fit.
func newest(ends []end, fits func(end) bool) *end {
	var best *end
	for _, e := range ends {
		if fits(e) && (best == nil || e.Generation > best.Generation) {
			best = &e
		}
	}
	return best
}

// place finds direction, active site and state.
func (f *Found) place(ends []end) error {
	live := newest(ends, func(e end) bool { return e.Standby != nil && !e.Standby.Committed })
	done := newest(ends, func(e end) bool { return e.Standby != nil && e.Standby.Committed })
	switch {
	case live != nil && (done == nil || live.Generation >= done.Generation):
		return f.onJournal(live, ends)
	case done != nil:
		return f.committed(done)
	default:
		return f.onlySource(ends)
	}
}

// face turns the group so that its standby is the gateway.
func (f *Found) face(standby dr.GatewayID) error {
	g := &f.Group
	switch standby {
	case g.RecoveryGateway:
		g.Direction = dr.Forward
	case g.HomeGateway:
		g.Direction = dr.Back
	default:
		return problem.New(problem.StateUnconfirmed, "gateway %s keeps the journal of group %s, whose gateways are %s and %s", standby, g.ID, g.HomeGateway, g.RecoveryGateway)
	}
	return nil
}

// onJournal: there is a journal, and what runs on it says how the group stands.
func (f *Found) onJournal(live *end, ends []end) error {
	if err := f.face(live.gateway); err != nil {
		return err
	}
	g, s := &f.Group, live.Standby
	g.Disks, g.Seeded = s.Request.Disks, g.Seeded || s.Seeded
	i := slices.IndexFunc(ends, func(e end) bool { return e.gateway == g.Source() && e.Source != nil })
	var src *end
	if i >= 0 {
		src = &ends[i]
	}
	f.test(s)
	started := f.recovered(s)
	switch {
	case s.Committing:
		g.State, g.Active = lifecycle.Committing, g.StandbySite()
		g.Recovered = moment(s.Commit)
		f.note("a commit was cut short: commit again to finish it")
	case started == len(g.Members):
		g.State, g.Active = lifecycle.CommitPending, g.StandbySite()
	case started > 0:
		g.State, g.Active = lifecycle.FailoverFailed, g.StandbySite()
		f.note("%d of %d machines run at %s: fail over again, or undo", started, len(g.Members), g.StandbySite())
	case src != nil && (src.Source.Fenced || live.Generation > src.Source.Spec.Generation):
		f.between(src)
	default:
		f.replicating(src, s)
	}
	return nil
}

// recovered notes which members run on the journal, and at which moment.
func (f *Found) recovered(s *control.StandbyHolding) (started int) {
	g := &f.Group
	for _, r := range s.Recovered {
		i := slices.IndexFunc(g.Members, func(m store.Member) bool { return m.Machine == r.Machine })
		if r.Test || i < 0 || r.Started.IsZero() {
			continue
		}
		m := &g.Members[i]
		m.Started, m.StartedAt, m.BootBefore = true, r.Started, ""
		g.Recovered = moment(r.Position)
		started++
	}
	return started
}

func (f *Found) test(s *control.StandbyHolding) {
	for _, r := range s.Recovered {
		if r.Test {
			f.Group.Test, f.Group.TestAt = lifecycle.CleanupPending, moment(r.Position)
		}
	}
}

func moment(at dr.Position) *rest.Recovered {
	return &rest.Recovered{Selector: dr.PointSelector("@" + at.String()), Position: at}
}

// between: the generation was raised and nothing runs on the journal. A source
// that was not fenced keeps the authority: its machines may be all there is.
func (f *Found) between(src *end) {
	g := &f.Group
	g.State, g.Active = lifecycle.FailoverFailed, g.StandbySite()
	if !src.Source.Fenced {
		g.Active = g.SourceSite()
	}
	f.note("a failover or an undo was cut short: fail over, or undo to replicate from %s again", g.SourceSite())
}

func (f *Found) replicating(src *end, s *control.StandbyHolding) {
	g := &f.Group
	g.Active = g.SourceSite()
	switch {
	case src != nil && src.Source.Paused:
		g.State = lifecycle.Paused
	case s.Points > 0:
		g.State = lifecycle.Tracking // the next reports say what it really is
	default:
		g.State = lifecycle.InitialSync
	}
}

// committed: the machines own their disks; nothing is replicated.
func (f *Found) committed(done *end) error {
	if err := f.face(done.gateway); err != nil {
		return err
	}
	g := &f.Group
	g.State, g.Active = lifecycle.Committed, g.StandbySite()
	if g.Direction == dr.Back {
		f.note("machines of group %s at %s may be left from before the failback; they are off", g.ID, g.Recovery)
	}
	g.Direction = g.Direction.Opposite()
	return nil
}

// onlySource: no journal was found.
func (f *Found) onlySource(ends []end) error {
	g := &f.Group
	src := newest(ends, func(e end) bool { return e.Source != nil })
	if src == nil {
		return problem.New(problem.StateUnconfirmed, "what the gateways keep of group %s cannot be used", g.ID)
	}
	if src.Source.Fenced {
		return problem.New(problem.StateUnconfirmed, "group %s was failed over from %s; the gateway of the site at which it is active has not spoken", g.ID, src.site)
	}
	g.Direction = dr.Forward
	if src.gateway == g.RecoveryGateway {
		g.Direction = dr.Back
	}
	g.Disks = src.Source.Spec.Disks
	g.State, g.Active = cmp.Or(stateOf(src.Source), lifecycle.Tracking), g.SourceSite()
	f.note("no gateway keeps a journal of group %s", g.ID)
	return nil
}

func stateOf(s *control.SourceHolding) lifecycle.State {
	if s.Paused {
		return lifecycle.Paused
	}
	return ""
}
