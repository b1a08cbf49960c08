package gateway

import (
	"context"
	"fmt"
	"slices"
	"time"

	"rebound/internal/control"
	"rebound/internal/identity"
	"rebound/internal/link"
	"rebound/internal/problem"
	"rebound/internal/site"
)

// probeTimeout bounds the attempt to open a data connection to a peer.
const probeTimeout = 5 * time.Second

// roles are the parts that the gateway may take: both unless it was told.
func (g *Gateway) roles() []control.Role {
	if len(g.cfg.Roles) == 0 {
		return control.Roles()
	}
	return g.cfg.Roles
}

// admitRole refuses a part that the gateway was not given.
func (g *Gateway) admitRole(r control.Role) error {
	if slices.Contains(g.roles(), r) {
		return nil
	}
	return problem.New(problem.WrongGateway, "gateway %s has not the role %s, it is %v", g.cfg.Name, r, g.roles())
}

// Prerequisites tells what the gateway is and has, after trying it.
func (g *Gateway) Prerequisites(ctx context.Context, r control.PrerequisitesRequest) (control.Prerequisites, error) {
	out := control.Prerequisites{
		Gateway: g.cfg.Name, Site: g.cfg.Site, Roles: g.roles(), DataAddr: g.dataAddr(),
		DisksInUse: g.standby.Disks(r.Group), DiskLimit: g.diskLimit(),
		Volumes: g.volumes(), Datastores: []site.Datastore{},
	}
	if err := g.examineSite(ctx, r, &out); err != nil {
		if ctx.Err() != nil {
			return out, fmt.Errorf("look at prerequisites: %w", context.Cause(ctx))
		}
		out.SiteProblem = err.Error()
	}
	return out, nil
}

func (g *Gateway) diskLimit() int {
	if g.cfg.DiskLimit > 0 {
		return g.cfg.DiskLimit
	}
	return control.DefaultDiskLimit
}

// examineSite asks the site; its error is that the site does not answer.
func (g *Gateway) examineSite(ctx context.Context, r control.PrerequisitesRequest, out *control.Prerequisites) error {
	if v, ok := g.driver.(site.Versioner); ok {
		text, err := v.Version(ctx)
		if err != nil {
			return err
		}
		out.Hypervisor = text
	}
	if _, err := g.driver.Machines(ctx); err != nil {
		return fmt.Errorf("list machines: %w", err)
	}
	stores, err := site.DatastoresOf(ctx, g.driver)
	if err != nil {
		return fmt.Errorf("list datastores: %w", err)
	}
	out.Datastores = slices.DeleteFunc(stores, func(d site.Datastore) bool { return d.ReadOnly })
	for _, def := range r.Machines {
		f, err := site.ExamineAt(ctx, g.driver, def)
		if err != nil {
			return fmt.Errorf("look at machine %s: %w", def.Name, err)
		}
		out.Machines = append(out.Machines, f)
	}
	return nil
}

// ProbePath opens a data connection to another gateway and closes it.
func (g *Gateway) ProbePath(ctx context.Context, r control.ProbeRequest) (control.ProbeResult, error) {
	var out control.ProbeResult
	ends := fmt.Sprintf("from gateway %s at site %s to gateway %s at %s", g.cfg.Name, g.cfg.Site, r.Gateway, r.Addr)
	conf := g.cfg.Identity.ClientTLS(identity.RoleGateway, string(r.Gateway))
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	begin := time.Now()
	if err := link.Probe(ctx, link.DialConfig{Address: r.Addr, TLS: conf}); err != nil {
		return out, problem.Wrap(err, problem.PathClosed, "%s: %v", ends, err)
	}
	out.Seconds = time.Since(begin).Seconds()
	return out, nil
}
