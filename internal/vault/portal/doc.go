// Package portal is the vault's web portal: pages made on the server, for a
// person who has to act. It is a client of the REST API and of nothing else:
// each request speaks to the API in the same process with the session's cookie
// and CSRF token, so that roles, guards, audit, idempotency keys and ETags are
// the API's alone. It promises that every page can be read, and every change
// made, without script; script only makes it smoother.
//
// A page is a handler and a template:
//
//	p.page("GET /items", p.items)                       // handlers, registered in routes.go
//	func (p *Portal) items(rq *Request) error {
//		items, err := rq.API.Items(rq.Context())
//		if err != nil {
//			return err                          // a page that says the problem and what to do
//		}
//		return rq.Render("items", Page{Title: "Replicated items", Nav: "/items", Live: []string{"item"}, Data: items})
//	}
//
// templates/items.html defines "main", which begins with a header that has the
// page's only h1. Forms are POSTs that hold {{template "csrf" $}}; their
// handlers answer with rq.See (303), or with the same page and Page.Problem.
//
// What script adds, by attributes alone:
//
//   - <a data-dialog href="…">: the page's <main> is shown in a dialog; forms
//     in it are sent from there. Where the answer is a redirect, the browser
//     goes there; else the dialog shows the answer.
//   - <div id="x" data-live="item job">: when a change of one of these types is
//     told, the page is fetched again and this element takes the new content.
//     Elements are kept where nothing changed; focus, selection, and what was
//     typed or ticked stay. Page.Live names the types of all of them.
//   - <time datetime>: shown in the reader's zone; with data-ago as an age.
package portal
