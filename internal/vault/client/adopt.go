package client

import (
	"context"
	"net/http"

	"rebound/internal/dr"
	"rebound/internal/vault/rest"
)

// Adopt rebuilds what the vault does not know from its gateways.
func (c *Client) Adopt(ctx context.Context, req rest.AdoptRequest) (rest.Adoption, error) {
	return post[rest.Adoption](ctx, c, "/adopt", req)
}

// RevokeAgent ends the access of a machine's agent at once.
func (c *Client) RevokeAgent(ctx context.Context, m dr.MachineName) error {
	_, err := c.do(ctx, http.MethodPost, "/agents/"+seg(m)+"/revoke", nil, nil, nil)
	return err
}
