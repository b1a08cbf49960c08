package portal

import (
	"net/http"

	"rebound/internal/problem"
)

// routes registers every page. A subject has a function of its own.
func (p *Portal) routes() {
	p.mux.HandleFunc("GET /assets/", p.assets.serve)
	p.mux.HandleFunc("GET /live", p.live)
	p.signInRoutes()
	p.firstRunRoutes()
	p.infrastructureRoutes()
	p.overviewRoutes()
	p.itemRoutes()
	p.operateRoutes()
	p.jobRoutes()
	p.groupRoutes()
	p.logRoutes()
	p.peopleRoutes()
	p.policyRoutes()
	p.settingRoutes()
	p.planRoutes()

	p.page("/", func(rq *Request) error {
		return rq.Fail(http.StatusNotFound, problem.New(problem.InvalidRequest, "there is no page %s", rq.URL.Path))
	})
}

// page registers a page, or the target of a form, for people who are signed in.
// Others are sent to the sign-in page and come back afterwards. A POST whose
// CSRF field is not the session's changes nothing.
func (p *Portal) page(pattern string, f func(*Request) error) {
	p.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		rq := p.request(w, r)
		if err := rq.identify(); err != nil {
			rq.refuse(err)
			return
		}
		if err := rq.checkForm(); err != nil {
			rq.refuse(err)
			return
		}
		if err := f(rq); err != nil {
			rq.refuse(err)
		}
	})
}

// open registers a page for everybody: Who is empty unless a session is there.
// A POST from another origin is refused.
func (p *Portal) open(pattern string, f func(*Request) error) {
	p.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		rq := p.request(w, r)
		if err := rq.checkOrigin(); err != nil {
			rq.refuse(err)
			return
		}
		rq.identify() //nolint:errcheck // nobody is somebody here
		if err := f(rq); err != nil {
			rq.refuse(err)
		}
	})
}
