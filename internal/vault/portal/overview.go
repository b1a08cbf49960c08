package portal

import (
	"rebound/internal/lifecycle"
	"rebound/internal/vault/rest"
)

// overviewRoutes registers the first page.
func (p *Portal) overviewRoutes() {
	p.page("GET /{$}", p.overview)
}

// overview is what templates/overview.html shows.
type overview struct {
	Health   rest.Health
	Gateways []rest.Gateway
	Sites    []rest.Site
	// Jobs that wait for a person, and of those shown newest that failed.
	Waiting, Failed []rest.Job
	// Items are all; the others count those of them that are so.
	Items, Protected, AtRisk, FailedOver int
	// WorstRPO is the largest that is known, of WorstItem.
	WorstRPO  *float64
	WorstItem rest.Item
}

func (p *Portal) overview(rq *Request) error {
	ctx := rq.Context()
	var out overview
	items, err := rq.API.Items(ctx)
	if err != nil {
		return err
	}
	out.count(items)
	if out.Health, err = rq.API.Health(ctx); err != nil {
		return err
	}
	if out.Gateways, err = rq.API.Gateways(ctx); err != nil {
		return err
	}
	if out.Sites, err = rq.API.Sites(ctx); err != nil {
		return err
	}
	if out.Waiting, err = rq.API.JobsIn(ctx, rest.JobWaiting, jobsShown); err != nil {
		return err
	}
	if out.Failed, err = rq.API.JobsIn(ctx, rest.JobFailed, jobsShown); err != nil {
		return err
	}
	return rq.Render("overview", Page{
		Title: "Overview", Nav: "/", Data: out,
		Live: []string{rest.ChangeItem, rest.ChangeGroup, rest.ChangeHealth, rest.ChangeLive, rest.ChangeJob, rest.ChangeGateway},
	})
}

// jobsShown is how many jobs of a kind the overview lists.
const jobsShown = 10

// count sorts items into what an operator asks for first. An item is protected
// when it is in the state Protected and healthy; failed over when its machines
// run from recovery or wait for what comes after; at risk otherwise.
func (o *overview) count(items []rest.Item) {
	o.Items = len(items)
	for _, i := range items {
		switch {
		case i.State == lifecycle.CommitPending || i.State == lifecycle.Committed || i.State == lifecycle.ChangingPoint || i.State == lifecycle.Committing:
			o.FailedOver++
		case i.State == lifecycle.Protected && i.Health == rest.HealthOK:
			o.Protected++
		default:
			o.AtRisk++
		}
		if s := i.RPO.Seconds; s != nil && (o.WorstRPO == nil || *s > *o.WorstRPO) {
			o.WorstRPO, o.WorstItem = s, i
		}
	}
}
