package client

import (
	"context"
	"net/http"

	"rebound/internal/vault/rest"
)

type idempotencyKey struct{}

// WithIdempotencyKey returns a context whose changes carry this key instead of
// one of their own: the vault does a change once, however often it is sent with
// the key. A key is for one change.
func WithIdempotencyKey(ctx context.Context, key string) context.Context {
	return context.WithValue(ctx, idempotencyKey{}, key)
}

// OpenSession logs a person in and returns the session with the cookie that a
// browser keeps.
func (c *Client) OpenSession(ctx context.Context, l rest.Login) (rest.Session, []*http.Cookie, error) {
	var ses rest.Session
	resp, err := c.do(ctx, http.MethodPost, "/session", nil, l, &ses)
	if err != nil {
		return ses, nil, err
	}
	return ses, resp.Cookies(), nil
}

// CloseSession logs the caller out.
func (c *Client) CloseSession(ctx context.Context) error {
	_, err := c.do(ctx, http.MethodDelete, "/session", nil, nil, nil)
	return err
}
