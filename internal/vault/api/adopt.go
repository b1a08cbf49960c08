package api

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/orchestrator"
	"rebound/internal/problem"
	"rebound/internal/vault/adopt"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// holdingsTimeout bounds asking the gateways what they keep.
const holdingsTimeout = 20 * time.Second

func (s *Server) adoptRoutes(api huma.API) {
	add(api, route("POST", "/adopt", "adopt", "Rebuild what the vault does not know from its gateways"), func(ctx context.Context, in *struct{ Body rest.AdoptRequest }) (*reply[rest.Adoption], error) {
		out, err := s.adopt(ctx, in.Body)
		return &reply[rest.Adoption]{out}, err
	})
}

// holdings asks every enrolled gateway what it keeps.
func (s *Server) holdings(ctx context.Context) (all []control.Holdings, silent []dr.GatewayID, err error) {
	var gateways []store.Gateway
	if err := s.view(ctx, func(tx *store.Tx) (err error) { gateways, err = tx.Gateways(""); return err }); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(control.WithPatience(ctx, time.Second), holdingsTimeout)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, g := range gateways {
		if g.State == "revoked" {
			continue
		}
		wg.Go(func() {
			h, err := s.Hub.Commands(g.ID).Holdings(ctx)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				s.Log.Warn("ask what a gateway keeps", "gateway", g.ID, "error", err)
				silent = append(silent, g.ID)
				return
			}
			all = append(all, h)
		})
	}
	wg.Wait()
	slices.SortFunc(all, func(a, b control.Holdings) int { return compare(a.Gateway, b.Gateway) })
	slices.Sort(silent)
	return all, silent, nil
}

func compare[T ~string](a, b T) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// adopt rebuilds the groups that the vault does not know, or does not know for
// certain, from what its gateways keep.
func (s *Server) adopt(ctx context.Context, req rest.AdoptRequest) (rest.Adoption, error) {
	all, silent, err := s.holdings(ctx)
	if err != nil {
		return rest.Adoption{}, err
	}
	out := rest.Adoption{
		Gateways: []dr.GatewayID{}, Silent: append([]dr.GatewayID{}, silent...), Groups: []rest.AdoptedGroup{},
		Unknown: []string{
			"users, API tokens, webhooks, network mappings and recovery plans: gateways do not keep them",
			"jobs, events and the audit log of the time before",
			"agents: they enrol again, or register by themselves when the vault was restored from a backup",
		},
	}
	for _, h := range all {
		out.Gateways = append(out.Gateways, h.Gateway)
	}
	err = s.Store.Update(ctx, func(tx *store.Tx) error {
		ids, err := unconfirmed(tx, adopt.Groups(all))
		if err != nil {
			return err
		}
		for _, id := range ids {
			line, err := s.adoptGroup(tx, id, all, req.Partial)
			if err != nil {
				return err
			}
			out.Groups = append(out.Groups, line)
		}
		for _, h := range all {
			if err := tx.AddRevocations(h.Revoked, s.Now()); err != nil {
				return err
			}
			for _, g := range h.Groups {
				if err := tx.NoteGeneration(g.Group, g.Generation); err != nil {
					return err
				}
			}
		}
		if req.DryRun {
			return errDryRun
		}
		return nil
	})
	if errors.Is(err, errDryRun) {
		return out, nil
	}
	if err != nil {
		return out, err
	}
	// A vault that was lost may have been ahead of the clock.
	for _, h := range all {
		if err := s.Jobs.RaiseLease(ctx, h.Lease); err != nil {
			return out, err
		}
	}
	s.pushRevocations(ctx)
	return out, nil
}

// errDryRun takes a transaction back.
var errDryRun = errors.New("only looked")

func (s *Server) adoptGroup(tx *store.Tx, id dr.GroupID, all []control.Holdings, partial bool) (rest.AdoptedGroup, error) {
	line := rest.AdoptedGroup{Group: id, Result: "adopted"}
	var known *store.Group
	row, err := tx.Group(id)
	switch {
	case err == nil && row.Unconfirmed == "":
		line.Result, line.State, line.Generation, line.Active = "known", row.State, row.Generation, row.Active
		return line, nil
	case err == nil:
		known, line.Result = &row, "confirmed"
	case !errors.Is(err, store.ErrNotFound):
		return line, err
	}
	f, err := adopt.Find(id, all, known, partial)
	if known != nil && problem.HasCode(err, problem.UnknownGroup) && spoke(all, known) {
		line.State, line.Notes = lifecycle.Unprotected, []string{"its gateways keep nothing of it: it was disabled, and is gone"}
		return line, s.forgetGroup(tx, known)
	}
	if err == nil {
		err = s.putFound(tx, &f, known == nil)
	}
	if err != nil {
		var p *problem.Problem
		if !errors.As(err, &p) {
			return line, err
		}
		line.Result, line.Notes = "refused", append(f.Notes, p.Error())
		return line, nil
	}
	line.State, line.Generation, line.Active, line.Notes = f.Group.State, f.Group.Generation, f.Group.Active, f.Notes
	return line, nil
}

// unconfirmed adds the groups of which the vault is not certain.
func unconfirmed(tx *store.Tx, ids []dr.GroupID) ([]dr.GroupID, error) {
	groups, err := tx.Groups()
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		if g.Unconfirmed != "" && !slices.Contains(ids, g.ID) {
			ids = append(ids, g.ID)
		}
	}
	return ids, nil
}

// spoke reports whether both gateways of a group said what they keep.
func spoke(all []control.Holdings, g *store.Group) bool {
	for _, gw := range []dr.GatewayID{g.HomeGateway, g.RecoveryGateway} {
		if !slices.ContainsFunc(all, func(h control.Holdings) bool { return h.Gateway == gw }) {
			return false
		}
	}
	return true
}

// forgetGroup drops the row of a group that is gone from its gateways.
func (s *Server) forgetGroup(tx *store.Tx, g *store.Group) error {
	e := rest.Event{Time: s.Now().UTC(), Code: "GroupGone", Severity: "warning", Group: g.ID, Text: "the gateways of group " + string(g.ID) + " keep nothing of it: it was disabled after the backup"}
	if err := tx.InsertEvent(e); err != nil {
		return err
	}
	s.Live.Forget(g.ID)
	return tx.DeleteGroup(g.ID)
}

// putFound writes a group as it was found, with what it refers to.
func (s *Server) putFound(tx *store.Tx, f *adopt.Found, fresh bool) error {
	g := &f.Group
	for _, id := range []dr.SiteID{g.Home, g.Recovery} {
		if _, err := tx.Site(id); errors.Is(err, store.ErrNotFound) {
			return problem.New(problem.UnknownSite, "group %s needs the site %s: create it and enrol its gateway again", g.ID, id)
		} else if err != nil {
			return err
		}
	}
	if f.Policy != nil {
		if _, err := tx.Policy(g.Policy); errors.Is(err, store.ErrNotFound) {
			if err := tx.InsertPolicy(*f.Policy); err != nil {
				return err
			}
		} else if err != nil {
			return err
		}
	}
	g.ChangedAt = s.Now().UTC()
	if fresh && g.Created.IsZero() {
		g.Created = g.ChangedAt
	}
	if err := tx.AdoptGroup(g); err != nil {
		return err
	}
	text := "the state of group " + string(g.ID) + " was learned from its gateways: " + string(g.State)
	for _, n := range f.Notes {
		text += "; " + n
	}
	return tx.InsertEvent(rest.Event{Time: g.ChangedAt, Code: "GroupLearned", Severity: "warning", Group: g.ID, Text: text})
}

// confirm learns, when a gateway has connected or knows more than the vault,
// how the groups stand of which the vault is not certain.
func (s *Server) confirm(ctx context.Context) {
	var groups []store.Group
	if err := s.view(ctx, func(tx *store.Tx) (err error) { groups, err = tx.Groups(); return err }); err != nil {
		return
	}
	open := slices.ContainsFunc(groups, func(g store.Group) bool {
		return g.Unconfirmed != "" && s.Hub.Connected(g.HomeGateway) && s.Hub.Connected(g.RecoveryGateway)
	})
	if !open {
		return
	}
	all, _, err := s.holdings(ctx)
	if err != nil {
		s.Log.Warn("ask what the gateways keep", "error", err)
		return
	}
	err = s.Store.Update(ctx, func(tx *store.Tx) error {
		for _, g := range groups {
			if g.Unconfirmed == "" {
				continue
			}
			if _, err := s.adoptGroup(tx, g.ID, all, false); err != nil {
				return err
			}
		}
		for _, h := range all {
			if err := tx.AddRevocations(h.Revoked, s.Now()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		s.Log.Error("learn from the gateways", "error", err)
		return
	}
	s.pushRevocations(ctx)
	s.Refresh()
}

// overtaken notes that a gateway knows a newer generation of a group than the
// vault, which was restored from an older backup: from now on nothing that the
// vault believes of the group is acted on until its gateways were asked.
func (s *Server) overtaken(ctx context.Context, rep control.Report, groups []store.Group) bool {
	hit := false
	for _, r := range rep.Groups {
		i := slices.IndexFunc(groups, func(g store.Group) bool { return g.ID == r.Group })
		if i < 0 || r.Generation <= groups[i].Generation || groups[i].Unconfirmed != "" {
			continue
		}
		hit = true
		err := s.Store.Update(ctx, func(tx *store.Tx) error {
			return tx.ChangeGroup(r.Group, func(g *store.Group) error {
				if r.Generation > g.Generation {
					g.Unconfirmed = "its gateway " + string(rep.Gateway) + " knows a newer generation than the vault"
				}
				return nil
			})
		})
		if err != nil {
			s.Log.Error("note a newer generation", "group", r.Group, "error", err)
		}
	}
	return hit
}

// confirmSoon confirms once the gateway that is connecting can be asked.
func (s *Server) confirmSoon(ctx context.Context, id dr.GatewayID) {
	if s.Hub.Await(ctx, id, 5*time.Second) {
		s.confirm(ctx)
	}
}

// keptKey is a gateway and a group of which it keeps something.
type keptKey struct {
	gateway dr.GatewayID
	group   dr.GroupID
}

// keepAt is what a gateway is to keep of its groups and was not told yet.
func (s *Server) keepAt(tx *store.Tx, gw dr.GatewayID, groups []store.Group) (map[dr.GroupID]control.Keep, error) {
	out := map[dr.GroupID]control.Keep{}
	for _, g := range groups {
		if gw != g.HomeGateway && gw != g.RecoveryGateway || g.State == lifecycle.Enabling || g.Unconfirmed != "" {
			continue
		}
		policy, err := tx.Policy(g.Policy)
		if err != nil {
			return nil, err
		}
		keep, err := orchestrator.KeepOf(g, policy)
		if err != nil {
			return nil, err
		}
		key := keptKey{gw, g.ID}
		s.mu.Lock()
		if s.kept == nil {
			s.kept = map[keptKey]string{}
		}
		if s.kept[key] != string(keep) {
			s.kept[key], out[g.ID] = string(keep), keep
		}
		s.mu.Unlock()
	}
	return out, nil
}

// forgetKept makes the next answer to a gateway say all that it is to keep.
func (s *Server) forgetKept(gw dr.GatewayID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kept == nil {
		s.kept = map[keptKey]string{}
	}
	for key := range s.kept {
		if key.gateway == gw {
			delete(s.kept, key)
		}
	}
}
