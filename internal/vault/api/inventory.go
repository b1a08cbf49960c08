package api

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"rebound/internal/control"
	"rebound/internal/dr"
	"rebound/internal/identity"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
	"rebound/internal/vault/store"
)

// enrollmentLife is how long a passphrase can be used.
const enrollmentLife = 24 * time.Hour

// SiteIn is a site in the path; huma reads embedded structs only when exported.
type SiteIn struct {
	Site dr.SiteID `path:"site"`
}

func (s *Server) inventoryRoutes(api huma.API) {
	add(api, route("GET", "/sites", "list-sites", "List the sites"), s.listSites)
	add(api, route("GET", "/sites/{site}", "show-site", "Show a site"), s.showSite)
	create := route("POST", "/sites", "create-site", "Create a site")
	create.DefaultStatus = 201
	add(api, create, s.createSite)
	add(api, route("DELETE", "/sites/{site}", "delete-site", "Delete a site without gateways and groups"), s.deleteSite)
	add(api, route("GET", "/gateways", "list-gateways", "List the gateways"), s.listGateways)
	add(api, route("GET", "/gateways/{gateway}", "show-gateway", "Show a gateway"), s.showGateway)
	add(api, route("GET", "/gateways/{gateway}/prerequisites", "gateway-prerequisites", "Ask a gateway what it has for a reprotect"), s.gatewayPrerequisites)
	enroll := route("POST", "/gateways", "enroll-gateway", "Announce a gateway and get its one-time passphrase")
	enroll.DefaultStatus = 201
	add(api, enroll, s.announceGateway)
	add(api, route("POST", "/gateways/{gateway}/revoke", "revoke-gateway", "End a gateway's access at once"), s.revokeGateway)
	agent := route("POST", "/agents", "enroll-agent", "Announce a machine's agent and get its one-time passphrase")
	agent.DefaultStatus = 201
	add(api, agent, s.announceAgent)
	add(api, route("POST", "/agents/{machine}/revoke", "revoke-agent", "End an agent's access at once"), s.revokeAgent)
	s.machineRoutes(api)
}

func (s *Server) siteView(tx *store.Tx, row store.Site) (rest.Site, error) {
	gws, err := tx.Gateways(row.ID)
	if err != nil {
		return rest.Site{}, err
	}
	machines, err := tx.Machines(row.ID)
	v := rest.Site{
		ID: row.ID, Description: row.Description, Gateways: []dr.GatewayID{}, Machines: len(machines), Networks: row.Networks,
		FreeBytes: row.FreeBytes, TotalBytes: row.TotalBytes, Abilities: row.Capabilities,
	}
	for _, g := range gws {
		v.Gateways = append(v.Gateways, g.ID)
	}
	open, _ := s.Health.Conditions()
	grade(&v.Health, &v.Conditions, open.OfSite(row.ID))
	return v, err
}

func (s *Server) listSites(ctx context.Context, in *struct {
	ListIn
	Health string `query:"health" enum:"ok,warning,critical"`
},
) (*listReply[rest.Site], error) {
	read := func(tx *store.Tx) (out []rest.Site, err error) {
		rows, err := tx.Sites()
		for _, row := range rows {
			v, err := s.siteView(tx, row)
			if err != nil {
				return nil, err
			}
			if wants(in.Health, v.Health) {
				out = append(out, v)
			}
		}
		return out, err
	}
	return pageRead(ctx, s, in.ListIn, read, func(v rest.Site) string { return string(v.ID) }, order[rest.Site]{
		"id":        func(v rest.Site) any { return v.ID },
		"machines":  func(v rest.Site) any { return v.Machines },
		"freeBytes": func(v rest.Site) any { return v.FreeBytes },
	})
}

func (s *Server) listGateways(ctx context.Context, in *struct {
	ListIn
	Site   dr.SiteID `query:"site"`
	State  string    `query:"state" enum:"announced,enrolled,revoked"`
	Health string    `query:"health" enum:"ok,warning,critical"`
},
) (*listReply[rest.Gateway], error) {
	read := func(tx *store.Tx) (out []rest.Gateway, err error) {
		rows, err := tx.Gateways("")
		for _, g := range rows {
			v := s.gatewayView(g)
			if wants(in.Site, v.Site) && wants(in.State, v.State) && wants(in.Health, v.Health) {
				out = append(out, v)
			}
		}
		return out, err
	}
	return pageRead(ctx, s, in.ListIn, read, func(g rest.Gateway) string { return string(g.ID) }, order[rest.Gateway]{
		"id":              func(g rest.Gateway) any { return g.ID },
		"site":            func(g rest.Gateway) any { return g.Site },
		"state":           func(g rest.Gateway) any { return g.State },
		"lastSeen":        func(g rest.Gateway) any { return g.LastSeen },
		"certificateEnds": func(g rest.Gateway) any { return g.CertificateEnds },
	})
}

func (s *Server) showSite(ctx context.Context, in *SiteIn) (*reply[rest.Site], error) {
	var out rest.Site
	err := s.view(ctx, func(tx *store.Tx) error {
		row, err := tx.Site(in.Site)
		if err != nil {
			return notFound(err, problem.UnknownSite, "there is no site %q", in.Site)
		}
		out, err = s.siteView(tx, row)
		return err
	})
	return &reply[rest.Site]{out}, err
}

func (s *Server) createSite(ctx context.Context, in *struct{ Body rest.NewSite }) (*reply[rest.Site], error) {
	if err := dr.ValidName(string(in.Body.ID)); err != nil {
		return nil, problem.Wrap(err, problem.InvalidName, "%v", err)
	}
	err := s.Store.Update(ctx, func(tx *store.Tx) error {
		err := tx.InsertSite(store.Site{ID: in.Body.ID, Description: in.Body.Description})
		if errors.Is(err, store.ErrExists) {
			return problem.New(problem.NameTaken, "there is a site %q already", in.Body.ID)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return s.showSite(ctx, &SiteIn{in.Body.ID})
}

func (s *Server) deleteSite(ctx context.Context, in *SiteIn) (*struct{}, error) {
	return nil, s.Store.Update(ctx, func(tx *store.Tx) error {
		if _, err := tx.Site(in.Site); err != nil {
			return notFound(err, problem.UnknownSite, "there is no site %q", in.Site)
		}
		gws, err := tx.Gateways(in.Site)
		if err != nil {
			return err
		}
		groups, err := tx.Groups()
		if err != nil {
			return err
		}
		for _, g := range groups {
			if g.Home == in.Site || g.Recovery == in.Site {
				return problem.New(problem.OperationNotAllowed, "group %s uses site %s", g.ID, in.Site)
			}
		}
		if len(gws) > 0 {
			return problem.New(problem.OperationNotAllowed, "site %s has gateway %s", in.Site, gws[0].ID)
		}
		return tx.DeleteSite(in.Site)
	})
}

func (s *Server) gatewayView(g store.Gateway) rest.Gateway {
	seen, off := s.Live.Gateway(g.ID)
	v := rest.Gateway{
		ID: g.ID, Site: g.Site, State: g.State, Connected: s.Hub.Connected(g.ID), LastSeen: seen, DataAddr: g.DataAddr, Roles: g.Roles,
		ClockOffsetSeconds: off.Seconds(), CertificateEnds: g.CertificateEnds,
	}
	v.Host, _ = s.Live.Host(g.ID)
	open, _ := s.Health.Conditions()
	grade(&v.Health, &v.Conditions, open.OfGateway(g.ID))
	return v
}

type gatewayIn struct {
	Gateway dr.GatewayID `path:"gateway"`
}

func (s *Server) showGateway(ctx context.Context, in *gatewayIn) (*reply[rest.Gateway], error) {
	var out rest.Gateway
	err := s.view(ctx, func(tx *store.Tx) error {
		g, err := tx.Gateway(in.Gateway)
		out = s.gatewayView(g)
		return notFound(err, problem.UnknownGateway, "there is no gateway %q", in.Gateway)
	})
	return &reply[rest.Gateway]{out}, err
}

func (s *Server) announceGateway(ctx context.Context, in *struct{ Body rest.NewGateway }) (*reply[rest.Enrollment], error) {
	b := in.Body
	if err := dr.ValidName(string(b.ID)); err != nil {
		return nil, problem.Wrap(err, problem.InvalidName, "%v", err)
	}
	out := s.enrollment("gateway", string(b.ID))
	err := s.Store.Update(ctx, func(tx *store.Tx) error {
		if _, err := tx.Site(b.Site); err != nil {
			return notFound(err, problem.UnknownSite, "there is no site %q", b.Site)
		}
		g, err := tx.Gateway(b.ID)
		switch {
		case errors.Is(err, store.ErrNotFound):
			g = store.Gateway{ID: b.ID, Site: b.Site, State: "announced"}
		case err != nil:
			return err
		case g.Site != b.Site:
			return problem.New(problem.NameTaken, "gateway %q is at site %s", b.ID, g.Site)
		}
		if err := tx.PutGateway(g); err != nil {
			return err
		}
		return tx.PutEnrollment("gateway", out.Name, out.Passphrase, out.ExpiresAt)
	})
	return &reply[rest.Enrollment]{out}, err
}

func (s *Server) enrollment(role, name string) rest.Enrollment {
	return rest.Enrollment{Role: role, Name: name, Passphrase: rand.Text(), ExpiresAt: s.Now().Add(enrollmentLife).UTC(), CA: string(s.CA.PEM())}
}

func (s *Server) revokeGateway(ctx context.Context, in *gatewayIn) (*reply[rest.Gateway], error) {
	err := s.Store.Update(ctx, func(tx *store.Tx) error {
		g, err := tx.Gateway(in.Gateway)
		if err != nil {
			return notFound(err, problem.UnknownGateway, "there is no gateway %q", in.Gateway)
		}
		g.State, g.CertificateSum = "revoked", ""
		if err := tx.PutGateway(g); err != nil {
			return err
		}
		return s.revokeHolder(tx, identity.RoleGateway, string(in.Gateway))
	})
	if err != nil {
		return nil, err
	}
	s.Hub.Disconnect(in.Gateway)
	s.pushRevocations(ctx)
	return s.showGateway(ctx, in)
}

type agentIn struct {
	Body struct {
		Machine dr.MachineName `json:"machine"`
	}
}

func (s *Server) announceAgent(ctx context.Context, in *agentIn) (*reply[rest.Enrollment], error) {
	name := in.Body.Machine
	if err := dr.ValidName(string(name)); err != nil {
		return nil, problem.Wrap(err, problem.InvalidName, "%v", err)
	}
	out := s.enrollment("agent", string(name))
	err := s.Store.Update(ctx, func(tx *store.Tx) error {
		return tx.PutEnrollment("agent", out.Name, out.Passphrase, out.ExpiresAt)
	})
	return &reply[rest.Enrollment]{out}, err
}

type jobReply struct {
	Status     int    `json:"-"`
	Location   string `header:"Location"`
	RetryAfter string `header:"Retry-After"`
	// Body is a rest.Job, or a rest.DryRun with ?dryRun=true.
	Body any
}

func accepted(job rest.Job) *jobReply {
	return &jobReply{Status: 202, Location: rest.Prefix + "/jobs/" + string(job.ID), RetryAfter: "1", Body: job}
}

func (s *Server) machineRoutes(api huma.API) {
	add(api, route("GET", "/machines", "list-machines", "List the machines"), s.listMachines)
	add(api, route("GET", "/sites/{site}/machines/{machine}", "show-machine", "Show a machine"), func(ctx context.Context, in *struct {
		SiteIn
		Machine dr.MachineName `path:"machine"`
	},
	) (*reply[rest.Machine], error) {
		var out rest.Machine
		err := s.view(ctx, func(tx *store.Tx) error {
			m, err := tx.Machine(in.Site, in.Machine)
			if err != nil {
				return notFound(err, problem.UnknownMachine, "site %s has no machine %q", in.Site, in.Machine)
			}
			out, err = s.machineView(tx, m)
			return err
		})
		return &reply[rest.Machine]{out}, err
	})
	s.powerRoutes(api)
	add(api, route("POST", "/machines/import", "import-machine", "Take in a machine that somebody else started"), s.importMachine)
	protect := route("POST", "/machines/protect", "protect-machines", "Protect machines as one group")
	protect.DefaultStatus = 202
	add(api, protect, func(ctx context.Context, in *struct {
		DryRun bool `query:"dryRun"`
		Body   rest.ProtectRequest
	},
	) (*jobReply, error) {
		if in.DryRun {
			out, err := s.Jobs.ProtectDryRun(ctx, in.Body)
			return &jobReply{Status: 200, Body: out}, err
		}
		job, _, err := s.Jobs.Protect(ctx, in.Body, caller(ctx))
		return accepted(job), err
	})
}

func (s *Server) machineView(tx *store.Tx, m store.Machine) (rest.Machine, error) {
	v := rest.Machine{Machine: m.Machine, Site: m.Site, BootedAt: m.BootedAt}
	g, err := tx.GroupOfItem(dr.ItemID(m.Definition.Name))
	if err == nil && (g.Home == m.Site || g.Recovery == m.Site) {
		v.Item = dr.ItemID(m.Definition.Name)
	} else if err != nil && !errors.Is(err, store.ErrNotFound) {
		return v, err
	}
	v.Agent, err = s.agentView(tx, m.Definition.Name)
	return v, err
}

func (s *Server) agentView(tx *store.Tx, m dr.MachineName) (*rest.Agent, error) {
	a, err := tx.Agent(m)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if _, at := s.Live.LastHeartbeat(m); at.After(a.LastHeartbeat) {
		a.LastHeartbeat = at
	}
	return &a.Agent, err
}

func (s *Server) importMachine(ctx context.Context, in *struct{ Body rest.ImportMachine }) (*reply[rest.Machine], error) {
	b := in.Body
	gw, err := s.gatewayAt(ctx, b.Site)
	if err != nil {
		return nil, err
	}
	m, err := s.Hub.Commands(gw).ImportMachine(ctx, s.origin("import"), control.ImportRequest{QMPSocket: b.QMPSocket, Name: b.Name})
	if err != nil {
		return nil, err
	}
	row := store.Machine{Machine: m, Site: b.Site, Gateway: gw, SeenAt: s.Now().UTC()}
	err = s.Store.Update(context.WithoutCancel(ctx), func(tx *store.Tx) error { return tx.PutMachine(row) })
	return &reply[rest.Machine]{rest.Machine{Machine: m, Site: b.Site}}, err
}

// origin stands for a command that belongs to no job.
func (s *Server) origin(task string) control.Origin {
	return control.Origin{Job: dr.JobID(task + "-" + uuid.NewString()), Task: task, Lease: s.Jobs.Lease()}
}

// gatewayAt returns a connected gateway of a site.
func (s *Server) gatewayAt(ctx context.Context, site dr.SiteID) (gw dr.GatewayID, err error) {
	err = s.view(ctx, func(tx *store.Tx) error {
		if _, err := tx.Site(site); err != nil {
			return notFound(err, problem.UnknownSite, "there is no site %q", site)
		}
		rows, err := tx.Gateways(site)
		for _, g := range rows {
			if s.Hub.Connected(g.ID) {
				gw = g.ID
			}
		}
		return err
	})
	if err == nil && gw == "" {
		err = problem.New(problem.GatewayUnreachable, "no gateway of site %s is connected", site)
	}
	return gw, err
}
