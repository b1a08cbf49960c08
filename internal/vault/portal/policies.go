package portal

import (
	"strconv"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
)

// policyRoutes registers the policies and the network mappings.
func (p *Portal) policyRoutes() {
	p.page("GET /policies", p.policies)
	p.page("GET /policies/{id}", func(rq *Request) error { return rq.policyPage(nil) })
	p.page("POST /policies", p.copyPolicy)
	p.page("POST /policies/{id}", p.savePolicy)
	p.page("POST /policies/{id}/delete", p.deletePolicy)
	p.page("GET /mappings", func(rq *Request) error { return rq.mappingsPage(nil) })
	p.page("POST /mappings", p.saveMapping)
	p.page("POST /mappings/{id}/delete", p.deleteMapping)
}

func (p *Portal) policies(rq *Request) error { return rq.policiesPage(nil) }

func (rq *Request) policiesPage(failed *problem.Problem) error {
	all, err := rq.API.Policies(rq.Context())
	if err != nil {
		return err
	}
	return rq.Render("policies", Page{Title: "Policies", Nav: "/policies", Problem: failed, Data: map[string]any{"Policies": all, "ID": rq.PostForm.Get("id")}})
}

// numberField is one number of a policy or of the settings, with its unit.
type numberField struct {
	Name, Label, Unit, Value string
	of                       *int64
}

// policyNumbers are the fields of a policy that are numbers.
func policyNumbers(p *rest.Policy) []numberField {
	return []numberField{
		{Name: "rpo", Label: "RPO threshold", Unit: "seconds; crossing it is a condition, nothing else", of: &p.RPOThreshold},
		{Name: "crash", Label: "Crash-consistent points", Unit: "seconds between two", of: &p.CrashInterval},
		{Name: "app", Label: "Application-consistent points", Unit: "seconds between two; 0 makes none", of: &p.AppInterval},
		{Name: "redo", Label: "Redo window", Unit: "seconds in which every moment can be chosen", of: &p.RedoWindow},
		{Name: "retention", Label: "Retention", Unit: "seconds that points are kept, at most 30 days; 0: as long as the redo window", of: &p.Retention},
		{Name: "shutdown", Label: "Shutdown", Unit: "seconds that a guest may take", of: &p.ShutdownTimeout},
		{Name: "boot", Label: "Boot", Unit: "seconds until a recovered machine has to prove that it has booted", of: &p.BootTimeout},
	}
}

// filled gives fields their values: what was typed, else what is.
func (rq *Request) filled(fields []numberField) []numberField {
	for i := range fields {
		fields[i].Value = strconv.FormatInt(*fields[i].of, 10)
		if v := rq.PostForm.Get(fields[i].Name); v != "" {
			fields[i].Value = v
		}
	}
	return fields
}

// take reads fields out of the form.
func (rq *Request) take(fields []numberField) error {
	for _, f := range fields {
		n, err := strconv.ParseInt(rq.Field(f.Name), 10, 64)
		if err != nil {
			return problem.New(problem.InvalidRequest, "%s: %q is no whole number", f.Label, rq.Field(f.Name))
		}
		*f.of = n
	}
	return nil
}

func (rq *Request) policyPage(failed *problem.Problem) error {
	policy, err := rq.API.Policy(rq.Context(), dr.PolicyID(rq.PathValue("id")))
	if err != nil {
		return err
	}
	return rq.Render("policy", Page{
		Title: string(policy.ID), Nav: "/policies", Problem: failed,
		Data: map[string]any{"Policy": policy, "Numbers": rq.filled(policyNumbers(&policy))},
	})
}

// copyPolicy makes a policy that is like another one.
func (p *Portal) copyPolicy(rq *Request) error {
	policy, err := rq.API.Policy(rq.Context(), dr.PolicyID(rq.Field("like")))
	if err == nil {
		policy.ID = dr.PolicyID(rq.Field("id"))
		_, err = rq.API.PutPolicy(rq.Context(), policy)
	}
	if err != nil {
		return again(err, rq.policiesPage)
	}
	return rq.See("/policies/" + string(policy.ID))
}

func (p *Portal) savePolicy(rq *Request) error {
	policy, err := rq.API.Policy(rq.Context(), dr.PolicyID(rq.PathValue("id")))
	if err != nil {
		return err
	}
	if err = rq.take(policyNumbers(&policy)); err == nil {
		policy.Compression, policy.Bandwidth = rq.Field("compression"), dr.Bandwidth(rq.Field("bandwidth"))
		policy.UnmappedNetworks, policy.RequireAgent, policy.DropSeed = rq.Field("unmapped"), rq.Field("agent") != "", rq.Field("drop") != ""
		_, err = rq.API.PutPolicy(rq.Context(), policy)
	}
	if err != nil {
		return again(err, rq.policyPage)
	}
	return rq.See("/policies")
}

func (p *Portal) deletePolicy(rq *Request) error {
	if err := rq.API.DeletePolicy(rq.Context(), dr.PolicyID(rq.PathValue("id"))); err != nil {
		return again(err, rq.policyPage)
	}
	return rq.See("/policies")
}

func (rq *Request) mappingsPage(failed *problem.Problem) error {
	all, err := rq.API.Mappings(rq.Context())
	if err != nil {
		return err
	}
	sites, err := rq.API.Sites(rq.Context())
	if err != nil {
		return err
	}
	return rq.Render("mappings", Page{
		Title: "Networks", Nav: "/mappings", Problem: failed, Live: []string{rest.ChangeSite},
		Data: map[string]any{"Mappings": all, "Sites": sites, "Get": rq.PostForm.Get},
	})
}

func (p *Portal) saveMapping(rq *Request) error {
	end := func(side string) rest.NetworkMapEnd {
		return rest.NetworkMapEnd{Site: dr.SiteID(rq.Field(side + "Site")), Network: rq.Field(side + "Network"), TestNetwork: rq.Field(side + "Test")}
	}
	m := rest.NetworkMapping{ID: dr.MappingID(rq.Field("id")), From: end("from"), To: end("to"), OneWay: rq.Field("oneWay") != ""}
	if _, err := rq.API.PutMapping(rq.Context(), m); err != nil {
		return again(err, rq.mappingsPage)
	}
	return rq.See("/mappings")
}

func (p *Portal) deleteMapping(rq *Request) error {
	if err := rq.API.DeleteMapping(rq.Context(), dr.MappingID(rq.PathValue("id"))); err != nil {
		return again(err, rq.mappingsPage)
	}
	return rq.See("/mappings")
}
