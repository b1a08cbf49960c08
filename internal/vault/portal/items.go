package portal

import (
	"net/url"

	"rebound/internal/dr"
	"rebound/internal/lifecycle"
	"rebound/internal/problem"
	"rebound/internal/vault/client"
	"rebound/internal/vault/rest"
)

// itemsOnPage is how many rows a page of the list has: what a browser lays out
// at once, and a person looks through.
const itemsOnPage = "100"

// itemRoutes registers the list of replicated items and the page of one.
func (p *Portal) itemRoutes() {
	p.page("GET /items", p.items)
	p.page("GET /items/{id}", p.item)
	p.page("GET /items/{id}/operations", p.itemOperations)
}

// itemList is what templates/items.html shows.
type itemList struct {
	rest.List[rest.Item]
	Policies []rest.Policy
	Sites    []rest.Site
	query    url.Values
}

// listFilters are the names of the list's filters, in the page's address as in
// the API's.
func listFilters() []string {
	return []string{"q", "health", "state", "activeSite", "policy", "group", "sort", "after"}
}

// Get is the value of a filter.
func (l itemList) Get(name string) string { return l.query.Get(name) }

// Filtered reports whether a filter hides items.
func (l itemList) Filtered() bool {
	for name := range l.query {
		if name != "sort" && name != "after" && name != "limit" {
			return true
		}
	}
	return false
}

// with is the list's address with one value changed, from its first page.
func (l itemList) with(name, value string) string {
	q := url.Values{}
	for _, n := range listFilters() {
		if v := l.query.Get(n); v != "" && n != "after" {
			q.Set(n, v)
		}
	}
	q.Set(name, value)
	return "/items?" + q.Encode()
}

// NextPage is the address of the following page; empty on the last one.
func (l itemList) NextPage() string {
	if l.Next == "" {
		return ""
	}
	return l.with("after", l.Next)
}

// FirstPage is the address of the first page; empty on it.
func (l itemList) FirstPage() string {
	if l.query.Get("after") == "" {
		return ""
	}
	return l.with("sort", l.query.Get("sort"))
}

// SortBy is the address of the list sorted by a field; downwards when it is
// sorted upwards by it already.
func (l itemList) SortBy(field string) string {
	if l.query.Get("sort") == field {
		field = "-" + field
	}
	return l.with("sort", field)
}

// Sorted is the value of aria-sort for a field.
func (l itemList) Sorted(field string) string {
	switch l.query.Get("sort") {
	case field:
		return "ascending"
	case "-" + field:
		return "descending"
	default:
		return ""
	}
}

func (p *Portal) items(rq *Request) error {
	query := url.Values{"limit": {itemsOnPage}}
	for _, name := range listFilters() {
		if v := rq.Field(name); v != "" {
			query.Set(name, v)
		}
	}
	out := itemList{query: query}
	pg := Page{Title: "Replicated items", Nav: "/items", Live: []string{rest.ChangeItem, rest.ChangeGroup, rest.ChangeHealth, rest.ChangeLive}}
	var err error
	if out.List, err = rq.API.ItemsPage(rq.Context(), query); problem.HasCode(err, problem.InvalidRequest) {
		pg.Problem = problem.From(err)
	} else if err != nil {
		return err
	}
	if out.Policies, err = rq.API.Policies(rq.Context()); err != nil {
		return err
	}
	if out.Sites, err = rq.API.Sites(rq.Context()); err != nil {
		return err
	}
	pg.Data = out
	return rq.Render("items", pg)
}

// operationList is what templates/operations.html shows. Members of a group share
// one order of writes: their operations are the group's.
type operationList struct {
	// Of is the name of the item, group or plan.
	Of string
	// Group is set when the operations are a group's.
	Group *rest.Group
	// Target is the address below which the operations are.
	Target            string
	AllowedOperations []lifecycle.OperationStatus
}

func (p *Portal) itemOperations(rq *Request) error {
	item, err := rq.API.Item(rq.Context(), dr.ItemID(rq.PathValue("id")))
	if err != nil {
		return err
	}
	group, err := rq.API.Group(rq.Context(), item.Group)
	if err != nil {
		return err
	}
	out := operationList{Of: string(item.ID), Target: "/items/" + string(item.ID), AllowedOperations: item.AllowedOperations}
	if len(group.Members) > 1 {
		out.Group, out.Target, out.AllowedOperations = &group, "/groups/"+string(group.ID), group.AllowedOperations
	}
	return rq.Render("operations", Page{Title: "Operations of " + string(item.ID), Nav: "/items", Data: out})
}

// itemPage is what templates/item.html shows.
type itemPage struct {
	rest.Item
	Points rest.Points
	// PointsProblem says why there are none to show.
	PointsProblem *problem.Problem
	Jobs          []rest.Job
	Disks         []dr.GroupDisk
}

// pointsShown is how many of the newest recovery points the page lists.
const pointsShown = 50

func (p *Portal) item(rq *Request) error {
	ctx := rq.Context()
	var out itemPage
	var err error
	if out.Item, err = rq.API.Item(ctx, dr.ItemID(rq.PathValue("id"))); err != nil {
		return err
	}
	group, err := rq.API.Group(ctx, out.Group)
	if err != nil {
		return err
	}
	for _, d := range group.Disks {
		if d.Machine == out.Machine {
			out.Disks = append(out.Disks, d)
		}
	}
	// A standby that cannot be asked takes nothing else from the page.
	if out.Points, err = rq.API.Points(ctx, client.ItemTarget(out.ID), client.PointFilter{Limit: pointsShown}); err != nil {
		out.PointsProblem = problem.From(err)
	}
	if out.Jobs, err = rq.API.Jobs(ctx, out.Group); err != nil {
		return err
	}
	return rq.Render("item", Page{
		Title: string(out.ID), Nav: "/items", Group: string(out.Group), Data: out,
		Live: []string{rest.ChangeItem, rest.ChangeGroup, rest.ChangeHealth, rest.ChangeLive, rest.ChangeJob},
	})
}

// Standby is the site that would take over.
func (i itemPage) Standby() dr.SiteID {
	if i.ActiveSite == i.HomeSite {
		return i.RecoverySite
	}
	return i.HomeSite
}
