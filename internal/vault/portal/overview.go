package portal

// overviewRoutes registers the first page.
func (p *Portal) overviewRoutes() {
	p.page("GET /{$}", p.overview)
}

func (p *Portal) overview(rq *Request) error {
	return rq.Render("overview", Page{Title: "Overview", Nav: "/"})
}
