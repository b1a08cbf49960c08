package portal

import (
	"context"
	"net/url"

	"rebound/internal/problem"
	"rebound/internal/vault/rest"
)

// rowsOnPage is how many rows a page of a log has.
const rowsOnPage = "100"

// logList is one page of a list that grows at its end: jobs, events, the audit log.
type logList[T any] struct {
	rest.List[T]
	Path  string
	query url.Values
}

// load reads the rows. What is wrong with a filter comes back as a problem, to be
// shown above the list.
func (l *logList[T]) load(ctx context.Context, read func(context.Context, url.Values) (rest.List[T], error)) (*problem.Problem, error) {
	var err error
	if l.List, err = read(ctx, l.query); problem.HasCode(err, problem.InvalidRequest) {
		return problem.From(err), nil
	}
	return nil, err
}

// Get is the value of a filter.
func (l logList[T]) Get(name string) string { return l.query.Get(name) }

// NextPage is the address of the following page; empty on the last one.
func (l logList[T]) NextPage() string { return following(l.Path, l.query, l.Next) }

// Filtered reports whether a filter hides rows.
func (l logList[T]) Filtered() bool {
	for name := range l.query {
		if name != "sort" && name != "after" && name != "limit" {
			return true
		}
	}
	return false
}

// following is a list's address with the place at which its next page begins.
func following(path string, query url.Values, next string) string {
	if next == "" {
		return ""
	}
	q := url.Values{}
	for name, v := range query {
		if name != "limit" {
			q[name] = v
		}
	}
	q.Set("after", next)
	return path + "?" + q.Encode()
}

// filters reads a list's filters out of a page's address.
func (rq *Request) filters(names ...string) url.Values {
	q := url.Values{"limit": {rowsOnPage}}
	for _, name := range append(names, "after") {
		if v := rq.Field(name); v != "" {
			q.Set(name, v)
		}
	}
	return q
}
