package client

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"rebound/internal/problem"
	"rebound/internal/vault/rest"
)

// ConditionFilter chooses conditions; empty fields let everything through.
type ConditionFilter struct {
	// Object is a name, or KIND/NAME.
	Object, Code string
	Severity     rest.Severity
}

func (f ConditionFilter) query() url.Values {
	q := url.Values{}
	for name, v := range map[string]string{"object": f.Object, "code": f.Code, "severity": string(f.Severity)} {
		if v != "" {
			q.Set(name, v)
		}
	}
	return q
}

// Health reads the health of everything.
func (c *Client) Health(ctx context.Context) (rest.Health, error) {
	return get[rest.Health](ctx, c, "/health", nil)
}

// Conditions lists what is open.
func (c *Client) Conditions(ctx context.Context, f ConditionFilter) ([]rest.Condition, error) {
	return list[rest.Condition](ctx, c, "/health/conditions", f.query())
}

// ConditionHistory lists conditions that were, newest first; before and limit may
// be 0.
func (c *Client) ConditionHistory(ctx context.Context, f ConditionFilter, before int64, limit int) ([]rest.Condition, error) {
	q := f.query()
	if before > 0 {
		q.Set("before", strconv.FormatInt(before, 10))
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return list[rest.Condition](ctx, c, "/health/history", q)
}

// NoteCondition acknowledges or mutes a condition: action is "acknowledge" or "mute".
func (c *Client) NoteCondition(ctx context.Context, id int64, action string, n rest.NoteRequest) (rest.Condition, error) {
	return post[rest.Condition](ctx, c, conditionPath(id, action), n)
}

// UnmuteCondition lets a condition count again.
func (c *Client) UnmuteCondition(ctx context.Context, id int64) (rest.Condition, error) {
	return post[rest.Condition](ctx, c, conditionPath(id, "unmute"), nil)
}

func conditionPath(id int64, action string) string {
	return "/health/conditions/" + strconv.FormatInt(id, 10) + "/" + seg(action)
}

// HealthSettings reads the limits of conditions.
func (c *Client) HealthSettings(ctx context.Context) (rest.HealthSettings, error) {
	return get[rest.HealthSettings](ctx, c, "/health/settings", nil)
}

// PutHealthSettings changes the limits of conditions.
func (c *Client) PutHealthSettings(ctx context.Context, s rest.HealthSettings) (rest.HealthSettings, error) {
	var out rest.HealthSettings
	_, err := c.do(ctx, http.MethodPut, "/health/settings", nil, s, &out)
	return out, err
}

// Webhooks lists the webhooks.
func (c *Client) Webhooks(ctx context.Context) ([]rest.Webhook, error) {
	return list[rest.Webhook](ctx, c, "/webhooks", nil)
}

// Webhook reads a webhook.
func (c *Client) Webhook(ctx context.Context, id string) (rest.Webhook, error) {
	return get[rest.Webhook](ctx, c, "/webhooks/"+seg(id), nil)
}

// CreateWebhook makes a webhook; the answer's secret is shown once.
func (c *Client) CreateWebhook(ctx context.Context, w rest.PutWebhook) (rest.WebhookSecret, error) {
	return post[rest.WebhookSecret](ctx, c, "/webhooks", w)
}

// UpdateWebhook changes what w names.
func (c *Client) UpdateWebhook(ctx context.Context, id string, w rest.PutWebhook) (rest.Webhook, error) {
	var out rest.Webhook
	_, err := c.do(ctx, http.MethodPatch, "/webhooks/"+seg(id), nil, w, &out)
	return out, err
}

// DeleteWebhook deletes a webhook with what waits for it.
func (c *Client) DeleteWebhook(ctx context.Context, id string) error {
	_, err := c.do(ctx, http.MethodDelete, "/webhooks/"+seg(id), nil, nil, nil)
	return err
}

// TestWebhook sends a test event now.
func (c *Client) TestWebhook(ctx context.Context, id string) (rest.WebhookTest, error) {
	return post[rest.WebhookTest](ctx, c, "/webhooks/"+seg(id)+"/test", nil)
}

// RetryWebhook makes all deliveries of a webhook due now, those given up too.
func (c *Client) RetryWebhook(ctx context.Context, id string) (rest.Webhook, error) {
	return post[rest.Webhook](ctx, c, "/webhooks/"+seg(id)+"/retry", nil)
}

// Deliveries lists what waits for a webhook or, with dead, what was given up.
func (c *Client) Deliveries(ctx context.Context, id string, dead bool) ([]rest.Delivery, error) {
	q := url.Values{}
	if dead {
		q.Set("dead", "true")
	}
	return list[rest.Delivery](ctx, c, "/webhooks/"+seg(id)+"/deliveries", q)
}

// Metrics reads the vault's metrics in the text format of Prometheus.
func (c *Client) Metrics(ctx context.Context, to io.Writer) error { return c.copy(ctx, "/metrics", to) }

// SupportBundle reads an archive (tar.gz) with all that helps to find a fault.
func (c *Client) SupportBundle(ctx context.Context, to io.Writer) error {
	return c.copy(ctx, rest.Prefix+"/support-bundle", to)
}

// copy reads an answer that is no JSON.
func (c *Client) copy(ctx context.Context, path string, to io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	if err != nil {
		return problem.Wrap(err, problem.InvalidRequest, "cannot make a request for %s", path)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.hc.Do(req)
	if err != nil {
		return problem.Wrap(err, problem.VaultUnreachable, "%s", c.base)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return decode(resp, nil)
	}
	if _, err := io.Copy(to, resp.Body); err != nil {
		return problem.Wrap(err, problem.VaultUnreachable, "the answer broke off")
	}
	return nil
}
