package portal

import (
	"net/http"
	"net/url"
	"slices"

	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/site"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// operateRoutes registers the dialogs of the operations: first what there is to
// choose, then what it will do, lose and delete, then the job's page.
func (p *Portal) operateRoutes() {
	for kind, target := range map[string]func(id string) client.Target{
		"items":  func(id string) client.Target { return client.ItemTarget(dr.ItemID(id)) },
		"groups": func(id string) client.Target { return client.GroupTarget(dr.GroupID(id)) },
		"plans":  func(id string) client.Target { return client.PlanTarget(dr.PlanID(id)) },
	} {
		p.page("GET /"+kind+"/{id}/{operation}", func(rq *Request) error {
			return rq.newOperation(kind, target).show(nil)
		})
		p.page("POST /"+kind+"/{id}/{operation}", func(rq *Request) error {
			return rq.newOperation(kind, target).start()
		})
	}
}

// operationPage is what templates/operation.html shows.
type operationPage struct {
	Kind, ID  string
	Operation lifecycle.Operation
	// Review: what was chosen is shown with what comes of it, to be confirmed.
	Review  bool
	Choices *rest.Choices
	// Networks are those of the site that starts the machines.
	Networks []site.Network
	// Sources and Targets are the gateways that a reprotect can go through.
	Sources, Targets []rest.Gateway
	DryRun           rest.DryRun

	rq *Request
	on client.Target
}

func (rq *Request) newOperation(kind string, target func(string) client.Target) *operationPage {
	id := rq.PathValue("id")
	return &operationPage{Kind: kind, ID: id, Operation: lifecycle.Operation(rq.PathValue("operation")), rq: rq, on: target(id)}
}

// At is the dialog's own address.
func (o *operationPage) At() string {
	return "/" + o.Kind + "/" + url.PathEscape(o.ID) + "/" + string(o.Operation)
}

// Get is what was typed into a field or chosen.
func (o *operationPage) Get(field string) string { return o.rq.Field(field) }

// Is reports whether it is one of these operations.
func (o *operationPage) Is(ops ...string) bool { return slices.Contains(ops, string(o.Operation)) }

// operationFields are what the first step asks and the second one sends.
func operationFields() []string {
	return []string{
		"mode", "point", "moment", "shutdownSource", "network", "force", "acceptRunning", "name", "appConsistent",
		"processServer", "masterTarget", "datastore", "retentionVolume",
	}
}

// Chosen are the fields that were filled in, for the second step to send along.
func (o *operationPage) Chosen() map[string]string {
	out := map[string]string{}
	for _, name := range operationFields() {
		if v := o.Get(name); v != "" {
			out[name] = v
		}
	}
	return out
}

// asks reports whether there is something to choose before a review.
func (o *operationPage) asks() bool {
	switch o.Operation {
	case lifecycle.Reprotect, lifecycle.Disable, lifecycle.CompleteMigration, lifecycle.CreatePoint:
		return true
	default:
		return o.chooses()
	}
}

// chooses reports whether a moment of the history is chosen.
func (o *operationPage) chooses() bool {
	switch o.Operation {
	case lifecycle.Failover, lifecycle.Failback, lifecycle.ChangePoint, lifecycle.TestFailover:
		return true
	default:
		return false
	}
}

// The values of the field "point" that are no selector.
const (
	ownMoment  = "moment"      // what the field "moment" says
	perMachine = "per-machine" // each member's newest
)

// request is what was chosen, as the API wants it.
func (o *operationPage) request() rest.OperationRequest {
	r := rest.OperationRequest{
		Mode: o.Get("mode"), ShutdownSource: o.Get("shutdownSource"), Network: o.Get("network"), Notes: o.Get("notes"),
		Force: o.Get("force") != "", AcceptRunning: o.Get("acceptRunning") != "", Name: o.Get("name"), AppConsistent: o.Get("appConsistent") != "",
	}
	switch point := o.Get("point"); point {
	case perMachine:
		r.PerMachine = true
	case ownMoment:
		r.Point = dr.PointSelector(o.Get("moment"))
	default:
		r.Point = dr.PointSelector(point)
	}
	to := rest.ReprotectTarget{
		ProcessServer: dr.GatewayID(o.Get("processServer")), MasterTarget: dr.GatewayID(o.Get("masterTarget")),
		Datastore: o.Get("datastore"), RetentionVolume: o.Get("retentionVolume"),
	}
	if !to.IsZero() {
		r.Reprotect = &rest.ReprotectRequest{ReprotectTarget: to}
	}
	return r
}

// show is the first step, or the second when there is nothing to choose or the
// choice was made.
func (o *operationPage) show(failed *problem.Problem) error {
	if _, ok := lifecycle.RowOf(o.Operation); !ok {
		return o.rq.Fail(http.StatusNotFound, problem.New(problem.InvalidRequest, "there is no page %s", o.rq.URL.Path))
	}
	o.Review = !o.asks() || o.Get("review") != ""
	if o.Review {
		err := o.foresee()
		p, known := asProblem(err)
		switch {
		case err == nil:
		case !known:
			return err
		default:
			failed = p
			o.Review = !o.asks()
		}
	}
	if !o.Review {
		if err := o.loadChoices(); err != nil {
			return err
		}
	}
	return o.render(failed)
}

func (o *operationPage) render(failed *problem.Problem) error {
	return o.rq.Render("operation", Page{Title: operationWord(o.Operation) + " of " + o.ID, Nav: "/" + o.Kind, Problem: failed, Data: o})
}

// foresee asks what the operation would do. It has a key of its own: the
// operation itself is another request.
func (o *operationPage) foresee() (err error) {
	o.DryRun, err = o.rq.API.DryRun(o.rq.Each(0).Context(), o.on, o.Operation, o.request())
	return err
}

// start is the end of the last step: what is lost or deleted was confirmed by
// typing its name.
func (o *operationPage) start() error {
	err := o.foresee()
	if err == nil {
		if c := o.DryRun.Confirm; c != nil && o.Get("confirm") != c.Type {
			o.Review = true
			return o.render(problem.New(problem.NotConfirmed, "to go on, type %q", c.Type))
		}
		var job rest.Job
		if job, err = o.rq.API.Operate(o.rq.Context(), o.on, o.Operation, o.request()); err == nil {
			return o.rq.See("/jobs/" + string(job.ID))
		}
	}
	return again(err, func(failed *problem.Problem) error {
		if o.Review = !o.asks(); !o.Review {
			if err := o.loadChoices(); err != nil {
				return err
			}
		}
		return o.render(failed)
	})
}

func (o *operationPage) loadChoices() error {
	ctx := o.rq.Context()
	switch {
	case o.Kind == "plans":
		return nil // each machine of a plan has its own
	case o.Operation == lifecycle.Reprotect:
		return o.loadGateways()
	case !o.chooses():
		return nil
	}
	choices, err := o.rq.API.Choices(ctx, o.on, o.Operation)
	if err != nil {
		return err
	}
	o.Choices = &choices
	to, err := o.rq.API.Site(ctx, choices.To)
	o.Networks = to.Networks
	return err
}

// loadGateways sorts the gateways by what they could do in a reprotect: the
// machines run at the active site.
func (o *operationPage) loadGateways() error {
	ctx := o.rq.Context()
	active, err := o.activeSite()
	if err != nil {
		return err
	}
	all, err := o.rq.API.Gateways(ctx)
	for _, g := range all {
		if g.State != "enrolled" {
			continue
		}
		if g.Site == active {
			o.Sources = append(o.Sources, g)
		} else {
			o.Targets = append(o.Targets, g)
		}
	}
	return err
}

func (o *operationPage) activeSite() (dr.SiteID, error) {
	if o.Kind == "items" {
		i, err := o.rq.API.Item(o.rq.Context(), dr.ItemID(o.ID))
		return i.ActiveSite, err
	}
	g, err := o.rq.API.Group(o.rq.Context(), dr.GroupID(o.ID))
	return g.ActiveSite, err
}

// PlannedFirst reports whether the form begins with the planned way: home
// again, where there is time.
func (o *operationPage) PlannedFirst() bool {
	if m := o.Get("mode"); m != "" {
		return m == "planned"
	}
	return o.Operation == lifecycle.Failback
}

// PointOf is the value of a choice's field.
func (o *operationPage) PointOf(c rest.Choice) string {
	if c.PerMachine {
		return perMachine
	}
	return string(c.Selector)
}

// Ticked reports whether a choice is the one to begin with.
func (o *operationPage) Ticked(c rest.Choice) bool {
	if v := o.Get("point"); v != "" {
		return v == o.PointOf(c)
	}
	return c.Recommended
}
