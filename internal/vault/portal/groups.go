package portal

import (
	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/vault/rest"
)

// groupRoutes registers the replication groups.
func (p *Portal) groupRoutes() {
	p.page("GET /groups", p.groups)
	p.page("GET /groups/{id}", func(rq *Request) error { return rq.groupPage(nil) })
	p.page("GET /groups/{id}/operations", p.groupOperations)
	p.page("POST /groups/{id}/policy", p.changeGroupPolicy)
}

func (p *Portal) groups(rq *Request) error {
	groups, err := rq.API.Groups(rq.Context())
	if err != nil {
		return err
	}
	return rq.Render("groups", Page{
		Title: "Groups", Nav: "/groups", Data: map[string]any{"Groups": groups},
		Live: []string{rest.ChangeGroup, rest.ChangeHealth, rest.ChangeLive},
	})
}

func (rq *Request) groupPage(failed *problem.Problem) error {
	ctx := rq.Context()
	group, err := rq.API.Group(ctx, dr.GroupID(rq.PathValue("id")))
	if err != nil {
		return err
	}
	policies, err := rq.API.Policies(ctx)
	if err != nil {
		return err
	}
	jobs, err := rq.API.Jobs(ctx, group.ID)
	if err != nil {
		return err
	}
	return rq.Render("group", Page{
		Title: string(group.ID), Nav: "/groups", Group: string(group.ID), Problem: failed,
		Live: []string{rest.ChangeGroup, rest.ChangeHealth, rest.ChangeLive, rest.ChangeJob},
		Data: map[string]any{"Group": group, "Policies": policies, "Jobs": jobs[:min(len(jobs), jobsShown)]},
	})
}

func (p *Portal) groupOperations(rq *Request) error {
	group, err := rq.API.Group(rq.Context(), dr.GroupID(rq.PathValue("id")))
	if err != nil {
		return err
	}
	out := operationList{Of: string(group.ID), Target: "/groups/" + string(group.ID), AllowedOperations: group.AllowedOperations}
	return rq.Render("operations", Page{Title: "Operations of " + string(group.ID), Nav: "/groups", Data: out})
}

func (p *Portal) changeGroupPolicy(rq *Request) error {
	id := dr.GroupID(rq.PathValue("id"))
	if _, err := rq.API.UpdateGroup(rq.Context(), id, rest.GroupChange{Policy: dr.PolicyID(rq.Field("policy"))}); err != nil {
		return again(err, rq.groupPage)
	}
	return rq.See("/groups/" + string(id))
}
