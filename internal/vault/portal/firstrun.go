package portal

import (
	"errors"
	"net/http"

	"rebound/internal/problem"
	"rebound/internal/vault/auth"
	"rebound/internal/vault/rest"
)

// firstRunRoutes registers the way from the first token to the first protected
// machine.
func (p *Portal) firstRunRoutes() {
	p.open("GET /first-run", func(rq *Request) error { return rq.firstRunPage(nil) })
	p.open("POST /first-run", p.firstRun)
	p.page("GET /start", p.start)
}

func (rq *Request) firstRunPage(failed *problem.Problem) error {
	return rq.Render("first-run", Page{Title: "First run", Problem: failed, Data: rq.Field("name")})
}

// firstRun makes the first owner with the first token, which is a right of that
// token in the API too, and signs the owner in. All that follows is done in the
// owner's session.
func (p *Portal) firstRun(rq *Request) error {
	name, password := rq.Field("name"), rq.PostForm.Get("password")
	if password != rq.PostForm.Get("again") {
		return rq.firstRunPage(problem.New(problem.InvalidRequest, "the two passwords are not the same"))
	}
	c, err := rq.As(rq.Field("token"))
	if err != nil {
		return err
	}
	_, err = c.CreateUser(rq.Context(), rest.NewUser{Name: name, Role: string(auth.Owner), Password: password})
	var cookies []*http.Cookie
	if err == nil {
		_, cookies, err = rq.API.OpenSession(rq.Context(), rest.Login{Name: name, Password: password})
	}
	if refused, ok := errors.AsType[*problem.Problem](err); ok {
		return rq.firstRunPage(refused)
	}
	if err != nil {
		return err
	}
	for _, c := range cookies {
		http.SetCookie(rq.W, c)
	}
	return rq.See("/start")
}

// startPage is what templates/start.html shows: what is done and what is next.
type startPage struct {
	Sites    []rest.Site
	Gateways []rest.Gateway
	Machines []rest.Machine
	Policies []rest.Policy
	Items    []rest.Item
	// Connected counts the sites that have a gateway that is connected.
	Connected int
}

func (p *Portal) start(rq *Request) error {
	ctx := rq.Context()
	var out startPage
	var errs [5]error
	out.Sites, errs[0] = rq.API.Sites(ctx)
	out.Gateways, errs[1] = rq.API.Gateways(ctx)
	out.Machines, errs[2] = rq.API.Machines(ctx, "")
	out.Policies, errs[3] = rq.API.Policies(ctx)
	out.Items, errs[4] = rq.API.Items(ctx)
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	for _, s := range out.Sites {
		for _, g := range out.Gateways {
			if g.Site == s.ID && g.Connected {
				out.Connected++
				break
			}
		}
	}
	return rq.Render("start", Page{
		Title: "First steps", Nav: "/", Data: out,
		Live: []string{rest.ChangeSite, rest.ChangeGateway, rest.ChangeMachine, rest.ChangePolicy, rest.ChangeItem},
	})
}
