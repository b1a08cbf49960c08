package control

import (
	"context"

	"rebound/internal/identity"
)

// Holdings implements Commands.
func (c *Client) Holdings(ctx context.Context) (Holdings, error) {
	return call[Holdings](ctx, c, "Holdings", nil, struct{}{})
}

// SetRevoked implements Commands.
func (c *Client) SetRevoked(ctx context.Context, list []identity.Revocation) error {
	_, err := call[*struct{}](ctx, c, "SetRevoked", nil, list)
	return err
}
