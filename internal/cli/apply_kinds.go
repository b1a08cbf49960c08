package cli

import (
	"context"
	"slices"

	"rebound/internal/dr"
	"rebound/internal/problem"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// kind is one kind of documents that 'rebound apply' takes and 'rebound export'
// writes.
type kind struct {
	name string
	// key is the field that names the object.
	key string
	// prune: --prune may delete objects of the kind. What holds data is
	// never deleted by a file that does not name it.
	prune bool
	list  func(ctx context.Context, c *client.Client) ([]object, error)
	// want reads a document over the present object, nil when there is none.
	want   func(ctx context.Context, c *client.Client, d *applied, now any) (any, error)
	put    func(ctx context.Context, a *app, c *client.Client, want, now any) error
	remove func(ctx context.Context, c *client.Client, id string) error
}

// object is one that the vault has.
type object struct {
	id    string
	value any
}

// kinds returns all, in the order in which they depend on each other.
func kinds() []*kind {
	return []*kind{siteKind(), policyKind(), mappingKind(), groupKind(), settingsKind(), planKind()}
}

func objects[T any](list []T, err error, id func(T) string) ([]object, error) {
	var out []object
	for _, v := range list {
		out = append(out, object{id(v), v})
	}
	return out, err
}

// plainly reads a document that says all there is to say of its object.
func plainly[T any](_ context.Context, _ *client.Client, d *applied, _ any) (any, error) {
	var v T
	err := d.decode(&v)
	return v, err
}

// siteDocument is a site as a file describes it.
type siteDocument struct {
	ID          dr.SiteID `json:"id"`
	Description string    `json:"description,omitempty"`
}

func siteKind() *kind {
	return &kind{
		name: "site", key: "id", want: plainly[siteDocument],
		list: func(ctx context.Context, c *client.Client) ([]object, error) {
			list, err := c.Sites(ctx)
			var docs []siteDocument
			for _, s := range list {
				docs = append(docs, siteDocument{s.ID, s.Description})
			}
			return objects(docs, err, func(s siteDocument) string { return string(s.ID) })
		},
		put: func(ctx context.Context, _ *app, c *client.Client, want, now any) error {
			s := want.(siteDocument)
			var err error
			if now == nil {
				_, err = c.CreateSite(ctx, rest.NewSite(s))
			} else {
				_, err = c.UpdateSite(ctx, s.ID, rest.SiteChange{Description: s.Description})
			}
			return err
		},
	}
}

func policyKind() *kind {
	return &kind{
		name: "policy", key: "id", prune: true,
		list: func(ctx context.Context, c *client.Client) ([]object, error) {
			list, err := c.Policies(ctx)
			return objects(list, err, func(p rest.Policy) string { return string(p.ID) })
		},
		want: func(ctx context.Context, c *client.Client, d *applied, now any) (any, error) {
			p, known := now.(rest.Policy)
			if !known {
				var err error
				if p, err = c.Policy(ctx, defaultPolicy); err != nil {
					return nil, err
				}
				p.Failback = nil
			}
			if p.Failback != nil { // what is decoded must not reach into the present one
				f := *p.Failback
				p.Failback = &f
			} else {
				f := rest.NewFailbackPolicy(p)
				p.Failback = &f
			}
			err := d.decode(&p)
			return p, err
		},
		put: func(ctx context.Context, _ *app, c *client.Client, want, _ any) error {
			_, err := c.PutPolicy(ctx, want.(rest.Policy))
			return err
		},
		remove: func(ctx context.Context, c *client.Client, id string) error {
			return c.DeletePolicy(ctx, dr.PolicyID(id))
		},
	}
}

func mappingKind() *kind {
	return &kind{
		name: "mapping", key: "id", prune: true, want: plainly[rest.NetworkMapping],
		list: func(ctx context.Context, c *client.Client) ([]object, error) {
			list, err := c.Mappings(ctx)
			return objects(list, err, func(m rest.NetworkMapping) string { return string(m.ID) })
		},
		put: func(ctx context.Context, _ *app, c *client.Client, want, _ any) error {
			_, err := c.PutMapping(ctx, want.(rest.NetworkMapping))
			return err
		},
		remove: func(ctx context.Context, c *client.Client, id string) error {
			return c.DeleteMapping(ctx, dr.MappingID(id))
		},
	}
}

func planKind() *kind {
	return &kind{
		name: "plan", key: "id", prune: true, want: plainly[rest.Plan],
		list: func(ctx context.Context, c *client.Client) ([]object, error) {
			views, err := c.Plans(ctx)
			plans := make([]rest.Plan, len(views))
			for i, v := range views {
				plans[i] = v.Plan
			}
			return objects(plans, err, func(p rest.Plan) string { return string(p.ID) })
		},
		put: func(ctx context.Context, _ *app, c *client.Client, want, _ any) error {
			_, err := c.PutPlan(ctx, want.(rest.Plan))
			return err
		},
		remove: func(ctx context.Context, c *client.Client, id string) error {
			return c.DeletePlan(ctx, dr.PlanID(id))
		},
	}
}

// groupDocument is a replication group as a file describes it: its machines are
// protected when it is not there yet.
type groupDocument struct {
	ID       dr.GroupID       `json:"id"`
	Machines []dr.MachineName `json:"machines"`
	Site     dr.SiteID        `json:"site,omitempty"`
	To       dr.SiteID        `json:"to"`
	Policy   dr.PolicyID      `json:"policy,omitempty"`
}

func groupKind() *kind {
	return &kind{
		name: "group", key: "id",
		list: func(ctx context.Context, c *client.Client) ([]object, error) {
			list, err := c.Groups(ctx)
			var docs []groupDocument
			for _, g := range list {
				d := groupDocument{ID: g.ID, Site: g.HomeSite, To: g.RecoverySite, Policy: g.Policy}
				for _, m := range g.Members {
					d.Machines = append(d.Machines, m.Machine)
				}
				docs = append(docs, d)
			}
			return objects(docs, err, func(g groupDocument) string { return string(g.ID) })
		},
		want: func(_ context.Context, _ *client.Client, d *applied, now any) (any, error) {
			g := groupDocument{Policy: defaultPolicy}
			if old, known := now.(groupDocument); known {
				g.Site, g.Policy = old.Site, old.Policy
			}
			err := d.decode(&g)
			return g, err
		},
		put: putGroup,
	}
}

func putGroup(ctx context.Context, a *app, c *client.Client, want, now any) error {
	g := want.(groupDocument)
	old, known := now.(groupDocument)
	if known {
		if !slices.Equal(g.Machines, old.Machines) || g.Site != old.Site || g.To != old.To {
			return problem.New(problem.OperationNotAllowed, "group %s is protected as it is; its machines and sites cannot be changed, only its policy: disable it and protect it anew", g.ID)
		}
		_, err := c.UpdateGroup(ctx, g.ID, rest.GroupChange{Policy: g.Policy})
		return err
	}
	job, err := c.Protect(ctx, rest.ProtectRequest{Machines: g.Machines, Site: g.Site, To: g.To, Policy: g.Policy, Group: g.ID})
	if err != nil || a.noWait {
		return err
	}
	if a.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, a.timeout)
		defer cancel()
	}
	if job, err = c.WaitJob(ctx, job.ID, nil); err != nil {
		return err
	}
	if job.State == rest.JobFailed || job.State == rest.JobCancelled {
		return problem.New(problem.JobFailed, "protecting group %s: job %s is %s", g.ID, job.ID, job.State)
	}
	return nil
}

func settingsKind() *kind {
	return &kind{
		name: "settings", key: "item", want: plainly[rest.ItemSettings],
		list: func(ctx context.Context, c *client.Client) ([]object, error) {
			items, err := c.Items(ctx)
			if err != nil {
				return nil, err
			}
			var out []object
			for _, i := range items {
				s, err := c.ItemSettings(ctx, i.ID)
				if err != nil {
					return nil, err
				}
				if s.Home != nil || s.Recovery != nil {
					out = append(out, object{string(i.ID), s})
				}
			}
			return out, nil
		},
		put: func(ctx context.Context, _ *app, c *client.Client, want, _ any) error {
			_, err := c.PutItemSettings(ctx, want.(rest.ItemSettings))
			return err
		},
	}
}
