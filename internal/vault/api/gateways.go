package api

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/vault/auth"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

const (
	// inventoryEvery is how often a connected gateway's inventory is read
	// anew when nothing asks for it earlier.
	inventoryEvery = 15 * time.Second
	// snapshotEvery is how often a group's last report is kept on disk.
	snapshotEvery = 10 * time.Second
)

// peer returns the certificate's name after checking its role.
func peer(r *http.Request, role identity.Role) (name string, cert *x509.Certificate, err error) {
	if r.TLS == nil {
		return "", nil, problem.New(problem.NotAuthenticated, "the connection is not encrypted")
	}
	p, err := identity.PeerOf(*r.TLS)
	if err != nil {
		return "", nil, err
	}
	if p.Role != role {
		return "", nil, problem.New(problem.NotAuthenticated, "%s is no %s", p, role)
	}
	return p.Name, r.TLS.PeerCertificates[0], nil
}

// gatewayOf authenticates a gateway: its certificate is of this vault (TLS saw
// to that) and the one that was issued last.
func (s *Server) gatewayOf(r *http.Request) (store.Gateway, error) {
	name, cert, err := peer(r, identity.RoleGateway)
	if err != nil {
		return store.Gateway{}, err
	}
	var g store.Gateway
	err = s.view(r.Context(), func(tx *store.Tx) (err error) { g, err = tx.Gateway(dr.GatewayID(name)); return err })
	if errors.Is(err, store.ErrNotFound) || err == nil && g.State != "enrolled" {
		return g, problem.New(problem.NotAuthenticated, "the certificate of gateway %s is not valid any more", name)
	}
	if err != nil {
		return g, err
	}
	return g, s.checkCertificate(r.Context(), identity.RoleGateway, name, cert)
}

// enroll trades a passphrase for a certificate.
func (s *Server) enroll(w http.ResponseWriter, r *http.Request) {
	var req control.EnrollRequest
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&req); err != nil {
		writeProblem(w, problem.Wrap(err, problem.InvalidRequest, "cannot read the request"))
		return
	}
	who := req.Role + " " + req.Name
	guess := auth.GuessOf("enroll", who, requestOf(r.Context()).from)
	if wait := s.limits.Begin(guess); wait > 0 {
		err := tooMany(wait, "passphrases for %s were tried again and again", who)
		s.auditDoor(r, "", req.Role+"/"+req.Name, string(problem.TooManyAttempts), http.StatusTooManyRequests)
		writeProblem(w, err)
		return
	}
	res, err := s.issue(r.Context(), req)
	if problem.HasCode(err, problem.NotAuthenticated) {
		s.wrongPassphrase(r.Context(), req)
	} else {
		s.limits.Right(guess)
	}
	if err != nil {
		d := documentOf(err)
		s.auditDoor(r, "", req.Role+"/"+req.Name, string(d.Code), d.Status)
		writeProblem(w, err)
		return
	}
	s.auditDoor(r, who, req.Role+"/"+req.Name, "", http.StatusOK)
	writeJSON(w, res)
}

// suspectAttempts wrong passphrases for one enrolment are told as an event.
const suspectAttempts = 5

// wrongPassphrase counts an attempt at an enrolment that is announced.
func (s *Server) wrongPassphrase(ctx context.Context, req control.EnrollRequest) {
	err := s.Store.Update(context.WithoutCancel(ctx), func(tx *store.Tx) error {
		if err := tx.CountAttempt(req.Role, req.Name); err != nil {
			return err
		}
		n, err := tx.Attempts(req.Role, req.Name)
		if n != suspectAttempts {
			return notFound(err, problem.UnknownGateway, "it was not announced")
		}
		return tx.InsertEvent(rest.Event{
			Time: s.Now().UTC(), Code: "EnrollmentGuessed", Severity: "warning",
			Text: fmt.Sprintf("%d wrong passphrases were tried for %s %s, the last one from %s", n, req.Role, req.Name, requestOf(ctx).from),
		})
	})
	if err != nil && !problem.HasCode(err, problem.UnknownGateway) {
		s.Log.Error("count a wrong passphrase", "error", err)
	}
}

func (s *Server) issue(ctx context.Context, req control.EnrollRequest) (control.EnrollResponse, error) {
	var res control.EnrollResponse
	role := identity.Role(req.Role)
	if role != identity.RoleGateway && role != identity.RoleAgent {
		return res, problem.New(problem.InvalidRequest, "nobody enrols as %q", req.Role)
	}
	cert, err := s.CA.Sign([]byte(req.CSR), role, req.Name, s.life())
	if err != nil {
		return res, problem.Wrap(err, problem.InvalidRequest, "the certificate request cannot be signed: %v", err)
	}
	err = s.Store.Update(ctx, func(tx *store.Tx) error {
		ok, err := tx.TakeEnrollment(req.Role, req.Name, req.Passphrase, req.CSR, s.Now())
		if err != nil {
			return err
		}
		if !ok {
			return problem.New(problem.NotAuthenticated, "the passphrase for %s %q is wrong, used or out of date", req.Role, req.Name)
		}
		// Whoever held the name before holds it no more.
		if err := tx.RevokeCertificates(role, req.Name, s.Now()); err != nil {
			return err
		}
		x, err := s.sign(tx, role, req.Name, cert)
		if err != nil {
			return err
		}
		if role == identity.RoleGateway {
			g, err := tx.Gateway(dr.GatewayID(req.Name))
			if err != nil {
				return err
			}
			res.Site = g.Site
		}
		return holds(tx, identity.Peer{Role: role, Name: req.Name}, x)
	})
	if err == nil {
		s.pushRevocations(context.WithoutCancel(ctx))
	}
	res.Certificate, res.CA, res.Vault = string(cert), string(s.CA.PEM()), s.CA.Vault()
	return res, err
}

// connect takes a gateway's connection and turns it round.
func (s *Server) connect(w http.ResponseWriter, r *http.Request) {
	g, err := s.gatewayOf(r)
	if err != nil {
		writeProblem(w, err)
		return
	}
	conn, err := control.Accept(w, r)
	if err != nil {
		s.Log.Warn("gateway did not connect", "gateway", g.ID, "error", err)
		return
	}
	s.wg.Add(1)
	defer s.wg.Done()
	s.Log.Info("gateway connected", "gateway", g.ID)
	ctx, cancel := context.WithCancel(s.base)
	defer cancel()
	s.forgetKept(g.ID)
	s.wg.Go(func() { s.watchInventory(ctx, g) })
	s.wg.Go(func() { s.confirmSoon(ctx, g.ID) })
	err = s.Hub.Attach(s.base, g.ID, conn)
	s.Log.Info("gateway disconnected", "gateway", g.ID, "error", err)
}

// Refresh makes the inventories of all connected gateways be read anew soon.
func (s *Server) Refresh() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.fresh {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// watchInventory reads a connected gateway's inventory, at once and again when
// asked, until its connection ends.
func (s *Server) watchInventory(ctx context.Context, g store.Gateway) {
	kick := make(chan struct{}, 1)
	s.mu.Lock()
	s.fresh[g.ID] = kick
	s.mu.Unlock()
	for {
		if err := s.readInventory(ctx, g); err != nil && ctx.Err() == nil {
			s.Log.Warn("read inventory", "gateway", g.ID, "error", err)
		}
		select {
		case <-kick:
		case <-time.After(inventoryEvery):
		case <-ctx.Done():
			return
		}
	}
}

func (s *Server) readInventory(ctx context.Context, g store.Gateway) error {
	inv, err := s.Hub.Commands(g.ID).Inventory(control.WithPatience(ctx, time.Second))
	if err != nil {
		return err
	}
	now := s.Now().UTC()
	return s.Store.Update(ctx, func(tx *store.Tx) error {
		row, err := tx.Site(g.Site)
		if err != nil {
			return err
		}
		row.Networks, row.FreeBytes, row.TotalBytes, row.Capabilities = inv.Networks, inv.FreeBytes, inv.TotalBytes, inv.Capabilities
		if err := tx.PutSite(row); err != nil {
			return err
		}
		fresh, err := tx.Gateway(g.ID)
		if err != nil {
			return err
		}
		fresh.DataAddr, fresh.Roles = inv.DataAddr, inv.Roles
		if err := tx.PutGateway(fresh); err != nil {
			return err
		}
		return replaceMachines(tx, g, inv, now)
	})
}

func replaceMachines(tx *store.Tx, g store.Gateway, inv control.Inventory, now time.Time) error {
	old, err := tx.Machines(g.Site)
	if err != nil {
		return err
	}
	have := map[dr.MachineName]bool{}
	for _, m := range inv.Machines {
		have[m.Definition.Name] = true
		row := store.Machine{Machine: m, Site: g.Site, Gateway: g.ID, SeenAt: now}
		i := slices.IndexFunc(old, func(o store.Machine) bool { return o.Definition.Name == m.Definition.Name })
		if i >= 0 && row.BootedAt.IsZero() {
			row.BootedAt = old[i].BootedAt
		}
		if err := tx.PutMachine(row); err != nil {
			return err
		}
	}
	for _, m := range old {
		if m.Gateway == g.ID && !have[m.Definition.Name] {
			if err := tx.DeleteMachine(g.Site, m.Definition.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// keeper is the gateway of a site that a machine's group works with; none for a
// machine that is not protected, whose first gateway keeps it.
func keeper(tx *store.Tx, at store.Gateway, name dr.MachineName) dr.GatewayID {
	g, err := tx.GroupOfItem(dr.ItemID(name))
	switch {
	case err != nil:
		return ""
	case at.Site == g.Home:
		return g.HomeGateway
	case at.Site == g.Recovery:
		return g.RecoveryGateway
	}
	return ""
}

// report takes in a gateway's report and answers with what it must know.
func (s *Server) report(w http.ResponseWriter, r *http.Request) {
	g, err := s.gatewayOf(r)
	if err != nil {
		writeProblem(w, err)
		return
	}
	var rep control.Report
	if err := json.NewDecoder(io.LimitReader(r.Body, 64<<20)).Decode(&rep); err != nil {
		writeProblem(w, problem.Wrap(err, problem.InvalidRequest, "cannot read the report"))
		return
	}
	d, err := s.takeReport(r.Context(), g, rep)
	if err != nil {
		writeProblem(w, err)
		return
	}
	writeJSON(w, d)
}

func (s *Server) takeReport(ctx context.Context, gw store.Gateway, rep control.Report) (control.Desired, error) {
	now := s.Now()
	out := s.Live.Report(gw.ID, rep, now)
	events := reportEvents(gw, rep)
	d := control.Desired{Time: now.UTC(), Groups: []control.DesiredGroup{}, SendAll: out.First}
	var groups []store.Group
	policies := map[dr.GroupID]*control.PolicySettings{}
	var kept map[dr.GroupID]control.Keep
	err := s.view(ctx, func(tx *store.Tx) (err error) {
		if groups, err = tx.Groups(); err != nil {
			return err
		}
		if d.Revoked, err = s.unknownRevocations(tx, rep.Revoked); err != nil {
			return err
		}
		if kept, err = s.keepAt(tx, gw.ID, groups); err != nil {
			return err
		}
		return policySettings(tx, gw.ID, groups, policies)
	})
	if err != nil {
		return d, err
	}
	if s.overtaken(ctx, rep, groups) {
		s.wg.Go(func() { s.confirm(s.base) })
		return d, nil
	}
	var moved, keep []store.Group
	for _, g := range groups {
		if gw.ID != g.HomeGateway && gw.ID != g.RecoveryGateway || g.Unconfirmed != "" {
			// One that another gateway of its site replaced may still have
			// the machines of before.
			if replaced := gw.Site == g.Home || gw.Site == g.Recovery; replaced && g.Unconfirmed == "" && g.Active != gw.Site {
				d.Groups = append(d.Groups, control.DesiredGroup{Group: g.ID, Generation: g.Generation, Active: g.Active, Machines: g.Machines()})
			}
			continue
		}
		d.Groups = append(d.Groups, control.DesiredGroup{Group: g.ID, Generation: g.Generation, Active: g.Active, Machines: g.Machines(), Policy: policies[g.ID], Keep: kept[g.ID]})
		if s.observed(&g) != g.State {
			moved = append(moved, g)
		}
		if s.dueSnapshot(g.ID, now) {
			keep = append(keep, g)
		}
		if isStale(gw, &g, rep) {
			s.Live.SawStale(g.ID, gw.ID, now)
			s.Health.Kick()
		}
	}
	if len(moved)+len(keep)+len(events)+len(rep.Machines) == 0 {
		return d, nil
	}
	return d, s.Store.Update(context.WithoutCancel(ctx), func(tx *store.Tx) error {
		return s.keepReport(tx, gw, rep, events, moved, keep, now)
	})
}

// observed is the state that the reports put a group into; a group on which a
// moving job works is left alone by the table itself.
func (s *Server) observed(g *store.Group) lifecycle.State {
	o := s.Live.Observe(g)
	if !o.Known {
		return g.State
	}
	return lifecycle.Observe(g.State, o.Synced, o.Points, o.Broken, o.Syncing)
}

func (s *Server) keepReport(tx *store.Tx, gw store.Gateway, rep control.Report, events []rest.Event, moved, keep []store.Group, now time.Time) error {
	for _, m := range rep.Machines {
		row, err := tx.Machine(gw.Site, m.Machine)
		if errors.Is(err, store.ErrNotFound) {
			s.Refresh()
			continue
		}
		if err != nil {
			return err
		}
		if row.Gateway != gw.ID && keeper(tx, gw, m.Machine) != gw.ID {
			continue // another gateway of the site has it
		}
		if row.State == m.State && row.BootedAt.Equal(m.BootedAt) {
			continue // nothing to sync to the disk for
		}
		row.State, row.BootedAt, row.SeenAt = m.State, m.BootedAt, now.UTC()
		if err := tx.PutMachine(row); err != nil {
			return err
		}
	}
	for _, g := range moved {
		fresh, err := tx.Group(g.ID)
		if err != nil {
			return err
		}
		to := s.observed(&fresh)
		if to == fresh.State {
			continue
		}
		events = append(events, rest.Event{Time: now.UTC(), Code: "StateChanged", Severity: severityOf(to), Group: g.ID, Text: fmt.Sprintf("%s: %s -> %s", g.ID, fresh.State, to)})
		fresh.State = to
		if err := tx.PutGroup(&fresh); err != nil {
			return err
		}
	}
	for _, g := range keep {
		if said, ok := s.Live.Group(g.ID, g.Standby()); ok {
			if err := tx.PutSnapshot(g.ID, store.Snapshot{Report: said.Report, Received: said.Received, Offset: said.Offset.Seconds()}); err != nil {
				return err
			}
		}
	}
	for _, e := range events {
		if err := tx.InsertEvent(e); err != nil {
			return err
		}
	}
	return nil
}

func severityOf(s lifecycle.State) string {
	if s == lifecycle.Tracking {
		return "warning"
	}
	return "info"
}

func (s *Server) dueSnapshot(id dr.GroupID, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.snapshot[id]) < snapshotEvery {
		return false
	}
	s.snapshot[id] = now
	return true
}

func reportEvents(gw store.Gateway, rep control.Report) []rest.Event {
	var out []rest.Event
	for _, e := range rep.Events {
		out = append(out, rest.Event{Time: e.Time.UTC(), Code: e.Code, Severity: e.Severity, Site: gw.Site, Gateway: gw.ID, Group: e.Group, Machine: e.Machine, Text: e.Text})
	}
	return out
}

// isStale notices a source that comes back with an older generation; the answer
// to its report makes it fence itself.
func isStale(gw store.Gateway, g *store.Group, rep control.Report) bool {
	return gw.Site != g.Active && slices.ContainsFunc(rep.Groups, func(r control.GroupReport) bool {
		return r.Group == g.ID && r.Source && r.Generation < g.Generation && r.Phase != control.PhaseFenced
	})
}
