package portal

import (
	"fmt"
	"slices"
	"strings"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
)

// infrastructureRoutes registers sites, gateways and machines.
func (p *Portal) infrastructureRoutes() {
	p.page("GET /sites", func(rq *Request) error { return rq.sitesPage(nil) })
	p.page("POST /sites", p.createSite)
	p.page("POST /sites/{id}/delete", p.deleteSite)
	p.page("GET /gateways", func(rq *Request) error { return rq.gatewaysPage(nil, nil) })
	p.page("POST /gateways", p.enrollGateway)
	p.page("GET /gateways/{id}", p.gateway)
	p.page("POST /gateways/{id}/revoke", p.revokeGateway)
	p.page("GET /machines", func(rq *Request) error { return rq.machinesPage(nil) })
	p.page("POST /machines", p.protectMachines)
}

// again is the problem to show on the page that a form came from, or the error
// itself when it is none.
func again(err error, show func(*problem.Problem) error) error {
	p, ok := asProblem(err)
	if !ok {
		return err
	}
	return show(p)
}

func asProblem(err error) (*problem.Problem, bool) {
	p := problem.From(err)
	return p, p != nil && p.Code != problem.InternalError
}

func (rq *Request) sitesPage(failed *problem.Problem) error {
	sites, err := rq.API.Sites(rq.Context())
	if err != nil {
		return err
	}
	return rq.Render("sites", Page{
		Title: "Sites", Nav: "/sites", Live: []string{rest.ChangeSite, rest.ChangeHealth}, Problem: failed,
		Data: map[string]any{"Sites": sites, "ID": rq.PostForm.Get("id"), "Description": rq.PostForm.Get("description")},
	})
}

func (p *Portal) createSite(rq *Request) error {
	_, err := rq.API.CreateSite(rq.Context(), rest.NewSite{ID: dr.SiteID(rq.Field("id")), Description: rq.Field("description")})
	if err != nil {
		return again(err, rq.sitesPage)
	}
	return rq.See("/sites")
}

func (p *Portal) deleteSite(rq *Request) error {
	if err := rq.API.DeleteSite(rq.Context(), dr.SiteID(rq.PathValue("id"))); err != nil {
		return again(err, rq.sitesPage)
	}
	return rq.See("/sites")
}

// gatewaysPage shows the gateways and, once, the command of an enrolment.
func (rq *Request) gatewaysPage(failed *problem.Problem, made *rest.Enrollment) error {
	gateways, err := rq.API.Gateways(rq.Context())
	if err != nil {
		return err
	}
	sites, err := rq.API.Sites(rq.Context())
	if err != nil {
		return err
	}
	data := map[string]any{"Gateways": gateways, "Sites": sites, "ID": rq.PostForm.Get("id"), "Site": rq.FormValue("site")}
	if made != nil {
		data["Enrollment"], data["Command"] = made, enrollCommand(rq.Host, *made)
	}
	return rq.Render("gateways", Page{
		Title: "Gateways", Nav: "/gateways", Live: []string{rest.ChangeGateway, rest.ChangeHealth}, Problem: failed, Data: data,
	})
}

// gateway shows one gateway; with check=1 it is asked what it has for a reprotect.
func (p *Portal) gateway(rq *Request) error {
	id := dr.GatewayID(rq.PathValue("id"))
	g, err := rq.API.Gateway(rq.Context(), id)
	if err != nil {
		return err
	}
	data := map[string]any{"Gateway": g}
	pg := Page{Title: string(id), Nav: "/gateways", Live: []string{rest.ChangeGateway, rest.ChangeHealth}, Data: data}
	if rq.Field("check") != "" {
		found, err := rq.API.Prerequisites(rq.Context(), id)
		if p, known := asProblem(err); err != nil && known {
			pg.Problem = p
		} else if err != nil {
			return err
		} else {
			data["Found"] = found
		}
	}
	return rq.Render("gateway", pg)
}

// enrollCommand is what a person pastes into a shell on the gateway's host.
func enrollCommand(vault string, e rest.Enrollment) string {
	return fmt.Sprintf(`cat > vault-ca.pem <<'END'
%s
END
rebound gateway serve --name %s --vault %s --vault-ca vault-ca.pem \
  --passphrase %s \
  --dir /var/lib/rebound/gateway --data-addr "$(hostname -f):9443"`, strings.TrimSpace(e.CA), e.Name, vault, e.Passphrase)
}

func (p *Portal) enrollGateway(rq *Request) error {
	made, err := rq.API.EnrollGateway(rq.Context(), rest.NewGateway{ID: dr.GatewayID(rq.Field("id")), Site: dr.SiteID(rq.Field("site"))})
	if err != nil {
		return again(err, func(failed *problem.Problem) error { return rq.gatewaysPage(failed, nil) })
	}
	// Not a redirect: the passphrase is shown once.
	return rq.gatewaysPage(nil, &made)
}

func (p *Portal) revokeGateway(rq *Request) error {
	id := rq.PathValue("id")
	fail := func(failed *problem.Problem) error { return rq.gatewaysPage(failed, nil) }
	if rq.Field("confirm") != id {
		return fail(problem.New(problem.InvalidRequest, "to revoke the gateway, type its name %q", id))
	}
	if _, err := rq.API.RevokeGateway(rq.Context(), dr.GatewayID(id)); err != nil {
		return again(err, fail)
	}
	return rq.See("/gateways")
}

// machineList is what templates/machines.html shows.
type machineList struct {
	Machines []rest.Machine
	Sites    []rest.Site
	Policies []rest.Policy
	form     func(string) string
	chosen   []string
}

// Get is what was typed into a field.
func (m machineList) Get(field string) string { return m.form(field) }

// Chosen reports whether a machine was ticked.
func (m machineList) Chosen(at dr.SiteID, name dr.MachineName) bool {
	return slices.Contains(m.chosen, string(at)+"/"+string(name))
}

// Free reports whether there is a machine to protect.
func (m machineList) Free() bool {
	return slices.ContainsFunc(m.Machines, func(x rest.Machine) bool { return x.Item == "" })
}

func (rq *Request) machinesPage(failed *problem.Problem) error {
	ctx := rq.Context()
	out := machineList{form: rq.FormValue, chosen: rq.PostForm["machine"]}
	var err error
	if out.Machines, err = rq.API.Machines(ctx, ""); err != nil {
		return err
	}
	if out.Sites, err = rq.API.Sites(ctx); err != nil {
		return err
	}
	if out.Policies, err = rq.API.Policies(ctx); err != nil {
		return err
	}
	return rq.Render("machines", Page{Title: "Machines", Nav: "/machines", Live: []string{rest.ChangeMachine, rest.ChangeItem}, Problem: failed, Data: out})
}

func (p *Portal) protectMachines(rq *Request) error {
	req := rest.ProtectRequest{To: dr.SiteID(rq.Field("to")), Policy: dr.PolicyID(rq.Field("policy")), Group: dr.GroupID(rq.Field("group"))}
	for _, m := range rq.PostForm["machine"] {
		at, name, _ := strings.Cut(m, "/")
		if req.Site != "" && req.Site != dr.SiteID(at) {
			return rq.machinesPage(problem.New(problem.InvalidRequest, "machines of two sites cannot be protected together: %s and %s", req.Site, at))
		}
		req.Site = dr.SiteID(at)
		req.Machines = append(req.Machines, dr.MachineName(name))
	}
	if len(req.Machines) == 0 {
		return rq.machinesPage(problem.New(problem.InvalidRequest, "no machine is ticked"))
	}
	job, err := rq.API.Protect(rq.Context(), req)
	if err != nil {
		return again(err, rq.machinesPage)
	}
	return rq.See("/jobs/" + string(job.ID))
}
