package client

import (
	"context"
	"net/url"
	"strconv"

	"rebound/internal/vault/rest"
)

// ItemsPage reads one page of the replicated items. The query's names are those
// of the API: limit, after, sort, q, state, health, site, activeSite, policy, group.
func (c *Client) ItemsPage(ctx context.Context, query url.Values) (rest.List[rest.Item], error) {
	return page[rest.Item](ctx, c, "/items", query)
}

// JobsPage reads one page of the jobs, newest first. The query's names are those
// of the API: limit, after, sort, group, operation, state, by, from, to.
func (c *Client) JobsPage(ctx context.Context, query url.Values) (rest.List[rest.Job], error) {
	return page[rest.Job](ctx, c, "/jobs", query)
}

// EventsPage reads one page of the events. The query's names are those of the
// API: limit, after, sort, code, severity, site, gateway, group, machine, job, from, to.
func (c *Client) EventsPage(ctx context.Context, query url.Values) (rest.List[rest.Event], error) {
	return page[rest.Event](ctx, c, "/events", query)
}

// AuditPage reads one page of the audit log. The query's names are those of the
// API: limit, after, sort, who, object, operation, outcome, channel.
func (c *Client) AuditPage(ctx context.Context, query url.Values) (rest.List[rest.AuditRow], error) {
	return page[rest.AuditRow](ctx, c, "/audit", query)
}

// JobsIn reads the newest jobs that are in a state, at most limit of them.
func (c *Client) JobsIn(ctx context.Context, state rest.JobState, limit int) ([]rest.Job, error) {
	out, err := page[rest.Job](ctx, c, "/jobs", url.Values{"state": {string(state)}, "limit": {strconv.Itoa(limit)}})
	return out.Items, err
}
